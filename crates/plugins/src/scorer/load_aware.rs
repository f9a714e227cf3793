//! Prefers endpoints whose queue is short in absolute terms.
//!
//! The score is 0.5 for an empty queue, and `0.5 × (1 − min(waiting, threshold) / threshold)` otherwise; it is never above 0.5.
//!
//! It reads the scraped number of waiting requests.
//! An endpoint without a fresh number gets no opinion: it is given the mean of the others' scores.
//!
//! Use it where `queue-scorer` is too eager: that one gives 1 and 0 to queues of 0 and 1, this one hardly tells them apart.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: load-aware-scorer
//!   parameters:
//!     threshold: 64
//! schedulingProfiles:
//! - name: default
//!   plugins:
//!   - pluginRef: load-aware-scorer
//!     weight: 1
//! ```

use std::sync::Arc;

use router_core::Position;
use router_framework::{BuildCx, BuildError, Instance, PluginDef, RequestCx, Role, Scorer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::signal::usable;

pub const PLUGIN: PluginDef =
    PluginDef::new::<Params>("load-aware-scorer", &[Role::Scorer], file!(), build);

const DEFAULT_THRESHOLD: i64 = 128;

/// Parameters of `load-aware-scorer`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// Waiting requests from which on the score is 0. Zero and below mean the default.
    pub threshold: i64,
}

impl Default for Params {
    fn default() -> Self {
        Self { threshold: DEFAULT_THRESHOLD }
    }
}

struct LoadAware {
    threshold: f64,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let Params { threshold } = cx.params()?;
    cx.reads_signals();
    let threshold = if threshold > 0 { threshold } else { DEFAULT_THRESHOLD } as f64;
    Ok(Instance::new().scorer(Arc::new(LoadAware { threshold })))
}

impl Scorer for LoadAware {
    fn score(&self, cx: &RequestCx<'_>, positions: &[Position], out: &mut [f64]) {
        for (&position, out) in positions.iter().zip(out.iter_mut()) {
            let waiting = cx.signals(position).map_or(f64::NAN, |signals| usable(signals.waiting));
            *out = if waiting.is_nan() || waiting == 0.0 {
                // NaN stays NaN.
                0.5 + waiting
            } else {
                0.5 * (1.0 - waiting.min(self.threshold) / self.threshold)
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use router_testkit::scheduling::{EndpointFixture, SceneBuilder};

    use super::*;

    fn check(params: &str, endpoints: Vec<EndpointFixture>, scores: &[f64]) {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, params);
        builder.scene(endpoints).assert_scores(&plugin, scores);
    }

    fn waiting(n: f64) -> EndpointFixture {
        EndpointFixture::new().waiting(n)
    }

    #[test]
    fn the_score_falls_to_zero_at_the_threshold() {
        let queues = || vec![waiting(0.0), waiting(32.0), waiting(64.0), waiting(1e9)];
        check("{threshold: 64}", queues(), &[0.5, 0.25, 0.0, 0.0]);
    }

    #[test]
    fn a_threshold_of_zero_or_less_means_the_default() {
        check("{threshold: 0}", vec![waiting(64.0)], &[0.25]);
        check("{threshold: -5}", vec![waiting(64.0)], &[0.25]);
        check("", vec![waiting(128.0)], &[0.0]);
    }

    #[test]
    fn a16_an_endpoint_without_fresh_signals_gets_no_opinion() {
        check("", vec![EndpointFixture::new(), waiting(0.0).stale()], &[f64::NAN, f64::NAN]);
    }
}
