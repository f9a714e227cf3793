//! `agents`: agents that call tools: long contexts that grow at every step, short pauses.
//!
//! An agent works through many steps. Each sends all that was said before and the result of a tool, and asks for
//! little. A step that finds its context cached costs a tenth of one that does not; the contexts that are alive
//! at load 1.0 need more room than the caches of the pool have.

use std::time::Duration;

use router_rt::Rng;

use super::{
    Spec, WorkloadError,
    conversation::{self, Conversation, Source, Turn},
    draw::{self, Text},
};
use crate::replay::trace::Trace;

/// Parameters of `agents`.
#[derive(Clone, Debug, PartialEq)]
pub struct Agents {
    /// Kinds of agents, each with instructions and tools of its own. Default 8.
    pub n_kinds: usize,
    /// Shortest and longest instructions with tools, in tokens. Default 6,000 to 12,000.
    pub prompt_tokens: (u32, u32),
    /// Fewest and most tokens of a task. Default 500 to 3,000.
    pub task_tokens: (u32, u32),
    /// Fewest and most steps of a task. Default 8 to 40.
    pub steps: (u32, u32),
    /// Mean tokens of a tool's result. Default 1,200.
    pub result_tokens: u32,
    /// Mean tokens of an answer. Default 150.
    pub answer_tokens: u32,
    /// Mean time that a tool takes. Default 2 s.
    pub tool: Duration,
    /// Share of tools that take ten times as long. Default 0.1.
    pub slow_tools: f64,
    /// Tokens at which an agent stops. Default 100,000.
    pub max_context: u32,
}

impl Default for Agents {
    fn default() -> Self {
        Self {
            n_kinds: 8,
            prompt_tokens: (6_000, 12_000),
            task_tokens: (500, 3_000),
            steps: (8, 40),
            result_tokens: 1_200,
            answer_tokens: 150,
            tool: Duration::from_secs(2),
            slow_tools: 0.1,
            max_context: 100_000,
        }
    }
}

const MAX_TOOL_S: f64 = 120.0;

impl Agents {
    pub fn generate(&self, spec: &Spec) -> Result<Trace, WorkloadError> {
        conversation::trace(self, spec)
    }

    fn think(&self, rng: &mut Rng) -> Duration {
        let slower = if rng.chance(self.slow_tools) { 10.0 } else { 1.0 };
        let tool_s = rng.exponential(self.tool.as_secs_f64()) * slower;
        Duration::from_secs_f64(tool_s.clamp(0.0, MAX_TOOL_S))
    }
}

impl Source for Agents {
    type World = Vec<Text>;

    const NAME: &'static str = "agents";

    fn world(&self, rng: &mut Rng) -> Self::World {
        let (min, max) = self.prompt_tokens;
        let text = |number| Text::new(number, draw::between(rng, min, max));
        (0..self.n_kinds.max(1) as u64).map(text).collect()
    }

    fn texts<'a>(&self, texts: &'a Self::World) -> Vec<&'a Text> {
        texts.iter().collect()
    }

    fn conversation(&self, texts: &Self::World, _: bool, rng: &mut Rng) -> Conversation {
        let head = rng.choose(texts).cloned().unwrap_or_default();
        let n_steps = draw::between(rng, self.steps.0.max(1), self.steps.1);
        let mut context = head.n_tokens;
        let mut turns = Vec::new();
        for step in 0..n_steps {
            let new_tokens = match step {
                0 => draw::between(rng, self.task_tokens.0, self.task_tokens.1),
                _ => draw::count(rng, self.result_tokens, 50, 8_000),
            };
            let output_tokens = draw::count(rng, self.answer_tokens, 20, 1_000);
            context += new_tokens + output_tokens;
            if context > self.max_context && step > 0 {
                break;
            }
            turns.push(Turn { think: self.think(rng), new_tokens, output_tokens });
        }
        Conversation { head, turns, tenant: None, priority: 0 }
    }
}
