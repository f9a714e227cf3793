//! How far a run is, for those who wait for it.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use router_core::Stamp;

/// How far a run is. It moves as long as the run does, even where no request comes to its end.
#[derive(Debug, Default)]
pub struct Progress {
    /// 0 before the run begins.
    n_requests: AtomicUsize,
    n_ended: AtomicUsize,
    /// Nanoseconds of virtual time that have passed, and those after which the run is stopped.
    passed: AtomicU64,
    until: AtomicU64,
}

impl Progress {
    pub(super) fn begin(&self, n_requests: usize, until: Stamp) {
        self.n_requests.store(n_requests, Relaxed);
        self.until.store(until.as_nanos(), Relaxed);
    }

    pub(super) fn pass(&self, now: Stamp) {
        self.passed.store(now.as_nanos(), Relaxed);
    }

    pub(super) fn end_one(&self) {
        self.n_ended.fetch_add(1, Relaxed);
    }

    /// Requests that have come to their end.
    pub fn n_ended(&self) -> usize {
        self.n_ended.load(Relaxed)
    }

    /// Virtual time that has passed.
    pub fn passed(&self) -> Duration {
        Duration::from_nanos(self.passed.load(Relaxed))
    }

    /// Share of the run that is done, from 0 to 1: of its requests, or of the time that it may take at most.
    pub fn share(&self) -> f64 {
        let of = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        let by_requests = of(self.n_ended() as f64, self.n_requests.load(Relaxed) as f64);
        let by_time = of(self.passed.load(Relaxed) as f64, self.until.load(Relaxed) as f64);
        // Only the end of its requests is the end of the run.
        by_requests.max(by_time.min(0.99))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_or_time_move_it() {
        let check = |n_ended, passed, share: f64| {
            let progress = Progress::default();
            assert_eq!(progress.share(), 0.0);
            progress.begin(10, Stamp::from_nanos(1_000));
            (0..n_ended).for_each(|_| progress.end_one());
            progress.pass(Stamp::from_nanos(passed));
            assert!((progress.share() - share).abs() < 1e-9, "{}", progress.share());
        };
        check(0, 0, 0.0);
        check(5, 40, 0.5);
        check(0, 400, 0.4);
        check(0, 2_000, 0.99);
        check(10, 40, 1.0);
    }
}
