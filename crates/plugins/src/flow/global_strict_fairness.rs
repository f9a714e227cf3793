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

use router_flow::policy::global_strict::GlobalStrict;
use router_framework::{BuildCx, BuildError, Instance, NoParams, PluginDef, Role};

pub const PLUGIN: PluginDef = PluginDef::new::<NoParams>(
    "global-strict-fairness-policy",
    &[Role::FairnessPolicy],
    file!(),
    build,
);

fn build(_: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    Ok(Instance::new().fairness(Arc::new(GlobalStrict)))
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
    fn the_best_head_wins() {
        let mut band = SceneBuilder::new().plugin(&PLUGIN, "").fairness.unwrap().start();
        assert_eq!(band.next(), None);
        for (flow, rank) in [(0, 5), (1, 3), (2, 4)] {
            band.join(FlowKey(flow), &FlowId::from(format!("tenant-{flow}").as_str()));
            band.offer(FlowKey(flow), &head(rank, u64::from(flow)));
        }
        assert_eq!(band.next(), Some(FlowKey(1)));
        band.dispatched(FlowKey(1), &head(3, 1), Some(&head(9, 7)));
        assert_eq!(band.next(), Some(FlowKey(2)));
    }
}
