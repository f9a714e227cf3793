//! Judges by scraped signals how full the pool is; as a filter, drops endpoints that are full.
//!
//! As saturation detector, the pool's value is the mean over its endpoints of `max(waiting / queueDepthThreshold, kv usage / kvCacheUtilThreshold)`.
//! An endpoint whose signals are stale or missing counts as full (1), and so does an empty pool.
//! Where the signals of all are, nothing is known: requests in flight count instead, 100 for each endpoint.
//! An engine that exports only one of the two numbers is judged by that one.
//! At 1 and above, requests wait, or without flow control those of negative priority are refused.
//!
//! As filter in a profile, an endpoint stays when its waiting requests are below `queueDepthThreshold × (1 + headroom)` and its KV-cache use is below `kvCacheUtilThreshold × (1 + headroom)`.
//! When no endpoint is known to be below, all stay.
//! An endpoint without fresh signals stays beside those that are below: it is neither preferred nor starved.
//! Differs from the Go implementation, which drops it.
//!
//! Signals are stale when they are older than the router's own rule (the larger of `--metrics-staleness-threshold` and four scrape intervals) and older than `metricsStalenessThreshold`.
//! A threshold that is shorter than the scrape interval therefore cannot make a healthy pool look full.
//!
//! It reads the scraped waiting requests and KV-cache use.
//!
//! It is the detector of every configuration that names no other.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: utilization-detector
//!   parameters:
//!     queueDepthThreshold: 10
//!     kvCacheUtilThreshold: 0.9
//! flowControl:
//!   saturationDetector:
//!     pluginRef: utilization-detector
//! ```

use std::{sync::Arc, time::Duration};

use router_core::{Endpoint, Position, Stamp};
use router_framework::{
    BuildCx, BuildError, Filter, FilterKind, Freshness, Increments, Instance, PluginDef, PoolView,
    RequestCx, Role, Saturation, SaturationDetector, document::GoDuration,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::signal::{KvUsage, usable, utilization};

pub const PLUGIN: PluginDef = PluginDef::new::<Params>(
    "utilization-detector",
    &[Role::SaturationDetector, Role::Filter],
    file!(),
    build,
);

/// Parameters of `utilization-detector`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// Waiting requests at which an endpoint is full. Above 0.
    pub queue_depth_threshold: i64,
    /// Share of the KV cache in use at which an endpoint is full. Above 0, at most 1.
    pub kv_cache_util_threshold: f64,
    /// Age from which on signals are stale, as a duration, unless the router's own rule gives them longer.
    /// Above 0.
    pub metrics_staleness_threshold: GoDuration,
    /// By how much, as a share of the thresholds, the filter lets endpoints exceed them. Not negative.
    pub headroom: f64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            queue_depth_threshold: 5,
            kv_cache_util_threshold: 0.8,
            metrics_staleness_threshold: GoDuration::from_millis(200),
            headroom: 0.0,
        }
    }
}

struct UtilizationDetector {
    max_waiting: f64,
    max_kv_share: f64,
    staleness: Duration,
    headroom: f64,
    kv_usage: KvUsage,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    let kv = params.kv_cache_util_threshold;
    if params.queue_depth_threshold <= 0 {
        return Err(BuildError::at("queueDepthThreshold", "must be above 0"));
    }
    if kv <= 0.0 || kv > 1.0 || kv.is_nan() {
        return Err(BuildError::at("kvCacheUtilThreshold", "must be above 0 and at most 1"));
    }
    let staleness = params.metrics_staleness_threshold.to_std().filter(|age| !age.is_zero());
    let staleness =
        staleness.ok_or_else(|| BuildError::at("metricsStalenessThreshold", "must be above 0"))?;
    check_headroom(cx, params.headroom)?;
    let detector = Arc::new(UtilizationDetector {
        max_waiting: params.queue_depth_threshold as f64,
        max_kv_share: kv,
        staleness,
        headroom: params.headroom,
        kv_usage: KvUsage::new(cx),
    });
    Ok(Instance::new().detector(Arc::clone(&detector)).filter(detector))
}

/// Refuses a headroom that cannot be, and warns of one that was probably meant as percent.
pub(super) fn check_headroom(cx: &BuildCx<'_>, headroom: f64) -> Result<(), BuildError> {
    if headroom < 0.0 || !headroom.is_finite() {
        return Err(BuildError::at("headroom", "must not be negative"));
    }
    if headroom > 1.0 {
        let hint = "headroom is a share: 0.2 lets endpoints exceed the limit by 20 percent";
        tracing::warn!(plugin = cx.name(), headroom, hint);
    }
    Ok(())
}

impl UtilizationDetector {
    /// Waiting requests and KV-cache share of the endpoint, NaN where unknown; `None` when stale.
    fn load(&self, endpoint: &Endpoint, now: Stamp, freshness: Freshness) -> Option<(f64, f64)> {
        let signals = endpoint.signals();
        if !self.fresh(freshness).is_fresh(&signals, now) {
            return None;
        }
        let load = (usable(signals.waiting), self.kv_usage.share(endpoint, &signals));
        (!load.0.is_nan() || !load.1.is_nan()).then_some(load)
    }

    fn fresh(&self, freshness: Freshness) -> Freshness {
        Freshness { max_age: freshness.max_age.max(self.staleness) }
    }

    /// Whether the endpoint is below the limits; `None` when that is not known.
    fn has_room(&self, cx: &RequestCx<'_>, position: Position) -> Option<bool> {
        let (waiting, kv_share) = self.load(cx.endpoint(position)?, cx.now, cx.freshness)?;
        let factor = 1.0 + self.headroom;
        // An unknown number (NaN) is not at its limit.
        let full = waiting >= self.max_waiting * factor || kv_share >= self.max_kv_share * factor;
        Some(!full)
    }
}

impl SaturationDetector for UtilizationDetector {
    fn saturation(&self, view: &PoolView<'_>) -> Saturation {
        if view.endpoints.is_empty() {
            return Saturation { value: 1.0, n_stale: 0 };
        }
        let (mut sum, mut n_stale) = (0.0, 0);
        for endpoint in view.endpoints {
            match self.load(endpoint, view.now, view.freshness) {
                Some((waiting, kv_share)) => {
                    sum += utilization(waiting, kv_share, self.max_waiting, self.max_kv_share);
                }
                None => {
                    sum += 1.0;
                    n_stale += 1;
                }
            }
        }
        Saturation { value: sum / view.endpoints.len() as f64, n_stale }
    }

    /// As if every request that no scrape shows yet stood in a queue.
    fn increments(&self, view: &PoolView<'_>) -> Increments {
        let per_request = 1.0 / (self.max_waiting * view.endpoints.len().max(1) as f64);
        let as_of = view.oldest_scrape(self.fresh(view.freshness));
        Increments { per_request, per_token: 0.0, as_of }
    }
}

impl Filter for UtilizationDetector {
    fn kind(&self) -> FilterKind {
        FilterKind::Capacity
    }

    fn filter(&self, cx: &RequestCx<'_>, positions: &mut Vec<Position>) {
        if positions.iter().any(|&position| self.has_room(cx, position) == Some(true)) {
            positions.retain(|&position| self.has_room(cx, position) != Some(false));
        }
    }
}

#[cfg(test)]
mod tests;
