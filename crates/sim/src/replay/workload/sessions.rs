//! `sessions`: chats of many turns with time to think between them.
//!
//! Every turn sends the whole chat again, so that a server that served the turn before has nearly all of it. The
//! chats that are alive at load 1.0 need more room than the caches of the pool have: some are gone when their
//! next turn comes, and moving one costs room twice.

use std::time::Duration;

use router_rt::Rng;

use super::{
    Spec, WorkloadError,
    conversation::{self, Conversation, Source, Turn},
    draw::{self, Text, Zipf},
};
use crate::replay::trace::Trace;

/// Parameters of `sessions`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sessions {
    /// Applications, each with a system prompt of its own. Default 20.
    pub n_prompts: usize,
    /// Shortest and longest system prompt, in tokens. Default 500 to 1,500.
    pub prompt_tokens: (u32, u32),
    /// Mean turns of a chat; 1 to 40 in fact. Default 6.
    pub turns: u32,
    /// Mean tokens of what a user says. Default 500.
    pub message_tokens: u32,
    /// Mean tokens of an answer. Default 400.
    pub answer_tokens: u32,
    /// Mean time from an answer to the next message, at least a second. Default 15 s.
    pub think: Duration,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            n_prompts: 20,
            prompt_tokens: (500, 1_500),
            turns: 6,
            message_tokens: 500,
            answer_tokens: 400,
            think: Duration::from_secs(15),
        }
    }
}

const MAX_TURNS: u32 = 40;
const MIN_THINK_S: f64 = 1.0;
const MAX_THINK_S: f64 = 300.0;

impl Sessions {
    pub fn generate(&self, spec: &Spec) -> Result<Trace, WorkloadError> {
        conversation::trace(self, spec)
    }

    fn turn(&self, rng: &mut Rng) -> Turn {
        let think_s =
            MIN_THINK_S + rng.exponential(self.think.as_secs_f64() - MIN_THINK_S).max(0.0);
        Turn {
            think: Duration::from_secs_f64(think_s.min(MAX_THINK_S)),
            new_tokens: draw::count(rng, self.message_tokens, 16, 6_000),
            output_tokens: draw::count(rng, self.answer_tokens, 16, 3_000),
        }
    }
}

impl Source for Sessions {
    type World = (Vec<Text>, Zipf);

    const NAME: &'static str = "sessions";

    fn world(&self, rng: &mut Rng) -> Self::World {
        let (min, max) = self.prompt_tokens;
        let text = |number| Text::new(number, draw::between(rng, min, max));
        let texts = (0..self.n_prompts.max(1) as u64).map(text).collect();
        (texts, Zipf::new(self.n_prompts, 1.0))
    }

    fn texts<'a>(&self, (texts, _): &'a Self::World) -> Vec<&'a Text> {
        texts.iter().collect()
    }

    fn conversation(&self, (texts, zipf): &Self::World, _: bool, rng: &mut Rng) -> Conversation {
        let head = texts.get(zipf.draw(rng)).cloned().unwrap_or_default();
        let n_turns = draw::count(rng, self.turns, 1, MAX_TURNS);
        let turns = (0..n_turns).map(|_| self.turn(rng)).collect();
        Conversation { head, turns, tenant: None, priority: 0 }
    }
}
