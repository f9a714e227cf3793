//! `priorities`: three kinds of work that differ in their priority alone.
//!
//! At load 2.0 what may not be shed is a little less than the servers can do. Prompts are long, so that a first
//! token takes half a second on servers that are busy.

use std::time::Duration;

use router_rt::Rng;

use super::{
    Spec, WorkloadError,
    conversation::{self, Conversation, Source, Turn},
    draw::{self, Text},
};
use crate::replay::trace::Trace;

/// Parameters of `priorities`.
#[derive(Clone, Debug, PartialEq)]
pub struct Priorities {
    /// Priorities, and the share of all requests that each has. Default 100: 0.25, 0: 0.2, -10: 0.55.
    pub shares: Vec<(i32, f64)>,
    /// System prompts that all kinds share. Default 20.
    pub n_prompts: usize,
    /// Shortest and longest system prompt, in tokens. Default 500 to 1,500.
    pub prompt_tokens: (u32, u32),
    /// Mean tokens of a question. Default 4,000.
    pub question_tokens: u32,
    /// Mean tokens of an answer. Default 250.
    pub answer_tokens: u32,
}

impl Default for Priorities {
    fn default() -> Self {
        Self {
            shares: vec![(100, 0.25), (0, 0.2), (-10, 0.55)],
            n_prompts: 20,
            prompt_tokens: (500, 1_500),
            question_tokens: 4_000,
            answer_tokens: 250,
        }
    }
}

impl Priorities {
    pub fn generate(&self, spec: &Spec) -> Result<Trace, WorkloadError> {
        conversation::trace(self, spec)
    }

    fn priority(&self, rng: &mut Rng) -> i32 {
        let mut left = rng.f64() * self.shares.iter().map(|(_, share)| share).sum::<f64>();
        let drawn = self.shares.iter().find(|(_, share)| {
            left -= share;
            left < 0.0
        });
        drawn.or(self.shares.last()).map_or(0, |(priority, _)| *priority)
    }
}

impl Source for Priorities {
    type World = Vec<Text>;

    const NAME: &'static str = "priorities";

    fn world(&self, rng: &mut Rng) -> Self::World {
        let (min, max) = self.prompt_tokens;
        let text = |number| Text::new(number, draw::between(rng, min, max));
        (0..self.n_prompts.max(1) as u64).map(text).collect()
    }

    fn texts<'a>(&self, texts: &'a Self::World) -> Vec<&'a Text> {
        texts.iter().collect()
    }

    fn conversation(&self, texts: &Self::World, _: bool, rng: &mut Rng) -> Conversation {
        let head = texts.get(rng.below(texts.len())).cloned().unwrap_or_default();
        let turn = Turn {
            think: Duration::ZERO,
            new_tokens: draw::count(rng, self.question_tokens, 1_000, 12_000),
            output_tokens: draw::count(rng, self.answer_tokens, 16, 1_500),
        };
        // Drawn last: with other shares the same is asked.
        let priority = self.priority(rng);
        Conversation { head, turns: vec![turn], tenant: None, priority }
    }
}
