//! One request in flow control: its wait, then its right to run.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use router_core::{EndpointIndex, Rejection, Stamp};
use router_flow::{Refusal, Ticket, Usage};

use super::{
    FlowController,
    meters::Place,
    sync::{AtomicU64, AtomicWaker, OnceLock},
};

/// What is shared between a request and the queues.
pub(super) struct Waiter {
    verdict: OnceLock<Verdict>,
    waker: AtomicWaker,
    /// When it was told to make room, in nanoseconds since the clock's origin; 0 for never.
    evicted_at: AtomicU64,
    /// Its part of the metrics.
    pub(super) place: Place,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict {
    Go,
    Refused { refusal: Refusal, retry_after: Duration },
}

impl Waiter {
    pub(super) fn new(place: Place) -> Self {
        Self {
            verdict: OnceLock::new(),
            waker: AtomicWaker::new(),
            evicted_at: AtomicU64::new(0),
            place,
        }
    }

    /// The wait is over. The queues say so once.
    pub(super) fn settle(&self, verdict: Verdict) {
        if self.verdict.set(verdict).is_ok() {
            self.waker.wake();
        }
    }

    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.verdict.get().copied()
    }

    /// The request has to make room.
    pub(super) fn evict(&self, now: Stamp) {
        self.evicted_at.store(now.as_nanos().max(1), Ordering::Release);
        self.waker.wake();
    }

    pub(super) fn evicted_at(&self) -> Option<Stamp> {
        let at = self.evicted_at.load(Ordering::Acquire);
        (at != 0).then(|| Stamp::from_nanos(at))
    }
}

/// A request that waits. Dropping it hangs up.
#[must_use = "a request that is not awaited hangs up"]
pub struct Entry {
    controller: Arc<FlowController>,
    ticket: Ticket,
    waiter: Arc<Waiter>,
    is_told: bool,
}

impl Entry {
    pub(super) fn new(
        controller: Arc<FlowController>,
        ticket: Ticket,
        waiter: Arc<Waiter>,
    ) -> Self {
        Self { controller, ticket, waiter, is_told: false }
    }

    /// Whether the wait is over already, so that awaiting it takes no time.
    pub fn is_settled(&self) -> bool {
        self.waiter.verdict().is_some()
    }
}

impl Future for Entry {
    type Output = Result<Pass, Rejection>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.waiter.verdict().is_none() {
            // Registered before the second look, so that a verdict in between is not missed.
            self.waiter.waker.register(cx.waker());
        }
        let Some(verdict) = self.waiter.verdict() else { return Poll::Pending };
        self.is_told = true;
        Poll::Ready(match verdict {
            Verdict::Refused { refusal, retry_after } => Err(refusal.rejection(retry_after)),
            Verdict::Go => Ok(Pass {
                controller: Arc::clone(&self.controller),
                ticket: self.ticket,
                waiter: Arc::clone(&self.waiter),
                is_placed: false,
                is_ended: false,
            }),
        })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.is_told {
            self.controller.abandon(self.ticket);
        }
    }
}

/// The right to run. Dropping it gives it back.
#[must_use = "a pass that is dropped is given back"]
pub struct Pass {
    controller: Arc<FlowController>,
    ticket: Ticket,
    waiter: Arc<Waiter>,
    is_placed: bool,
    is_ended: bool,
}

impl Pass {
    /// The request is on its way to an endpoint, which may be named, and in that endpoint's live counts.
    pub fn placed(&mut self, endpoint: Option<EndpointIndex>) {
        self.is_placed = true;
        let ticket = self.ticket;
        self.controller.step(|flow, now, effects| flow.placed(now, ticket, endpoint, effects));
    }

    /// The first byte of the answer came: the prompt is computed.
    pub fn first_byte(&self) {
        let ticket = self.ticket;
        self.controller.step(|flow, now, effects| flow.prefilled(now, ticket, effects));
    }

    /// The request has ended. `used` is what it took, where that is known.
    pub fn end(&mut self, used: Option<Usage>) {
        if std::mem::replace(&mut self.is_ended, true) {
            return;
        }
        let ticket = self.ticket;
        self.controller.step(|flow, now, effects| flow.finished(now, ticket, used, effects));
        if let Some(since) = self.waiter.evicted_at() {
            self.controller.eviction_ended(since);
        }
        self.controller.signals_changed();
    }

    /// To be held while the request comes into the live counts of an endpoint or leaves them, until it is
    /// [`placed`](Self::placed) or has [`ended`](Self::end) here too.
    pub fn moving(&self) -> Motion {
        // In this order: a reading looks at the second before the first, and so misses neither.
        self.controller.in_motion.fetch_add(1, Ordering::AcqRel);
        self.controller.n_motions.fetch_add(1, Ordering::AcqRel);
        Motion(Arc::clone(&self.controller))
    }

    /// What tells whether the request has to make room; `None` where nobody ever has to.
    pub fn eviction(&self) -> Option<Eviction> {
        self.controller.evicts().then(|| Eviction(Arc::clone(&self.waiter)))
    }

    /// The answer to the client of a request that had to make room.
    pub fn evicted(&self) -> Rejection {
        Rejection::evicted()
            .with_retry_after(self.controller.retry_after(self.waiter.place.priority()))
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        // Nothing was served to a request that no endpoint knew of; of any other it is not known.
        self.end((!self.is_placed).then(Usage::default));
    }
}

/// Ready when a request that runs has to make room for a more important one. Of several for one request, the
/// one that was polled last is woken.
pub struct Eviction(Arc<Waiter>);

impl Future for Eviction {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.evicted_at().is_some() {
            return Poll::Ready(());
        }
        self.0.waker.register(cx.waker());
        match self.0.evicted_at() {
            Some(_) => Poll::Ready(()),
            None => Poll::Pending,
        }
    }
}

/// A request on its way into an endpoint's counts or out of them. When it has got there, the pool's signal is
/// worth another look.
pub struct Motion(Arc<FlowController>);

impl Drop for Motion {
    fn drop(&mut self) {
        self.0.in_motion.fetch_sub(1, Ordering::AcqRel);
        self.0.signals_changed();
    }
}
