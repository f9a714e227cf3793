//! The prefix index: which endpoint probably has which prefix cached.
//!
//! One lock guards the whole trie. Work under it is per segment of equal history and not per block, so it is
//! held for microseconds; work that may be long (forgetting an endpoint, a smaller capacity) is done in
//! steps with the lock released in between. Matching takes it shared.
//!
//! The matched length follows the reference: walk the prompt's blocks while some endpoint holds the block
//! and count, per endpoint, the blocks that it holds. What an endpoint holds has no holes here (see
//! `trie`), so that count is the length of the endpoint's prefix.
//! Differs: among blocks of one prompt the last is evicted first, as model servers do; the reference evicts
//! the first one first, which leaves suffixes that can never match. For the same reason an insert that
//! exceeds the capacity keeps its leading blocks.
//! Blocks that a request under way uses are never evicted, and count as used when it ends, as in model servers:
//! they keep the blocks of running requests, and hand out again first what was freed longest ago. What its
//! answer will fill takes room as long as it is under way, and what it has filled until it is the oldest, or the
//! conversation goes on there. The reference counts a prompt as used when it is
//! sent, which expects prompts in the cache that long answers, or a full batch, have pushed out.
//! Where nobody says how much an endpoint's cache holds, more is remembered than is believed to be there (see
//! `ages`).

use std::fmt;

use parking_lot::RwLock;
use router_core::EndpointIndex;
use smallvec::SmallVec;

use crate::{BlockHash, PromptBlocks};

mod ages;
mod check;
mod holder;
mod lru;
mod node;
mod segment;
mod slab;
mod table;
mod trie;

pub use ages::Run;
use trie::{InsertedBlocks, Trie};

/// Holds that a long operation removes before it lets others at the lock.
const STEPS_PER_LOCK: usize = 256;

/// Holds of vanished endpoints that an insert removes in passing.
const STEPS_PER_INSERT: usize = 16;

/// First blocks that a dump names per endpoint.
const DUMP_PREFIXES: usize = 8;

#[derive(Clone, Copy, Debug)]
pub struct IndexConfig {
    /// Blocks remembered per endpoint unless [`PrefixIndex::set_capacity`] says otherwise.
    pub default_capacity: usize,
    /// Secret of this process that spreads block hashes over the table. Results do not depend on it.
    pub seed: u64,
}

/// Blocks and their holders, shared by all deciders.
pub struct PrefixIndex {
    trie: RwLock<Trie>,
}

/// What one insert did. The blocks stay in use until it is [released](PrefixIndex::release) or
/// [undone](PrefixIndex::undo).
#[must_use = "its blocks cannot be evicted before it is released or undone"]
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inserted {
    blocks: Option<InsertedBlocks>,
}

/// Matched blocks per endpoint, indexed by the endpoint's dense slot. Kept and reset between requests.
#[derive(Clone, Debug, Default)]
pub struct MatchCounts {
    cells: Vec<MatchCell>,
}

#[derive(Clone, Copy, Debug, Default)]
struct MatchCell {
    generation: u32,
    n_blocks: u32,
}

/// The index in a form for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexDump {
    /// Pairs of block and endpoint.
    pub n_pairs: usize,
    /// Distinct blocks.
    pub n_blocks: usize,
    pub n_segments: usize,
    pub n_bytes: usize,
    /// Endpoints that are known, also those that `endpoints` had no room for.
    pub n_endpoints: usize,
    /// By slot.
    pub endpoints: Vec<EndpointDump>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointDump {
    pub endpoint: EndpointIndex,
    /// With those of answers, without those that are thought gone.
    pub n_blocks: usize,
    /// What it is believed to hold where that is not known.
    pub capacity: usize,
    /// First blocks of the runs used last, most recent first.
    pub newest: Vec<BlockHash>,
}

impl Default for IndexConfig {
    /// The reference's capacity, and no secret.
    fn default() -> Self {
        Self { default_capacity: 31_250, seed: 0 }
    }
}

impl Inserted {
    /// Leading blocks that the endpoint had already.
    pub fn first_new(&self) -> usize {
        self.blocks.map_or(0, |blocks| blocks.first_new)
    }

    /// Leading blocks that the endpoint has now: fewer than given only where its capacity is smaller or four times
    /// of it are in use, none when the endpoint has gone.
    pub fn n_blocks(&self) -> usize {
        self.blocks.map_or(0, |blocks| blocks.n_blocks)
    }
}

