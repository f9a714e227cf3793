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

use std::{sync::Arc, time::Duration};

use router_core::Stamp;
use router_framework::{
    BuildCx, BuildError, Instance, NoParams, OrderingPolicy, PluginDef, Request, Role,
};

pub const PLUGIN: PluginDef =
    PluginDef::new::<NoParams>("fcfs-ordering-policy", &[Role::OrderingPolicy], file!(), build);

struct FirstComeFirstServed;

fn build(_: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    Ok(Instance::new().ordering(Arc::new(FirstComeFirstServed)))
}

impl OrderingPolicy for FirstComeFirstServed {
    fn rank(&self, request: &Request, enqueued: Stamp, _: Option<Duration>) -> (u64, u64) {
        (enqueued.as_nanos(), request.id)
    }
}

#[cfg(test)]
mod tests {
    use router_testkit::scheduling::SceneBuilder;

    use super::*;

    #[test]
    fn earlier_goes_first_and_ties_go_by_number() {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, "");
        let mut scene = builder.scene(vec![]);
        let policy = plugin.ordering.unwrap();
        let mut rank = |id, nanos, ttl: Option<u64>| {
            scene.request.id = id;
            policy.rank(&scene.request, Stamp::from_nanos(nanos), ttl.map(Duration::from_secs))
        };
        assert!(rank(9, 100, None) < rank(1, 101, Some(1)));
        assert!(rank(1, 100, None) < rank(2, 100, None));
    }
}
