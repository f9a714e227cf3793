//! Serves one request of each flow that waits, in the order of their fairness ids, then starts again.
//!
//! Every flow gets as many requests as any other, whatever its requests cost; `deficit-fairness-policy` counts what they cost.
//!
//! # Example
//!
//! ```yaml
//! featureGates: [flowControl]
//! plugins:
//! - type: round-robin-fairness-policy
//! flowControl:
//!   defaultPriorityBand:
//!     fairnessPolicyRef: round-robin-fairness-policy
//! ```

use std::sync::Arc;

use router_flow::policy::round_robin::RoundRobin;
use router_framework::{BuildCx, BuildError, Instance, NoParams, PluginDef, Role};

pub const PLUGIN: PluginDef = PluginDef::new::<NoParams>(
    "round-robin-fairness-policy",
    &[Role::FairnessPolicy],
    file!(),
    build,
);

fn build(_: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    Ok(Instance::new().fairness(Arc::new(RoundRobin)))
}

#[cfg(test)]
mod tests {
    use router_core::Stamp;
    use router_flow::{Cost, FlowId, FlowKey, Head, Rank};
    use router_testkit::scheduling::SceneBuilder;

    use super::*;

    fn head(rank: u64, seq: u64) -> Head {
        Head { rank: Rank(rank, 0), seq, enqueued: Stamp::ORIGIN, cost: Cost::default() }
    }

    #[test]
    fn flows_take_turns() {
        let mut band = SceneBuilder::new().plugin(&PLUGIN, "").fairness.unwrap().start();
        for (flow, id) in ["b", "a"].into_iter().enumerate() {
            band.join(FlowKey(flow as u32), &FlowId::from(id));
            band.offer(FlowKey(flow as u32), &head(0, flow as u64));
        }
        let mut served = Vec::new();
        for _ in 0..4 {
            let flow = band.next().unwrap();
            band.dispatched(flow, &head(0, 0), Some(&head(0, 0)));
            served.push(flow.0);
        }
        assert_eq!(served, [1, 0, 1, 0]);
    }
}
