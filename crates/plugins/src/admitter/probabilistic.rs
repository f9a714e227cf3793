//! Refuses a growing part of the sheddable requests as the pool fills up.
//!
//! Only requests with a negative priority are ever refused.
//! The pool's saturation is the mean over the candidates of `max(waiting / queueDepthThreshold, kv usage / kvCacheUtilThreshold)`.
//! An endpoint without fresh signals counts as full (1), if others have some.
//! Where no candidate has any, nothing is known and nobody is refused.
//! A request is refused with probability `min(1, k × saturation^power)`, with 429 and the reason `rejected-saturated`.
//!
//! It reads the scraped waiting requests and KV-cache use.
//!
//! Use it where sheddable traffic should thin out before the pool is full instead of stopping at once when it is.
//! With the defaults, shedding begins at a saturation of about 0.15 and is complete at 0.32.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: probabilistic-admitter
//!   parameters:
//!     queueDepthThreshold: 10
//!     kvCacheUtilThreshold: 0.9
//! ```

use std::sync::Arc;

use router_core::Rejection;
use router_framework::{Admitter, BuildCx, BuildError, Instance, PluginDef, RequestCx, Role};
use router_rt::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::signal::{KvUsage, utilization};

pub const PLUGIN: PluginDef =
    PluginDef::new::<Params>("probabilistic-admitter", &[Role::Admitter], file!(), build);

/// Parameters of `probabilistic-admitter`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// Waiting requests at which an endpoint counts as full. Above 0.
    pub queue_depth_threshold: f64,
    /// Share of the KV cache in use at which an endpoint counts as full. Above 0.
    pub kv_cache_util_threshold: f64,
    /// How steeply the probability grows with saturation. Above 0.
    pub power: f64,
    /// Factor of the probability. Above 0.
    pub k: f64,
}

impl Default for Params {
    fn default() -> Self {
        Self { queue_depth_threshold: 5.0, kv_cache_util_threshold: 0.8, power: 5.0, k: 300.0 }
    }
}

struct Probabilistic {
    params: Params,
    kv_usage: KvUsage,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    let values = [
        ("queueDepthThreshold", params.queue_depth_threshold),
        ("kvCacheUtilThreshold", params.kv_cache_util_threshold),
        ("power", params.power),
        ("k", params.k),
    ];
    for (path, value) in values {
        if value <= 0.0 || !value.is_finite() {
            return Err(BuildError::at(path, "must be above 0"));
        }
    }
    cx.reads_signals();
    Ok(Instance::new().admitter(Arc::new(Probabilistic { params, kv_usage: KvUsage::new(cx) })))
}

impl Probabilistic {
    /// `None` where nothing is known of any candidate.
    fn saturation(&self, cx: &RequestCx<'_>) -> Option<f64> {
        let (mut sum, mut n_known) = (0.0, 0);
        for (position, endpoint) in cx.candidates.iter() {
            let load = cx.signals(position).map_or(f64::NAN, |signals| {
                utilization(
                    signals.waiting,
                    self.kv_usage.share(endpoint, &signals),
                    self.params.queue_depth_threshold,
                    self.params.kv_cache_util_threshold,
                )
            });
            n_known += usize::from(!load.is_nan());
            sum += if load.is_nan() { 1.0 } else { load };
        }
        (n_known > 0).then(|| sum / cx.candidates.len() as f64)
    }
}

impl Admitter for Probabilistic {
    fn admit(&self, cx: &RequestCx<'_>, rng: &mut Rng) -> Result<(), Rejection> {
        if cx.request.priority >= 0 {
            return Ok(());
        }
        // Without candidates the request is told so later; that is not saturation.
        let Some(saturation) = self.saturation(cx) else { return Ok(()) };
        let probability = (saturation.powf(self.params.power) * self.params.k).min(1.0);
        if rng.chance(probability) {
            let detail = format!("saturation {saturation:.3}, refused with p={probability:.3}");
            let refused = Rejection::saturated("system saturated, sheddable request dropped");
            return Err(refused.with_detail(detail));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use router_core::{DropReason, ErrorCode};
    use router_testkit::scheduling::{EndpointFixture, SceneBuilder};

    use super::*;

    /// Share of 4,000 requests that is refused.
    fn refused(params: &str, priority: i32, endpoints: Vec<EndpointFixture>) -> f64 {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, params);
        let mut scene = builder.scene(endpoints);
        scene.request.priority = priority;
        let admitter = plugin.admitter.unwrap();
        let mut rng = Rng::seeded(1);
        let n = (0..4_000).filter(|_| admitter.admit(&scene.cx(), &mut rng).is_err()).count();
        n as f64 / 4_000.0
    }

    fn load(waiting: f64, kv: f64) -> EndpointFixture {
        EndpointFixture::new().waiting(waiting).kv(kv)
    }

    #[test]
    fn only_sheddable_requests_are_refused() {
        assert_eq!(refused("", 0, vec![load(500.0, 1.0)]), 0.0);
        assert_eq!(refused("", -1, vec![load(500.0, 1.0)]), 1.0);
        assert_eq!(refused("", -1, vec![load(0.0, 0.0)]), 0.0);
        assert_eq!(refused("", -1, vec![]), 0.0);
    }

    #[test]
    fn the_probability_follows_the_mean_of_the_larger_ratio() {
        // Mean of 4/8 by queue and 0.2/0.8 by cache: 0.375; squared, twice: 0.28125.
        let params = "{queueDepthThreshold: 8, power: 2, k: 2}";
        let share = refused(params, -1, vec![load(4.0, 0.2), load(0.0, 0.2)]);
        assert!((share - 0.28125).abs() < 0.03, "{share}");
    }

    #[test]
    fn a16_an_endpoint_without_fresh_signals_counts_as_full() {
        let params = "{power: 1, k: 0.75}";
        let stale = load(0.0, 0.0).stale();
        let share = refused(params, -1, vec![EndpointFixture::new(), stale, load(0.0, 0.0)]);
        assert!((share - 0.5).abs() < 0.03, "{share}");
    }

    #[test]
    fn a4_41_nobody_is_refused_where_nothing_is_known() {
        let stale = || load(500.0, 1.0).stale();
        assert_eq!(refused("", -1, vec![EndpointFixture::new(), stale()]), 0.0);
        assert_eq!(refused("", -1, vec![EndpointFixture::new(), stale(), load(5.0, 0.0)]), 1.0);
    }

    #[test]
    fn a22_percent_is_recognised() {
        let share = refused("{power: 1, k: 1}", -1, vec![load(0.0, 40.0)]);
        assert!((share - 0.5).abs() < 0.03, "{share}");
    }

    #[test]
    fn a01_the_refusal_is_a_typed_429() {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, "");
        let mut scene = builder.scene(vec![load(500.0, 1.0)]);
        scene.request.priority = -1;
        let admitter = plugin.admitter.unwrap();
        let rejection = admitter.admit(&scene.cx(), &mut Rng::seeded(1)).unwrap_err();
        assert_eq!(rejection.code, ErrorCode::ResourceExhausted);
        assert_eq!(rejection.reason, Some(DropReason::Saturated));
    }

    #[test]
    fn parameters_must_be_positive() {
        for name in ["queueDepthThreshold", "kvCacheUtilThreshold", "power", "k"] {
            let params = format!("{{{name}: 0}}");
            let error = SceneBuilder::refusal(&PLUGIN, &params);
            assert!(error.contains(name), "{error}");
        }
    }
}
