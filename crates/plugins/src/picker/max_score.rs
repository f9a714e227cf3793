//! Picks the endpoint with the highest total score; equal ones in random order.
//!
//! The next best ones follow as fallbacks.
//!
//! It reads the total scores of the profile's scorers.
//! A profile without a picker gets this one.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: max-score-picker
//!   parameters:
//!     maxNumOfEndpoints: 1
//! schedulingProfiles:
//! - name: default
//!   plugins:
//!   - pluginRef: max-score-picker
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
    PluginDef::new::<Params>("max-score-picker", &[Role::Picker], file!(), build);

struct MaxScore {
    n_shown: usize,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let n_shown = cx.params::<Params>()?.n_shown();
    Ok(Instance::new().picker(Arc::new(MaxScore { n_shown })))
}

impl Picker for MaxScore {
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
        rank(scored, n_wanted, rng, |score, _| score, ranked);
    }
}

#[cfg(test)]
mod tests {
    use router_testkit::scheduling::{EndpointFixture, SceneBuilder};

    use super::*;

    #[test]
    fn the_best_come_first() {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, "");
        let scene = builder.scene(vec![EndpointFixture::new(); 4]);
        let pick = |n_wanted| scene.pick(&plugin, &[0.1, 0.9, 0.0, 0.5], 7, n_wanted);
        assert_eq!(pick(1), [1]);
        assert_eq!(pick(3), [1, 3, 0]);
        assert_eq!(pick(9), [1, 3, 0, 2]);
    }

    #[test]
    fn a_number_of_endpoints_below_one_means_one() {
        let check = |params: &str, n_shown| {
            let plugin = SceneBuilder::new().plugin(&PLUGIN, params);
            assert_eq!(plugin.picker.unwrap().n_shown(), n_shown, "{params}");
        };
        check("", 1);
        check("{maxNumOfEndpoints: 0}", 1);
        check("{maxNumOfEndpoints: -3}", 1);
        check("{maxNumOfEndpoints: 4}", 4);
    }
}
