//! Who goes next, how full the pool may be for whom, and who may be evicted: the decisions that are a
//! matter of taste, as traits that are fed with small values.
//!
//! What is shared by all who use a policy (its parameters) is a `…Policy`; what it remembers while it works
//! is a value of its own that [`start`](FairnessPolicy::start) makes, one per band or one per flow
//! controller.

pub mod deficit;
pub mod eviction;
pub mod global_strict;
pub mod ordering;
pub mod program_aware;
pub mod round_robin;
pub mod usage_limit;

use std::time::Duration;

use router_core::Stamp;

use crate::request::{Cost, FlowId, Usage};

/// Order within a flow; the smaller goes first, and of equal ones the one that came first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(pub u64, pub u64);

/// A request that enters its queue.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// When its head came.
    pub received: Stamp,
    pub enqueued: Stamp,
    /// How long it may wait; `None` is for ever.
    pub ttl: Option<Duration>,
    /// Time to first token that the client asks for.
    pub ttft_slo: Option<Duration>,
    pub cost: Cost,
}

/// Order of the requests within one flow.
pub trait OrderingPolicy: Send + Sync {
    /// Asked once, when the request arrives. One that cannot be ranked because this panics is refused.
    fn rank(&self, arrival: &Arrival) -> Rank;
}

/// A flow's dense number within its band, while the flow is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey(pub u32);

impl FlowKey {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The first request of a flow that may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub rank: Rank,
    /// Grows with every request that arrives; no two are equal.
    pub seq: u64,
    pub enqueued: Stamp,
    pub cost: Cost,
}

/// Which flow of a priority band goes next.
pub trait FairnessPolicy: Send + Sync {
    /// Makes what one band remembers.
    fn start(&self) -> Box<dyn Fairness>;

    /// What the flow may have beside others.
    fn weight(&self, id: &FlowId) -> f64 {
        let _ = id;
        1.0
    }

    /// Whether a full band makes room for a flow with few requests by refusing the last request of the flow
    /// that has the most waiting, by weight. Otherwise it refuses who comes, and who sends most fills it.
    fn drops_from_longest(&self) -> bool {
        false
    }
}

/// A fairness policy at work in one band. It is told of every change, so that it can keep an order of its
/// own and need not look at all flows to choose one.
pub trait Fairness: Send {
    /// The flow is known from now on, with nothing waiting.
    fn join(&mut self, flow: FlowKey, id: &FlowId);
    /// The first request of the flow that may go is this one; there was none before, or another.
    fn offer(&mut self, flow: FlowKey, head: &Head);
    /// Requests of the flow wait, but for endpoints that are all full: it is passed over until another
    /// [`offer`](Self::offer), and should stand then as it does now.
    fn hold(&mut self, flow: FlowKey) {
        self.withdraw(flow);
    }
    /// Nothing of the flow waits any more.
    fn withdraw(&mut self, flow: FlowKey);
    /// The flow to serve. Asked again before anything changed, it gives the same answer.
    fn next(&mut self) -> Option<FlowKey>;
    /// The flow's first request was let go; `next` is the one behind it, which may be held at once.
    fn dispatched(&mut self, flow: FlowKey, sent: &Head, next: Option<&Head>);
    /// A request that was let go has ended. `used` is what it took, if that is known.
    fn settled(&mut self, now: Stamp, flow: FlowKey, charged: &Cost, used: Option<&Usage>) {
        let _ = (now, flow, charged, used);
    }
    /// The flow is not known any more. Nothing of it waits or runs.
    fn forget(&mut self, flow: FlowKey);
}

/// What a usage limit decides by.
#[derive(Clone, Copy, Debug)]
pub struct LimitCx<'a> {
    pub now: Stamp,
    /// Of the pool, or of the endpoints that some requests are restricted to: it is asked about each. 0 is
    /// idle, 1 and above is full.
    pub saturation: f64,
    /// Of all bands, those without requests included; falling.
    pub priorities: &'a [i32],
}

/// How full the pool may be for each priority band.
pub trait UsageLimitPolicy: Send + Sync {
    /// Makes what one flow controller remembers.
    fn start(&self) -> Box<dyn UsageLimit>;
}

/// A usage limit at work.
pub trait UsageLimit: Send {
    /// Writes one ceiling per priority into `ceilings`: the band is served while the saturation is below it.
    /// A band never gets a higher ceiling than a more important one; what is written otherwise is lowered.
    /// Gives the moment from which the answer may be another though nothing else has changed.
    fn ceilings(&mut self, cx: &LimitCx<'_>, ceilings: &mut [f64]) -> Option<Stamp>;
    /// A request of the band at this position of `priorities` was let go, by the ceilings that it was asked
    /// for last.
    fn dispatched(&mut self, now: Stamp, band: usize) {
        let _ = (now, band);
    }
}

/// A request in flight, as one that could be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Victim {
    pub priority: i32,
    pub dispatched: Stamp,
    pub cost: Cost,
}

/// Which requests in flight may be evicted at all.
pub trait EvictionFilter: Send + Sync {
    /// Asked once, when the request is placed.
    fn accepts(&self, victim: &Victim) -> bool;
}

/// In which order requests are evicted.
pub trait EvictionOrder: Send + Sync {
    /// Smaller goes first. Asked once, when the request is placed.
    fn rank(&self, victim: &Victim) -> (i64, u64);
}
