//! Which blocks were sent where, and the part of that which a request under way accounts for.

use std::sync::Arc;

use router_core::{Endpoint, EndpointSlot, Stamp};
use router_framework::{End, EndCause, Lease, keys::HashedPrompts};
use router_kvcache::{Inserted, PrefixIndex};
use smallvec::SmallVec;

use super::{
    answers::AnswerLength,
    capacity::{Capacity, Probe},
};
use crate::producer::{found::found_tokens, known::KnownEndpoints};

/// Blocks remembered per endpoint at most, whatever it reports: 64 Mi tokens with blocks of 64.
pub(super) const MAX_CAPACITY: usize = 1 << 20;

/// A prefix was there if so much of it was, but for a block: servers count in blocks of their own, and tokens of
/// text are estimated.
const FOUND_SHARE: f64 = 0.9;

/// The index, with its capacities.
#[derive(Debug)]
pub(super) struct Holdings {
    index: Arc<PrefixIndex>,
    follows_engine: bool,
    default_capacity: usize,
    capacities: EndpointSlot<Capacity>,
    answers: AnswerLength,
    known: KnownEndpoints,
}

impl Holdings {
    pub(super) fn new(
        index: Arc<PrefixIndex>,
        follows_engine: bool,
        default_capacity: usize,
        capacities: EndpointSlot<Capacity>,
    ) -> Self {
        let default_capacity = default_capacity.min(MAX_CAPACITY);
        Self {
            index,
            follows_engine,
            default_capacity,
            capacities,
            answers: AnswerLength::default(),
            known: KnownEndpoints::default(),
        }
    }

    pub(super) fn index(&self) -> &PrefixIndex {
        &self.index
    }

    pub(super) fn known(&self) -> &KnownEndpoints {
        &self.known
    }

    /// The endpoint's KV cache in blocks of the index, if it reports it (defect A-25 of
    /// `spec/scheduling.md`: the engine counts in its own, smaller blocks).
    fn reported(&self, endpoint: &Endpoint, block_tokens: u32) -> Option<usize> {
        let signals = endpoint.signals();
        let n_tokens = signals.n_blocks * signals.block_size;
        let n_blocks = n_tokens / f64::from(block_tokens.max(1));
        // False for NaN: what is not reported is not followed.
        (n_tokens > 0.0).then(|| (n_blocks as usize).clamp(1, MAX_CAPACITY))
    }

    fn insert(
        &self,
        endpoint: &Arc<Endpoint>,
        hashed: &HashedPrompts,
        output_cap: Option<u64>,
    ) -> Held {
        let capacity = endpoint.slot(&self.capacities).filter(|_| self.follows_engine);
        let reported = self.reported(endpoint, hashed.block_tokens());
        if let Some(capacity) = capacity {
            let n_blocks = reported.unwrap_or_else(|| capacity.remembered(self.default_capacity));
            if let Some(n_blocks) = capacity.tell(n_blocks, self.default_capacity) {
                self.index.set_capacity(endpoint.index(), n_blocks);
            }
        }
        let answer = self.answers.expected(output_cap) / f64::from(hashed.block_tokens().max(1));
        let n_more = answer.ceil() as usize / hashed.prompts.len().max(1);
        let watched = capacity.filter(|_| reported.is_none()).and_then(|capacity| {
            // What an answer says of several prompts is not known of each.
            let [prompt] = &hashed.prompts[..] else { return None };
            Some(Watched { probe: capacity.begin(&prompt.hashes, n_more), n_more })
        });
        let insert = |hashes| self.index.insert(endpoint.index(), hashes, n_more);
        let inserted = hashed.prompts.iter().map(|prompt| insert(&prompt.hashes)).collect();
        Held { endpoint: Arc::clone(endpoint), inserted, watched }
    }

    /// An answer of the endpoint says that `found` tokens of its prompt were cached.
    fn learn(&self, held: &Held, block_tokens: u32, found: f64) {
        let capacity = held.endpoint.slot(&self.capacities);
        let probe = held.watched.as_ref().and_then(|watched| watched.probe);
        let Some((capacity, probe)) = capacity.zip(probe) else { return };
        let expected = probe.n_blocks as f64 * f64::from(block_tokens);
        let was_there = found + f64::from(block_tokens) >= FOUND_SHARE * expected;
        capacity.learn(probe, was_there, self.default_capacity);
    }

