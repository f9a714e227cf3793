//! Judges by what this router has in flight how full the pool is; as a filter, drops endpoints that are full.
//!
//! As saturation detector, the pool's value is, by `concurrencyMode`:
//!
//! | mode | value |
//! | --- | --- |
//! | `requests` | requests in flight on all endpoints / (endpoints × `maxConcurrency`) |
//! | `tokens` | tokens in flight on all endpoints / (endpoints × `maxTokenConcurrency`) |
//! | `hybrid` | mean over the endpoints of the larger of both ratios |
//!
//! An empty pool is full (1).
//! At 1 and above, requests wait, or without flow control those of negative priority are refused.
//!
//! As filter in a profile, an endpoint stays while what it has in flight is below `⌊limit × (1 + headroom)⌋`, in `hybrid` mode by both counts.
//! When none stays, the request is refused with 429 `rejected-saturated`.
//!
//! It reads the live in-flight counts of `inflight-load-producer`, which is added where it is missing; no scrape, so that nothing can be stale.
//!
//! Use it where this router is the only way to the pool and bursts must not overshoot between two scrapes.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: concurrency-detector
//!   parameters:
//!     concurrencyMode: hybrid
//!     maxConcurrency: 64
//!     maxTokenConcurrency: 200000
//! flowControl:
//!   saturationDetector:
//!     pluginRef: concurrency-detector
//! ```

use std::sync::Arc;

use router_core::{Endpoint, EndpointSlot, Position};
use router_framework::{
    BuildCx, BuildError, Filter, FilterKind, Increments, Instance, PluginDef, PoolView, RequestCx,
    Role, Saturation, SaturationDetector,
    keys::{IN_FLIGHT, InFlightLoad},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::flow::utilization_detector::check_headroom;

pub const PLUGIN: PluginDef = PluginDef::new::<Params>(
    "concurrency-detector",
    &[Role::SaturationDetector, Role::Filter],
    file!(),
    build,
);

/// Parameters of `concurrency-detector`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// Requests in flight at which an endpoint is full. Above 0.
    pub max_concurrency: i64,
    /// Tokens in flight at which an endpoint is full. Above 0.
    pub max_token_concurrency: i64,
    /// What is counted.
    pub concurrency_mode: Mode,
    /// By how much, as a share of the limits, the filter lets endpoints exceed them. Not negative.
    pub headroom: f64,
    /// Name of the plugin that counts what is in flight. Empty for `inflight-load-producer`.
    pub in_flight_load_producer_name: String,
}

/// What `concurrency-detector` counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Requests,
    Tokens,
    Hybrid,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            max_concurrency: 100,
            max_token_concurrency: 1_000_000,
            concurrency_mode: Mode::default(),
            headroom: 0.0,
            in_flight_load_producer_name: String::new(),
        }
    }
}

struct ConcurrencyDetector {
    mode: Mode,
    max_requests: f64,
    max_tokens: f64,
    headroom: f64,
    load: EndpointSlot<InFlightLoad>,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    if params.max_concurrency <= 0 {
        return Err(BuildError::at("maxConcurrency", "must be above 0"));
    }
    if params.max_token_concurrency <= 0 {
        return Err(BuildError::at("maxTokenConcurrency", "must be above 0"));
    }
    check_headroom(cx, params.headroom)?;
    let detector = Arc::new(ConcurrencyDetector {
        mode: params.concurrency_mode,
        max_requests: params.max_concurrency as f64,
        max_tokens: params.max_token_concurrency as f64,
        headroom: params.headroom,
        load: cx.reads_endpoint(&IN_FLIGHT, &params.in_flight_load_producer_name),
    });
    Ok(Instance::new().detector(Arc::clone(&detector)).filter(detector))
}

impl ConcurrencyDetector {
    /// Requests and tokens in flight on the endpoint.
    fn in_flight(&self, endpoint: &Endpoint) -> (f64, f64) {
        endpoint
            .slot(&self.load)
            .map_or((0.0, 0.0), |load| (load.requests().max(0) as f64, load.tokens().max(0) as f64))
    }

    fn has_room(&self, endpoint: &Endpoint) -> bool {
        let (requests, tokens) = self.in_flight(endpoint);
        let limit = |limit: f64| (limit * (1.0 + self.headroom)).floor();
        let by_requests = requests < limit(self.max_requests);
        let by_tokens = tokens < limit(self.max_tokens);
        match self.mode {
            Mode::Requests => by_requests,
            Mode::Tokens => by_tokens,
            Mode::Hybrid => by_requests && by_tokens,
        }
    }
}

impl SaturationDetector for ConcurrencyDetector {
    fn saturation(&self, view: &PoolView<'_>) -> Saturation {
        if view.endpoints.is_empty() {
            return Saturation { value: 1.0, n_stale: 0 };
        }
        let (mut requests, mut tokens, mut larger_ratios) = (0.0, 0.0, 0.0);
        for endpoint in view.endpoints {
            let load = self.in_flight(endpoint);
            requests += load.0;
            tokens += load.1;
            larger_ratios += (load.0 / self.max_requests).max(load.1 / self.max_tokens);
        }
        let n_endpoints = view.endpoints.len() as f64;
        let value = match self.mode {
            Mode::Requests => requests / (n_endpoints * self.max_requests),
            Mode::Tokens => tokens / (n_endpoints * self.max_tokens),
            Mode::Hybrid => larger_ratios / n_endpoints,
        };
        Saturation { value, n_stale: 0 }
    }

    fn increments(&self, view: &PoolView<'_>) -> Increments {
        let n_endpoints = view.endpoints.len().max(1) as f64;
        let (request, token) = (1.0 / self.max_requests, 1.0 / self.max_tokens);
        // In hybrid mode the larger counts; both together are never too little.
        let (request, token) = match self.mode {
            Mode::Requests => (request, 0.0),
            Mode::Tokens => (0.0, token),
            Mode::Hybrid => (request, token),
        };
        Increments {
            per_request: request / n_endpoints,
            per_token: token / n_endpoints,
            as_of: view.now,
        }
    }

    fn sees_only_own(&self) -> bool {
        true
    }
}

impl Filter for ConcurrencyDetector {
    fn kind(&self) -> FilterKind {
        FilterKind::Capacity
    }

    fn filter(&self, cx: &RequestCx<'_>, positions: &mut Vec<Position>) {
        positions.retain(|&at| cx.endpoint(at).is_some_and(|endpoint| self.has_room(endpoint)));
    }
}

#[cfg(test)]
mod tests;
