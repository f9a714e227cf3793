//! Keeps the endpoints that have most of the prompt in their prefix cache, unless waiting there costs too much.
//!
//! An endpoint is sticky when at least `affinityThreshold` of the prompt's blocks match.
//! Where some are, only they stay.
//! All endpoints stay when
//!
//! - none is sticky, or there is only one endpoint;
//! - the draw for `explorationProbability` says so, which lets other endpoints fill their caches;
//! - the sticky ones are too busy: the shortest estimated time to first token among them is more than `maxTTFTPenaltyMs` above the shortest among the others.
//!
//! The time to first token is estimated as the tokens in flight on the endpoint over `peakPrefillThroughput`; 0 where none are known.
//!
//! It reads the prefix match that a producer writes, by default `approx-prefix-cache-producer`, and, where there is a penalty to compare with, the live in-flight tokens of `inflight-load-producer`.
//! Both are added where they are missing.
//!
//! Use it in front of a scorer for load, such as `token-load-scorer`: conversations stay where they are until that is saturated.
//! Set `peakPrefillThroughput` to what one of your servers computes; several instances with falling thresholds can follow each other.
//! It suits long conversations; with few prompts that all share, it fills the servers of these prompts up to the penalty before it uses others.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: prefix-cache-affinity-filter
//!   parameters:
//!     affinityThreshold: 0.8
//!     maxTTFTPenaltyMs: 5000
//!     peakPrefillThroughput: 15000
//! - type: token-load-scorer
//! schedulingProfiles:
//! - name: default
//!   plugins:
//!   - pluginRef: prefix-cache-affinity-filter
//!   - pluginRef: token-load-scorer
//!     weight: 1
//! ```

use std::sync::Arc;

use router_core::{Column, EndpointSlot, Position};
use router_framework::{
    BuildCx, BuildError, Filter, FilterKind, Instance, PluginDef, Read, RequestCx, Role,
    keys::{IN_FLIGHT, InFlightLoad, PREFIX_MATCH, PrefixMatch},
};
use router_rt::Seeds;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub const PLUGIN: PluginDef =
    PluginDef::new::<Params>("prefix-cache-affinity-filter", &[Role::Filter], file!(), build);

/// Parameters of `prefix-cache-affinity-filter`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// Share of the prompt's blocks that must match for an endpoint to be sticky, at most 1. Zero and below
    /// switch the filter off.
    pub affinity_threshold: f64,
    /// Share of requests for which all endpoints stay, 0 to 1.
    pub exploration_probability: f64,
    /// Milliseconds to the first token that the best sticky endpoint may be behind the best other one. 0 stays
    /// with the sticky ones whatever it costs.
    #[serde(rename = "maxTTFTPenaltyMs")]
    pub max_ttft_penalty_ms: f64,
    /// Where the time to the first token comes from: `prefillThroughput`. `latencyPredictor` needs latency
    /// prediction, which this version does not have.
    pub ttft_source: TtftSource,
    /// Prompt tokens that an endpoint computes in a second. Above 0 where there is a penalty.
    pub peak_prefill_throughput: f64,
    /// Name of the plugin that writes the prefix match. Empty for `approx-prefix-cache-producer`.
    pub prefix_match_info_producer_name: String,
    /// Name of the plugin that predicts latencies. Not available in this version.
    pub latency_prediction_info_producer_name: String,
    /// Name of the plugin that counts tokens in flight. Empty for `inflight-load-producer`.
    pub in_flight_load_producer_name: String,
}

/// Where the time to the first token comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TtftSource {
    /// Tokens in flight over `peakPrefillThroughput`.
    #[default]
    PrefillThroughput,
    /// The predicted latency of the request.
    LatencyPredictor,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            affinity_threshold: 0.8,
            exploration_probability: 0.0,
            max_ttft_penalty_ms: 18_000.0,
            ttft_source: TtftSource::PrefillThroughput,
            peak_prefill_throughput: 15_928.0,
            prefix_match_info_producer_name: String::new(),
            latency_prediction_info_producer_name: String::new(),
            in_flight_load_producer_name: String::new(),
        }
    }
}

