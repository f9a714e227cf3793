//! Prefers endpoints with more free KV cache.
//!
//! The score is `1 − usage`, where usage is the share of KV-cache blocks in use.
//!
//! It reads the scraped KV-cache use.
//! An engine that exports percent is recognised by its first value above 1.5 and its values are divided by 100 from then on; until then a value of up to 1.5 percent reads as a share.
//! An endpoint without a fresh value gets no opinion: it is given the mean of the others' scores.
//!
//! Use it to keep long contexts away from endpoints that would have to preempt running requests.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: kv-cache-utilization-scorer
//! schedulingProfiles:
//! - name: default
//!   plugins:
//!   - pluginRef: kv-cache-utilization-scorer
//!     weight: 2
//! ```

use std::sync::Arc;

use router_core::Position;
use router_framework::{
    BuildCx, BuildError, Instance, NoParams, PluginDef, RequestCx, Role, Scorer,
};

use crate::signal::KvUsage;

pub const PLUGIN: PluginDef =
    PluginDef::new::<NoParams>("kv-cache-utilization-scorer", &[Role::Scorer], file!(), build);

struct KvCacheUtilization {
    usage: KvUsage,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    cx.reads_signals();
    Ok(Instance::new().scorer(Arc::new(KvCacheUtilization { usage: KvUsage::new(cx) })))
}

impl Scorer for KvCacheUtilization {
    fn score(&self, cx: &RequestCx<'_>, positions: &[Position], out: &mut [f64]) {
        for (&position, out) in positions.iter().zip(out.iter_mut()) {
            if let (Some(endpoint), Some(signals)) = (cx.endpoint(position), cx.signals(position)) {
                *out = 1.0 - self.usage.share(endpoint, &signals);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use router_testkit::scheduling::{EndpointFixture, SceneBuilder};

    use super::*;

    fn check(endpoints: Vec<EndpointFixture>, scores: &[f64]) {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, "");
        builder.scene(endpoints).assert_scores(&plugin, scores);
    }

    fn kv(usage: f64) -> EndpointFixture {
        EndpointFixture::new().kv(usage)
    }

    #[test]
    fn the_emptiest_cache_is_best() {
        check(vec![kv(0.0), kv(1.0), kv(0.536)], &[1.0, 0.0, 0.46399999999999997]);
    }

    #[test]
    fn a16_an_endpoint_without_fresh_signals_gets_no_opinion() {
        check(vec![EndpointFixture::new(), kv(0.0).stale(), kv(0.25)], &[f64::NAN, f64::NAN, 0.75]);
    }

    #[test]
    fn a22_percent_is_recognised_and_remembered() {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, "");
        let mut scene = builder.scene(vec![kv(35.0), kv(0.35), kv(1.2)]);
        scene.assert_scores(&plugin, &[1.0 - 0.35, 1.0 - 0.35, 1.0 - 1.2]);
        scene.change(0, kv(0.5));
        scene.change(1, kv(0.5));
        scene.assert_scores(&plugin, &[1.0 - 0.005, 0.5, 1.0 - 1.2]);
    }
}
