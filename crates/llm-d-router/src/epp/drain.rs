//! How long a picker goes on serving after it was asked to end.
//!
//! It says at once that it is not ready, but proxies have to notice: Envoy asks every some seconds. Until
//! they have they send more, and each stream that still comes shows that one has not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use router_core::Stamp;
use router_extproc::{EppHandler, Handler, Opening, ProcessService};
use router_rt::Clock;

/// How often streams are looked at. One that begins and ends between two looks is counted all the same.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// When the picker stops serving.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    /// At the latest.
    pub(super) window: Duration,
    /// Earlier, once no stream has been open for this long.
    pub(super) idle: Duration,
}

/// Streams at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) n_open: usize,
    /// All that ever began.
    pub(super) n_begun: u64,
}

/// The streams of the picker.
pub(super) struct Streams {
    pub(super) service: ProcessService<Counted<EppHandler>>,
    pub(super) begun: Arc<AtomicU64>,
}

/// Counts the streams that begin.
pub(super) struct Counted<H> {
    handler: H,
    begun: Arc<AtomicU64>,
}

impl Drain {
    /// Returns when it is time to take no more streams.
    pub(super) async fn until_over(self, clock: Clock, load: impl Fn() -> Load) {
        let end = clock.now() + self.window;
        let (mut idle_since, mut n_begun) = (clock.now(), load().n_begun);
        loop {
            let (now, seen) = (clock.now(), load());
            let is_busy = seen.n_open > 0 || seen.n_begun != n_begun;
            if is_busy {
                idle_since = now;
            }
            n_begun = seen.n_begun;
            let idle_until = idle_since + self.idle;
            if now >= end || (!is_busy && now >= idle_until) {
                return;
            }
            clock.sleep_until(next_look(now, end, idle_until)).await;
        }
    }
}

/// The next moment at which something may be different. Always later than `now`.
fn next_look(now: Stamp, end: Stamp, idle_until: Stamp) -> Stamp {
    let next = (now + LOOK_INTERVAL).min(end);
    if idle_until > now { next.min(idle_until) } else { next }
}

impl Streams {
    pub(super) fn load(&self) -> Load {
        Load { n_open: self.service.n_open(), n_begun: self.begun.load(Ordering::Relaxed) }
    }
}

impl<H> Counted<H> {
    pub(super) fn new(handler: H) -> (Self, Arc<AtomicU64>) {
        let begun = Arc::<AtomicU64>::default();
        (Self { handler, begun: Arc::clone(&begun) }, begun)
    }
}

impl<H: Handler> Handler for Counted<H> {
    type Session = H::Session;

    fn open(&self, opening: Opening) -> H::Session {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.handler.open(opening)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds until a drain is over, with the streams at each second of it.
    async fn lasts(window: u64, idle: u64, load: impl Fn(u64) -> Load) -> u64 {
        let clock = Clock::new();
        let began = clock.now();
        let drain = Drain { window: Duration::from_secs(window), idle: Duration::from_secs(idle) };
        drain.until_over(clock, || load(clock.now().since(began).as_secs())).await;
        clock.now().since(began).as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_over_when_nobody_has_come_for_a_while() {
        let nobody = |_| Load::default();
        assert_eq!(lasts(30, 15, nobody).await, 15);
        assert_eq!(lasts(10, 15, nobody).await, 10);
        assert_eq!(lasts(3_600, 0, nobody).await, 0);
        assert_eq!(lasts(0, 15, nobody).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_stream_keeps_it_going_to_the_end_of_the_window() {
        let until = |end| move |at| Load { n_open: usize::from(at < end), n_begun: 7 };
        assert_eq!(lasts(60, 15, until(20)).await, 34, "15 s from the last look at it");
        assert_eq!(lasts(60, 0, until(20)).await, 20);
        assert_eq!(lasts(60, 15, until(1_000)).await, 60);
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_come_and_go_between_looks_keep_it_going() {
        let until = |end: u64| move |at: u64| Load { n_open: 0, n_begun: at.min(end) / 10 };
        assert_eq!(lasts(60, 15, until(29)).await, 35);
        assert_eq!(lasts(60, 15, until(1_000)).await, 60);
    }
}
