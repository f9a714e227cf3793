//! Spreads requests without any cached prefix over the endpoints, least recently used first.
//!
//! A request is cold when no candidate of the profile has a block of its prompt cached.
//! Requests that are not cold get 0.5 everywhere, which changes nothing.
//! For a cold request with N candidates, the candidates are ranked: first those that no cold request went to yet, in the order of the pool, then the others, the least recently used first.
//! The score is `1 − rank / (N − 1)`, and 1 for a single candidate.
//!
//! After the pick, the targets of all profiles for which the request was cold become the most recently used.
//! An endpoint that leaves the pool is forgotten; one that comes back under the same name starts as never used.
//!
//! It reads the prefix match that a producer writes: by default `approx-prefix-cache-producer`, which is added where it is missing.
//!
//! Use it beside `prefix-cache-scorer`: new conversations then fill the caches of all endpoints evenly instead of going where the load happens to be lowest.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: prefix-cache-scorer
//! - type: no-hit-lru-scorer
//! schedulingProfiles:
//! - name: default
//!   plugins:
//!   - pluginRef: prefix-cache-scorer
//!     weight: 2
//!   - pluginRef: no-hit-lru-scorer
//!     weight: 1
//! ```

use std::{
    collections::BTreeMap,
    iter,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use router_core::{Column, Endpoint, EndpointSlot, Position, Rejection, header::HeadPatch};
use router_framework::{
    BuildCx, BuildError, DUMP_LIMIT, DumpState, EndpointListener, Instance, Lease, Outcome,
    PluginDef, PreRequest, ProfileIndex, Read, RequestCx, Role, Scorer,
    keys::{PREFIX_MATCH, PrefixMatch},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

pub const PLUGIN: PluginDef = PluginDef::new::<Params>(
    "no-hit-lru-scorer",
    &[Role::Scorer, Role::PreRequest],
    file!(),
    build,
);

const DEFAULT_LRU_SIZE: i64 = 1024;

/// Score of every endpoint for a request that is not cold.
const NEUTRAL: f64 = 0.5;

/// Parameters of `no-hit-lru-scorer`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// Endpoints that are remembered as used; beyond that the least recently used one counts as never
    /// used. Zero and below mean the default.
    pub lru_size: i64,
    /// Name of the plugin that writes the prefix match. Empty for `approx-prefix-cache-producer`.
    pub prefix_match_info_producer_name: String,
    /// Deprecated and without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix_plugin_type: Option<String>,
    /// Deprecated and without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix_plugin_name: Option<String>,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            lru_size: DEFAULT_LRU_SIZE,
            prefix_match_info_producer_name: String::new(),
            prefix_plugin_type: None,
            prefix_plugin_name: None,
        }
    }
}

struct NoHitLru {
    matches: Read<Column<PrefixMatch>>,
    /// When a cold request last went to the endpoint; scoring reads it without a lock.
    last_cold: EndpointSlot<LastCold>,
    /// The same, in order; locked only after a cold request was placed and when an endpoint goes.
    recent: Mutex<Recent>,
}

/// Number of the endpoint's last cold request; 0 for never.
#[derive(Debug, Default)]
struct LastCold(AtomicU64);

struct Recent {
    n_cold: u64,
    by_number: BTreeMap<u64, Arc<Endpoint>>,
    capacity: usize,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    let lru_size = if params.lru_size > 0 { params.lru_size } else { DEFAULT_LRU_SIZE };
    let scorer = Arc::new(NoHitLru {
        matches: cx.reads(&PREFIX_MATCH, &params.prefix_match_info_producer_name),
        last_cold: cx.endpoint_state(),
        recent: Mutex::new(Recent {
            n_cold: 0,
            by_number: BTreeMap::new(),
            capacity: usize::try_from(lru_size).unwrap_or(usize::MAX),
        }),
    });
    let instance = Instance::new().scorer(Arc::clone(&scorer)).pre_request(Arc::clone(&scorer));
    Ok(instance.listener(Arc::clone(&scorer)).dump(scorer))
}

