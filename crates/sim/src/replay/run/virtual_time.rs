//! The paused clock of a run, moved to the nanosecond.
//!
//! A sleep of the runtime is a number of whole milliseconds; the events of servers are not. Where nobody but the
//! run waits for time to pass, the clock is simply set. While decisions are pending, whatever they wait for must
//! come first, so the run sleeps until shortly before and sets the clock for the rest.

use std::time::Duration;

use router_core::Stamp;
use router_rt::Clock;

/// Timers of the runtime have this grain.
const GRAIN_NANOS: u64 = 1_000_000;
/// Turns that other tasks get to finish what they can do without time passing.
const SETTLING_TURNS: usize = 16;

/// Sets the clock to `at`; it does not go back.
pub(in crate::replay) async fn jump(clock: Clock, at: Stamp) {
    let ahead = at.since(clock.now());
    if ahead > Duration::ZERO {
        tokio::time::advance(ahead).await;
    }
}

/// Lets time pass until `at`, with all that others do in it.
pub(super) async fn pass(clock: Clock, at: Stamp) {
    settle().await;
    // The sleep ends less than a grain after the stamp that it is told, so never after `at`.
    let before = Stamp::from_nanos((at.as_nanos() / GRAIN_NANOS).saturating_sub(1) * GRAIN_NANOS);
    if before > clock.now() {
        clock.sleep_until(before).await;
    }
    jump(clock, at).await;
    settle().await;
}

/// Lets others do what they can without time passing.
async fn settle() {
    for _ in 0..SETTLING_TURNS {
        tokio::task::yield_now().await;
    }
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
