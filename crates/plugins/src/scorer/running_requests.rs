//! Prefers endpoints that run fewer requests at the moment.
//!
//! The score is `(max − running) / (max − min)` over the candidates of the profile; all get 1 where all run equally many.
//!
//! It reads the scraped number of running requests.
//! An endpoint without a fresh number gets no opinion: it is given the mean of the others' scores.
//!
//! Use it beside `queue-scorer` where queues are mostly empty and you still want requests spread: the batch that an endpoint runs decides how fast each of its tokens comes.
//! `active-request-scorer` counts what this router has sent itself and needs no scrape.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: running-requests-size-scorer
//! schedulingProfiles:
//! - name: default
//!   plugins:
//!   - pluginRef: running-requests-size-scorer
//!     weight: 1
//! ```

use std::sync::Arc;

use router_core::Position;
use router_framework::{
    BuildCx, BuildError, Instance, NoParams, PluginDef, RequestCx, Role, Scorer,
};

use crate::signal::{lowest_is_best, usable};

pub const PLUGIN: PluginDef =
    PluginDef::new::<NoParams>("running-requests-size-scorer", &[Role::Scorer], file!(), build);

struct RunningRequests;

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    cx.reads_signals();
    Ok(Instance::new().scorer(Arc::new(RunningRequests)))
}

impl Scorer for RunningRequests {
    fn score(&self, cx: &RequestCx<'_>, positions: &[Position], out: &mut [f64]) {
        for (&position, out) in positions.iter().zip(out.iter_mut()) {
            *out = cx.signals(position).map_or(f64::NAN, |signals| usable(signals.running));
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
        builder.scene(endpoints).assert_scores(&plugin, scores);
    }

    #[test]
    fn the_smallest_batch_is_best() {
        let running = |n| EndpointFixture::new().running(n);
        check(vec![running(0.0), running(12.0), running(3.0)], &[1.0, 0.0, 0.75]);
        check(vec![running(12.0)], &[1.0]);
    }

    #[test]
    fn a16_an_endpoint_without_fresh_signals_gets_no_opinion() {
        let never = EndpointFixture::new();
        let only_waiting = EndpointFixture::new().waiting(0.0);
        let stale = EndpointFixture::new().running(0.0).stale();
        let fresh = EndpointFixture::new().running(8.0);
        check(vec![never, only_waiting, stale, fresh], &[f64::NAN, f64::NAN, f64::NAN, 1.0]);
    }
}
