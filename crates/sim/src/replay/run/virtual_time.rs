//! The paused clock of a run, moved to the nanosecond.
//!
//! A sleep of the runtime ends at a whole millisecond; the events of servers do not. Where nobody but the run
//! waits for time to pass, the clock is simply set. While decisions are pending, whatever they wait for must
//! come first, so the run sleeps up to the last whole millisecond and sets the clock for the rest.

use std::time::Duration;

use router_core::Stamp;
use router_rt::Clock;

/// Timers of the runtime have this grain.
const GRAIN_NANOS: u64 = 1_000_000;
/// Turns that other tasks get to finish what they can do without time passing.
const SETTLING_TURNS: usize = 16;

/// Sets the clock to `at`; it does not go back.
pub(super) async fn jump(clock: Clock, at: Stamp) {
    let ahead = at.since(clock.now());
    if ahead > Duration::ZERO {
        tokio::time::advance(ahead).await;
    }
}

/// Lets time pass until `at`, with all that others do in it.
pub(super) async fn pass(clock: Clock, at: Stamp) {
    for _ in 0..SETTLING_TURNS {
        tokio::task::yield_now().await;
    }
    let whole = Stamp::from_nanos(at.as_nanos() / GRAIN_NANOS * GRAIN_NANOS);
    if whole > clock.now() {
        clock.sleep_until(whole).await;
    }
    jump(clock, at).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_clock_stands_where_it_was_set() {
        let clock = Clock::new();
        for nanos in [1, 999_999, 1_000_001, 1_000_002, 5_123_456_789] {
            jump(clock, Stamp::from_nanos(nanos)).await;
            assert_eq!(clock.now().as_nanos(), nanos);
        }
        for nanos in [5_123_456_790, 5_900_000_001, 7_000_000_000] {
            pass(clock, Stamp::from_nanos(nanos)).await;
            assert_eq!(clock.now().as_nanos(), nanos);
        }
        pass(clock, Stamp::ORIGIN).await;
        assert_eq!(clock.now().as_nanos(), 7_000_000_000);
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_wait_for_comes_on_the_way() {
        let clock = Clock::new();
        let tasks = router_rt::Tasks::new();
        let other = tasks.spawn("other", async move {
            tokio::time::sleep(Duration::from_millis(3)).await;
            clock.now()
        });
        pass(clock, Stamp::from_nanos(10_500_000)).await;
        assert_eq!(other.join().await.unwrap(), Stamp::from_nanos(3_000_000));
    }
}
