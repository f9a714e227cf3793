//! Serves the flow whose first request is best by the ordering policy, whoever it belongs to.
//!
//! With first-come-first-served ordering, a priority band is then one queue: a client that sends more gets more.
//!
//! It is the fairness policy of every priority band that names no other, and exists in every configuration.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: global-strict-fairness-policy
//! ```

use std::sync::Arc;

use router_framework::{BuildCx, BuildError, FairnessPolicy, Instance, NoParams, PluginDef, Role};

pub const PLUGIN: PluginDef = PluginDef::new::<NoParams>(
    "global-strict-fairness-policy",
    &[Role::FairnessPolicy],
    file!(),
    build,
);

struct GlobalStrict;

fn build(_: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    Ok(Instance::new().fairness(Arc::new(GlobalStrict)))
}

impl FairnessPolicy for GlobalStrict {
    fn next(&self, heads: &[(&str, (u64, u64))]) -> Option<usize> {
        heads.iter().enumerate().min_by_key(|(_, (_, rank))| *rank).map(|(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use router_testkit::scheduling::SceneBuilder;

    use super::*;

    #[test]
    fn the_best_head_wins() {
        let plugin = SceneBuilder::new().plugin(&PLUGIN, "");
        let policy = plugin.fairness.unwrap();
        assert_eq!(policy.next(&[]), None);
        assert_eq!(policy.next(&[("a", (5, 0)), ("b", (3, 9)), ("c", (3, 2))]), Some(2));
        assert_eq!(policy.next(&[("a", (3, 1)), ("b", (3, 1))]), Some(0));
    }
}
