//! Serves first whose wait ends first.
//!
//! A request's wait ends when it has waited for `defaultRequestTTL`, or earlier where its client does not wait as long: `x-envoy-upstream-rq-timeout-ms` and `x-envoy-expected-rq-timeout-ms` say how many milliseconds after it came nobody needs its answer any more.
//! Requests that may wait for ever go last; of equal ones the one that came first goes first.
//! Where no request says so this is first come, first served.
//!
//! # Example
//!
//! ```yaml
//! featureGates: [flowControl]
//! plugins:
//! - type: edf-ordering-policy
//! flowControl:
//!   defaultPriorityBand:
//!     orderingPolicyRef: edf-ordering-policy
//! ```

use std::sync::Arc;

use router_flow::policy::ordering::Edf;
use router_framework::{BuildCx, BuildError, Instance, NoParams, PluginDef, Role};

pub const PLUGIN: PluginDef =
    PluginDef::new::<NoParams>("edf-ordering-policy", &[Role::OrderingPolicy], file!(), build);

fn build(_: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    Ok(Instance::new().ordering(Arc::new(Edf)))
}

#[cfg(test)]
mod tests {
    use router_testkit::scheduling::SceneBuilder;

    use super::*;
    use crate::flow::testing::arrival;

    #[test]
    fn the_earliest_deadline_goes_first() {
        let policy = SceneBuilder::new().plugin(&PLUGIN, "").ordering.unwrap();
        let order = [
            arrival(0, 10, Some(5), None),
            arrival(0, 0, Some(20), None),
            arrival(0, 0, None, None),
            arrival(0, 1, None, None),
        ];
        assert!(order.is_sorted_by(|first, second| policy.rank(first) < policy.rank(second)));
    }
}
