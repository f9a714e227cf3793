//! What happens on a connection, so that silent ones can be closed.
//!
//! Hyper's own header timeout also runs while a keep-alive connection waits for its next request,
//! and does not run before the protocol is known. Here the two waits have limits of their own.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use router_core::time::Stamp;
use router_rt::Clock;

use super::Limits;

/// Shared by the connection's reader, its requests and the task that watches it.
#[derive(Debug)]
pub(super) struct Activity {
    clock: Clock,
    http2: AtomicBool,
    n_requests: AtomicUsize,
    /// The socket took nothing of the last write: what is left of a response waits for the client, who may
    /// be slow. How long is the business of the stream's `WriteLimit`.
    is_blocked: AtomicBool,
    /// When the last request ended, the last response was out, or the connection began. Nanoseconds.
    idle_since: AtomicU64,
    /// When the first byte of the next request head came; [`NONE`] while none has.
    head_since: AtomicU64,
}

/// No moment.
const NONE: u64 = u64::MAX;

/// Counts one request until its response has been sent or dropped.
#[derive(Debug)]
pub(super) struct InRequest(Arc<Activity>);

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    Head,
    Idle,
}

impl Activity {
    pub(super) fn new(clock: Clock) -> Self {
        let now = clock.now().as_nanos();
        Self {
            clock,
            http2: AtomicBool::new(false),
            n_requests: AtomicUsize::new(0),
            is_blocked: AtomicBool::new(false),
            idle_since: AtomicU64::new(now),
            // A connection that says nothing at first is held to the time for a head.
            head_since: AtomicU64::new(now),
        }
    }

    /// From here on frames may come without a request.
    pub(super) fn is_http2(&self) {
        self.http2.store(true, Ordering::Relaxed);
    }

    /// Bytes came in.
    #[inline]
    pub(super) fn on_read(&self) {
        let waiting = self.n_requests.load(Ordering::Relaxed) == 0;
        if waiting && self.head_since.load(Ordering::Relaxed) == NONE {
            self.head_since.store(self.clock.now().as_nanos(), Ordering::Relaxed);
        }
    }

    /// Something was written, or was not taken.
    #[inline]
    pub(super) fn on_write(&self, is_blocked: bool) {
        if self.is_blocked.load(Ordering::Relaxed) != is_blocked {
            self.idle_since.store(self.clock.now().as_nanos(), Ordering::Relaxed);
            self.is_blocked.store(is_blocked, Ordering::Relaxed);
        }
    }

    /// A whole request head came in.
    pub(super) fn on_request(self: &Arc<Self>) -> InRequest {
        self.n_requests.fetch_add(1, Ordering::Relaxed);
        self.head_since.store(NONE, Ordering::Relaxed);
        InRequest(Arc::clone(self))
    }

    /// Requests whose response has not been sent.
    pub(super) fn n_requests(&self) -> usize {
        self.n_requests.load(Ordering::Relaxed)
    }

    /// Whether the connection has waited too long, else when to look again.
    pub(super) fn check(&self, limits: &Limits) -> Result<Stamp, Overdue> {
        let now = self.clock.now();
        let limit_of = |since: u64, limit| Stamp::from_nanos(since) + limit;
        if self.n_requests.load(Ordering::Relaxed) > 0 || self.is_blocked.load(Ordering::Relaxed) {
            return Ok(now + limits.header_timeout.min(limits.idle_timeout));
        }
        let idle_until = limit_of(self.idle_since.load(Ordering::Relaxed), limits.idle_timeout);
        if now >= idle_until {
            return Err(Overdue::Idle);
        }
        let head_since = self.head_since.load(Ordering::Relaxed);
        if self.http2.load(Ordering::Relaxed) {
            return Ok(idle_until);
        }
        if head_since == NONE {
            // A head that begins right now is due one header timeout from now.
            return Ok(idle_until.min(now + limits.header_timeout));
        }
        let head_until = limit_of(head_since, limits.header_timeout);
        if now >= head_until { Err(Overdue::Head) } else { Ok(idle_until.min(head_until)) }
    }
}

impl Drop for InRequest {
    fn drop(&mut self) {
        let now = self.0.clock.now().as_nanos();
        self.0.idle_since.store(now, Ordering::Relaxed);
        self.0.n_requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits() -> Limits {
        Limits {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_mins(1),
            ..Limits::default()
        }
    }

    async fn pass(secs: u64) {
        tokio::time::advance(Duration::from_secs(secs)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_newcomer_gets_the_time_for_a_head() {
        let activity = Activity::new(Clock::new());
        pass(9).await;
        assert!(activity.check(&limits()).is_ok());
        pass(1).await;
        assert_eq!(activity.check(&limits()), Err(Overdue::Head));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_progress_is_never_overdue() {
        let activity = Arc::new(Activity::new(Clock::new()));
        let request = activity.on_request();
        pass(3600).await;
        assert!(activity.check(&limits()).is_ok());
        drop(request);
        pass(59).await;
        assert!(activity.check(&limits()).is_ok(), "idle time counts from the end of the request");
        pass(1).await;
        assert_eq!(activity.check(&limits()), Err(Overdue::Idle));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_slow_client_has_yet_to_take_is_no_idleness() {
        let activity = Activity::new(Clock::new());
        activity.on_write(true);
        pass(3600).await;
        assert!(activity.check(&limits()).is_ok());
        activity.on_write(false);
        activity.head_since.store(NONE, Ordering::Relaxed);
        pass(59).await;
        assert!(activity.check(&limits()).is_ok(), "idle time counts from the last byte");
        pass(1).await;
        assert_eq!(activity.check(&limits()), Err(Overdue::Idle));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dribbled_head_is_overdue_from_its_first_byte() {
        let activity = Arc::new(Activity::new(Clock::new()));
        drop(activity.on_request());
        pass(30).await;
        activity.on_read();
        pass(5).await;
        activity.on_read();
        assert!(activity.check(&limits()).is_ok());
        pass(5).await;
        assert_eq!(activity.check(&limits()), Err(Overdue::Head));
    }

    #[tokio::test(start_paused = true)]
    async fn http2_frames_are_no_heads() {
        let activity = Arc::new(Activity::new(Clock::new()));
        activity.is_http2();
        activity.on_read();
        pass(30).await;
        assert!(activity.check(&limits()).is_ok());
        pass(30).await;
        assert_eq!(activity.check(&limits()), Err(Overdue::Idle));
    }
}
