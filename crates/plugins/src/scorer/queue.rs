//! Prefers endpoints with fewer requests waiting in the model server's own queue.
//!
//! The score is `(max − waiting) / (max − min)` over the candidates of the profile, so that the shortest queue gets 1 and the longest 0.
//! Where all queues are equally long, every endpoint gets 1.
//!
//! It reads the scraped number of waiting requests.
//! An endpoint that was never scraped, whose last scrape is stale, or whose engine does not export the number gets no opinion: it is given the mean of the others' scores.
//!
//! Use it in every profile: a queue is the first sign that an endpoint is at its limit.
//! It looks only at the order of queues, not at their length; `load-aware-scorer` looks at the length.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: queue-scorer
//! schedulingProfiles:
//! - name: default
//!   plugins:
//!   - pluginRef: queue-scorer
//!     weight: 2
//! ```

use std::sync::Arc;

use router_core::Position;
use router_framework::{
    BuildCx, BuildError, Instance, NoParams, PluginDef, RequestCx, Role, Scorer,
};

use crate::signal::{lowest_is_best, usable};

pub const PLUGIN: PluginDef =
    PluginDef::new::<NoParams>("queue-scorer", &[Role::Scorer], file!(), build);

struct Queue;

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    cx.reads_signals();
    Ok(Instance::new().scorer(Arc::new(Queue)))
}

impl Scorer for Queue {
    fn score(&self, cx: &RequestCx<'_>, positions: &[Position], out: &mut [f64]) {
        for (&position, out) in positions.iter().zip(out.iter_mut()) {
            *out = cx.signals(position).map_or(f64::NAN, |signals| usable(signals.waiting));
        }
        lowest_is_best(out);
    }
}

#[cfg(test)]
mod tests {
    use router_testkit::scheduling::{EndpointFixture, SceneBuilder};

    use super::*;

    fn check(endpoints: Vec<EndpointFixture>, scores: &[f64]) {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, "");
        let scene = builder.scene(endpoints);
        scene.assert_scores(&plugin, scores);
    }

    #[test]
    fn the_shortest_queue_is_best() {
        let waiting = |n| EndpointFixture::new().waiting(n);
        check(vec![waiting(0.0), waiting(40.0), waiting(7.0)], &[1.0, 0.0, 0.825]);
        check(vec![waiting(3.0), waiting(3.0)], &[1.0, 1.0]);
    }

    #[test]
    fn a16_an_endpoint_without_fresh_signals_gets_no_opinion() {
        let waiting = |n| EndpointFixture::new().waiting(n);
        let stale = EndpointFixture::new().waiting(0.0).stale();
        let never = EndpointFixture::new();
        check(vec![never, waiting(5.0), stale, waiting(9.0)], &[f64::NAN, 1.0, f64::NAN, 0.0]);
    }

    #[test]
    fn absurd_values_are_no_opinion() {
        let waiting = |n| EndpointFixture::new().waiting(n);
        check(
            vec![waiting(-4.0), waiting(1.0), waiting(f64::INFINITY), waiting(2.0)],
            &[f64::NAN, 1.0, f64::NAN, 0.0],
        );
    }
}