// === impl PrefixIndex ===

impl PrefixIndex {
    pub fn new(config: IndexConfig) -> Self {
        Self { trie: RwLock::new(Trie::new(config.default_capacity, config.seed)) }
    }

    /// Records that a request is sent to `endpoint`, which computes the blocks of its prompt, all of them full and
    /// from the first on, and `n_more` for its answer. An endpoint is known from its first insert on; the first insert
    /// of a newer generation makes all blocks of the older one invisible.
    pub fn insert(&self, endpoint: EndpointIndex, hashes: &[BlockHash], n_more: usize) -> Inserted {
        self.insert_parts(endpoint, hashes, hashes.len(), n_more)
    }

    /// The same of a prompt that may end inside its last block.
    pub fn insert_prompt(
        &self,
        endpoint: EndpointIndex,
        prompt: &PromptBlocks,
        n_more: usize,
    ) -> Inserted {
        self.insert_parts(endpoint, &prompt.hashes, prompt.n_full(), n_more)
    }

    /// The same of blocks of which the first `n_full` are full.
    pub(crate) fn insert_parts(
        &self,
        endpoint: EndpointIndex,
        hashes: &[BlockHash],
        n_full: usize,
        n_more: usize,
    ) -> Inserted {
        let mut trie = self.trie.write();
        trie.reap(STEPS_PER_INSERT);
        let holder = trie.holders.register(endpoint);
        Inserted { blocks: holder.and_then(|holder| trie.insert(holder, hashes, n_full, n_more)) }
    }

    /// The request has ended: its blocks may be evicted, as those used last, and before them the `n_answer` that its
    /// answer filled. These take room until then, or until a request uses the prompt's last full block: a conversation
    /// that goes on has its last answer in its next prompt. `hashes` are those of the insert.
    pub fn release(&self, hashes: &[BlockHash], inserted: Inserted, n_answer: usize) {
        if let Some(blocks) = inserted.blocks {
            self.trie.write().end(hashes, blocks, Some(n_answer));
        }
    }

    /// Takes back an insert whose request failed; `hashes` are those of the insert. Blocks stay that another
    /// request uses, or that one was served with.
    pub fn undo(&self, hashes: &[BlockHash], inserted: Inserted) {
        if let Some(blocks) = inserted.blocks {
            self.trie.write().end(hashes, blocks, None);
        }
    }

    /// Calls `visit` once for every endpoint that holds a prefix of the prompt, with the number of blocks.
    /// The order depends on history alone. `visit` must not call the index.
    pub fn match_prefix(&self, hashes: &[BlockHash], mut visit: impl FnMut(EndpointIndex, u32)) {
        let trie = self.trie.read();
        trie.match_prefix(hashes, |holder, n_blocks| visit(holder.endpoint, n_blocks));
    }

    /// Adds every endpoint's matched blocks to `counts`; called once per prompt of a request.
    pub fn add_matches(&self, hashes: &[BlockHash], counts: &mut MatchCounts) {
        self.match_prefix(hashes, |endpoint, n_blocks| counts.add(endpoint, n_blocks));
    }

    /// Sets how many blocks are remembered for `endpoint`, at any time. The least recently used blocks
    /// beyond it go, of those that no request uses. The unit is a block of this index, which may be larger than the
    /// model server's.
    pub fn set_capacity(&self, endpoint: EndpointIndex, n_blocks: usize) {
        let holder = {
            let mut trie = self.trie.write();
            let Some(holder) = trie.holders.register(endpoint) else { return };
            if let Some(state) = trie.holders.get_mut(holder) {
                state.set_capacity(n_blocks);
                state.ages = None;
            }
            holder
        };
        while !self.trie.write().evict_some(holder, STEPS_PER_LOCK) {}
    }

