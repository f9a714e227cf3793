//! What scorers and detectors share about scraped numbers: which of them can be used, and how they compare.

use std::sync::atomic::{AtomicBool, Ordering};

use router_core::{Endpoint, EndpointSlot, Signals};
use router_framework::BuildCx;

/// A KV-cache use above this is taken for percent. Shares end at 1; the room above it is for engines whose
/// own arithmetic overshoots a little.
const PERCENT_ABOVE: f64 = 1.5;

/// The value if it is one that a model server can mean: finite and not negative. NaN otherwise.
pub(crate) fn usable(value: f64) -> f64 {
    if value.is_finite() && value >= 0.0 { value } else { f64::NAN }
}

/// Replaces counts by scores: the lowest gets 1, the highest 0, all get 1 where all are equal. NaN stays and
/// has no part in the range. The operations and their order are those of the Go implementation.
pub(crate) fn lowest_is_best(values: &mut [f64]) {
    let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
    for &value in values.iter() {
        // Both comparisons are false for NaN.
        if value < min {
            min = value;
        }
        if value > max {
            max = value;
        }
    }
    for value in values.iter_mut().filter(|value| !value.is_nan()) {
        *value = if max == min { 1.0 } else { (max - *value) / (max - min) };
    }
}

/// KV-cache use of endpoints as a share of 0 to 1, whatever scale the engine exports.
///
/// An endpoint that once reported more than [`PERCENT_ABOVE`] exports percent, and is remembered as such, so
/// that its low values are not mistaken for shares later.
#[derive(Debug)]
pub(crate) struct KvUsage {
    exports_percent: EndpointSlot<ExportsPercent>,
    /// Whether any endpoint does; while none does, none need be asked.
    any_percent: AtomicBool,
}

#[derive(Debug, Default)]
struct ExportsPercent(AtomicBool);

impl KvUsage {
    pub(crate) fn new(cx: &mut BuildCx<'_>) -> Self {
        Self { exports_percent: cx.endpoint_state(), any_percent: AtomicBool::new(false) }
    }

    /// Share of KV-cache blocks in use; NaN when the endpoint does not say.
    pub(crate) fn share(&self, endpoint: &Endpoint, signals: &Signals) -> f64 {
        let usage = usable(signals.kv_usage);
        if usage > PERCENT_ABOVE {
            self.any_percent.store(true, Ordering::Relaxed);
        } else if !self.any_percent.load(Ordering::Relaxed) {
            return usage;
        }
        let Some(ExportsPercent(percent)) = endpoint.slot(&self.exports_percent) else {
            return usage;
        };
        if usage > PERCENT_ABOVE {
            percent.store(true, Ordering::Relaxed);
        }
        if percent.load(Ordering::Relaxed) { usage / 100.0 } else { usage }
    }
}

/// How full one endpoint is against two thresholds: the larger of both ratios. An engine that exports only
/// one of the numbers is judged by that one; NaN when it exports neither.
pub(crate) fn utilization(waiting: f64, kv_share: f64, max_waiting: f64, max_kv_share: f64) -> f64 {
    // `f64::max` gives the other number where one is NaN.
    (usable(waiting) / max_waiting).max(kv_share / max_kv_share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_counts_are_all_best_and_nan_has_no_part() {
        let check = |mut values: Vec<f64>, scores: &[f64]| {
            lowest_is_best(&mut values);
            let same = values.iter().zip(scores).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()));
            assert!(same && values.len() == scores.len(), "{values:?} is not {scores:?}");
        };
        check(vec![], &[]);
        check(vec![3.0], &[1.0]);
        check(vec![5.0, 5.0], &[1.0, 1.0]);
        check(vec![0.0, 10.0, 5.0], &[1.0, 0.0, 0.5]);
        check(vec![0.0, f64::NAN, 4.0], &[1.0, f64::NAN, 0.0]);
        check(vec![f64::NAN, f64::NAN], &[f64::NAN, f64::NAN]);
    }

    #[test]
    fn absurd_numbers_are_no_signal() {
        for absurd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
            assert!(usable(absurd).is_nan(), "{absurd}");
        }
        assert_eq!(usable(0.0), 0.0);
    }

    #[test]
    fn one_known_number_is_enough_for_utilization() {
        assert_eq!(utilization(5.0, f64::NAN, 10.0, 0.8), 0.5);
        assert_eq!(utilization(f64::NAN, 0.4, 10.0, 0.8), 0.5);
        assert_eq!(utilization(5.0, 0.8, 10.0, 0.8), 1.0);
        assert!(utilization(-1.0, f64::NAN, 10.0, 0.8).is_nan());
    }
}
