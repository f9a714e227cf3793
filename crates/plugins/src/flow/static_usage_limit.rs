//! Lets every priority band fill the pool up to the same saturation.
//!
//! A band is held back while the saturation of the pool is at or above `threshold`.
//!
//! It is the usage limit where no other is named, and exists in every configuration.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: static-usage-limit-policy
//!   parameters:
//!     threshold: 0.9
//! ```

use std::sync::Arc;

use router_flow::policy::usage_limit::Static;
use router_framework::{BuildCx, BuildError, Instance, PluginDef, Role};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub const PLUGIN: PluginDef = PluginDef::new::<Params>(
    "static-usage-limit-policy",
    &[Role::UsageLimitPolicy],
    file!(),
    build,
);

/// Parameters of `static-usage-limit-policy`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// Saturation up to which every band may fill the pool; 1 is full. Not negative.
    pub threshold: f64,
}

impl Default for Params {
    fn default() -> Self {
        Self { threshold: 1.0 }
    }
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let Params { threshold } = cx.params()?;
    if threshold < 0.0 || !threshold.is_finite() {
        return Err(BuildError::at("threshold", "must not be negative"));
    }
    Ok(Instance::new().usage_limit(Arc::new(Static { threshold })))
}

#[cfg(test)]
mod tests {
    use router_core::Stamp;
    use router_flow::LimitCx;
    use router_testkit::scheduling::SceneBuilder;

    use super::*;

    fn ceilings(params: &str) -> Vec<f64> {
        let plugin = SceneBuilder::new().plugin(&PLUGIN, params);
        let mut ceilings = vec![f64::NAN; 3];
        let cx = LimitCx { now: Stamp::ORIGIN, saturation: 0.7, priorities: &[10, 0, -10] };
        plugin.usage_limit.unwrap().start().ceilings(&cx, &mut ceilings);
        ceilings
    }

    #[test]
    fn every_band_has_the_same_ceiling() {
        assert_eq!(ceilings(""), [1.0; 3]);
        assert_eq!(ceilings("{threshold: 0.75}"), [0.75; 3]);
    }

    #[test]
    fn a_negative_threshold_is_refused() {
        let error = SceneBuilder::refusal(&PLUGIN, "{threshold: -1}");
        assert!(error.contains("threshold"), "{error}");
    }
}