    /// The endpoint is done with the prompts. A prefix that nobody computed must not attract anyone (defect A-27).
    fn end(&self, held: Held, hashed: &HashedPrompts, was_served: bool) {
        if let (Some(watched), [prompt]) = (&held.watched, &hashed.prompts[..])
            && let Some(capacity) = held.endpoint.slot(&self.capacities)
        {
            capacity.end(&prompt.hashes, watched.n_more, was_served);
        }
        // Last in, first out: a later prompt of the batch may build on an earlier one's blocks.
        for (prompt, inserted) in hashed.prompts.iter().zip(held.inserted).rev() {
            if was_served {
                self.index.release(&prompt.hashes, inserted);
            } else {
                self.index.undo(&prompt.hashes, inserted);
            }
        }
    }
}

/// What one request put into the index for one endpoint, and has to take out again.
#[derive(Debug)]
struct Held {
    endpoint: Arc<Endpoint>,
    inserted: SmallVec<[Inserted; 1]>,
    watched: Option<Watched>,
}

/// A request that may tell how much its endpoint's cache holds.
#[derive(Debug)]
struct Watched {
    probe: Option<Probe>,
    /// Blocks that its answer is to fill.
    n_more: usize,
}

/// What a request put into the index. It stays there when a model server took the request up, and is in use as long
/// as the request is under way.
#[derive(Debug)]
pub(super) struct IndexLease {
    holdings: Arc<Holdings>,
    hashed: Arc<HashedPrompts>,
    /// Tokens that its answers may have together.
    output_cap: Option<u64>,
    primary: Option<Held>,
    others: SmallVec<[Held; 1]>,
}

impl IndexLease {
    pub(super) fn new(
        holdings: Arc<Holdings>,
        hashed: Arc<HashedPrompts>,
        output_cap: Option<u64>,
    ) -> Self {
        Self { holdings, hashed, output_cap, primary: None, others: SmallVec::new() }
    }

    /// Records that `endpoint` will compute the prompts, once if several profiles chose it.
    pub(super) fn take(&mut self, endpoint: &Arc<Endpoint>, is_primary: bool) {
        let mut all = self.others.iter().chain(&self.primary);
        if all.any(|held| held.endpoint.index() == endpoint.index()) {
            return;
        }
        let held = self.holdings.insert(endpoint, &self.hashed, self.output_cap);
        if is_primary {
            self.primary = Some(held);
        } else {
            self.others.push(held);
        }
    }
}

impl IndexLease {
    /// A good answer says how long it is, and how many of the prompt's tokens were cached.
    fn learn(&self, end: &End) {
        let is_good =
            end.cause == EndCause::Natural && end.status.is_some_and(|status| status.is_success());
        let Some(usage) = end.usage.filter(|_| is_good) else { return };
        self.holdings.answers.observe(usage.completion_tokens);
        let n_tokens = self.hashed.prompts.first().map_or(0, |prompt| prompt.n_tokens);
        let found = found_tokens(&usage, n_tokens as f64);
        if let Some((held, found)) = self.primary.as_ref().zip(found) {
            self.holdings.learn(held, self.hashed.block_tokens(), found);
        }
    }
}

/// The blocks of a request that has no end, because a plugin panicked, must not stay in use.
impl Drop for IndexLease {
    fn drop(&mut self) {
        for held in self.others.drain(..).chain(self.primary.take()) {
            self.holdings.end(held, &self.hashed, false);
        }
    }
}

impl Lease for IndexLease {
    fn moved(&mut self, endpoint: &Arc<Endpoint>, _: Stamp) {
        if let Some(held) = self.primary.take() {
            self.holdings.end(held, &self.hashed, false);
        }
        self.take(endpoint, true);
    }

    fn end(&mut self, end: &End) {
        self.learn(end);
        let held: SmallVec<[Held; 2]> = self.others.drain(..).chain(self.primary.take()).collect();
        for held in held.into_iter().rev() {
            self.holdings.end(held, &self.hashed, end.was_served());
        }
    }
}
