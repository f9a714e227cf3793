//! `baseline-dynamo-scorer`: prefill blocks that no overlap saves, plus active blocks.
//!
//! The cost function of NVIDIA Dynamo's KV router ("Routing Concepts" in its documentation), with its defaults;
//! the lowest cost wins, equal ones are drawn:
//!
//! ```text
//! prefill = (tokens of prompts still to be computed there + uncached tokens of this one) / tokens per block
//! decode  = blocks of the requests in flight there + blocks of this one that none of them has
//! cost    = prefillLoadScale × prefill + decode
//! ```
//!
//! A prompt is to be computed until its first token, its blocks are active until its end; what it shares with
//! other requests there is one block. Dynamo hears of cached blocks by events; here the approximate prefix match
//! stands for them, as in Dynamo without events.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use router_core::{Column, Endpoint, EndpointSlot, Position, Rejection, Stamp, header::HeadPatch};
use router_framework::{
    BuildCx, BuildError, End, Instance, Lease, Outcome, PluginDef, PreRequest, Read, RequestCx,
    Role, Scorer,
    keys::{IN_FLIGHT, InFlightLoad, PromptBlocks, UNCACHED_TOKENS},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cost;

pub const PLUGIN: PluginDef = PluginDef::new::<Params>(
    "baseline-dynamo-scorer",
    &[Role::Scorer, Role::PreRequest],
    file!(),
    build,
);

/// Parameters of `baseline-dynamo-scorer`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// What a prefill block costs against an active one.
    pub prefill_load_scale: f64,
}

impl Default for Params {
    fn default() -> Self {
        Self { prefill_load_scale: 1.0 }
    }
}

struct Dynamo {
    prefill_load_scale: f64,
    load: EndpointSlot<InFlightLoad>,
    uncached: Read<Column<u64>>,
    active: EndpointSlot<ActiveBlocks>,
}

/// Blocks of the requests in flight on one endpoint, with how many requests have them.
#[derive(Debug, Default)]
struct ActiveBlocks(Mutex<HashMap<u64, u32>>);

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    if !params.prefill_load_scale.is_finite() || params.prefill_load_scale < 0.0 {
        return Err(BuildError::at("prefillLoadScale", "must not be negative"));
    }
    let scorer = Arc::new(Dynamo {
        prefill_load_scale: params.prefill_load_scale,
        load: cx.reads_endpoint(&IN_FLIGHT, ""),
        uncached: cx.reads(&UNCACHED_TOKENS, ""),
        active: cx.endpoint_state(),
    });
    Ok(Instance::new().scorer(Arc::clone(&scorer)).pre_request(scorer))
}

impl ActiveBlocks {
    fn add(&self, hashes: &[u64]) {
        let mut blocks = self.0.lock();
        for hash in hashes {
            *blocks.entry(*hash).or_default() += 1;
        }
    }

    fn remove(&self, hashes: &[u64]) {
        let mut blocks = self.0.lock();
        for hash in hashes {
            if let Some(n_requests) = blocks.get_mut(hash) {
                *n_requests -= 1;
                if *n_requests == 0 {
                    blocks.remove(hash);
                }
            }
        }
    }

    /// Active blocks if these came, too. Hashes cover what is before them, so that those that are there lead.
    fn with(&self, prompt: &PromptBlocks) -> usize {
        let blocks = self.0.lock();
        let n_there = prompt.hashes.iter().take_while(|hash| blocks.contains_key(&hash.0)).count();
        blocks.len() + prompt.hashes.len() - n_there
    }
}

impl Scorer for Dynamo {
    fn score(&self, cx: &RequestCx<'_>, positions: &[Position], out: &mut [f64]) {
        let Some(prompt) = cost::blocks(cx) else { return };
        let block_tokens = f64::from(prompt.block_tokens.max(1));
        for (&position, cost) in positions.iter().zip(out.iter_mut()) {
            let Some(load) = cx.endpoint_data(&self.load, position) else { continue };
            let Some(active) = cx.endpoint_data(&self.active, position) else { continue };
            let own = cx.column(&self.uncached, position).copied().unwrap_or_default() as f64;
            let prefill = (load.tokens().max(0) as f64 + own) / block_tokens;
            *cost = self.prefill_load_scale * prefill + active.with(prompt) as f64;
        }
        cost::lowest_is_best(out);
    }
}

impl PreRequest for Dynamo {
    fn pre_request(
        &self,
        cx: &RequestCx<'_>,
        outcome: &Outcome,
        _: &mut HeadPatch,
    ) -> Result<Option<Box<dyn Lease>>, Rejection> {
        let (Some(target), Some(prompt)) = (outcome.target(cx), cost::blocks(cx)) else {
            return Ok(None);
        };
        let hashes = prompt.hashes.iter().map(|hash| hash.0).collect();
        let mut lease = Blocks { on: None, active: self.active.clone(), hashes };
        lease.moved(target, cx.now);
        Ok(Some(Box::new(lease)))
    }
}

/// One request's blocks on the endpoint that serves it.
struct Blocks {
    on: Option<Arc<Endpoint>>,
    active: EndpointSlot<ActiveBlocks>,
    hashes: Vec<u64>,
}

impl Blocks {
    fn release(&mut self) {
        if let Some(endpoint) = self.on.take()
            && let Some(active) = endpoint.slot(&self.active)
        {
            active.remove(&self.hashes);
        }
    }
}

impl Lease for Blocks {
    fn moved(&mut self, endpoint: &Arc<Endpoint>, _: Stamp) {
        self.release();
        if let Some(active) = endpoint.slot(&self.active) {
            active.add(&self.hashes);
            self.on = Some(Arc::clone(endpoint));
        }
    }

    fn end(&mut self, _: &End) {
        self.release();
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        self.release();
    }
}
