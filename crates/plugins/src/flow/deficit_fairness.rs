//! Shares what the pool computes between flows: weighted deficit round robin, counted in tokens of service.
//!
//! A request's service is the prompt tokens that no cache had, plus the tokens that it generated.
//! In every round each flow may have `quantumTokens` times its weight; a request is charged what it is expected to need when it is let go, and the difference to what it did need when it ends.
//! Between two requests of a flow that has requests waiting, the others get at most a bounded number of tokens, so no flow starves; `router-flow`'s module `policy::deficit` has the bound and its proof.
//!
//! Whose turn it is within a round does not change what each flow gets, so the flow whose first request has the longest cached prefix goes first.
//!
//! A full queue is fair too: the flow that has the most requests waiting for its weight loses its last one to a flow that has fewer, instead of refusing whoever comes.
//! The Go implementation has no such policy.
//!
//! # Example
//!
//! ```yaml
//! featureGates: [flowControl]
//! plugins:
//! - type: deficit-fairness-policy
//!   parameters:
//!     weights:
//!       team-search: 4
//! flowControl:
//!   defaultPriorityBand:
//!     fairnessPolicyRef: deficit-fairness-policy
//! ```

use std::{collections::BTreeMap, num::NonZeroU64, sync::Arc};

use router_flow::policy::deficit::Deficit;
use router_framework::{BuildCx, BuildError, Instance, PluginDef, Role};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub const PLUGIN: PluginDef =
    PluginDef::new::<Params>("deficit-fairness-policy", &[Role::FairnessPolicy], file!(), build);

/// Fairness ids with a weight of their own; a document is no data base.
const MAX_WEIGHTS: usize = 10_000;
/// Weights further apart would make rounds of a flow with the smallest one endless.
const WEIGHTS: std::ops::RangeInclusive<f64> = 0.001..=1_000.0;

/// Parameters of `deficit-fairness-policy`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// Tokens of service that a flow of weight 1 may have in a round. Smaller shares more finely, larger leaves
    /// more room for the order of cached prefixes. Above 0.
    pub quantum_tokens: u64,
    /// Weight of a fairness id that is not in `weights`. From 0.001 to 1000.
    pub default_weight: f64,
    /// Weights by fairness id: one with weight 2 gets twice the service of one with weight 1 while both have
    /// requests waiting. From 0.001 to 1000.
    pub weights: BTreeMap<String, f64>,
}

impl Default for Params {
    fn default() -> Self {
        let Deficit { quantum, default_weight, .. } = Deficit::default();
        Self { quantum_tokens: quantum.get(), default_weight, weights: BTreeMap::new() }
    }
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let Params { quantum_tokens, default_weight, weights } = cx.params()?;
    let quantum = NonZeroU64::new(quantum_tokens)
        .ok_or_else(|| BuildError::at("quantumTokens", "must be above 0"))?;
    let of_range = format!("must be from {} to {}", WEIGHTS.start(), WEIGHTS.end());
    if !WEIGHTS.contains(&default_weight) {
        return Err(BuildError::at("defaultWeight", of_range));
    }
    if let Some((id, _)) = weights.iter().find(|(_, weight)| !WEIGHTS.contains(*weight)) {
        return Err(BuildError::at("weights", format!("the weight of {id:?} {of_range}")));
    }
    if weights.len() > MAX_WEIGHTS {
        return Err(BuildError::at("weights", format!("more than {MAX_WEIGHTS} fairness ids")));
    }
    let policy = Deficit { quantum, default_weight, weights: Arc::new(weights) };
    Ok(Instance::new().fairness(Arc::new(policy)))
}

#[cfg(test)]
mod tests {
    use router_core::Stamp;
    use router_flow::{Cost, FlowId, FlowKey, Head, Rank};
    use router_testkit::scheduling::SceneBuilder;

    use super::*;

    #[test]
    fn service_follows_the_weights() {
        let params = "{quantumTokens: 100, weights: {heavy: 3}}";
        let policy = SceneBuilder::new().plugin(&PLUGIN, params).fairness.unwrap();
        let cost = Cost { cached: 0, uncached: 40, output: 10 };
        let head = Head { rank: Rank::default(), seq: 0, enqueued: Stamp::ORIGIN, cost };
        let mut band = policy.start();
        for (flow, id) in ["heavy", "light"].into_iter().enumerate() {
            band.join(FlowKey(flow as u32), &FlowId::from(id));
            band.offer(FlowKey(flow as u32), &head);
        }
        let mut served = [0_u32; 2];
        for _ in 0..400 {
            let flow = band.next().unwrap();
            band.dispatched(flow, &head, Some(&head));
            served[flow.index()] += 1;
        }
        assert!(served[0].abs_diff(300) <= 6, "{served:?}");
        assert!(policy.drops_from_longest());
    }

    #[test]
    fn numbers_that_cannot_be_are_refused() {
        for (params, part) in [
            ("{quantumTokens: 0}", "quantumTokens"),
            ("{defaultWeight: 0}", "defaultWeight"),
            ("{weights: {a: -1}}", "\"a\""),
            ("{weights: {a: 1e9}}", "\"a\""),
        ] {
            let error = SceneBuilder::refusal(&PLUGIN, params);
            assert!(error.contains(part), "{params}: {error}");
        }
    }
}
