//! The engine's own clock: picoseconds.
//!
//! Costs per context token are a few dozen nanoseconds times a small factor; in picoseconds the sum over many
//! steps is an exact integer, so that a jump over a thousand steps ends where a thousand steps end.

use router_core::time::Stamp;

/// A moment or a length of time in picoseconds.
pub(crate) type Picos = u128;

const PICOS_PER_NANO: Picos = 1_000;
const PICOS_PER_MICRO: f64 = 1e6;

pub(crate) fn picos(stamp: Stamp) -> Picos {
    Picos::from(stamp.as_nanos()) * PICOS_PER_NANO
}

/// The first stamp at which `at` has come.
pub(crate) fn stamp(at: Picos) -> Stamp {
    Stamp::from_nanos(u64::try_from(at.div_ceil(PICOS_PER_NANO)).unwrap_or(u64::MAX))
}

/// Microseconds as written in a profile. Negative and NaN give zero; the profile refuses them earlier.
pub(crate) fn from_micros(micros: f64) -> Picos {
    (micros * PICOS_PER_MICRO).round() as Picos
}

/// How far the engine may go.
#[derive(Clone, Copy)]
pub(crate) enum Limit {
    /// Everything that ends before this stamp: what the caller does at the stamp itself comes first.
    Before(Stamp),
    /// Everything that ends at this stamp or before.
    At(Stamp),
}

impl Limit {
    pub(crate) fn reaches(self, at: Picos) -> bool {
        match self {
            Self::Before(limit) => stamp(at) < limit,
            Self::At(limit) => stamp(at) <= limit,
        }
    }
}
