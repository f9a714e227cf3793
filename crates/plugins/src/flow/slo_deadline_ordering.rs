//! Serves first whose time to first token runs out first.
//!
//! The deadline is the time when the request was received plus the milliseconds in its header `x-llm-d-slo-ttft-ms` (or `x-slo-ttft-ms`), a whole number that is not negative.
//! Requests without the header, or with another value, go last, in the order in which they were received.
//!
//! It reads the request's headers.
//!
//! # Example
//!
//! ```yaml
//! featureGates: [flowControl]
//! plugins:
//! - type: slo-deadline-ordering-policy
//! flowControl:
//!   defaultPriorityBand:
//!     orderingPolicyRef: slo-deadline-ordering-policy
//! ```

use std::sync::Arc;

use router_flow::policy::ordering::SloDeadline;
use router_framework::{BuildCx, BuildError, Instance, NoParams, PluginDef, Role};

pub const PLUGIN: PluginDef = PluginDef::new::<NoParams>(
    "slo-deadline-ordering-policy",
    &[Role::OrderingPolicy],
    file!(),
    build,
);

fn build(_: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    Ok(Instance::new().ordering(Arc::new(SloDeadline)))
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
            arrival(10, 50, None, Some(5)),
            arrival(0, 0, None, Some(20)),
            arrival(1, 60, None, None),
            arrival(2, 2, None, None),
        ];
        assert!(order.is_sorted_by(|first, second| policy.rank(first) < policy.rank(second)));
    }
}
