//! A limit on how long something may not move.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Becomes overdue when nothing has moved for the limit. The timer is made when somebody first waits, and
/// moved only when it fires, so that what flows costs one look at the clock per chunk.
pub(crate) struct Idle {
    limit: Option<Duration>,
    since: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    /// Counts from this moment; without a limit it is never overdue.
    pub(crate) fn new(limit: Option<Duration>) -> Self {
        Self { limit, since: Instant::now(), timer: None }
    }

    /// Something moved.
    pub(crate) fn moved(&mut self) {
        self.since = Instant::now();
    }

    pub(crate) fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // A limit beyond what the clock can show never passes.
        let Some(due) = self.limit.and_then(|limit| self.since.checked_add(limit)) else {
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= due {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_moves_is_not_overdue() {
        let start = Instant::now();
        let mut idle = Idle::new(Some(SECOND));
        let mut waits = Box::pin(tokio::time::sleep(SECOND / 2));
        poll_fn(|cx| {
            assert!(idle.poll_overdue(cx).is_pending());
            waits.as_mut().poll(cx)
        })
        .await;
        idle.moved();
        poll_fn(|cx| idle.poll_overdue(cx)).await;
        assert_eq!(start.elapsed(), SECOND + SECOND / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_is_overdue() {
        for limit in [None, Some(Duration::MAX)] {
            let mut idle = Idle::new(limit);
            let overdue = poll_fn(|cx| idle.poll_overdue(cx));
            assert!(tokio::time::timeout(1_000_000 * SECOND, overdue).await.is_err());
        }
    }
}
