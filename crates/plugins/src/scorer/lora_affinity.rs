//! Prefers endpoints that have the request's LoRA adapter loaded already.
//!
//! | the requested model is | score |
//! | --- | --- |
//! | among the active adapters of the endpoint | 1.0 |
//! | not there, but the endpoint has room for one more adapter | 0.8 |
//! | among the adapters that requests wait for | 0.6 |
//! | none of these | 0.0 |
//!
//! Room means that active and waiting adapters together are fewer than the endpoint's maximum.
//!
//! It reads the scraped adapters and the request's model after rewriting.
//! An endpoint without fresh signals gets no opinion: it is given the mean of the others' scores.
//! Engines that export no adapters get 0; where no engine does, the scorer changes nothing.
//!
//! Use it in pools that serve several LoRA adapters: loading one takes long and pushes another one out.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: lora-affinity-scorer
//! schedulingProfiles:
//! - name: default
//!   plugins:
//!   - pluginRef: lora-affinity-scorer
//!     weight: 1
//! ```

use std::sync::Arc;

use router_core::{LoraSignals, Position};
use router_framework::{
    BuildCx, BuildError, Instance, NoParams, PluginDef, RequestCx, Role, Scorer,
};

pub const PLUGIN: PluginDef =
    PluginDef::new::<NoParams>("lora-affinity-scorer", &[Role::Scorer], file!(), build);

struct LoraAffinity;

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    cx.reads_signals();
    Ok(Instance::new().scorer(Arc::new(LoraAffinity)))
}

impl Scorer for LoraAffinity {
    fn score(&self, cx: &RequestCx<'_>, positions: &[Position], out: &mut [f64]) {
        let model = &*cx.request.target_model;
        for (&position, out) in positions.iter().zip(out.iter_mut()) {
            if let (Some(endpoint), Some(_fresh)) = (cx.endpoint(position), cx.signals(position)) {
                *out = affinity(&endpoint.lora(), model);
            }
        }
    }
}

fn affinity(lora: &LoraSignals, model: &str) -> f64 {
    let names_model = |adapters: &[String]| adapters.iter().any(|adapter| adapter == model);
    if names_model(&lora.active) {
        1.0
    } else if lora.active.len() + lora.waiting.len() < lora.max_active as usize {
        0.8
    } else if names_model(&lora.waiting) {
        0.6
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use router_testkit::scheduling::{EndpointFixture, SceneBuilder};

    use super::*;

    fn check(model: &str, endpoints: Vec<EndpointFixture>, scores: &[f64]) {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, "");
        let mut scene = builder.scene(endpoints);
        scene.request.target_model = model.into();
        scene.assert_scores(&plugin, scores);
    }

    fn lora(active: &[&str], waiting: &[&str], max_active: u32) -> EndpointFixture {
        EndpointFixture::new().waiting(0.0).lora(active, waiting, max_active)
    }

    #[test]
    fn loaded_beats_room_beats_waiting() {
        check(
            "a",
            vec![
                lora(&["a", "b"], &[], 2),
                lora(&["b"], &[], 2),
                lora(&["b"], &["a"], 2),
                lora(&["b"], &["c"], 2),
                lora(&[], &[], 0),
            ],
            &[1.0, 0.8, 0.6, 0.0, 0.0],
        );
    }

    #[test]
    fn a16_an_endpoint_without_fresh_signals_gets_no_opinion() {
        check("a", vec![EndpointFixture::new(), lora(&["a"], &[], 4).stale()], &[f64::NAN; 2]);
    }
}
