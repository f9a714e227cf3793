//! Prefers endpoints with fewer prompt tokens still to be computed.
//!
//! With t tokens in flight on the endpoint plus those that this request would add there, the score is `1 − min(t, queueThresholdTokens) / queueThresholdTokens`, and 1 where t is 0.
//!
//! It reads the live in-flight tokens and the uncached tokens of the request, both of `inflight-load-producer`, which is added where it is missing.
//!
//! Use it instead of request counts where prompts differ much in length: ten short prompts are less work than one long one.
//! Set the threshold near the number of tokens that an endpoint may have waiting; with the default, scores differ little between lightly loaded endpoints.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: token-load-scorer
//!   parameters:
//!     queueThresholdTokens: 65536
//! schedulingProfiles:
//! - name: default
//!   plugins:
//!   - pluginRef: token-load-scorer
//!     weight: 1
//! ```

use std::sync::Arc;

use router_core::{Column, EndpointSlot, Position};
use router_framework::{
    BuildCx, BuildError, Instance, PluginDef, Read, RequestCx, Role, Scorer,
    keys::{IN_FLIGHT, InFlightLoad, UNCACHED_TOKENS},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub const PLUGIN: PluginDef =
    PluginDef::new::<Params>("token-load-scorer", &[Role::Scorer], file!(), build);

const DEFAULT_THRESHOLD_TOKENS: i64 = 4_194_304;

/// Parameters of `token-load-scorer`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// Tokens from which on the score is 0. Zero and below mean the default.
    pub queue_threshold_tokens: i64,
    /// Name of the plugin that counts tokens in flight. Empty for `inflight-load-producer`.
    pub in_flight_load_producer_name: String,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            queue_threshold_tokens: DEFAULT_THRESHOLD_TOKENS,
            in_flight_load_producer_name: String::new(),
        }
    }
}

struct TokenLoad {
    load: EndpointSlot<InFlightLoad>,
    uncached: Read<Column<u64>>,
    threshold: i64,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    let written = params.queue_threshold_tokens;
    let scorer = TokenLoad {
        load: cx.reads_endpoint(&IN_FLIGHT, &params.in_flight_load_producer_name),
        uncached: cx.reads(&UNCACHED_TOKENS, &params.in_flight_load_producer_name),
        threshold: if written > 0 { written } else { DEFAULT_THRESHOLD_TOKENS },
    };
    Ok(Instance::new().scorer(Arc::new(scorer)))
}

impl Scorer for TokenLoad {
    fn score(&self, cx: &RequestCx<'_>, positions: &[Position], out: &mut [f64]) {
        let uncached = cx.read(&self.uncached);
        for (&position, out) in positions.iter().zip(out.iter_mut()) {
            let Some(load) = cx.endpoint_data(&self.load, position) else { continue };
            let added = uncached.and_then(|uncached| uncached.get(position)).copied().unwrap_or(0);
            let added = i64::try_from(added).unwrap_or(i64::MAX);
            let tokens = load.tokens().saturating_add(added).min(self.threshold);
            *out = if tokens <= 0 { 1.0 } else { 1.0 - tokens as f64 / self.threshold as f64 };
        }
    }
}

#[cfg(test)]
mod tests {
    use router_testkit::scheduling::{EndpointFixture, SceneBuilder};

    use super::*;

    fn check(params: &str, endpoints: Vec<EndpointFixture>, scores: &[f64]) {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, params);
        builder.scene(endpoints).assert_scores(&plugin, scores);
    }

    fn load(in_flight: i64, uncached: u64) -> EndpointFixture {
        EndpointFixture::new().in_flight(1, in_flight).uncached(uncached)
    }

    #[test]
    fn tokens_in_flight_and_of_this_request_add_up() {
        check(
            "{queueThresholdTokens: 4096}",
            vec![load(0, 0), load(0, 1024), load(1024, 1024), load(4000, 4000)],
            &[1.0, 0.75, 0.5, 0.0],
        );
    }

    #[test]
    fn absurd_loads_neither_overflow_nor_leave_the_range() {
        check("", vec![load(i64::MAX, u64::MAX), load(-5, 0)], &[0.0, 1.0]);
        check("{queueThresholdTokens: 0}", vec![load(2_097_152, 0)], &[0.5]);
    }

    #[test]
    fn without_the_column_the_load_in_flight_counts() {
        check(
            "{queueThresholdTokens: 100}",
            vec![EndpointFixture::new().in_flight(1, 25)],
            &[0.75],
        );
    }
}
