//! Sleeping to within some microseconds.
//!
//! The runtime's timers round up to a millisecond, which is as long as the interval between requests
//! at 1,000 per second. A kernel timer wakes on time and leaves the core to others until then: the
//! model server may have to share it.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// A kernel timer.
pub(super) struct Pace(AsyncFd<OwnedFd>);

impl Pace {
    pub(super) fn new() -> Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).context("a kernel timer")?;
        // Its successor is an unsafe function. What makes this one unsound is a type that gives away
        // a descriptor that it does not own; an `OwnedFd` owns its own.
        #[expect(deprecated, reason = "the only safe way")]
        let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
        Ok(Self(timer))
    }

    /// Sleeps until `wake`; returns at once if that has passed.
    pub(super) async fn sleep_until(&self, wake: Instant) -> Result<()> {
        let left = wake.saturating_duration_since(Instant::now());
        // Zero would disarm the timer.
        if left.is_zero() {
            return Ok(());
        }
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec {
            it_interval: never,
            it_value: Timespec {
                tv_sec: i64::try_from(left.as_secs())?,
                tv_nsec: left.subsec_nanos().into(),
            },
        };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        let mut expirations = [0; size_of::<u64>()];
        loop {
            let mut ready = self.0.readable().await?;
            let read =
                |timer: &AsyncFd<OwnedFd>| Ok(rustix::io::read(timer.get_ref(), &mut expirations)?);
            // An error here is a timer that has not run out after all.
            if let Ok(read) = ready.try_io(read) {
                read?;
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn wakes_after_the_time_and_not_before() {
        let pace = Pace::new().unwrap();
        for micros in [1, 300, 2500] {
            let wake = Instant::now() + Duration::from_micros(micros);
            pace.sleep_until(wake).await.unwrap();
            assert!(Instant::now() >= wake);
        }
        pace.sleep_until(Instant::now() - Duration::from_secs(1)).await.unwrap();
    }
}
