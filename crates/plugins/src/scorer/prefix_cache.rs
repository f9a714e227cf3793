//! Prefers endpoints that have more of the prompt in their prefix cache.
//!
//! With M matched blocks of T blocks in the prompt, and `block` tokens per block:
//!
//! ```text
//! ratio  = M / T
//! length = min(1, M × block / matchLengthScaleTokens)²
//! score  = matchLengthWeight × length + (1 − matchLengthWeight) × ratio
//! ```
//!
//! An endpoint of which no prefix is known gets 0: that is knowledge, not a missing signal.
//!
//! It reads the prefix match that a producer writes: by default `approx-prefix-cache-producer`, which is added where it is missing.
//!
//! Use it in every profile that computes prompts: a cached prefix need not be computed again, which shortens the time to the first token.
//! Raise `matchLengthWeight` where prompts differ much in length: a match of 90 percent of a short prompt saves less than half of a long one.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: prefix-cache-scorer
//! schedulingProfiles:
//! - name: default
//!   plugins:
//!   - pluginRef: prefix-cache-scorer
//!     weight: 3
//! ```

use std::sync::Arc;

use router_core::{Column, Position};
use router_framework::{
    BuildCx, BuildError, Instance, PluginDef, Read, RequestCx, Role, Scorer,
    keys::{PREFIX_MATCH, PrefixMatch},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub const PLUGIN: PluginDef =
    PluginDef::new::<Params>("prefix-cache-scorer", &[Role::Scorer], file!(), build);

/// Parameters of `prefix-cache-scorer`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// Name of the plugin that writes the prefix match. Empty for `approx-prefix-cache-producer`.
    pub prefix_match_info_producer_name: String,
    /// How much the absolute length of the match counts against its share of the prompt, 0 to 1. 0 looks
    /// at the share alone.
    pub match_length_weight: f64,
    /// Matched tokens from which on the length counts in full. Above 0 where `matchLengthWeight` is.
    pub match_length_scale_tokens: f64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            prefix_match_info_producer_name: String::new(),
            match_length_weight: 0.0,
            match_length_scale_tokens: 8192.0,
        }
    }
}

struct PrefixCache {
    matches: Read<Column<PrefixMatch>>,
    length_weight: f64,
    length_scale: f64,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    let weight = params.match_length_weight;
    if !(0.0..=1.0).contains(&weight) {
        return Err(BuildError::at("matchLengthWeight", "must be from 0 to 1"));
    }
    let scale = params.match_length_scale_tokens;
    if weight > 0.0 && (scale <= 0.0 || !scale.is_finite()) {
        return Err(BuildError::at(
            "matchLengthScaleTokens",
            "must be above 0 where matchLengthWeight is",
        ));
    }
    let matches = cx.reads(&PREFIX_MATCH, &params.prefix_match_info_producer_name);
    let scorer = PrefixCache { matches, length_weight: weight, length_scale: scale };
    Ok(Instance::new().scorer(Arc::new(scorer)))
}

impl PrefixCache {
    fn rate(&self, found: &PrefixMatch) -> f64 {
        if found.total_blocks == 0 {
            return 0.0;
        }
        let matched = f64::from(found.matched_blocks);
        let ratio = matched / f64::from(found.total_blocks);
        if self.length_weight == 0.0 {
            return ratio;
        }
        let length = (matched * f64::from(found.block_tokens) / self.length_scale).min(1.0);
        self.length_weight * (length * length) + (1.0 - self.length_weight) * ratio
    }
}

impl Scorer for PrefixCache {
    fn score(&self, cx: &RequestCx<'_>, positions: &[Position], out: &mut [f64]) {
        let matches = cx.read(&self.matches);
        for (&position, out) in positions.iter().zip(out.iter_mut()) {
            let found = matches.and_then(|matches| matches.get(position));
            *out = found.map_or(0.0, |found| self.rate(found));
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

    fn matched(matched: u32, total: u32) -> EndpointFixture {
        EndpointFixture::new().prefix(matched, total, 64)
    }

    #[test]
    fn the_score_is_the_matched_share_of_the_prompt() {
        check("", vec![matched(0, 4), matched(1, 4), matched(4, 4)], &[0.0, 0.25, 1.0]);
    }

    #[test]
    fn no_prefix_known_is_a_true_zero() {
        check("", vec![EndpointFixture::new(), EndpointFixture::new()], &[0.0, 0.0]);
        check("", vec![matched(0, 0), matched(0, 9)], &[0.0, 0.0]);
    }

    #[test]
    fn the_length_of_the_match_can_count() {
        let params = "{matchLengthWeight: 0.5, matchLengthScaleTokens: 256}";
        check(
            params,
            vec![matched(2, 4), matched(4, 8), matched(8, 8)],
            &[0.5 * 0.25 + 0.5 * 0.5, 0.5 + 0.5 * 0.5, 1.0],
        );
    }

    #[test]
    fn parameters_are_checked() {
        let check = |params: &str, place: &str| {
            let error = SceneBuilder::refusal(&PLUGIN, params);
            assert!(error.contains(place), "{params}: {error}");
        };
        check("{matchLengthWeight: 1.5}", "matchLengthWeight");
        check("{matchLengthWeight: 0.1, matchLengthScaleTokens: 0}", "matchLengthScaleTokens");
        check("{matchLengthWeigth: 0.1}", "matchLengthWeigth");
    }

    #[test]
    fn another_producer_can_be_named() {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, "{prefixMatchInfoProducerName: precise}");
        let precise = builder.producer(&PREFIX_MATCH, "precise");
        let mut scene = builder.scene(vec![matched(0, 4), matched(4, 4)]);
        let found = |matched_blocks| PrefixMatch {
            matched_blocks,
            total_blocks: 4,
            block_tokens: 16,
            cached_blocks: matched_blocks,
        };
        scene.put(&precise, [found(3), found(1)].into_iter().collect());
        scene.assert_scores(&plugin, &[0.75, 0.25]);
    }
}
