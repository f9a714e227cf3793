//! `shared-prompts`: single questions behind long system prompts, some of them hot.
//!
//! All prompts together are larger than one server's cache and smaller than the pool's. Whoever sends a prompt
//! where it is cached and never anywhere else drowns the servers of the hot ones; whoever ignores the caches
//! computes thousands of tokens for each short question.

use router_rt::Rng;

use super::{
    Spec, WorkloadError,
    conversation::{self, Conversation, Source, Turn},
    draw::{self, Text, Zipf},
};
use crate::replay::trace::Trace;

/// Parameters of `shared-prompts`.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedPrompts {
    /// System prompts. Default 150.
    pub n_prompts: usize,
    /// How much rarer the n-th prompt is than the first: n to this power. Default 1.
    pub zipf_exponent: f64,
    /// Shortest and longest prompt, in tokens. Default 4,000 to 12,000: 1.2 million tokens in all.
    pub prompt_tokens: (u32, u32),
    /// Mean tokens of a question. Default 120.
    pub question_tokens: u32,
    /// Mean tokens of an answer. Default 200.
    pub answer_tokens: u32,
}

impl Default for SharedPrompts {
    fn default() -> Self {
        Self {
            n_prompts: 150,
            zipf_exponent: 1.0,
            prompt_tokens: (4_000, 12_000),
            question_tokens: 120,
            answer_tokens: 200,
        }
    }
}

impl SharedPrompts {
    pub fn generate(&self, spec: &Spec) -> Result<Trace, WorkloadError> {
        conversation::trace(self, spec)
    }
}

impl Source for SharedPrompts {
    type World = (Vec<Text>, Zipf);

    const NAME: &'static str = "shared-prompts";

    fn world(&self, rng: &mut Rng) -> Self::World {
        let (min, max) = self.prompt_tokens;
        let text = |number| Text::new(number, draw::between(rng, min, max));
        let texts = (0..self.n_prompts.max(1) as u64).map(text).collect();
        (texts, Zipf::new(self.n_prompts, self.zipf_exponent))
    }

    fn texts<'a>(&self, (texts, _): &'a Self::World) -> Vec<&'a Text> {
        texts.iter().collect()
    }

    fn conversation(&self, (texts, zipf): &Self::World, _: bool, rng: &mut Rng) -> Conversation {
        let head = texts.get(zipf.draw(rng)).cloned().unwrap_or_default();
        Conversation { head, turns: vec![self.turn(rng)], tenant: None, priority: 0 }
    }
}

impl SharedPrompts {
    /// A question and its answer.
    fn turn(&self, rng: &mut Rng) -> Turn {
        Turn {
            think: std::time::Duration::ZERO,
            new_tokens: draw::count(rng, self.question_tokens, 16, 2_000),
            output_tokens: draw::count(rng, self.answer_tokens, 16, 1_500),
        }
    }
}
