//! `baseline-lmetric-scorer`: new tokens times batch size.
//!
//! D. Zhang and others, "Simple is Better: Multiplication May Be All You Need for LLM Request Scheduling",
//! arXiv 2603.15202, 2026. The cost of an endpoint is the product of two numbers, and the lowest cost wins:
//!
//! - the prompt tokens that it would have to compute if the request came: those of the request that it has not
//!   cached, and those of the requests that wait there. The paper's summary says "new prefill tokens if routed to
//!   an instance"; NVIDIA Dynamo's and others' versions add what waits, llm-d's proposal does not.
//!   `countPending` chooses;
//! - its batch, with this request.

use std::sync::Arc;

use router_core::{Column, EndpointSlot, Position};
use router_framework::{
    BuildCx, BuildError, Instance, PluginDef, Read, RequestCx, Role, Scorer,
    keys::{IN_FLIGHT, InFlightLoad, UNCACHED_TOKENS},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cost;

pub const PLUGIN: PluginDef =
    PluginDef::new::<Params>("baseline-lmetric-scorer", &[Role::Scorer], file!(), build);

/// Parameters of `baseline-lmetric-scorer`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// Whether the tokens of requests that wait for their first token count.
    pub count_pending: bool,
}

impl Default for Params {
    fn default() -> Self {
        Self { count_pending: true }
    }
}

struct LMetric {
    load: EndpointSlot<InFlightLoad>,
    uncached: Read<Column<u64>>,
    count_pending: bool,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    let scorer = LMetric {
        load: cx.reads_endpoint(&IN_FLIGHT, ""),
        uncached: cx.reads(&UNCACHED_TOKENS, ""),
        count_pending: params.count_pending,
    };
    Ok(Instance::new().scorer(Arc::new(scorer)))
}

impl Scorer for LMetric {
    fn score(&self, cx: &RequestCx<'_>, positions: &[Position], out: &mut [f64]) {
        for (&position, cost) in positions.iter().zip(out.iter_mut()) {
            let Some(load) = cx.endpoint_data(&self.load, position) else { continue };
            let own = cx.column(&self.uncached, position).copied().unwrap_or_default() as f64;
            let pending = if self.count_pending { load.tokens().max(0) as f64 } else { 0.0 };
            // The last token of a prompt is computed even if all of it is cached.
            *cost = (own + pending).max(1.0) * (load.requests().max(0) as f64 + 1.0);
        }
        cost::lowest_is_best(out);
    }
}
