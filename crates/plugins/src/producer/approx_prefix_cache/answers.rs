//! How long answers are, as far as earlier ones tell.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Tokens of an answer before any has shown its length.
const TOKENS_AT_FIRST: f64 = 256.0;
/// What one answer more changes of the mean.
const SHARE: f64 = 1.0 / 64.0;
/// An answer counts for at most so many times the mean: what one model server says must not empty the index.
const MAX_RISE: f64 = 16.0;
/// No answers are expected to be longer, whatever model servers say.
const MAX_TOKENS: f64 = 1_048_576.0;

/// Mean length of all answers to a request together, in tokens. Updates that meet may lose one another.
#[derive(Debug)]
pub(super) struct AnswerLength(AtomicU64);

impl AnswerLength {
    /// What a request that asks for at most `cap` will get.
    pub(super) fn expected(&self, cap: Option<u64>) -> f64 {
        let cap = cap.map_or(MAX_TOKENS, |cap| cap as f64);
        f64::from_bits(self.0.load(Relaxed)).min(cap)
    }

    pub(super) fn observe(&self, n_tokens: u64) {
        let mean = f64::from_bits(self.0.load(Relaxed));
        let counted = (n_tokens as f64).min(MAX_RISE * mean.max(1.0)).min(MAX_TOKENS);
        self.0.store((mean + SHARE * (counted - mean)).to_bits(), Relaxed);
    }
}

impl Default for AnswerLength {
    fn default() -> Self {
        Self(AtomicU64::new(TOKENS_AT_FIRST.to_bits()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_expected_to_be_like_those_before() {
        let length = AnswerLength::default();
        assert_eq!((length.expected(None), length.expected(Some(7))), (256.0, 7.0));
        (0..1_000).for_each(|at| length.observe(if at % 2 == 0 { 90 } else { 110 }));
        assert!((95.0..105.0).contains(&length.expected(None)), "{}", length.expected(None));
    }

    #[test]
    fn an_absurd_answer_changes_little_and_many_are_bounded() {
        let length = AnswerLength::default();
        length.observe(u64::MAX);
        assert!((256.0..330.0).contains(&length.expected(None)), "{}", length.expected(None));
        (0..1_000).for_each(|_| length.observe(u64::MAX));
        assert_eq!((length.expected(None).ceil(), length.expected(Some(9))), (MAX_TOKENS, 9.0));
    }
}
