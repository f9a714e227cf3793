//! Slows less important bands down as the pool fills, instead of stopping them.
//!
//! The most important band may fill the pool.
//! The band at position *i* of *n* is open while the saturation *s* is below `1 − i·s/(n−1)`, and shut from 1 on.
//! In between, one request of all such bands together is let go every `round(s/(1−s))` milliseconds.
//!
//! Positions count all bands that exist, those without requests included.
//!
//! # Example
//!
//! ```yaml
//! featureGates: [flowControl]
//! plugins:
//! - type: soft-reflective-ceiling-policy
//! flowControl:
//!   usageLimitPolicyPluginRef: soft-reflective-ceiling-policy
//! ```

use std::sync::Arc;

use router_flow::policy::usage_limit::SoftReflectiveCeiling;
use router_framework::{BuildCx, BuildError, Instance, NoParams, PluginDef, Role};

pub const PLUGIN: PluginDef = PluginDef::new::<NoParams>(
    "soft-reflective-ceiling-policy",
    &[Role::UsageLimitPolicy],
    file!(),
    build,
)
.alpha();

fn build(_: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    Ok(Instance::new().usage_limit(Arc::new(SoftReflectiveCeiling)))
}

#[cfg(test)]
mod tests {
    use router_core::Stamp;
    use router_flow::LimitCx;
    use router_testkit::scheduling::SceneBuilder;

    use super::*;

    #[test]
    fn less_important_bands_are_shut_when_the_pool_is_full() {
        let mut limit = SceneBuilder::new().plugin(&PLUGIN, "").usage_limit.unwrap().start();
        let mut check = |saturation, expected: [f64; 3]| {
            let cx = LimitCx { now: Stamp::ORIGIN, saturation, priorities: &[2, 1, 0] };
            let mut ceilings = [f64::NAN; 3];
            limit.ceilings(&cx, &mut ceilings);
            assert_eq!(ceilings, expected, "{saturation}");
        };
        check(0.4, [1.0; 3]);
        check(1.0, [1.0, 0.0, 0.0]);
    }
}
