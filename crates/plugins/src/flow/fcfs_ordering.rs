//! Serves the requests of a queue in the order in which they came.
//!
//! It is the ordering policy of every priority band that names no other, and exists in every configuration.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: fcfs-ordering-policy
//! ```

use std::sync::Arc;

use router_flow::policy::ordering::Fcfs;
use router_framework::{BuildCx, BuildError, Instance, NoParams, PluginDef, Role};

pub const PLUGIN: PluginDef =
    PluginDef::new::<NoParams>("fcfs-ordering-policy", &[Role::OrderingPolicy], file!(), build);

fn build(_: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    Ok(Instance::new().ordering(Arc::new(Fcfs)))
}

#[cfg(test)]
mod tests {
    use router_testkit::scheduling::SceneBuilder;

    use super::*;
    use crate::flow::testing::arrival;

    #[test]
    fn earlier_goes_first() {
        let policy = SceneBuilder::new().plugin(&PLUGIN, "").ordering.unwrap();
        let first = arrival(50, 100, None, None);
        let second = arrival(1, 101, Some(1), Some(1));
        assert!(policy.rank(&first) < policy.rank(&second));
    }
}
