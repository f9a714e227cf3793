//! KV blocks: a fixed number of them, reference-counted, found again by hash, evicted in LRU order.
//!
//! A block is in use (`refs > 0`) or free. Free blocks are handed out in this order: blocks that were freed and are
//! not full, the last one first; then those that never were in use, which take no memory until then; then full ones,
//! least recently freed first. A free block keeps its hash, and so its content, until it is handed out; that is the
//! prefix cache. Usage counts blocks in use only, as vLLM does.
//!
//! Differs from vLLM: when two blocks with one hash exist, only the first is found by hash; the other is an
//! ordinary block without a hash.

use std::hash::{BuildHasherDefault, Hasher};

use hashbrown::{HashMap, hash_map::Entry};

/// Names the content of a full block together with everything before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockHash(pub u64);

/// Index of a block in its pool.
pub(crate) type BlockIdx = u32;

const NONE: BlockIdx = BlockIdx::MAX;

/// Spreads hashes over the table without a per-process seed, so that two runs are the same. The map is only
/// looked up, never iterated.
#[derive(Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    /// Only whole hashes are written; this is here for completeness of the trait.
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        // SplitMix64's finalizer: trace ids are small consecutive numbers, and the table wants all bits spread.
        let mut z = (self.0 ^ value).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        self.0 = z ^ (z >> 31);
    }
}

#[derive(Debug)]
struct Block {
    hash: Option<BlockHash>,
    /// It has the content of a whole block, also where its hash is not known or another block has the same.
    is_full: bool,
    refs: u32,
    /// Neighbours in the list of full blocks that are free.
    prev: BlockIdx,
    next: BlockIdx,
}

/// What a prompt finds in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hits {
    /// Leading blocks of the prompt that are in the pool.
    pub(crate) n_blocks: u32,
    /// How many of them no running request holds: taking them uses up free blocks.
    pub(crate) n_free: u32,
}

/// All blocks of one engine.
#[derive(Debug)]
pub(crate) struct BlockPool {
    n_blocks: u32,
    /// Those that have been in use.
    blocks: Vec<Block>,
    by_hash: HashMap<BlockHash, BlockIdx, BuildHasherDefault<Spread>>,
    /// Free blocks that were in use and are not full.
    spare: Vec<BlockIdx>,
    /// Ends of the list of full blocks that are free.
    head: BlockIdx,
    tail: BlockIdx,
    n_free: u32,
    caching: bool,
    /// Times a block became free: whoever found no room need not look again before this grows.
    n_released: u64,
    n_stored: u64,
    n_evicted: u64,
}

impl BlockPool {
    pub(crate) fn new(n_blocks: u32, caching: bool) -> Self {
        Self {
            n_blocks,
            blocks: Vec::new(),
            by_hash: HashMap::default(),
            spare: Vec::new(),
            head: NONE,
            tail: NONE,
            n_free: n_blocks,
            caching,
            n_released: 0,
            n_stored: 0,
            n_evicted: 0,
        }
    }

    pub(crate) fn n_blocks(&self) -> u32 {
        self.n_blocks
    }

    pub(crate) fn n_free(&self) -> u32 {
        self.n_free
    }

    pub(crate) fn n_released(&self) -> u64 {
        self.n_released
    }

    pub(crate) fn n_stored(&self) -> u64 {
        self.n_stored
    }

    pub(crate) fn n_evicted(&self) -> u64 {
        self.n_evicted
    }

    /// How much of `chain` is cached, from its start and at most `max` blocks.
    pub(crate) fn find(&self, chain: &[BlockHash], max: u32) -> Hits {
        let mut hits = Hits { n_blocks: 0, n_free: 0 };
        for hash in chain.iter().take(max as usize) {
            let Some(&idx) = self.by_hash.get(hash) else { break };
            hits.n_blocks += 1;
            hits.n_free += u32::from(self.block(idx).refs == 0);
        }
        hits
    }

