//! What one worker counts.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::error::Elapsed;

use super::Outcome;

/// Latencies beyond two minutes count as two minutes.
const MAX_LATENCY_US: u64 = 120_000_000;
/// Distinct endpoints and distinct errors that are counted by name; later ones share [`OTHER`].
const MAX_PICKS: usize = 4096;
const MAX_ERRORS: usize = 64;
/// Characters of an error that tell it from others.
const MAX_ERROR_CHARS: usize = 160;
const OTHER: &str = "other";

pub(super) struct Tally {
    pub(super) n_ok: u64,
    pub(super) n_failed: u64,
    pub(super) n_rejected: u64,
    pub(super) picks: BTreeMap<String, u64>,
    pub(super) errors: BTreeMap<String, u64>,
    /// In microseconds.
    pub(super) phases: Vec<Histogram<u64>>,
}

impl Tally {
    pub(super) fn new(n_phases: usize) -> Self {
        #[expect(clippy::expect_used, reason = "constant bounds that the histogram takes")]
        let histogram = Histogram::new_with_bounds(1, MAX_LATENCY_US, 3).expect("valid bounds");
        Self {
            n_ok: 0,
            n_failed: 0,
            n_rejected: 0,
            picks: BTreeMap::new(),
            errors: BTreeMap::new(),
            phases: vec![histogram; n_phases],
        }
    }

    pub(super) fn record(&mut self, end: Result<anyhow::Result<Outcome>, Elapsed>) {
        match end {
            Ok(Ok(Outcome::Done { phases, pick })) => {
                self.n_ok += 1;
                count(&mut self.picks, pick, 1, MAX_PICKS);
                for (histogram, phase) in self.phases.iter_mut().zip(phases) {
                    histogram.saturating_record(micros(phase));
                }
            }
            Ok(Ok(Outcome::Rejected(why))) => {
                self.n_rejected += 1;
                count(&mut self.errors, why, 1, MAX_ERRORS);
            }
            Ok(Err(error)) => {
                self.n_failed += 1;
                let text = format!("{error:#}").chars().take(MAX_ERROR_CHARS).collect();
                count(&mut self.errors, text, 1, MAX_ERRORS);
            }
            Err(_elapsed) => {
                self.n_failed += 1;
                count(&mut self.errors, "timeout".to_owned(), 1, MAX_ERRORS);
            }
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.n_ok += other.n_ok;
        self.n_failed += other.n_failed;
        self.n_rejected += other.n_rejected;
        for (pick, n) in other.picks {
            count(&mut self.picks, pick, n, MAX_PICKS);
        }
        for (error, n) in other.errors {
            count(&mut self.errors, error, n, MAX_ERRORS);
        }
        for (mine, others) in self.phases.iter_mut().zip(other.phases) {
            // Both have the same bounds, so nothing can be out of range.
            mine.add(others).ok();
        }
    }
}

fn micros(phase: Duration) -> u64 {
    u64::try_from(phase.as_micros()).unwrap_or(MAX_LATENCY_US).clamp(1, MAX_LATENCY_US)
}

fn count(counts: &mut BTreeMap<String, u64>, name: String, n: u64, max: usize) {
    let name = if counts.len() < max || counts.contains_key(&name) { name } else { OTHER.into() };
    *counts.entry(name).or_default() += n;
}
