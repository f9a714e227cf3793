//! Counts, live, the requests and tokens that this router has under way on each endpoint.
//!
//! A request counts for the target of every profile from the moment of the decision:
//!
//! ```text
//! uncached = max(0, total − matched blocks) × block size, plus what no block covers; all tokens where no match is known
//! tokens   = uncached + min(round(prompt tokens × outputRatio), client's cap, maxEstimatedOutputTokens)
//! ```
//!
//! The second part is there only with `addEstimatedOutputTokens`.
//!
//! | when | what is released |
//! | --- | --- |
//! | first byte of the response | all of every profile but the primary one; of the primary one the tokens, unless output is estimated |
//! | the request moves to another endpoint | the primary profile's part, which is counted there from then on |
//! | the request's end, whatever ends it | the rest |
//!
//! What was counted on an endpoint is taken off that very endpoint, also when another has come under its name.
//!
//! It reads the prompt's tokens, by default of `token-producer`, which is added where it is missing, and the prefix match where somebody writes it.
//! It writes, under its own name, the live load of each endpoint and the uncached tokens of the request on each candidate.
//! It is added where something needs these and nobody else writes them.
//! Several instances count apart from each other, for example with and without estimated output.
//!
//! Gauges: `llm_d_epp_inflight_requests` and `llm_d_epp_inflight_tokens`.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: inflight-load-producer
//!   parameters:
//!     addEstimatedOutputTokens: true
//!     outputRatio: 0.5
//!     maxEstimatedOutputTokens: 2048
//! - type: token-load-scorer
//! schedulingProfiles:
//! - name: default
//!   plugins:
//!   - pluginRef: token-load-scorer
//!     weight: 1
//! ```

use std::sync::Arc;

use router_core::{Column, Endpoint, EndpointSlot, Position, Rejection, header::HeadPatch};
use router_framework::{
    BuildCx, BuildError, DataProducer, DumpState, EndpointListener, Instance, Lease, Outcome,
    Outputs, PluginDef, PreRequest, Produced, ProfileRun, Read, RequestCx, Role, Write,
    keys::{
        IN_FLIGHT, InFlightLoad, PREFIX_MATCH, PrefixMatch, TOKENIZED_PROMPT, TokenizedPrompt,
        UNCACHED_TOKENS,
    },
};
use router_telemetry::{RouterMetrics, router::InflightMetrics};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use self::charge::{Charge, LoadLease, Meters};
use super::known::KnownEndpoints;

mod charge;

pub const PLUGIN: PluginDef = PluginDef::new::<Params>(
    "inflight-load-producer",
    &[Role::DataProducer, Role::PreRequest],
    file!(),
    build,
);

/// Parameters of `inflight-load-producer`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// Whether the tokens that the answer will have are estimated and counted until the request's end.
    pub add_estimated_output_tokens: bool,
    /// Estimated output tokens per prompt token. Not negative.
    pub output_ratio: f64,
    /// Most output tokens that are estimated for a request. Not given for no cap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_estimated_output_tokens: Option<i64>,
    /// Name of the plugin that writes the prefix match. Empty for `approx-prefix-cache-producer`, where
    /// that is configured.
    pub prefix_match_info_producer_name: String,
    /// Whether several replicas of the router share their counts. Without effect: replicas do not share
    /// them yet.
    pub sync_cross_replica_state: bool,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            add_estimated_output_tokens: false,
            output_ratio: 1.5,
            max_estimated_output_tokens: None,
            prefix_match_info_producer_name: String::new(),
            sync_cross_replica_state: true,
        }
    }
}

struct InflightLoadProducer {
    tokens: Read<TokenizedPrompt>,
    matches: Read<Column<PrefixMatch>>,
    uncached: Write<Column<u64>>,
    /// This instance's own column, for the hook.
    own_uncached: Read<Column<u64>>,
    load: EndpointSlot<InFlightLoad>,
    output: Option<OutputEstimate>,
    known: KnownEndpoints,
    metrics: Arc<RouterMetrics>,
    meters: Arc<Meters>,
}

/// How the length of an answer is guessed.
#[derive(Clone, Copy, Debug)]
struct OutputEstimate {
    ratio: f64,
    max_tokens: u64,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    if params.output_ratio < 0.0 || !params.output_ratio.is_finite() {
        return Err(BuildError::at("outputRatio", "must not be negative"));
    }
    let max_tokens = params.max_estimated_output_tokens.map(u64::try_from).transpose();
    let max_tokens = max_tokens
        .map_err(|_| BuildError::at("maxEstimatedOutputTokens", "must not be negative"))?
        .unwrap_or(u64::MAX);
    let output = params
        .add_estimated_output_tokens
        .then_some(OutputEstimate { ratio: params.output_ratio, max_tokens });
    let (name, env) = (cx.name().to_owned(), cx.env().clone());
    let families =
        InflightMetrics::new(&env.registry).map_err(|error| BuildError::new(error.to_string()))?;
    let producer = Arc::new(InflightLoadProducer {
        tokens: cx.reads(&TOKENIZED_PROMPT, ""),
        matches: cx.reads_optional(&PREFIX_MATCH, &params.prefix_match_info_producer_name),
        uncached: cx.writes(&UNCACHED_TOKENS),
        own_uncached: cx.reads_optional(&UNCACHED_TOKENS, &name),
        load: cx.writes_endpoint(&IN_FLIGHT),
        output,
        known: KnownEndpoints::default(),
        metrics: env.metrics,
        meters: Arc::new(Meters { families, producer: name.into() }),
    });
    let instance =
        Instance::new().producer(Arc::clone(&producer)).pre_request(Arc::clone(&producer));
    Ok(instance.listener(Arc::clone(&producer)).dump(producer))
}