struct PrefixCacheAffinity {
    matches: Read<Column<PrefixMatch>>,
    threshold: f64,
    exploration: f64,
    seeds: Seeds,
    /// None stays with the sticky ones whatever it costs.
    penalty: Option<Penalty>,
}

/// When sticky endpoints are too busy.
struct Penalty {
    load: EndpointSlot<InFlightLoad>,
    max_ms: f64,
    tokens_per_ms: f64,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    params.check()?;
    let penalty = (params.max_ttft_penalty_ms > 0.0).then(|| Penalty {
        load: cx.reads_endpoint(&IN_FLIGHT, &params.in_flight_load_producer_name),
        max_ms: params.max_ttft_penalty_ms,
        tokens_per_ms: params.peak_prefill_throughput / 1_000.0,
    });
    let filter = PrefixCacheAffinity {
        matches: cx.reads(&PREFIX_MATCH, &params.prefix_match_info_producer_name),
        threshold: params.affinity_threshold,
        exploration: params.exploration_probability,
        seeds: cx.env().seeds.family(cx.name()),
        penalty,
    };
    Ok(Instance::new().filter(Arc::new(filter)))
}

impl Params {
    fn check(&self) -> Result<(), BuildError> {
        if self.affinity_threshold.is_nan() || self.affinity_threshold > 1.0 {
            return Err(BuildError::at("affinityThreshold", "must be at most 1"));
        }
        if !(0.0..=1.0).contains(&self.exploration_probability) {
            return Err(BuildError::at("explorationProbability", "must be from 0 to 1"));
        }
        let is_amount = |value: f64| value.is_finite() && value >= 0.0;
        if !is_amount(self.max_ttft_penalty_ms) {
            return Err(BuildError::at("maxTTFTPenaltyMs", "must not be negative"));
        }
        if !is_amount(self.peak_prefill_throughput) {
            return Err(BuildError::at("peakPrefillThroughput", "must not be negative"));
        }
        let later = |path, what: &str| {
            let message = format!("not available in this version: `{what}` (latency prediction)");
            Err(BuildError::at(path, message))
        };
        if !self.latency_prediction_info_producer_name.is_empty() {
            let name = &self.latency_prediction_info_producer_name;
            return later("latencyPredictionInfoProducerName", name);
        }
        // Without a penalty there is nothing to compare, and nobody asks for the source.
        match self.ttft_source {
            _ if self.max_ttft_penalty_ms == 0.0 => Ok(()),
            TtftSource::LatencyPredictor => later("ttftSource", "latencyPredictor"),
            TtftSource::PrefillThroughput if self.peak_prefill_throughput > 0.0 => Ok(()),
            TtftSource::PrefillThroughput => {
                let message = "must be above 0 where maxTTFTPenaltyMs is";
                Err(BuildError::at("peakPrefillThroughput", message))
            }
        }
    }
}

impl PrefixCacheAffinity {
    fn is_sticky(&self, matches: &Column<PrefixMatch>, position: Position) -> bool {
        matches.get(position).is_some_and(|found| {
            let share = f64::from(found.matched_blocks) / f64::from(found.total_blocks);
            found.total_blocks > 0 && share >= self.threshold
        })
    }

    /// Whether nobody may be preferred for this request.
    fn is_explored(&self, cx: &RequestCx<'_>) -> bool {
        self.exploration > 0.0 && self.seeds.rng(cx.request.id).chance(self.exploration)
    }
}

impl Penalty {
    fn ttft_ms(&self, cx: &RequestCx<'_>, position: Position) -> f64 {
        let load = cx.endpoint_data(&self.load, position);
        load.map_or(0.0, |load| load.tokens().max(0) as f64 / self.tokens_per_ms)
    }

