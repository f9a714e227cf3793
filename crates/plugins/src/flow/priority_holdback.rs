//! Holds room back for what is more important: ceilings that fall with the priority.
//!
//! The most important band may fill the pool up to `maxCeiling`, the least important one up to `minCeiling`, and those in between by their place among all bands (`domain: rank`) or by their priority as a number (`domain: value`).
//! A single band gets `maxCeiling`.
//!
//! Places count all bands that exist, those without requests included.
//!
//! # Example
//!
//! ```yaml
//! featureGates: [flowControl]
//! plugins:
//! - type: priority-holdback-policy
//!   parameters:
//!     minCeiling: 0.6
//! flowControl:
//!   usageLimitPolicyPluginRef: priority-holdback-policy
//! ```

use std::sync::Arc;

use router_flow::policy::usage_limit::{HoldbackDomain, PriorityHoldback};
use router_framework::{BuildCx, BuildError, Instance, PluginDef, Role};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub const PLUGIN: PluginDef =
    PluginDef::new::<Params>("priority-holdback-policy", &[Role::UsageLimitPolicy], file!(), build)
        .alpha();

/// Parameters of `priority-holdback-policy`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// Saturation up to which the least important band may fill the pool; required. At least 0, below 1.
    pub min_ceiling: Option<f64>,
    /// Saturation up to which the most important band may fill the pool. Above `minCeiling`, at most 1.
    pub max_ceiling: f64,
    /// How ceilings fall between the two.
    pub shape: Shape,
    /// What they fall with.
    pub domain: Domain,
}

/// How ceilings fall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    #[default]
    Linear,
}

/// What ceilings fall with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Domain {
    /// The band's place among all bands.
    #[default]
    Rank,
    /// The band's priority as a number.
    Value,
}

impl Default for Params {
    fn default() -> Self {
        Self { min_ceiling: None, max_ceiling: 1.0, shape: Shape::Linear, domain: Domain::Rank }
    }
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let Params { min_ceiling, max_ceiling, shape: Shape::Linear, domain } = cx.params()?;
    let least = min_ceiling.ok_or_else(|| BuildError::new("`minCeiling` is required"))?;
    if !(0.0..1.0).contains(&least) {
        return Err(BuildError::at("minCeiling", "must be at least 0 and below 1"));
    }
    if !(max_ceiling > least && max_ceiling <= 1.0) {
        return Err(BuildError::at("maxCeiling", "must be above `minCeiling` and at most 1"));
    }
    let domain = match domain {
        Domain::Rank => HoldbackDomain::Rank,
        Domain::Value => HoldbackDomain::Value,
    };
    Ok(Instance::new().usage_limit(Arc::new(PriorityHoldback { least, most: max_ceiling, domain })))
}

#[cfg(test)]
mod tests {
    use router_core::Stamp;
    use router_flow::LimitCx;
    use router_testkit::scheduling::SceneBuilder;

    use super::*;

    #[test]
    fn ceilings_fall_with_the_priority() {
        let check = |params: &str, expected: [f64; 3]| {
            let plugin = SceneBuilder::new().plugin(&PLUGIN, params);
            let mut ceilings = [f64::NAN; 3];
            let cx = LimitCx { now: Stamp::ORIGIN, saturation: 0.7, priorities: &[100, 50, -100] };
            plugin.usage_limit.unwrap().start().ceilings(&cx, &mut ceilings);
            assert_eq!(ceilings, expected, "{params}");
        };
        check("{minCeiling: 0.5}", [1.0, 0.75, 0.5]);
        check("{minCeiling: 0.5, domain: value}", [1.0, 0.875, 0.5]);
        check("{minCeiling: 0, maxCeiling: 0.5, shape: linear}", [0.5, 0.25, 0.0]);
    }

    #[test]
    fn ceilings_that_cannot_be_are_refused() {
        for (params, part) in [
            ("", "minCeiling"),
            ("{minCeiling: 1}", "minCeiling"),
            ("{minCeiling: -0.1}", "minCeiling"),
            ("{minCeiling: .nan}", "minCeiling"),
            ("{minCeiling: 0.5, maxCeiling: 0.5}", "maxCeiling"),
            ("{minCeiling: 0.5, maxCeiling: 1.5}", "maxCeiling"),
            ("{minCeiling: 0.5, shape: cubic}", "shape"),
        ] {
            let error = SceneBuilder::refusal(&PLUGIN, params);
            assert!(error.contains(part), "{params}: {error}");
        }
    }
}
