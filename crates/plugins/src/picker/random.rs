//! Picks an endpoint at random, whatever the scores say.
//!
//! All endpoints are equally likely; the fallbacks follow in random order.
//!
//! Use it as the yardstick against which other configurations are measured.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: random-picker
//! schedulingProfiles:
//! - name: default
//!   plugins:
//!   - pluginRef: random-picker
//! ```

use std::sync::Arc;

use router_core::Position;
use router_framework::{
    BuildCx, BuildError, Instance, MAX_TARGETS, Picker, PluginDef, RequestCx, Role,
};
use router_rt::Rng;
use smallvec::SmallVec;

use crate::picker::{Params, ranking::rank};

pub const PLUGIN: PluginDef =
    PluginDef::new::<Params>("random-picker", &[Role::Picker], file!(), build);

struct Random {
    n_shown: usize,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let n_shown = cx.params::<Params>()?.n_shown();
    Ok(Instance::new().picker(Arc::new(Random { n_shown })))
}

impl Picker for Random {
    fn n_shown(&self) -> usize {
        self.n_shown
    }

    fn pick(
        &self,
        _: &RequestCx<'_>,
        scored: &[(Position, f64)],
        rng: &mut Rng,
        n_wanted: usize,
        ranked: &mut SmallVec<[Position; MAX_TARGETS]>,
    ) {
        rank(scored, n_wanted, rng, |_, _| 0.0, ranked);
    }
}

#[cfg(test)]
mod tests {
    use router_testkit::scheduling::{EndpointFixture, SceneBuilder};

    use super::*;

    #[test]
    fn every_endpoint_is_equally_likely_whatever_its_score() {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, "");
        let scene = builder.scene(vec![EndpointFixture::new(); 4]);
        let mut first = [0u32; 4];
        for seed in 0..8_000 {
            let ranked = scene.pick(&plugin, &[0.0, 0.1, 5.0, -3.0], seed, 4);
            first[ranked[0] as usize] += 1;
            let mut all = ranked;
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3]);
        }
        assert!(first.iter().all(|n| (1_800..2_200).contains(n)), "{first:?}");
    }
}