    /// Whether the best of the sticky endpoints is too far behind the best of the others.
    fn is_too_high(
        &self,
        cx: &RequestCx<'_>,
        positions: &[Position],
        is_sticky: impl Fn(Position) -> bool,
    ) -> bool {
        let (mut sticky, mut others) = (f64::INFINITY, f64::INFINITY);
        for &position in positions {
            let best = if is_sticky(position) { &mut sticky } else { &mut others };
            *best = best.min(self.ttft_ms(cx, position));
        }
        // Where there are no others, the difference is negative and nobody is left behind.
        sticky - others > self.max_ms
    }
}

impl Filter for PrefixCacheAffinity {
    /// It never leaves nobody.
    fn kind(&self) -> FilterKind {
        FilterKind::Capacity
    }

    fn filter(&self, cx: &RequestCx<'_>, positions: &mut Vec<Position>) {
        if self.threshold <= 0.0 || positions.len() <= 1 || self.is_explored(cx) {
            return;
        }
        let Some(matches) = cx.read(&self.matches) else { return };
        let is_sticky = |position: Position| self.is_sticky(matches, position);
        if !positions.iter().any(|&position| is_sticky(position)) {
            return;
        }
        let penalty = self.penalty.as_ref();
        if penalty.is_some_and(|penalty| penalty.is_too_high(cx, positions, is_sticky)) {
            return;
        }
        positions.retain(|&position| is_sticky(position));
    }
}

#[cfg(test)]
mod tests {
    use router_testkit::scheduling::{EndpointFixture, Scene, SceneBuilder};

    use super::*;

