//! Flow control: who waits, who runs and who is told no when demand exceeds what the pool can do.
//!
//! [`FlowControl`] is the state of all queues. Whoever drives it tells it what happens — a request arrives or
//! is given up, one that runs is placed or ends, the pool reports how full it is, time passes — and gets back
//! a list of [`Effect`]s: requests to let go, requests to answer with a rejection, requests in flight to
//! evict. Every event does all that follows from it at once, so that nothing has to poll;
//! [`FlowControl::next_deadline`] says when time alone will change something.
//!
//! Requests wait in *flows* (one per fairness id), flows belong to *priority bands*. A band is served while
//! the pool's saturation is below the band's ceiling, the most important band first; within a band a fairness
//! policy chooses the flow, within a flow an ordering policy chooses the request. What is let go counts
//! against the pool's saturation at once, before any signal shows it ([`pool`]).
//!
//! A request may be restricted to a *subset* of the endpoints. It then waits for room on these ([`subset`]): a
//! flow has a queue for each subset that its requests are restricted to, beside the one of all that may go
//! anywhere, and the fairness policy hears of the best request among the queues whose endpoints have room. A
//! flow of which no request may go is *held*: the policy passes it over, and it stands afterwards as before. So
//! nobody waits behind a request that waits for other endpoints.
//!
//! The crate does no I/O, knows no runtime, takes no lock and reads no clock: time is a
//! [`Stamp`](router_core::Stamp) that is handed in. It knows neither endpoints nor requests; what it needs of
//! them are small values ([`Ask`], [`PoolSignal`]). What a driver needs to find its request again is the
//! payload `T` that it hands in.
//!
//! ```
//! use router_core::Stamp;
//! use router_flow::{Ask, Config, Effect, FlowControl, PoolSignal, StageLoad};
//!
//! let mut flow = FlowControl::new(Config::default());
//! let (now, mut effects) = (Stamp::ORIGIN, Vec::new());
//! let load = StageLoad { saturation: 0.5, per_request: 0.25, per_token: 0.0 };
//! flow.signal(now, PoolSignal::of_pool(load, now), &mut effects);
//! for name in ["a", "b", "c"] {
//!     flow.arrive(now, Ask::default(), name, &mut effects);
//! }
//! // Two fit; the third waits until one of them ends.
//! assert_eq!(effects.len(), 2);
//! let Effect::Dispatch { ticket, .. } = effects[0] else { unreachable!() };
//! flow.finished(now, ticket, None, &mut effects);
//! assert!(matches!(effects[2], Effect::Dispatch { payload: "c", .. }));
//! ```

pub mod config;
pub mod control;
pub mod outcome;
pub mod policy;
pub mod pool;
pub mod request;
pub mod snapshot;
pub mod subset;

mod band;
mod drain;
mod expiry;
mod guard;
mod idle;
mod reclaim;
mod trickle;

pub use config::{BandConfig, BandTemplate, Bounds, Config, Eviction, Trickle};
pub use control::FlowControl;
pub use guard::{PolicyFailure, PolicyKind};
pub use outcome::{Effect, Limit, Outcome, Refusal};
pub use policy::{
    Arrival, EvictionFilter, EvictionOrder, Fairness, FairnessPolicy, FlowKey, Head, LimitCx,
    OrderingPolicy, Rank, UsageLimit, UsageLimitPolicy, Victim,
};
pub use pool::{InFlight, InStages, PoolSignal, Size, StageLoad};
pub use reclaim::ReclaimCounts;
pub use request::{Ask, Cost, FlowId, MAX_FLOW_ID_BYTES, Ticket, Usage};
pub use snapshot::{BandView, FlowView, HeadView, Hold, Snapshot, SubsetHold};
pub use subset::{SubsetId, SubsetInUse, SubsetSignal};

#[cfg(test)]
mod tests;
