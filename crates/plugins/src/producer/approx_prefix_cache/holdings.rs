//! Which blocks were sent where, and the part of that which a request under way accounts for.

use std::sync::Arc;

use router_core::{Endpoint, EndpointSlot, Stamp};
use router_framework::{End, EndCause, Lease, keys::HashedPrompts};
use router_kvcache::{Inserted, PrefixIndex};
use smallvec::SmallVec;

use super::capacity::{Capacity, Probe};
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
        let known = KnownEndpoints::default();
        Self { index, follows_engine, default_capacity, capacities, known }
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

    fn insert(&self, endpoint: &Arc<Endpoint>, hashed: &HashedPrompts) -> Held {
        let capacity = endpoint.slot(&self.capacities).filter(|_| self.follows_engine);
        let reported = self.reported(endpoint, hashed.block_tokens());
        if let Some(capacity) = capacity {
            let n_blocks = reported.unwrap_or_else(|| capacity.learned(self.default_capacity));
            if let Some(n_blocks) = capacity.tell(n_blocks, self.default_capacity) {
                self.index.set_capacity(endpoint.index(), n_blocks);
            }
        }
        let insert = |hashes| self.index.insert(endpoint.index(), hashes);
        let inserted: SmallVec<[Inserted; 1]> =
            hashed.prompts.iter().map(|prompt| insert(&prompt.hashes)).collect();
        let probe = capacity.filter(|_| reported.is_none()).and_then(|capacity| {
            // What an answer says of several prompts is not known of each.
            let ([prompt], [inserted]) = (&hashed.prompts[..], &inserted[..]) else { return None };
            capacity.used(&prompt.hashes, inserted.first_new())
        });
        Held { endpoint: Arc::clone(endpoint), inserted, probe }
    }

    /// An answer of the endpoint says that `found` tokens of its prompt were cached.
    fn learn(&self, held: &Held, block_tokens: u32, found: f64) {
        let capacity = held.endpoint.slot(&self.capacities);
        let Some((capacity, probe)) = capacity.zip(held.probe) else { return };
        let expected = probe.n_blocks as f64 * f64::from(block_tokens);
        let was_there = found + f64::from(block_tokens) >= FOUND_SHARE * expected;
        capacity.learn(probe, was_there, self.default_capacity);
    }

    fn undo(&self, held: Held, hashed: &HashedPrompts) {
        // Last in, first out: a later prompt of the batch may build on an earlier one's blocks.
        for (prompt, inserted) in hashed.prompts.iter().zip(held.inserted).rev() {
            self.index.undo(held.endpoint.index(), &prompt.hashes, inserted);
        }
    }
}

/// What one request put into the index for one endpoint.
#[derive(Debug)]
struct Held {
    endpoint: Arc<Endpoint>,
    inserted: SmallVec<[Inserted; 1]>,
    probe: Option<Probe>,
}

/// What a request put into the index. It stays there when a model server took the request up.
#[derive(Debug)]
pub(super) struct IndexLease {
    holdings: Arc<Holdings>,
    hashed: Arc<HashedPrompts>,
    primary: Option<Held>,
    others: SmallVec<[Held; 1]>,
}

impl IndexLease {
    pub(super) fn new(holdings: Arc<Holdings>, hashed: Arc<HashedPrompts>) -> Self {
        Self { holdings, hashed, primary: None, others: SmallVec::new() }
    }

    /// Records that `endpoint` will compute the prompts, once if several profiles chose it.
    pub(super) fn take(&mut self, endpoint: &Arc<Endpoint>, is_primary: bool) {
        let mut all = self.others.iter().chain(&self.primary);
        if all.any(|held| held.endpoint.index() == endpoint.index()) {
            return;
        }
        let held = self.holdings.insert(endpoint, &self.hashed);
        if is_primary {
            self.primary = Some(held);
        } else {
            self.others.push(held);
        }
    }
}

impl IndexLease {
    /// Prompt tokens that a good answer says were cached.
    fn found(&self, end: &End) -> Option<f64> {
        let is_good =
            end.cause == EndCause::Natural && end.status.is_some_and(|status| status.is_success());
        let n_tokens = self.hashed.prompts.first()?.n_tokens;
        found_tokens(&end.usage.filter(|_| is_good)?, n_tokens as f64)
    }
}

impl Lease for IndexLease {
    fn moved(&mut self, endpoint: &Arc<Endpoint>, _: Stamp) {
        if let Some(held) = self.primary.take() {
            self.holdings.undo(held, &self.hashed);
        }
        self.take(endpoint, true);
    }

    fn end(&mut self, end: &End) {
        if let Some((held, found)) = self.primary.as_ref().zip(self.found(end)) {
            self.holdings.learn(held, self.hashed.block_tokens(), found);
        }
        let held = self.others.drain(..).chain(self.primary.take());
        if end.was_served() {
            return drop(held);
        }
        // A prefix that nobody computed must not attract anyone (defect A-27).
        let held: SmallVec<[Held; 2]> = held.collect();
        for held in held.into_iter().rev() {
            self.holdings.undo(held, &self.hashed);
        }
    }
}