impl NoHitLru {
    fn is_cold(&self, cx: &RequestCx<'_>, mut positions: impl Iterator<Item = Position>) -> bool {
        let Some(matches) = cx.read(&self.matches) else { return true };
        !positions.any(|at| matches.get(at).is_some_and(|found| found.matched_blocks > 0))
    }

    fn number(&self, endpoint: &Endpoint) -> u64 {
        endpoint.slot(&self.last_cold).map_or(0, |last| last.0.load(Ordering::Relaxed))
    }

    fn set_number(&self, endpoint: &Endpoint, number: u64) {
        if let Some(last) = endpoint.slot(&self.last_cold) {
            last.0.store(number, Ordering::Relaxed);
        }
    }

    /// Makes the endpoint the most recently used.
    fn touch(&self, endpoint: &Arc<Endpoint>) {
        let mut recent = self.recent.lock();
        recent.by_number.remove(&self.number(endpoint));
        recent.n_cold += 1;
        let number = recent.n_cold;
        recent.by_number.insert(number, Arc::clone(endpoint));
        self.set_number(endpoint, number);
        if recent.by_number.len() > recent.capacity
            && let Some((_, oldest)) = recent.by_number.pop_first()
        {
            self.set_number(&oldest, 0);
        }
    }
}

impl Scorer for NoHitLru {
    fn score(&self, cx: &RequestCx<'_>, positions: &[Position], out: &mut [f64]) {
        if !self.is_cold(cx, positions.iter().copied()) {
            out.fill(NEUTRAL);
            return;
        }
        // The last rank; a single candidate has rank 0 of 1 and gets 1.
        let last = positions.len().saturating_sub(1).max(1) as f64;
        let mut used = SmallVec::<[(u64, usize); 64]>::new();
        let mut n_unused = 0usize;
        for (at, (&position, out)) in positions.iter().zip(out.iter_mut()).enumerate() {
            match cx.endpoint(position).map_or(0, |endpoint| self.number(endpoint)) {
                0 => {
                    *out = 1.0 - n_unused as f64 / last;
                    n_unused += 1;
                }
                number => used.push((number, at)),
            }
        }
        used.sort_unstable();
        for (rank, (_, at)) in (n_unused..).zip(used) {
            if let Some(out) = out.get_mut(at) {
                *out = 1.0 - rank as f64 / last;
            }
        }
    }
}

impl PreRequest for NoHitLru {
    fn pre_request(
        &self,
        cx: &RequestCx<'_>,
        outcome: &Outcome,
        _: &mut HeadPatch,
    ) -> Result<Option<Box<dyn Lease>>, Rejection> {
        let others = (0..outcome.runs.len()).map(ProfileIndex).filter(|at| *at != outcome.primary);
        for ProfileIndex(at) in iter::once(outcome.primary).chain(others) {
            let Some(Some(run)) = outcome.runs.get(at) else { continue };
            if let Some(endpoint) = run.target().and_then(|target| cx.endpoint(target))
                && self.is_cold(cx, run.scored.iter().map(|(position, _)| *position))
            {
                self.touch(endpoint);
            }
        }
        Ok(None)
    }
}

impl EndpointListener for NoHitLru {
    fn added(&self, _: &Arc<Endpoint>) {}

    fn removed(&self, endpoint: &Arc<Endpoint>) {
        let mut recent = self.recent.lock();
        recent.by_number.remove(&self.number(endpoint));
        self.set_number(endpoint, 0);
    }
}

impl DumpState for NoHitLru {
    fn dump(&self) -> serde_json::Value {
        let recent = self.recent.lock();
        let newest_first = recent.by_number.values().rev().take(DUMP_LIMIT);
        serde_json::json!({
            "capacity": recent.capacity,
            "endpoints": recent.by_number.len(),
            "mostRecentlyUsed": newest_first.map(|endpoint| &**endpoint.id()).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests;
