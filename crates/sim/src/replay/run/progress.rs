//! How far a run is, for those who wait for it.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use router_core::Stamp;

/// So many scrapes are as much work as a request, about.
const SCRAPES_PER_REQUEST: f64 = 50.0;

/// How far a run is. It moves as long as the run does, even where no request comes to its end.
#[derive(Debug, Default)]
pub struct Progress {
    /// 0 before the run begins.
    n_requests: AtomicUsize,
    n_ended: AtomicUsize,
    /// Scrapes up to the last arrival.
    n_scrapes: AtomicU64,
    /// Nanoseconds of virtual time that have passed, those of the last arrival, and those after which the run is
    /// stopped.
    passed: AtomicU64,
    last: AtomicU64,
    until: AtomicU64,
}

impl Progress {
    /// `last` is when the last request arrives, and `until` when the run is stopped.
    pub(super) fn begin(&self, n_requests: usize, n_scrapes: u64, last: Stamp, until: Stamp) {
        self.n_requests.store(n_requests, Relaxed);
        self.n_scrapes.store(n_scrapes, Relaxed);
        self.last.store(last.as_nanos(), Relaxed);
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

    /// Share of the run that is done, from 0 to 1: of its requests and of the scrapes meanwhile, or of the time that
    /// it may take at most.
    pub fn share(&self) -> f64 {
        let (n_ended, n_requests) = (self.n_ended(), self.n_requests.load(Relaxed));
        // Only the end of its requests is the end of the run.
        if n_ended >= n_requests {
            return if n_requests > 0 { 1.0 } else { 0.0 };
        }
        let of_time = |whole: &AtomicU64| {
            let whole = whole.load(Relaxed).max(1) as f64;
            (self.passed.load(Relaxed) as f64 / whole).min(1.0)
        };
        let n_scrapes = self.n_scrapes.load(Relaxed) as f64;
        let work =
            |n_requests: usize, n_scrapes| n_requests as f64 * SCRAPES_PER_REQUEST + n_scrapes;
        let done = work(n_ended, n_scrapes * of_time(&self.last)) / work(n_requests, n_scrapes);
        done.max(of_time(&self.until)).min(0.99)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share that is done of ten requests of which the last arrives at 500, in a run that is stopped at 1,000.
    fn share(n_scrapes: u64, n_ended: usize, passed: u64) -> f64 {
        let progress = Progress::default();
        assert_eq!(progress.share(), 0.0);
        progress.begin(10, n_scrapes, Stamp::from_nanos(500), Stamp::from_nanos(1_000));
        (0..n_ended).for_each(|_| progress.end_one());
        progress.pass(Stamp::from_nanos(passed));
        progress.share()
    }

    #[test]
    fn requests_or_time_move_it() {
        let check = |n_ended, passed, expected: f64| {
            let share = share(0, n_ended, passed);
            assert!((share - expected).abs() < 1e-9, "{share}, not {expected}");
        };
        check(0, 0, 0.0);
        check(5, 40, 0.5);
        check(0, 400, 0.4);
        check(0, 2_000, 0.99);
        check(10, 40, 1.0);
    }

    #[test]
    fn what_is_scraped_for_long_is_not_half_done_with_half_of_its_requests() {
        let many = 1_000_000;
        assert!(share(many, 5, 1) < 0.01, "nearly all scrapes are to come");
        assert!((share(many, 5, 250) - 0.5).abs() < 0.01);
        assert!(share(many, 9, 499) > 0.98);
    }
}
