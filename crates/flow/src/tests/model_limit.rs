//! Orders, usage limits and eviction as their pages have them, worked out from the beginning each time.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use router_core::Stamp;

use crate::{
    Ask, OrderingPolicy, UsageLimitPolicy,
    policy::{
        ordering::{Edf, Fcfs, SloDeadline},
        usage_limit::{HoldbackDomain, PriorityHoldback, SoftReflectiveCeiling, Static},
    },
};

/// What stands for a request in the order of its flow; the smaller goes first.
pub(super) type Place = (u128, u128, u64);

#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    Fcfs,
    Edf,
    Slo,
}

impl Order {
    pub(super) fn policy(self) -> Arc<dyn OrderingPolicy> {
        match self {
            Self::Fcfs => Arc::new(Fcfs),
            Self::Edf => Arc::new(Edf),
            Self::Slo => Arc::new(SloDeadline),
        }
    }

    pub(super) fn place(self, now: Stamp, ttl: Option<Duration>, ask: &Ask, id: u64) -> Place {
        let nanos = |stamp: Stamp| u128::from(stamp.as_nanos());
        // Who may wait for ever comes after all others.
        let end = |from: Stamp, time: Option<Duration>| {
            time.map_or(u128::MAX, |time| nanos(from) + time.as_nanos())
        };
        match self {
            Self::Fcfs => (nanos(now), 0, id),
            Self::Edf => (end(now, ttl), nanos(now), id),
            Self::Slo => (end(ask.received, ask.ttft_slo), nanos(ask.received), id),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Limits {
    Static(f64),
    /// From the least to 1.
    Holdback(f64, HoldbackDomain),
    Reflective,
}

impl Limits {
    pub(super) fn policy(self) -> Arc<dyn UsageLimitPolicy> {
        match self {
            Self::Static(threshold) => Arc::new(Static { threshold }),
            Self::Holdback(least, domain) => {
                Arc::new(PriorityHoldback { least, most: 1.0, domain })
            }
            Self::Reflective => Arc::new(SoftReflectiveCeiling),
        }
    }

    /// The ceiling of one of the bands. `slowed` is when a request of a slowed band was let go last.
    pub(super) fn ceiling(
        self,
        now: Stamp,
        slowed: Option<Stamp>,
        saturation: f64,
        priorities: &[i32],
        at: usize,
    ) -> f64 {
        let n_steps = priorities.len() as f64 - 1.0;
        let (top, bottom) = (f64::from(priorities[0]), f64::from(*priorities.last().unwrap()));
        match self {
            Self::Static(threshold) => threshold,
            Self::Holdback(_, _) if priorities.len() == 1 => 1.0,
            Self::Holdback(least, HoldbackDomain::Rank) => {
                1.0 - at as f64 * (1.0 - least) / n_steps
            }
            Self::Holdback(least, HoldbackDomain::Value) => {
                least + (1.0 - least) * (f64::from(priorities[at]) - bottom) / (top - bottom)
            }
            Self::Reflective if !is_slowed(saturation, priorities.len(), at) => 1.0,
            Self::Reflective if saturation >= 1.0 => 0.0,
            Self::Reflective => {
                let period = (saturation / (1.0 - saturation + 1e-9)).round().max(1.0);
                let opens = slowed.map(|last| last + Duration::from_millis(period as u64));
                if opens.is_none_or(|opens| opens <= now) { 1.0 } else { 0.0 }
            }
        }
    }

    /// Whether one request of this band that is let go slows down others.
    pub(super) fn slows(self, saturation: f64, n_bands: usize, at: usize) -> bool {
        matches!(self, Self::Reflective) && is_slowed(saturation, n_bands, at)
    }
}

/// Whether the soft reflective ceiling of the band is not simply open.
fn is_slowed(saturation: f64, n_bands: usize, at: usize) -> bool {
    at > 0 && saturation >= 1.0 - at as f64 * saturation / (n_bands as f64 - 1.0)
}

/// Order of eviction of requests in flight; the smaller goes first.
pub(super) fn eviction_order(priority: i32, dispatched: Stamp, id: u64) -> impl Ord {
    (priority, Reverse(dispatched), Reverse(id))
}
