//! Extension points of admission and flow control.
//!
//! Who goes next, how full the pool may be for whom and who may be evicted are decided by policies over small
//! values, which [`router_flow::policy`] defines; what is here besides says how full the pool is.

use std::sync::Arc;

use router_core::{Endpoint, Stamp};
pub use router_flow::policy::{
    Arrival, EvictionFilter, EvictionOrder, Fairness, FairnessPolicy, FlowKey, Head, LimitCx,
    OrderingPolicy, Rank, UsageLimit, UsageLimitPolicy, Victim,
};

use crate::cx::Freshness;

/// The endpoints that a detector judges.
#[derive(Clone, Copy, Debug)]
pub struct PoolView<'a> {
    pub endpoints: &'a [&'a Arc<Endpoint>],
    pub now: Stamp,
    pub freshness: Freshness,
}

/// How full a set of endpoints is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Saturation {
    /// 0 is idle, 1 and above is saturated.
    pub value: f64,
    /// Endpoints without a fresh signal.
    pub n_stale: usize,
}

/// What requests make of a saturation before what the detector reads shows them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Increments {
    /// Saturation that one request more makes.
    pub per_request: f64,
    /// Saturation that one token more makes.
    pub per_token: f64,
    /// What the detector reads shows all that endpoints were sent, and all that ended, up to here.
    pub as_of: Stamp,
}

/// Requests that fill an endpoint where a detector does not say: as many as the default of
/// `utilization-detector`.
const FILL_AN_ENDPOINT: f64 = 5.0;

/// Says how full a pool is.
pub trait SaturationDetector: Send + Sync {
    /// An empty view is saturated (1.0).
    fn saturation(&self, view: &PoolView<'_>) -> Saturation;

    /// What to add to the saturation of this view for requests that it does not show yet. A detector that
    /// reads what this router counts itself says that it shows everything up to now.
    fn increments(&self, view: &PoolView<'_>) -> Increments {
        let per_request = 1.0 / (FILL_AN_ENDPOINT * view.endpoints.len().max(1) as f64);
        Increments { per_request, per_token: 0.0, as_of: view.oldest_scrape(view.freshness) }
    }

    /// Whether it sees only requests of its own configuration, so that what a replaced one still has in flight
    /// is to be added. What endpoints say of themselves has both.
    fn sees_only_own(&self) -> bool {
        false
    }
}

impl PoolView<'_> {
    /// When those of the signals that are fresh, and were scraped longest ago, were scraped.
    pub fn oldest_scrape(&self, freshness: Freshness) -> Stamp {
        let signals = self.endpoints.iter().map(|endpoint| endpoint.signals());
        let fresh = signals.filter(|signals| freshness.is_fresh(signals, self.now));
        fresh.map(|signals| signals.scraped_at).min().unwrap_or(self.now)
    }
}
