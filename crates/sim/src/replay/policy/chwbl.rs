//! `baseline-chwbl-picker`: consistent hashing with bounded loads.
//!
//! V. Mirrokni, M. Thorup, M. Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018, as KubeAI
//! applies it to prompts (its `PrefixHash` strategy): every endpoint has many places on a ring; the beginning of
//! the prompt is hashed onto the ring, and the first endpoint from there that may take the request gets it. One
//! may take it while its requests in flight, with this one, are at most `loadFactor` times the mean of all, with
//! this one. Where none may, the first one from the hash gets it.
//!
//! KubeAI hashes the first 100 characters. A trace has no characters: the first block of at least that many
//! stands for them, or as many blocks as `prefixTokens` covers. The load is the router's own count.

use std::sync::Arc;

use parking_lot::Mutex;
use router_core::{EndpointSlot, PoolSnapshot, Position};
use router_framework::{
    BuildCx, BuildError, Instance, MAX_TARGETS, Picker, PluginDef, RequestCx, Role,
    keys::{IN_FLIGHT, InFlightLoad},
};
use router_rt::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use xxhash_rust::xxh64::xxh64;

use super::cost;

pub const PLUGIN: PluginDef =
    PluginDef::new::<Params>("baseline-chwbl-picker", &[Role::Picker], file!(), build);

/// Places of one endpoint on the ring, at most; bounds the ring's memory.
const MAX_REPLICAS: usize = 4_096;

/// Parameters of `baseline-chwbl-picker`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// Tokens of the prompt's beginning that are hashed, taken up to whole blocks.
    pub prefix_tokens: u32,
    /// How far above the mean of all a load may be: 1.25 is a quarter.
    pub load_factor: f64,
    /// Places of each endpoint on the ring.
    pub replicas: usize,
}

impl Default for Params {
    fn default() -> Self {
        Self { prefix_tokens: 25, load_factor: 1.25, replicas: 256 }
    }
}

struct Chwbl {
    params: Params,
    load: EndpointSlot<InFlightLoad>,
    /// Made anew when the pool has changed.
    ring: Mutex<Arc<Ring>>,
}

/// Where endpoints are on the ring.
#[derive(Debug, Default)]
struct Ring {
    /// Of the pool that it was made for.
    version: u64,
    /// Hash and the endpoint's slot, by hash.
    places: Vec<(u64, u32)>,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    if !params.load_factor.is_finite() || params.load_factor < 1.0 {
        return Err(BuildError::at("loadFactor", "must be at least 1"));
    }
    if !(1..=MAX_REPLICAS).contains(&params.replicas) {
        return Err(BuildError::at("replicas", format!("must be 1 to {MAX_REPLICAS}")));
    }
    let load = cx.reads_endpoint(&IN_FLIGHT, "");
    Ok(Instance::new().picker(Arc::new(Chwbl { params, load, ring: Mutex::default() })))
}

impl Ring {
    fn of(pool: &PoolSnapshot, n_replicas: usize) -> Self {
        let mut places = Vec::with_capacity(pool.len() * n_replicas);
        for endpoint in pool.endpoints() {
            let place = |replica| (xxh64(endpoint.id().as_bytes(), replica), endpoint.index().slot);
            places.extend((0..n_replicas as u64).map(place));
        }
        places.sort_unstable();
        Self { version: pool.version(), places }
    }

    /// Slots in the order in which the ring has them from `hash` on, each as often as it has places.
    fn after(&self, hash: u64) -> impl Iterator<Item = u32> {
        let start = self.places.partition_point(|(place, _)| *place < hash);
        let around = self.places.iter().skip(start).chain(self.places.iter().take(start));
        around.map(|(_, slot)| *slot)
    }
}

impl Chwbl {
    fn ring(&self, pool: &PoolSnapshot) -> Arc<Ring> {
        let mut ring = self.ring.lock();
        if ring.version != pool.version() || ring.places.is_empty() {
            *ring = Arc::new(Ring::of(pool, self.params.replicas));
        }
        Arc::clone(&ring)
    }

    /// The hash of the prompt's beginning. A prompt without blocks goes anywhere.
    fn key(&self, cx: &RequestCx<'_>) -> u64 {
        let hash = cost::blocks(cx).and_then(|blocks| {
            let n_blocks = self.params.prefix_tokens.div_ceil(blocks.block_tokens.max(1)).max(1);
            let last = (n_blocks as usize).min(blocks.hashes.len()).checked_sub(1)?;
            blocks.hashes.get(last)
        });
        // A block's hash covers what is before it.
        xxh64(&hash.map_or(cx.request.id, |hash| hash.0).to_le_bytes(), 0)
    }

    fn in_flight(&self, cx: &RequestCx<'_>, position: Position) -> f64 {
        let load = cx.endpoint_data(&self.load, position);
        load.map_or(0.0, |load| load.requests().max(0) as f64)
    }
}

impl Picker for Chwbl {
    fn n_shown(&self) -> usize {
        1
    }

    fn pick(
        &self,
        cx: &RequestCx<'_>,
        scored: &[(Position, f64)],
        _: &mut Rng,
        n_wanted: usize,
        ranked: &mut SmallVec<[Position; MAX_TARGETS]>,
    ) {
        ranked.clear();
        let pool = cx.candidates.snapshot();
        // Candidates by slot, as long as they are in question.
        let mut open = vec![None; pool.n_slots()];
        for &(position, _) in scored {
            let slot = cx.endpoint(position).map(|endpoint| endpoint.index().slot as usize);
            if let Some(place) = slot.and_then(|slot| open.get_mut(slot)) {
                *place = Some(position);
            }
        }
        let total: f64 = scored.iter().map(|(position, _)| self.in_flight(cx, *position)).sum();
        let most = (total + 1.0) / scored.len().max(1) as f64 * self.params.load_factor;
        let mut full = SmallVec::<[Position; MAX_TARGETS]>::new();
        for slot in self.ring(pool).after(self.key(cx)) {
            let Some(position) = open.get_mut(slot as usize).and_then(Option::take) else {
                continue;
            };
            if self.in_flight(cx, position) + 1.0 <= most {
                ranked.push(position);
            } else {
                full.push(position);
            }
            if ranked.len() == n_wanted || ranked.len() + full.len() == scored.len() {
                break;
            }
        }
        ranked.extend(full);
        ranked.truncate(n_wanted);
    }
}
