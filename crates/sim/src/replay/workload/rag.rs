//! `rag`: long prompts of shared document chunks in varying order, short answers.
//!
//! Every prompt begins with the same instructions; behind them come chunks of a common corpus in the order of
//! their relevance to the question. A chunk is cached only behind the very chunks that were before it, so that
//! most of each prompt has to be computed, and the little that is shared is shared by all.

use std::time::Duration;

use router_rt::Rng;

use super::{
    BLOCK_TOKENS, Spec, WorkloadError,
    conversation::{self, Conversation, Source, Turn},
    draw::{self, Text, Zipf},
};
use crate::replay::trace::Trace;

/// Parameters of `rag`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rag {
    /// Tokens of the instructions. Default 1,024.
    pub instruction_tokens: u32,
    /// Chunks of the corpus. Default 2,000.
    pub n_chunks: usize,
    /// Tokens of a chunk, taken up to a whole block of [`BLOCK_TOKENS`]. Default 512.
    pub chunk_tokens: u32,
    /// How much rarer the n-th chunk is than the first: n to this power. Default 0.9.
    pub zipf_exponent: f64,
    /// Fewest and most chunks of a prompt. Default 6 to 20.
    pub chunks: (u32, u32),
    /// Mean tokens of a question. Default 60.
    pub question_tokens: u32,
    /// Mean tokens of an answer. Default 80.
    pub answer_tokens: u32,
}

impl Default for Rag {
    fn default() -> Self {
        Self {
            instruction_tokens: 1_024,
            n_chunks: 2_000,
            chunk_tokens: 512,
            zipf_exponent: 0.9,
            chunks: (6, 20),
            question_tokens: 60,
            answer_tokens: 80,
        }
    }
}

impl Rag {
    pub fn generate(&self, spec: &Spec) -> Result<Trace, WorkloadError> {
        conversation::trace(self, spec)
    }

    /// Different chunks, hot ones more often.
    fn retrieve(&self, zipf: &Zipf, rng: &mut Rng) -> Vec<usize> {
        let n_wanted = draw::between(rng, self.chunks.0, self.chunks.1) as usize;
        let n_wanted = n_wanted.min(self.n_chunks);
        let mut chunks = Vec::with_capacity(n_wanted);
        // A corpus of a few chunks, one of which is hot, may not yield enough different ones.
        for _ in 0..20 * n_wanted {
            let chunk = zipf.draw(rng);
            if chunks.len() < n_wanted && !chunks.contains(&chunk) {
                chunks.push(chunk);
            }
        }
        chunks
    }
}

impl Source for Rag {
    type World = (Text, Zipf);

    const NAME: &'static str = "rag";

    fn world(&self, _: &mut Rng) -> Self::World {
        (Text::new(0, self.instruction_tokens), Zipf::new(self.n_chunks, self.zipf_exponent))
    }

    fn texts<'a>(&self, (instructions, _): &'a Self::World) -> Vec<&'a Text> {
        vec![instructions]
    }

    fn conversation(&self, world: &Self::World, _: bool, rng: &mut Rng) -> Conversation {
        let (instructions, zipf) = world;
        let chunk_tokens = self.chunk_tokens.div_ceil(BLOCK_TOKENS) * BLOCK_TOKENS;
        let chunks = self.retrieve(zipf, rng);
        let head = chunks.iter().fold(instructions.clone(), |text, chunk| {
            text.followed_by(1 + *chunk as u64, chunk_tokens)
        });
        let turn = Turn {
            think: Duration::ZERO,
            new_tokens: draw::count(rng, self.question_tokens, 10, 500),
            output_tokens: draw::count(rng, self.answer_tokens, 10, 500),
        };
        Conversation { head, turns: vec![turn], tenant: None, priority: 0 }
    }
}