    pub(crate) fn contains(&self, hash: BlockHash) -> bool {
        self.by_hash.contains_key(&hash)
    }

    /// Takes a reference on the cached block with this hash.
    pub(crate) fn claim(&mut self, hash: BlockHash) -> Option<BlockIdx> {
        let idx = *self.by_hash.get(&hash)?;
        if self.block(idx).refs == 0 {
            self.unlink(idx);
            self.n_free -= 1;
        }
        self.block_mut(idx).refs += 1;
        Some(idx)
    }

    /// Hands out a block; what was cached in it is gone.
    pub(crate) fn allocate(&mut self) -> Option<BlockIdx> {
        self.n_free = self.n_free.checked_sub(1)?;
        if let Some(idx) = self.spare.pop() {
            self.block_mut(idx).refs = 1;
            return Some(idx);
        }
        let idx = self.blocks.len() as BlockIdx;
        if idx < self.n_blocks {
            self.blocks.push(Block { hash: None, is_full: false, refs: 1, prev: NONE, next: NONE });
            return Some(idx);
        }
        let idx = self.head;
        self.unlink(idx);
        let block = self.block_mut(idx);
        (block.refs, block.is_full) = (1, false);
        if let Some(hash) = block.hash.take() {
            self.by_hash.remove(&hash);
            self.n_evicted += 1;
        }
        Some(idx)
    }

    /// Makes a block that has just filled up findable, if anybody may look for it and finds no other: engines keep
    /// those as well whose hash no trace knows, because no later prompt has them, and those that were computed twice.
    pub(crate) fn store(&mut self, idx: BlockIdx, hash: Option<BlockHash>) {
        if !self.caching {
            return;
        }
        self.block_mut(idx).is_full = true;
        let Some(hash) = hash else { return };
        if let Entry::Vacant(entry) = self.by_hash.entry(hash) {
            entry.insert(idx);
            self.block_mut(idx).hash = Some(hash);
            self.n_stored += 1;
        }
    }

    /// Gives the blocks of one sequence back, last block first, so that the tail of a chain is evicted before
    /// its start.
    pub(crate) fn release(&mut self, table: &[BlockIdx]) {
        for &idx in table.iter().rev() {
            let block = self.block_mut(idx);
            block.refs = block.refs.saturating_sub(1);
            if block.refs == 0 {
                if block.is_full {
                    self.push_back(idx)
                } else {
                    self.spare.push(idx)
                }
                self.n_free += 1;
                self.n_released += 1;
            }
        }
    }

    /// Switches prefix caching; switching it off forgets everything cached.
    pub(crate) fn set_caching(&mut self, caching: bool) {
        self.caching = caching;
        if !caching {
            self.by_hash.clear();
            for block in &mut self.blocks {
                (block.hash, block.is_full) = (None, false);
            }
        }
    }

    // Indices come from this pool only and blocks are never removed, so they are always in range.
    fn block(&self, idx: BlockIdx) -> &Block {
        &self.blocks[idx as usize]
    }

    fn block_mut(&mut self, idx: BlockIdx) -> &mut Block {
        &mut self.blocks[idx as usize]
    }

    fn unlink(&mut self, idx: BlockIdx) {
        let (prev, next) = (self.block(idx).prev, self.block(idx).next);
        match prev {
            NONE => self.head = next,
            _ => self.block_mut(prev).next = next,
        }
        match next {
            NONE => self.tail = prev,
            _ => self.block_mut(next).prev = prev,
        }
    }

    fn push_back(&mut self, idx: BlockIdx) {
        let tail = self.tail;
        let block = self.block_mut(idx);
        (block.prev, block.next) = (tail, NONE);
        match tail {
            NONE => self.head = idx,
            _ => self.block_mut(tail).next = idx,
        }
        self.tail = idx;
    }
}

#[cfg(test)]
mod tests;
