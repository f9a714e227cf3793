//! Which blocks were sent where, and the part of that which a request under way accounts for.

use std::sync::Arc;

use router_core::{Endpoint, EndpointSlot, Stamp};
use router_framework::{End, EndCause, Lease, keys::HashedPrompts};
use router_kvcache::{Inserted, PrefixIndex, Run};
use smallvec::SmallVec;

use super::{
    answers::AnswerLength,
    capacity::{Capacity, Found, Learned, Told},
};
use crate::producer::{found::found_tokens, known::KnownEndpoints};

/// Blocks remembered per endpoint at most, whatever it reports: 64 Mi tokens with blocks of 64.
pub(super) const MAX_CAPACITY: usize = 1 << 20;

/// A prefix was there if so much of it was, but for a block, where tokens of text are estimated.
const FOUND_SHARE: f64 = 0.9;
/// Router and model server count the same tokens if they differ by no more than a template adds.
const SAME_TOKENS: f64 = 0.01;

/// The index, with its capacities.
#[derive(Debug)]
pub(super) struct Holdings {
    index: Arc<PrefixIndex>,
    follows_engine: bool,
    default_capacity: usize,
    capacities: EndpointSlot<Capacity>,
    answers: AnswerLength,
    learned: Learned,
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
            learned: Learned::default(),
            known: KnownEndpoints::default(),
        }
    }

    pub(super) fn index(&self) -> &PrefixIndex {
        &self.index
    }

    pub(super) fn known(&self) -> &KnownEndpoints {
        &self.known
    }

    /// The endpoint has gone.
    pub(super) fn forget(&self, endpoint: &Endpoint) {
        self.known.remove(endpoint);
        if let Some(capacity) = endpoint.slot(&self.capacities) {
            capacity.forget(endpoint.index(), &self.learned);
        }
        self.index.remove_endpoint(endpoint.index());
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

    /// Tells the index what is known of the endpoint's capacity.
    fn tell(&self, endpoint: &Endpoint, reported: Option<usize>) {
        let capacity = endpoint.slot(&self.capacities).filter(|_| self.follows_engine);
        let Some(capacity) = capacity else { return };
        capacity.tell(reported, self.default_capacity, &self.learned, |told| match told {
            Told::Reported(n_blocks) => self.index.set_capacity(endpoint.index(), n_blocks),
            Told::Believed(n_blocks) => self.index.believe(endpoint.index(), n_blocks),
        });
    }

    fn insert(
        &self,
        endpoint: &Arc<Endpoint>,
        hashed: &HashedPrompts,
        output_cap: Option<u64>,
    ) -> Held {
        let reported = self.reported(endpoint, hashed.block_tokens());
        self.tell(endpoint, reported);
        let answer = self.answers.expected(output_cap) / f64::from(hashed.block_tokens().max(1));
        let n_more = answer.ceil() as usize / hashed.prompts.len().max(1);
        // What an answer says of several prompts is not known of each.
        let runs = match &hashed.prompts[..] {
            [prompt] if self.follows_engine && reported.is_none() => {
                self.index.runs(endpoint.index(), &prompt.hashes)
            }
            _ => SmallVec::new(),
        };
        let insert = |prompt| self.index.insert_prompt(endpoint.index(), prompt, n_more);
        let inserted = hashed.prompts.iter().map(insert).collect();
        Held { endpoint: Arc::clone(endpoint), inserted, runs }
    }

    /// An answer of the endpoint says that `found` tokens of its prompt were cached. `is_exact` where both count the
    /// same tokens.
    fn learn(&self, held: &Held, block_tokens: u32, found: f64, is_exact: bool) {
        let capacity = held.endpoint.slot(&self.capacities);
        let Some((capacity, last)) = capacity.zip(held.runs.last()) else { return };
        let n_known = last.start + last.n_blocks;
        let n_found = found / f64::from(block_tokens.max(1));
        let share = if is_exact { 1.0 } else { FOUND_SHARE };
        // The block in which the tokens end is not full, and engines that have smaller ones have some of it.
        let is_all = n_found + 1.0 >= share * n_known as f64;
        if !is_all && !is_exact && n_found >= 1.0 {
            // Where in the prompt the tokens that are cached end is not known.
            return;
        }
        let found = Found { n_blocks: n_found as usize, is_all };
        capacity.learn(held.endpoint.index(), &held.runs, found, &self.learned);
        // The next request is to see it before one is sent there.
        self.tell(&held.endpoint, self.reported(&held.endpoint, block_tokens));
    }

    /// The endpoint is done with the prompts, and has answered with so many tokens if it was. A prefix that nobody
    /// computed must not attract anyone (defect A-27).
    fn end(&self, held: Held, hashed: &HashedPrompts, answered: Option<f64>) {
        let block_tokens = hashed.block_tokens().max(1);
        let share = 1.0 / hashed.prompts.len().max(1) as f64;
        // Last in, first out: a later prompt of the batch may build on an earlier one's blocks.
        for (prompt, inserted) in hashed.prompts.iter().zip(held.inserted).rev() {
            let Some(answer) = answered else {
                self.index.undo(&prompt.hashes, inserted);
                continue;
            };
            // To the nearest block. That in which the prompt ends is one of its own where it has a hash: traces know
            // full blocks only.
            let n_blocks = (prompt.n_tokens as f64 + share * answer) / f64::from(block_tokens);
            let n_own = prompt.hashes.len().max(prompt.n_tokens / block_tokens as usize);
            let n_answer = (n_blocks.round() as usize).saturating_sub(n_own);
            self.index.release(&prompt.hashes, inserted, n_answer);
        }
    }
}

/// What one request put into the index for one endpoint, and has to take out again.
#[derive(Debug)]
struct Held {
    endpoint: Arc<Endpoint>,
    inserted: SmallVec<[Inserted; 1]>,
    /// How deep its prompt was, where that may tell how much the endpoint's cache holds.
    runs: SmallVec<[Run; 4]>,
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
            let difference = usage.prompt_tokens.abs_diff(n_tokens as u64);
            let is_exact = difference as f64 <= SAME_TOKENS * n_tokens as f64;
            self.holdings.learn(held, self.hashed.block_tokens(), found, is_exact);
        }
    }
}

/// The blocks of a request that has no end, because a plugin panicked, must not stay in use.
impl Drop for IndexLease {
    fn drop(&mut self) {
        for held in self.others.drain(..).chain(self.primary.take()) {
            self.holdings.end(held, &self.hashed, None);
        }
    }
}

impl Lease for IndexLease {
    fn moved(&mut self, endpoint: &Arc<Endpoint>, _: Stamp) {
        if let Some(held) = self.primary.take() {
            self.holdings.end(held, &self.hashed, None);
        }
        self.take(endpoint, true);
    }

    fn end(&mut self, end: &End) {
        self.learn(end);
        let answered = end.was_served().then(|| match end.usage {
            Some(usage) => usage.completion_tokens as f64,
            None if end.status.is_some_and(|status| status.is_success()) => {
                self.holdings.answers.expected(self.output_cap)
            }
            // A request that the model server refuses has no answer.
            None => 0.0,
        });
        if let Some(held) = self.primary.take() {
            self.holdings.end(held, &self.hashed, answered);
        }
        // The others have computed prompts for the primary one, which writes the answer.
        for held in self.others.drain(..).rev() {
            self.holdings.end(held, &self.hashed, answered.map(|_| 0.0));
        }
    }
}