    /// Says how many blocks `endpoint` is believed to hold, where it is not known: those used least recently are then
    /// taken for gone and not matched, but are remembered up to the capacity, and count again when more is believed, or
    /// when a request uses them, even one that then fails.
    ///
    /// It costs up to 14 bytes more for a pair of block and endpoint, and some 15 µs a request at 31,250 blocks.
    pub fn believe(&self, endpoint: EndpointIndex, n_blocks: usize) {
        let mut trie = self.trie.write();
        let Some(holder) = trie.holders.register(endpoint) else { return };
        if trie.holders.ages(holder).is_none() {
            trie.stamp_all(holder, n_blocks);
        }
        let Some(state) = trie.holders.get_mut(holder) else { return };
        let n_used = state.n_used();
        if let Some(ages) = state.ages.as_deref_mut() {
            ages.believe(n_blocks, n_used);
        }
    }

    /// How deep the blocks of a prompt that `endpoint` had are, those that are thought gone included and those that
    /// requests use left out. Empty where [`believe`](Self::believe) was not called since the endpoint's capacity was
    /// set.
    pub fn runs(&self, endpoint: EndpointIndex, hashes: &[BlockHash]) -> SmallVec<[Run; 4]> {
        let trie = self.trie.read();
        let holder = trie.holders.find(endpoint);
        holder.map_or_else(SmallVec::new, |holder| trie.runs(holder, hashes))
    }

    /// Forgets an endpoint. It is invisible at once; its memory is free when the call returns, or soon after the
    /// last of its requests has ended. Late inserts for it, and for older generations of its slot, have no effect.
    pub fn remove_endpoint(&self, endpoint: EndpointIndex) {
        self.trie.write().holders.remove(endpoint);
        while !self.trie.write().reap(STEPS_PER_LOCK) {}
    }

    /// Pairs of block and endpoint.
    pub fn len(&self) -> usize {
        self.trie.read().n_pairs
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Blocks of one endpoint.
    pub fn len_of(&self, endpoint: EndpointIndex) -> usize {
        let trie = self.trie.read();
        let holder = trie.holders.find(endpoint).and_then(|holder| trie.holders.get(holder));
        holder.map_or(0, |holder| holder.n_blocks)
    }

    /// Memory that the index has allocated, without what the allocator adds.
    pub fn n_bytes(&self) -> usize {
        self.trie.read().n_bytes()
    }

    /// Figures of the whole index and of up to `limit` endpoints.
    pub fn dump(&self, limit: usize) -> IndexDump {
        let trie = self.trie.read();
        let endpoints = trie.holders.live().take(limit);
        let endpoints = endpoints.map(|(id, holder)| EndpointDump {
            endpoint: holder.endpoint,
            n_blocks: (holder.n_blocks + holder.n_answered).saturating_sub(holder.n_gone()),
            capacity: holder.expected(),
            newest: trie.newest_prefixes(id, DUMP_PREFIXES),
        });
        IndexDump {
            n_pairs: trie.n_pairs,
            n_blocks: trie.n_blocks,
            n_segments: trie.table.len(),
            n_bytes: trie.n_bytes(),
            n_endpoints: trie.holders.live().count(),
            endpoints: endpoints.collect(),
        }
    }

    /// Looks for broken links and counters; says what is wrong. For tests and fuzzing: it visits everything.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.trie.read().check()
    }
}

impl fmt::Debug for PrefixIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrefixIndex").field("n_pairs", &self.len()).finish_non_exhaustive()
    }
}

// === impl MatchCounts ===

impl MatchCounts {
    /// Counts for endpoints in slots below `n_slots`; others are ignored.
    pub fn new(n_slots: usize) -> Self {
        Self { cells: vec![MatchCell::default(); n_slots] }
    }

    /// Sets all counts to zero.
    pub fn reset(&mut self, n_slots: usize) {
        self.cells.clear();
        self.cells.resize(n_slots, MatchCell::default());
    }

    /// Matched blocks of `endpoint`; what an earlier or later endpoint in its slot matched is not its own.
    pub fn get(&self, endpoint: EndpointIndex) -> u32 {
        let cell = self.cells.get(endpoint.slot as usize);
        cell.filter(|cell| cell.generation == endpoint.generation).map_or(0, |cell| cell.n_blocks)
    }

    fn add(&mut self, endpoint: EndpointIndex, n_blocks: u32) {
        let Some(cell) = self.cells.get_mut(endpoint.slot as usize) else { return };
        if cell.generation != endpoint.generation {
            *cell = MatchCell { generation: endpoint.generation, n_blocks: 0 };
        }
        cell.n_blocks = cell.n_blocks.saturating_add(n_blocks);
    }
}

#[cfg(test)]
mod tests;
