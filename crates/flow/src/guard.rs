//! Policies are foreign code. One that panics takes nothing with it but what it had to say.
//!
//! What it leaves behind is only its own: no state of flow control is changed while it is called. A policy
//! that remembers something (fairness, usage limit) is not asked again after that, since nobody knows what
//! it remembers; its default takes its place.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use router_core::Stamp;

use crate::{
    policy::{
        Fairness, FairnessPolicy, FlowKey, Head, LimitCx, UsageLimit, UsageLimitPolicy,
        usage_limit::Static,
    },
    request::{Cost, FlowId, Usage},
};

/// Which policy failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    Ordering,
    Fairness,
    UsageLimit,
    Eviction,
}

impl PolicyKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ordering => "OrderingPolicy",
            Self::Fairness => "FairnessPolicy",
            Self::UsageLimit => "UsageLimitPolicy",
            Self::Eviction => "EvictionPolicy",
        }
    }
}

/// A policy panicked, or did not choose though somebody waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFailure {
    pub kind: PolicyKind,
    /// What it said when it panicked.
    pub message: String,
}

impl PolicyFailure {
    pub(crate) fn new(kind: PolicyKind, message: String) -> Self {
        Self { kind, message }
    }
}

/// Longest message of a panic that is kept.
const MAX_MESSAGE_BYTES: usize = 256;

/// What the call gives, or what it said when it panicked.
pub(crate) fn guarded<R>(call: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| message(&*panic))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let said = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("it panicked");
    said.get(..said.floor_char_boundary(MAX_MESSAGE_BYTES)).unwrap_or_default().to_owned()
}

/// A value of a policy that may panic at any call, and is then dropped.
struct Guarded<P> {
    policy: Option<P>,
    /// What it said, until that is taken.
    said: Option<String>,
}

impl<P> Guarded<P> {
    fn start(start: impl FnOnce() -> P) -> Self {
        match guarded(start) {
            Ok(policy) => Self { policy: Some(policy), said: None },
            Err(said) => Self { policy: None, said: Some(said) },
        }
    }

    /// `None` where the policy is gone.
    fn call<R>(&mut self, call: impl FnOnce(&mut P) -> R) -> Option<R> {
        let policy = self.policy.as_mut()?;
        match guarded(|| call(policy)) {
            Ok(value) => Some(value),
            Err(said) => {
                self.said = Some(said);
                self.give_up();
                None
            }
        }
    }

    fn give_up(&mut self) {
        let policy = self.policy.take();
        if let Err(said) = guarded(|| drop(policy)) {
            self.said.get_or_insert(said);
        }
    }
}

impl<P> Drop for Guarded<P> {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// The fairness policy of a band at work.
pub(crate) struct GuardedFairness(Guarded<Box<dyn Fairness>>);

impl GuardedFairness {
    pub(crate) fn start(policy: &dyn FairnessPolicy) -> Self {
        Self(Guarded::start(|| policy.start()))
    }

    pub(crate) fn join(&mut self, flow: FlowKey, id: &FlowId) {
        self.0.call(|policy| policy.join(flow, id));
    }

    pub(crate) fn offer(&mut self, flow: FlowKey, head: &Head) {
        self.0.call(|policy| policy.offer(flow, head));
    }

    pub(crate) fn hold(&mut self, flow: FlowKey) {
        self.0.call(|policy| policy.hold(flow));
    }

    pub(crate) fn withdraw(&mut self, flow: FlowKey) {
        self.0.call(|policy| policy.withdraw(flow));
    }

    /// `None` also where the policy has failed.
    pub(crate) fn next(&mut self) -> Option<FlowKey> {
        self.0.call(|policy| policy.next()).flatten()
    }

    pub(crate) fn dispatched(&mut self, flow: FlowKey, sent: &Head, next: Option<&Head>) {
        self.0.call(|policy| policy.dispatched(flow, sent, next));
    }

    pub(crate) fn settled(
        &mut self,
        now: Stamp,
        flow: FlowKey,
        charged: &Cost,
        used: Option<&Usage>,
    ) {
        self.0.call(|policy| policy.settled(now, flow, charged, used));
    }

    pub(crate) fn forget(&mut self, flow: FlowKey) {
        self.0.call(|policy| policy.forget(flow));
    }

    /// Puts another policy in its place; gives what it said at its end.
    pub(crate) fn replace(&mut self, by: Box<dyn Fairness>) -> String {
        self.0.give_up();
        self.0.policy = Some(by);
        self.0.said.take().unwrap_or_else(|| "it chose nobody though somebody waits".to_owned())
    }
}

/// The usage limit at work. Where it fails, the pool may be filled by all.
pub(crate) struct GuardedLimit(Guarded<Box<dyn UsageLimit>>);

impl GuardedLimit {
    pub(crate) fn start(policy: &dyn UsageLimitPolicy) -> Self {
        Self(Guarded::start(|| policy.start()))
    }

    pub(crate) fn ceilings(&mut self, cx: &LimitCx<'_>, ceilings: &mut [f64]) -> Option<Stamp> {
        match self.0.call(|policy| policy.ceilings(cx, ceilings)) {
            Some(reopens) => reopens,
            None => Static::default().ceilings(cx, ceilings),
        }
    }

    pub(crate) fn dispatched(&mut self, now: Stamp, band: usize) {
        self.0.call(|policy| policy.dispatched(now, band));
    }

    /// What it said when it failed, once.
    pub(crate) fn take_failure(&mut self) -> Option<PolicyFailure> {
        let said = self.0.said.take()?;
        Some(PolicyFailure::new(PolicyKind::UsageLimit, said))
    }
}
