//! Which blocks were sent where, and the part of that which a request under way accounts for.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use router_core::{Endpoint, EndpointIndex, EndpointSlot, Stamp};
use router_framework::{End, Lease, keys::HashedPrompts};
use router_kvcache::{Inserted, PrefixIndex};
use smallvec::SmallVec;

use crate::producer::known::KnownEndpoints;

/// Blocks remembered per endpoint at most, whatever it reports: 64 Mi tokens with blocks of 64.
pub(super) const MAX_CAPACITY: usize = 1 << 20;

/// The index, with its capacities.
#[derive(Debug)]
pub(super) struct Holdings {
    index: Arc<PrefixIndex>,
    follows_engine: bool,
    default_capacity: usize,
    capacities: EndpointSlot<Capacity>,
    known: KnownEndpoints,
}

/// Blocks that the index remembers for an endpoint; 0 until it was set.
#[derive(Debug, Default)]
pub(super) struct Capacity(AtomicUsize);

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

    /// The endpoint's KV cache in blocks of the index (defect A-25 of `spec/scheduling.md`: the engine
    /// counts in its own, smaller blocks).
    fn capacity(&self, endpoint: &Endpoint, block_tokens: u32) -> usize {
        let signals = endpoint.signals();
        let n_tokens = signals.n_blocks * signals.block_size;
        let n_blocks = n_tokens / f64::from(block_tokens.max(1));
        // False for NaN: what is not reported is not followed.
        if self.follows_engine && n_tokens > 0.0 {
            (n_blocks as usize).clamp(1, MAX_CAPACITY)
        } else {
            self.default_capacity
        }
    }

    fn insert(&self, endpoint: &Endpoint, hashed: &HashedPrompts) -> Held {
        let capacity = self.capacity(endpoint, hashed.block_tokens());
        if let Some(Capacity(known)) = endpoint.slot(&self.capacities) {
            let before = known.swap(capacity, Ordering::Relaxed);
            let before = if before == 0 { self.default_capacity } else { before };
            if before != capacity {
                self.index.set_capacity(endpoint.index(), capacity);
            }
        }
        let insert = |hashes| self.index.insert(endpoint.index(), hashes);
        let inserted = hashed.prompts.iter().map(|prompt| insert(&prompt.hashes)).collect();
        Held { endpoint: endpoint.index(), inserted }
    }

    fn undo(&self, held: Held, hashed: &HashedPrompts) {
        // Last in, first out: a later prompt of the batch may build on an earlier one's blocks.
        for (prompt, inserted) in hashed.prompts.iter().zip(held.inserted).rev() {
            self.index.undo(held.endpoint, &prompt.hashes, inserted);
        }
    }
}

/// What one request put into the index for one endpoint.
#[derive(Debug)]
struct Held {
    endpoint: EndpointIndex,
    inserted: SmallVec<[Inserted; 1]>,
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
    pub(super) fn take(&mut self, endpoint: &Endpoint, is_primary: bool) {
        let mut all = self.others.iter().chain(&self.primary);
        if all.any(|held| held.endpoint == endpoint.index()) {
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

impl Lease for IndexLease {
    fn moved(&mut self, endpoint: &Arc<Endpoint>, _: Stamp) {
        if let Some(held) = self.primary.take() {
            self.holdings.undo(held, &self.hashed);
        }
        self.take(endpoint, true);
    }

    fn end(&mut self, end: &End) {
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