impl InflightLoadProducer {
    fn n_prompt_tokens(&self, cx: &RequestCx<'_>) -> u64 {
        cx.read(&self.tokens).map_or(0, TokenizedPrompt::n_tokens)
    }

    fn output_tokens(&self, cx: &RequestCx<'_>, n_prompt_tokens: u64) -> u64 {
        let Some(OutputEstimate { ratio, max_tokens }) = self.output else { return 0 };
        let guess = (n_prompt_tokens as f64 * ratio).round() as u64;
        guess.min(cx.request.parsed.max_output_tokens.unwrap_or(u64::MAX)).min(max_tokens)
    }
}

impl DataProducer for InflightLoadProducer {
    fn produce<'a>(&'a self, cx: &RequestCx<'a>) -> Produced<'a> {
        let n_tokens = self.n_prompt_tokens(cx);
        let matches = cx.read(&self.matches);
        let uncached = |position: Position| {
            let found = matches.and_then(|matches| matches.get(position));
            found.map_or(n_tokens, |found| found.uncached_tokens(n_tokens))
        };
        let column: Column<u64> = cx.candidates.positions().map(uncached).collect();
        Produced::Ready(Ok(Outputs::of(&self.uncached, column)))
    }
}

impl PreRequest for InflightLoadProducer {
    fn pre_request(
        &self,
        cx: &RequestCx<'_>,
        outcome: &Outcome,
        _: &mut HeadPatch,
    ) -> Result<Option<Box<dyn Lease>>, Rejection> {
        let n_prompt_tokens = self.n_prompt_tokens(cx);
        let output_tokens = self.output_tokens(cx, n_prompt_tokens);
        let tokens_at = |position: Position| {
            let uncached = cx.column(&self.own_uncached, position).copied();
            let tokens = uncached.unwrap_or(n_prompt_tokens).saturating_add(output_tokens);
            i64::try_from(tokens).unwrap_or(i64::MAX)
        };
        let request = cx.request;
        // Fairness ids come from clients; how many are shown is bounded where this comes from.
        let series = self.metrics.request(
            &request.model,
            &request.target_model,
            &request.fairness_id,
            request.priority,
        );
        let charge = |position: Position| {
            let endpoint = cx.endpoint(position)?;
            let gauges = self.meters.gauges(endpoint, &series);
            let (endpoint, load) = (Arc::clone(endpoint), self.load.clone());
            Some(Charge::take(endpoint, load, gauges, tokens_at(position)))
        };
        let mut lease = LoadLease {
            primary: None,
            others: SmallVec::new(),
            fallbacks: SmallVec::new(),
            counts_output: self.output.is_some(),
            meters: Arc::clone(&self.meters),
            series: Arc::clone(&series),
        };
        for (at, run) in outcome.runs.iter().enumerate() {
            let Some(charge) = run.as_ref().and_then(ProfileRun::target).and_then(charge) else {
                continue;
            };
            if at == outcome.primary.0 {
                lease.primary = Some(charge);
            } else {
                lease.others.push(charge);
            }
        }
        let ranked = outcome.primary_run().map(|run| run.ranked.iter().copied());
        for position in ranked.into_iter().flatten().skip(1) {
            if let Some(endpoint) = cx.endpoint(position) {
                lease.fallbacks.push((endpoint.index(), tokens_at(position)));
            }
        }
        Ok(Some(Box::new(lease)))
    }
}

impl EndpointListener for InflightLoadProducer {
    fn added(&self, endpoint: &Arc<Endpoint>) {
        self.known.add(endpoint);
    }

    fn removed(&self, endpoint: &Arc<Endpoint>) {
        self.known.remove(endpoint);
        self.meters.forget(endpoint);
    }
}

impl DumpState for InflightLoadProducer {
    fn dump(&self) -> serde_json::Value {
        let (endpoints, n_endpoints) = self.known.first();
        let shown = endpoints.iter().filter_map(|endpoint| {
            let load = endpoint.slot(&self.load)?;
            Some(serde_json::json!({
                "endpoint": &**endpoint.id(),
                "requests": load.requests(),
                "tokens": load.tokens(),
            }))
        });
        serde_json::json!({ "endpoints": n_endpoints, "byEndpoint": shown.collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests;
