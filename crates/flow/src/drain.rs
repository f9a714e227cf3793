//! How fast a queue drains, and so when it makes sense to come again.

use std::time::Duration;

use router_core::Stamp;

/// Half of what is remembered is younger than this.
const HALF_LIFE: Duration = Duration::from_secs(10);

/// Departures per second of a queue while somebody waits in it. Time in which nobody waits says nothing
/// about how fast it would drain.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DrainRate {
    at: Stamp,
    departures: f64,
    /// Seconds in which somebody waited.
    busy: f64,
    is_busy: bool,
}

impl DrainRate {
    /// Whether somebody waits from now on.
    pub(crate) fn set_busy(&mut self, now: Stamp, is_busy: bool) {
        if self.is_busy != is_busy {
            self.pass(now);
            self.is_busy = is_busy;
        }
    }

    /// Somebody left the queue to be served.
    pub(crate) fn departed(&mut self, now: Stamp) {
        self.pass(now);
        self.departures += 1.0;
    }

    /// Departures per second; `None` while nobody has waited for any time.
    pub(crate) fn per_second(&self, now: Stamp) -> Option<f64> {
        let mut at_now = *self;
        at_now.pass(now);
        (at_now.busy > 0.0).then(|| at_now.departures / at_now.busy)
    }

    fn pass(&mut self, now: Stamp) {
        let seconds = now.since(self.at).as_secs_f64();
        if seconds == 0.0 {
            return;
        }
        let half_life = HALF_LIFE.as_secs_f64();
        let kept = (-seconds / half_life).exp2();
        self.departures *= kept;
        self.busy *= kept;
        if self.is_busy {
            // The integral of the decay over the time that passed.
            self.busy += (1.0 - kept) * half_life / std::f64::consts::LN_2;
        }
        self.at = now;
    }

    /// How long `n_waiting` requests take to drain, within bounds. A queue that nobody has left yet, and that has
    /// been there for less than the shortest time, is not one that stands still.
    pub(crate) fn time_for(
        &self,
        now: Stamp,
        n_waiting: u64,
        least: Duration,
        most: Duration,
    ) -> Duration {
        let mut at_now = *self;
        at_now.pass(now);
        let Self { departures, busy, .. } = at_now;
        if busy == 0.0 || (departures < 1.0 && busy < least.as_secs_f64()) {
            return least;
        }
        let seconds = n_waiting as f64 * busy / departures;
        let seconds = seconds.clamp(least.as_secs_f64(), most.as_secs_f64());
        if seconds.is_finite() { Duration::from_secs_f64(seconds) } else { most }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_mins(1);

    fn at(millis: u64) -> Stamp {
        Stamp::from_nanos(millis * 1_000_000)
    }

    /// A queue that somebody waits in and that `rate` requests per second leave, for `seconds`.
    fn steady(rate: u64, seconds: u64) -> (DrainRate, Stamp) {
        let mut drain = DrainRate::default();
        drain.set_busy(at(0), true);
        for n in 1..=rate * seconds {
            drain.departed(at(n * 1_000 / rate));
        }
        (drain, at(seconds * 1_000))
    }

    #[test]
    fn the_wait_is_the_queue_over_its_rate() {
        for seconds in [2, 20, 200] {
            let (drain, now) = steady(20, seconds);
            let wait = drain.time_for(now, 100, LEAST, MOST).as_secs_f64();
            assert!((wait - 5.0).abs() < 0.3, "{wait} after {seconds} s");
            assert_eq!(drain.time_for(now, 3, LEAST, MOST), LEAST);
            assert_eq!(drain.time_for(now, 100_000, LEAST, MOST), MOST);
        }
    }

    #[test]
    fn a_queue_that_stalls_drains_more_and_more_slowly() {
        let (drain, now) = steady(20, 60);
        let wait = |later: u64| drain.time_for(now + Duration::from_secs(later), 100, LEAST, MOST);
        assert!(wait(5) > wait(0) && wait(20) > wait(5));
        assert_eq!(wait(600), MOST);
    }

    #[test]
    fn a_queue_that_has_just_begun_is_not_one_that_stands_still() {
        let mut drain = DrainRate::default();
        drain.set_busy(at(0), true);
        assert_eq!(drain.time_for(at(50), 100, LEAST, MOST), LEAST);
        assert_eq!(drain.time_for(at(2_000), 100, LEAST, MOST), MOST);
        // Nor is one that begins again long after somebody left it.
        drain.departed(at(2_000));
        drain.set_busy(at(2_000), false);
        drain.set_busy(at(300_000), true);
        assert_eq!(drain.time_for(at(300_050), 100, LEAST, MOST), LEAST);
        // It takes one to leave to know better.
        drain.departed(at(300_100));
        let wait = drain.time_for(at(300_100), 100, LEAST, MOST).as_secs_f64();
        assert!((wait - 10.0).abs() < 0.1, "{wait}");
    }

    #[test]
    fn time_without_a_queue_does_not_count() {
        let (mut drain, now) = steady(20, 60);
        let before = drain.per_second(now).unwrap();
        drain.set_busy(now, false);
        let after = drain.per_second(now + Duration::from_secs(30)).unwrap();
        assert!((before - after).abs() < 1e-6);
        assert_eq!(DrainRate::default().time_for(now, 9, LEAST, MOST), LEAST);
    }
}
