//! Prefers endpoints to which this router has fewer requests in flight.
//!
//! With c requests in flight, an endpoint gets 1 where c is at most `idleThreshold`, and `(max − c) / max × maxBusyScore` otherwise, max being the largest c of the candidates.
//!
//! It reads the live in-flight counts of `inflight-load-producer`, which is added where it is missing.
//! They change with every decision and need no scrape, so that a burst of requests is spread although no scrape has seen it yet.
//!
//! Use it alone for least-request balancing, or beside the scraped signals, which lag.
//! Several routers in front of one pool each count only what they sent themselves.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: active-request-scorer
//!   parameters:
//!     idleThreshold: 2
//! schedulingProfiles:
//! - name: default
//!   plugins:
//!   - pluginRef: active-request-scorer
//!     weight: 1
//! ```

use std::sync::Arc;

use router_core::{EndpointSlot, Position};
use router_framework::{
    BuildCx, BuildError, Instance, PluginDef, RequestCx, Role, Scorer,
    keys::{IN_FLIGHT, InFlightLoad},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub const PLUGIN: PluginDef =
    PluginDef::new::<Params>("active-request-scorer", &[Role::Scorer], file!(), build);

/// Parameters of `active-request-scorer`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// Requests in flight up to which an endpoint counts as idle and gets 1. Below 0 means 0.
    pub idle_threshold: i64,
    /// The score of a busy endpoint is below this, 0 to 1: how far the least busy one stays behind an idle
    /// one. A value outside means 1.
    pub max_busy_score: f64,
    /// Name of the plugin that counts requests in flight. Empty for `inflight-load-producer`.
    pub in_flight_load_producer_name: String,
    /// Deprecated and without effect: requests leave the count when they end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_timeout: Option<String>,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            idle_threshold: 0,
            max_busy_score: 1.0,
            in_flight_load_producer_name: String::new(),
            request_timeout: None,
        }
    }
}

struct ActiveRequest {
    load: EndpointSlot<InFlightLoad>,
    idle_threshold: f64,
    max_busy_score: f64,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    let max_busy_score = if (0.0..=1.0).contains(&params.max_busy_score) {
        params.max_busy_score
    } else {
        let written = params.max_busy_score;
        tracing::warn!(plugin = cx.name(), written, used = 1.0, "maxBusyScore is not from 0 to 1");
        1.0
    };
    if params.request_timeout.is_some() {
        tracing::warn!(plugin = cx.name(), "requestTimeout is deprecated and has no effect");
    }
    let scorer = ActiveRequest {
        load: cx.reads_endpoint(&IN_FLIGHT, &params.in_flight_load_producer_name),
        idle_threshold: params.idle_threshold.max(0) as f64,
        max_busy_score,
    };
    Ok(Instance::new().scorer(Arc::new(scorer)))
}

impl Scorer for ActiveRequest {
    fn score(&self, cx: &RequestCx<'_>, positions: &[Position], out: &mut [f64]) {
        // The counts are live: each is read once, so that none can exceed the maximum.
        let mut max = 0.0f64;
        for (&position, out) in positions.iter().zip(out.iter_mut()) {
            if let Some(load) = cx.endpoint_data(&self.load, position) {
                *out = load.requests().max(0) as f64;
                max = max.max(*out);
            }
        }
        for out in out.iter_mut().filter(|count| !count.is_nan()) {
            *out = if *out <= self.idle_threshold {
                1.0
            } else {
                (max - *out) / max * self.max_busy_score
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use router_testkit::scheduling::{EndpointFixture, SceneBuilder};

    use super::*;

    fn check(params: &str, in_flight: &[i64], scores: &[f64]) {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, params);
        let endpoints = in_flight.iter().map(|&n| EndpointFixture::new().in_flight(n, 0));
        builder.scene(endpoints.collect()).assert_scores(&plugin, scores);
    }

    #[test]
    fn the_least_busy_is_best() {
        check("", &[0, 4, 1], &[1.0, 0.0, 0.75]);
        check("", &[4, 4], &[0.0, 0.0]);
        check("", &[0, 0], &[1.0, 1.0]);
    }

    #[test]
    fn idle_endpoints_stay_ahead_of_busy_ones() {
        check("{idleThreshold: 2, maxBusyScore: 0.5}", &[2, 3, 12], &[1.0, 0.375, 0.0]);
    }

    #[test]
    fn odd_parameters_fall_back() {
        check("{idleThreshold: -3}", &[0, 2], &[1.0, 0.0]);
        check("{maxBusyScore: 7}", &[1, 4], &[0.75, 0.0]);
        check("{requestTimeout: 2m}", &[1, 4], &[0.75, 0.0]);
    }

    #[test]
    fn a_count_below_zero_is_idle() {
        check("", &[-1, 3], &[1.0, 0.0]);
    }
}
