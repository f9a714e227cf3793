//! Lets requests in flight be evicted whose priority is negative.
//!
//! It is the filter of `enableEviction` where no other is named or declared.
//!
//! # Example
//!
//! ```yaml
//! featureGates: [flowControl]
//! plugins:
//! - type: sheddable-eviction-filter
//! flowControl:
//!   enableEviction: true
//!   evictionFilterPluginRef: sheddable-eviction-filter
//! ```

use std::sync::Arc;

use router_flow::policy::eviction::Sheddable;
use router_framework::{BuildCx, BuildError, Instance, NoParams, PluginDef, Role};

pub const PLUGIN: PluginDef = PluginDef::new::<NoParams>(
    "sheddable-eviction-filter",
    &[Role::EvictionFilter],
    file!(),
    build,
)
.alpha();

fn build(_: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    Ok(Instance::new().eviction_filter(Arc::new(Sheddable)))
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
    fn only_sheddable_work_may_go() {
        let filter = SceneBuilder::new().plugin(&PLUGIN, "").eviction_filter.unwrap();
        assert!(filter.accepts(&victim(-1, 0)) && !filter.accepts(&victim(0, 0)));
    }
}
