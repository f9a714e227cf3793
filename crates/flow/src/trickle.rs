//! What bands get for certain though more important ones have requests waiting.

use crate::{config::Trickle, request::Cost};

const PER_PPM: u64 = 1_000_000;

/// Tokens, in millionths, that the bands below the most important one that waits have earned by waiting.
#[derive(Default)]
pub(crate) struct Earned(u64);

impl Earned {
    /// A request of the most important band that waits goes, while others below it wait.
    pub(crate) fn earn(&mut self, trickle: &Trickle, sent: &Cost) {
        self.0 = self.0.saturating_add(price(sent) * u64::from(trickle.share_ppm));
    }

    /// Whether a request of a band below may go instead.
    pub(crate) fn covers(&self, next: &Cost) -> bool {
        self.0 >= price(next).saturating_mul(PER_PPM)
    }

    pub(crate) fn spend(&mut self, sent: &Cost) {
        self.0 = self.0.saturating_sub(price(sent).saturating_mul(PER_PPM));
    }

    /// Nobody waits below the most important band: what nobody needs is not kept.
    pub(crate) fn clear(&mut self) {
        self.0 = 0;
    }
}

/// Tokens of service; a request of unknown cost counts as one token, so that shares become counts.
fn price(cost: &Cost) -> u64 {
    cost.service().max(1)
}
