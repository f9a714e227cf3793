//! Time as values: nanoseconds since an origin, read from tokio's clock so that tests and replay
//! can pause it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use router_core::time::Stamp;
use tokio::time::Instant;

/// A clock with an origin. Cheap to copy; every part of one router should hold the same one, since
/// stamps of clocks with different origins cannot be compared.
///
/// Under tokio's paused time the clock stands still until something sleeps.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    unix_origin: Duration,
}

impl Clock {
    /// A clock whose origin is this moment.
    pub fn new() -> Self {
        let unix_origin = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self::with_unix_origin(unix_origin)
    }

    /// A clock whose origin is this moment and whose wall time starts at `unix_origin` (time since
    /// the Unix epoch), so that a replay prints the same timestamps each time.
    pub fn with_unix_origin(unix_origin: Duration) -> Self {
        Self { origin: Instant::now(), unix_origin }
    }

    /// Nanoseconds since the origin. Never goes backwards.
    #[inline]
    pub fn now(&self) -> Stamp {
        Stamp::from_nanos(self.origin.elapsed().as_nanos() as u64)
    }

    /// Tokio's instant for `stamp`, for `sleep_until` and `timeout_at`.
    pub fn instant(&self, stamp: Stamp) -> Instant {
        let offset = Duration::from_nanos(stamp.as_nanos());
        self.origin.checked_add(offset).unwrap_or_else(|| self.origin + FAR_FUTURE)
    }

    /// Wall-clock time of `stamp`, since the Unix epoch. The mapping is fixed at the origin: a step
    /// of the system clock does not move it.
    pub fn unix(&self, stamp: Stamp) -> Duration {
        self.unix_origin.saturating_add(Duration::from_nanos(stamp.as_nanos()))
    }

    /// Wall-clock time of this moment, since the Unix epoch.
    pub fn unix_now(&self) -> Duration {
        self.unix(self.now())
    }

    /// Sleeps until `stamp`; returns at once when it has passed.
    pub async fn sleep_until(&self, stamp: Stamp) {
        tokio::time::sleep_until(self.instant(stamp)).await;
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// What a stamp beyond the range of the platform's instants means; about thirty years, as in tokio.
const FAR_FUTURE: Duration = Duration::from_hours(24 * 365 * 30);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stands_still_while_paused_and_jumps_with_a_sleep() {
        let clock = Clock::with_unix_origin(Duration::from_secs(1_000));
        assert_eq!(clock.now(), Stamp::from_nanos(0));
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_eq!(clock.now(), Stamp::from_nanos(1_500_000_000));
        assert_eq!(clock.unix_now(), Duration::from_millis(1_001_500));
    }

    #[tokio::test(start_paused = true)]
    async fn sleeping_until_a_stamp_lands_on_it() {
        let clock = Clock::new();
        clock.sleep_until(Stamp::from_nanos(7_000_000_000)).await;
        assert_eq!(clock.now(), Stamp::from_nanos(7_000_000_000));
        clock.sleep_until(Stamp::from_nanos(1)).await;
        assert_eq!(clock.now(), Stamp::from_nanos(7_000_000_000));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_stamp_is_far_away_and_does_not_panic() {
        let clock = Clock::new();
        assert!(clock.instant(Stamp::from_nanos(u64::MAX)) > Instant::now());
        assert!(clock.unix(Stamp::from_nanos(u64::MAX)) > clock.unix_now());
    }
}
