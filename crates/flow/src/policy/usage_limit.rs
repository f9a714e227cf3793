//! How full the pool may be for each priority band.

use std::time::Duration;

use router_core::Stamp;

use super::{LimitCx, UsageLimit, UsageLimitPolicy};

/// The same ceiling for all.
#[derive(Clone, Copy, Debug)]
pub struct Static {
    pub threshold: f64,
}

impl Default for Static {
    fn default() -> Self {
        Self { threshold: 1.0 }
    }
}

impl UsageLimitPolicy for Static {
    fn start(&self) -> Box<dyn UsageLimit> {
        Box::new(*self)
    }
}

impl UsageLimit for Static {
    fn ceilings(&mut self, _: &LimitCx<'_>, ceilings: &mut [f64]) -> Option<Stamp> {
        ceilings.fill(self.threshold);
        None
    }
}

/// Ceilings that fall with the priority, so that room is held back for what is more important.
#[derive(Clone, Copy, Debug)]
pub struct PriorityHoldback {
    /// Ceiling of the least important band.
    pub least: f64,
    /// Ceiling of the most important band.
    pub most: f64,
    pub domain: HoldbackDomain,
}

/// What the ceilings fall with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldbackDomain {
    /// The band's place among all bands.
    Rank,
    /// The band's priority as a number.
    Value,
}

impl UsageLimitPolicy for PriorityHoldback {
    fn start(&self) -> Box<dyn UsageLimit> {
        Box::new(*self)
    }
}

impl UsageLimit for PriorityHoldback {
    fn ceilings(&mut self, cx: &LimitCx<'_>, ceilings: &mut [f64]) -> Option<Stamp> {
        let spread = self.most - self.least;
        let (Some(&top), Some(&bottom)) = (cx.priorities.first(), cx.priorities.last()) else {
            return None;
        };
        let n_steps = cx.priorities.len().saturating_sub(1) as f64;
        let range = f64::from(top) - f64::from(bottom);
        for (at, (ceiling, &priority)) in ceilings.iter_mut().zip(cx.priorities).enumerate() {
            *ceiling = match self.domain {
                _ if n_steps == 0.0 || range == 0.0 => self.most,
                HoldbackDomain::Rank => self.most - at as f64 * spread / n_steps,
                HoldbackDomain::Value => {
                    self.least + spread * (f64::from(priority) - f64::from(bottom)) / range
                }
            };
        }
        None
    }
}

/// Slows less important bands down as the pool fills, instead of stopping them.
///
/// The most important band may fill the pool. A band at position *i* of *n* is open while the saturation *s*
/// is below `1 − i·s/(n−1)`, shut from 1 on, and in between one request of all such bands together is let go
/// every `round(s/(1−s))` milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct SoftReflectiveCeiling;

impl UsageLimitPolicy for SoftReflectiveCeiling {
    fn start(&self) -> Box<dyn UsageLimit> {
        Box::new(Reflective { throttled_from: usize::MAX, last: None })
    }
}

/// The Go implementation counts ticks of its dispatch loop, of which there is one per millisecond.
const TICK: Duration = Duration::from_millis(1);

struct Reflective {
    /// Position of the first band that is slowed down; all behind it are, too.
    throttled_from: usize,
    /// When a slowed band was served last.
    last: Option<Stamp>,
}

impl UsageLimit for Reflective {
    fn ceilings(&mut self, cx: &LimitCx<'_>, ceilings: &mut [f64]) -> Option<Stamp> {
        ceilings.fill(1.0);
        self.throttled_from = usize::MAX;
        let (saturation, n_steps) = (cx.saturation, ceilings.len().saturating_sub(1) as f64);
        let is_open = |at: usize| at == 0 || saturation < 1.0 - at as f64 * saturation / n_steps;
        let first = (0..ceilings.len()).find(|&at| !is_open(at))?;
        self.throttled_from = first;
        let opens = (saturation < 1.0).then(|| {
            let n_ticks = (saturation / (1.0 - saturation + 1e-9)).round().clamp(1.0, 1e9);
            self.last.map_or(Stamp::ORIGIN, |last| last + TICK * n_ticks as u32)
        });
        if opens.is_some_and(|opens| opens <= cx.now) {
            return None;
        }
        ceilings.iter_mut().skip(first).for_each(|ceiling| *ceiling = 0.0);
        opens
    }

    fn dispatched(&mut self, now: Stamp, band: usize) {
        if band >= self.throttled_from {
            self.last = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ceilings(policy: &dyn UsageLimitPolicy, saturation: f64, priorities: &[i32]) -> Vec<f64> {
        let mut ceilings = vec![f64::NAN; priorities.len()];
        let cx = LimitCx { now: Stamp::ORIGIN, saturation, priorities };
        policy.start().ceilings(&cx, &mut ceilings);
        ceilings
    }

    #[test]
    fn holdback_falls_by_rank_or_by_value() {
        let check = |domain, priorities: &[i32], expected: &[f64]| {
            let policy = PriorityHoldback { least: 0.5, most: 1.0, domain };
            assert_eq!(ceilings(&policy, 0.3, priorities), expected);
        };
        check(HoldbackDomain::Rank, &[100, 0, -1], &[1.0, 0.75, 0.5]);
        check(HoldbackDomain::Value, &[100, 0, -100], &[1.0, 0.75, 0.5]);
        check(HoldbackDomain::Value, &[100, 50, -100], &[1.0, 0.875, 0.5]);
        check(HoldbackDomain::Rank, &[7], &[1.0]);
        check(HoldbackDomain::Value, &[i32::MAX, i32::MIN], &[1.0, 0.5]);
        check(HoldbackDomain::Rank, &[], &[]);
    }

    #[test]
    fn the_reflective_ceiling_slows_and_then_shuts() {
        let check = |saturation, expected: &[f64]| {
            assert_eq!(ceilings(&SoftReflectiveCeiling, saturation, &[2, 1, 0]), expected);
        };
        check(0.4, &[1.0, 1.0, 1.0]);
        // Slowed bands may go when none of them went lately.
        check(0.7, &[1.0, 1.0, 1.0]);
        check(1.0, &[1.0, 0.0, 0.0]);
        check(1.7, &[1.0, 0.0, 0.0]);
        assert_eq!(ceilings(&SoftReflectiveCeiling, 5.0, &[0]), [1.0]);
    }

    #[test]
    fn slowed_bands_go_once_per_period() {
        let mut limit = SoftReflectiveCeiling.start();
        let at = |limit: &mut Box<dyn UsageLimit>, micros: u64| {
            let now = Stamp::from_nanos(micros * 1_000);
            let mut ceilings = [0.0; 3];
            // s/(1-s) = 3: one in three milliseconds, for the last band only (r = 0.25, 0.625).
            let opens = limit.ceilings(
                &LimitCx { now, saturation: 0.75, priorities: &[2, 1, 0] },
                &mut ceilings,
            );
            (ceilings, opens.map(|stamp| stamp.as_nanos() / 1_000))
        };
        assert_eq!(at(&mut limit, 1_000), ([1.0, 1.0, 1.0], None));
        limit.dispatched(Stamp::from_nanos(1_000_000), 0);
        assert_eq!(at(&mut limit, 1_000).1, None);
        limit.dispatched(Stamp::from_nanos(1_000_000), 2);
        assert_eq!(at(&mut limit, 1_000), ([1.0, 0.0, 0.0], Some(4_000)));
        assert_eq!(at(&mut limit, 3_999).1, Some(4_000));
        assert_eq!(at(&mut limit, 4_000), ([1.0, 1.0, 1.0], None));
    }
}
