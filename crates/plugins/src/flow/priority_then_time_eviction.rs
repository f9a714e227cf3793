//! Evicts the requests of the lowest priority first, of equal ones the one that was let go last: it has the least to lose.
//!
//! It is the order of `enableEviction` where no other is named or declared.
//!
//! # Example
//!
//! ```yaml
//! featureGates: [flowControl]
//! plugins:
//! - type: priority-then-time-eviction-order-policy
//! flowControl:
//!   enableEviction: true
//!   evictionOrderPluginRef: priority-then-time-eviction-order-policy
//! ```

use std::sync::Arc;

use router_flow::policy::eviction::PriorityThenTime;
use router_framework::{BuildCx, BuildError, Instance, NoParams, PluginDef, Role};

pub const PLUGIN: PluginDef = PluginDef::new::<NoParams>(
    "priority-then-time-eviction-order-policy",
    &[Role::EvictionOrder],
    file!(),
    build,
)
.alpha();

fn build(_: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    Ok(Instance::new().eviction_order(Arc::new(PriorityThenTime)))
}

#[cfg(test)]
mod tests {
    use router_core::Stamp;
    use router_flow::{Cost, Victim};
    use router_testkit::scheduling::SceneBuilder;

    use super::*;

    fn victim(priority: i32, nanos: u64) -> Victim {
        Victim { priority, dispatched: Stamp::from_nanos(nanos), cost: Cost::default() }
    }

    #[test]
    fn the_least_important_and_newest_goes_first() {
        let order = SceneBuilder::new().plugin(&PLUGIN, "").eviction_order.unwrap();
        let victims = [victim(-5, 9), victim(-5, 3), victim(-1, 10)];
        assert!(victims.is_sorted_by_key(|victim| order.rank(victim)));
    }
}
