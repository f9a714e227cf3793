//! How far the tokens that are counted here can be believed.
//!
//! Tokens are estimated: four bytes of text each, images by the size that their heads claim. Model servers say in
//! their answers how many there were. Text in another language, which has a third more or less of them all the
//! time, does no harm: the rate is learned in tokens as they are counted here. A prompt that is counted a thousand
//! times too long would teach that the server is a thousand times as fast.

use super::speed::Prefill;

/// What answers said of the tokens of their prompts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Claims {
    /// Logarithm of the server's tokens over ours, as it mostly is.
    ln_usual: f64,
    /// Tokens that were claimed, and those of them that nothing stood for, both forgetting.
    all: f64,
    wrong: f64,
}

/// Share of a surprise by which [`Claims::ln_usual`] moves, and the largest such surprise: a median, nearly. Claims
/// that are wrong by any factor, one of ten, move it by a hundredth.
const STEP: f64 = 0.05;
const CLIP: f64 = 0.1;
/// A claim that differs from the usual by more than this factor is wrong.
const WRONG_FACTOR: f64 = 2.0;
/// Share of the past that is left after one more answer.
const KEEP: f64 = 0.995;
/// From this share of wrong tokens on, nothing is learned from requests that waited for others: how much they
/// waited for is not known before those have ended.
const MAX_WRONG: f64 = 0.1;
/// Tokens of others, over its own, that a request may have waited for all the same.
const MAX_AHEAD: f64 = 0.05;

impl Claims {
    /// Takes in our and the server's count of one prompt.
    pub(super) fn add(&mut self, claim: (f64, f64)) {
        let Some(ln_ratio) = ln_ratio(claim) else { return };
        let surprise = ln_ratio - self.ln_usual;
        self.ln_usual += STEP * surprise.clamp(-CLIP, CLIP);
        let (ours, _) = claim;
        let wrong = if surprise.abs() > WRONG_FACTOR.ln() { ours } else { 0.0 };
        self.all = KEEP * self.all + ours;
        self.wrong = KEEP * self.wrong + wrong;
    }

    /// What a first token showed, as far as it can be believed, by the tokens that the server counted where it
    /// says.
    pub(super) fn weigh(&self, prefill: Prefill, claim: Option<(f64, f64)>) -> Option<Prefill> {
        let ln_ratio = claim.and_then(ln_ratio);
        // Exactly 1 where both always agree.
        let scale = ln_ratio.map_or(1.0, |ln_ratio| (ln_ratio - self.ln_usual).exp());
        let (prompt, cached) = (prefill.prompt * scale, prefill.cached * scale);
        let weighed = Prefill { prompt, cached, ..prefill };
        let is_believed =
            self.wrong <= MAX_WRONG * self.all || prefill.ahead <= MAX_AHEAD * weighed.own();
        is_believed.then_some(weighed)
    }
}

/// Logarithm of the server's tokens over ours; `None` for what cannot be compared.
fn ln_ratio((ours, theirs): (f64, f64)) -> Option<f64> {
    let ln_ratio = (theirs / ours).ln();
    ln_ratio.is_finite().then_some(ln_ratio)
}
