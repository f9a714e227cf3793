//! Picks an endpoint at random, in proportion to the total scores.
//!
//! An endpoint with score s is picked with probability `s / sum of scores`; the fallbacks are drawn in the same way from those that remain.
//! Endpoints with a score of 0 or less come last, in random order; where all have, every endpoint is equally likely.
//!
//! It reads the total scores of the profile's scorers.
//!
//! Use it where several routers share a pool: picking the best one makes them all send to the same endpoint until the next scrape, drawing spreads them.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: weighted-random-picker
//! schedulingProfiles:
//! - name: default
//!   plugins:
//!   - pluginRef: weighted-random-picker
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
    PluginDef::new::<Params>("weighted-random-picker", &[Role::Picker], file!(), build);

struct WeightedRandom {
    n_shown: usize,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let n_shown = cx.params::<Params>()?.n_shown();
    Ok(Instance::new().picker(Arc::new(WeightedRandom { n_shown })))
}

impl Picker for WeightedRandom {
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
        rank(scored, n_wanted, rng, draw, ranked);
    }
}

/// The key of Efraimidis and Spirakis' sampling without replacement, `U^(1/score)`, after two logarithms:
/// `ln(score) − ln(−ln(U))`. It has the same order and can neither underflow nor overflow for any positive
/// score, down to the smallest there is.
fn draw(score: f64, rng: &mut Rng) -> f64 {
    if score > 0.0 {
        // In 0 (exclusive) to 1, so that the inner logarithm is finite.
        let uniform = 1.0 - rng.f64();
        score.ln() - (-uniform.ln()).ln()
    } else {
        f64::NEG_INFINITY
    }
}

#[cfg(test)]
mod tests {
    use router_testkit::scheduling::{EndpointFixture, SceneBuilder};

    use super::*;

    /// How often each endpoint comes first and second in 20,000 draws.
    fn frequencies(scores: &[f64]) -> (Vec<f64>, Vec<f64>) {
        const N_DRAWS: u32 = 20_000;
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, "");
        let scene = builder.scene(vec![EndpointFixture::new(); scores.len()]);
        let (mut first, mut second) = (vec![0.0; scores.len()], vec![0.0; scores.len()]);
        for seed in 0..N_DRAWS {
            let ranked = scene.pick(&plugin, scores, u64::from(seed), scores.len());
            first[ranked[0] as usize] += 1.0 / f64::from(N_DRAWS);
            second[ranked[1] as usize] += 1.0 / f64::from(N_DRAWS);
        }
        (first, second)
    }

    fn assert_near(found: &[f64], expected: &[f64]) {
        let near = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.02);
        assert!(near, "{found:?} is not near {expected:?}");
    }

    #[test]
    fn endpoints_are_drawn_in_proportion_without_replacement() {
        let (first, second) = frequencies(&[1.0, 2.0, 1.0, 0.0]);
        assert_near(&first, &[0.25, 0.5, 0.25, 0.0]);
        let side = 0.5 * 0.5 + 0.25 / 3.0;
        assert_near(&second, &[side, 2.0 * 0.25 * 2.0 / 3.0, side, 0.0]);
    }

    #[test]
    fn where_no_score_is_positive_all_are_equally_likely() {
        let (first, _) = frequencies(&[0.0, -1.0, f64::NAN, 0.0]);
        assert_near(&first, &[0.25; 4]);
    }

    #[test]
    fn a21_tiny_scores_keep_their_proportions_and_beat_zero() {
        let (first, _) = frequencies(&[1e-300, 3e-300, 0.0]);
        assert_near(&first, &[0.25, 0.75, 0.0]);
        let (first, second) = frequencies(&[5e-324, 0.0, 0.0]);
        assert_near(&first, &[1.0, 0.0, 0.0]);
        assert_near(&second, &[0.0, 0.5, 0.5]);
    }
}