    fn scene(params: &str, endpoints: Vec<EndpointFixture>) -> (Instance, Scene) {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, params);
        (plugin, builder.scene(endpoints))
    }

    fn check(params: &str, endpoints: Vec<EndpointFixture>, kept: &[u32]) {
        let (plugin, scene) = scene(params, endpoints);
        scene.assert_kept(&plugin, kept);
    }

    /// Matched blocks of ten, and tokens in flight.
    fn endpoint(matched: u32, in_flight: i64) -> EndpointFixture {
        EndpointFixture::new().prefix(matched, 10, 64).in_flight(1, in_flight)
    }

    #[test]
    fn endpoints_with_most_of_the_prompt_stay_alone() {
        check("", vec![endpoint(9, 0), endpoint(7, 0), endpoint(8, 0)], &[0, 2]);
        check(
            "{affinityThreshold: 0.95}",
            vec![endpoint(9, 0), endpoint(10, 0), endpoint(0, 0)],
            &[1],
        );
        check("{affinityThreshold: 1}", vec![endpoint(10, 0), endpoint(9, 0)], &[0]);
    }

    #[test]
    fn nobody_is_dropped_where_nobody_is_sticky() {
        check("", vec![endpoint(7, 0), endpoint(0, 0)], &[0, 1]);
        check("", vec![EndpointFixture::new(), EndpointFixture::new()], &[0, 1]);
        check("", vec![EndpointFixture::new().prefix(0, 0, 64), endpoint(2, 0)], &[0, 1]);
        check("", vec![endpoint(10, 9_000_000), endpoint(10, 0)], &[0, 1]);
    }

    #[test]
    fn a_single_endpoint_stays() {
        check("", vec![endpoint(0, 0)], &[0]);
        check("", vec![], &[]);
    }

    #[test]
    fn a_threshold_of_zero_or_below_switches_it_off() {
        check("{affinityThreshold: 0}", vec![endpoint(10, 0), endpoint(0, 0)], &[0, 1]);
        check("{affinityThreshold: -1}", vec![endpoint(10, 0), endpoint(0, 0)], &[0, 1]);
    }

    #[test]
    fn sticky_endpoints_may_be_behind_by_the_penalty_and_no_more() {
        let params = "{maxTTFTPenaltyMs: 1000, peakPrefillThroughput: 10000}";
        check(params, vec![endpoint(9, 12_000), endpoint(0, 2_000)], &[0]);
        check(params, vec![endpoint(9, 12_001), endpoint(0, 2_000)], &[0, 1]);
        // The best of each side counts.
        check(
            params,
            vec![endpoint(9, 90_000), endpoint(9, 11_000), endpoint(0, 50_000), endpoint(0, 2_000)],
            &[0, 1],
        );
    }

    #[test]
    fn the_default_penalty_is_eighteen_seconds_of_prefill() {
        let most = 18 * 15_928;
        check("", vec![endpoint(9, most), endpoint(0, 0)], &[0]);
        check("", vec![endpoint(9, most + 1), endpoint(0, 0)], &[0, 1]);
    }

    #[test]
    fn without_a_penalty_they_stay_whatever_it_costs() {
        let params = "{maxTTFTPenaltyMs: 0, peakPrefillThroughput: 0}";
        check(params, vec![endpoint(9, i64::MAX), endpoint(0, 0)], &[0]);
        check(
            "{maxTTFTPenaltyMs: 0, ttftSource: latencyPredictor}",
            vec![endpoint(9, 0), endpoint(0, 0)],
            &[0],
        );
    }

    #[test]
    fn absurd_loads_are_no_trouble() {
        check("", vec![endpoint(9, i64::MIN), endpoint(0, i64::MAX)], &[0]);
        check("", vec![endpoint(9, i64::MAX), endpoint(0, i64::MIN)], &[0, 1]);
    }

    #[test]
    fn some_requests_explore() {
        let explored = |probability: f64| {
            let params = format!("{{explorationProbability: {probability}}}");
            let (plugin, mut scene) = scene(&params, vec![endpoint(9, 0), endpoint(0, 0)]);
            let explores = |id| {
                scene.request.id = id;
                scene.kept(&plugin).len() == 2
            };
            (0..4_000).map(explores).filter(|explores| *explores).count()
        };
        assert_eq!((explored(0.0), explored(1.0)), (0, 4_000));
        assert!((900..1_100).contains(&explored(0.25)), "{}", explored(0.25));
    }

    #[test]
    fn other_producers_can_be_named() {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, "{prefixMatchInfoProducerName: precise}");
        let precise = builder.producer(&PREFIX_MATCH, "precise");
        let mut scene = builder.scene(vec![endpoint(9, 0), endpoint(0, 0)]);
        let found = |matched_blocks| PrefixMatch {
            matched_blocks,
            total_blocks: 4,
            block_tokens: 16,
            cached_blocks: matched_blocks,
        };
        scene.put(&precise, [found(0), found(4)].into_iter().collect());
        scene.assert_kept(&plugin, &[1]);
    }

    #[test]
    fn parameters_are_checked() {
        let check = |params: &str, place: &str| {
            let error = SceneBuilder::refusal(&PLUGIN, params);
            assert!(error.contains(place), "{params}: {error}");
        };
        check("{affinityThreshold: 1.1}", "affinityThreshold");
        check("{explorationProbability: -0.1}", "explorationProbability");
        check("{explorationProbability: 2}", "explorationProbability");
        check("{maxTTFTPenaltyMs: -1}", "maxTTFTPenaltyMs");
        check("{peakPrefillThroughput: -1}", "peakPrefillThroughput");
        check("{peakPrefillThroughput: 0}", "peakPrefillThroughput");
        check("{ttftSource: guess}", "ttftSource");
        check("{maxTTFTPenaltyMs: x}", "maxTTFTPenaltyMs");
    }

    #[test]
    fn what_needs_latency_prediction_is_refused_by_name() {
        let check = |params: &str, place: &str| {
            let error = SceneBuilder::refusal(&PLUGIN, params);
            assert!(error.starts_with(place), "{params}: {error}");
            assert!(error.contains("not available in this version"), "{params}: {error}");
            assert!(error.contains("latency prediction"), "{params}: {error}");
        };
        check("{ttftSource: latencyPredictor}", "ttftSource");
        check("{latencyPredictionInfoProducerName: p}", "latencyPredictionInfoProducerName");
    }
}
