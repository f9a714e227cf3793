//! From a block's hash to the segment that begins with it.
//!
//! Linear hashing: the table grows by one bucket at a time, so no insert pays for a rehash, and a bucket is
//! four bytes because the chains run through the segments themselves.

use super::{
    node::Node,
    slab::{Id, Slab},
};
use crate::BlockHash;

const CHUNK_BITS: u32 = 10;
const CHUNK_LEN: usize = 1 << CHUNK_BITS;

/// Mean length of a chain above which a bucket is added. Look-ups are per segment and not per block, so
/// memory counts for more than a step in a chain.
const MAX_LOAD: usize = 2;

const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

pub(super) struct Table {
    chunks: Vec<Vec<Id<Node>>>,
    n_buckets: usize,
    n_segments: usize,
    /// Block hashes come from a public function of text that clients choose; without a secret they could
    /// all be steered into one bucket.
    seed: u64,
}

impl Table {
    pub(super) fn new(seed: u64) -> Self {
        let mut table = Self { chunks: Vec::new(), n_buckets: 0, n_segments: 0, seed };
        table.push_bucket(Id::NONE);
        table
    }

    pub(super) fn find(&self, nodes: &Slab<Node>, hash: BlockHash) -> Option<Id<Node>> {
        let mut id = self.head(self.bucket_of(hash));
        loop {
            let segment = nodes.get(id)?.segment()?;
            if segment.first() == hash {
                return Some(id);
            }
            id = segment.next;
        }
    }

    /// Adds a segment that is not in the table.
    pub(super) fn insert(&mut self, nodes: &mut Slab<Node>, id: Id<Node>) {
        self.n_segments += 1;
        if self.n_segments > self.n_buckets * MAX_LOAD {
            self.split_next(nodes);
        }
        self.prepend(nodes, id);
    }

    /// Takes out the segment `id`; another one under the same hash stays.
    pub(super) fn remove(&mut self, nodes: &mut Slab<Node>, id: Id<Node>) {
        let Some(segment) = nodes.get(id).and_then(Node::segment).copied() else { return };
        let bucket = self.bucket_of(segment.first());
        self.n_segments = self.n_segments.saturating_sub(1);
        let mut at = self.head(bucket);
        if at == id {
            self.set_head(bucket, segment.next);
            return;
        }
        while let Some(before) = nodes.get_mut(at).and_then(Node::segment_mut) {
            if before.next == id {
                before.next = segment.next;
                return;
            }
            at = before.next;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.n_segments
    }

    pub(super) fn n_bytes(&self) -> usize {
        let buckets: usize =
            self.chunks.iter().map(|chunk| chunk.capacity() * size_of::<Id<Node>>()).sum();
        buckets + self.chunks.capacity() * size_of::<Vec<Id<Node>>>()
    }

    /// Adds a bucket and moves there what belongs to it from the one bucket that it divides.
    fn split_next(&mut self, nodes: &mut Slab<Node>) {
        let new = self.n_buckets;
        let divided = new - (new + 1).next_power_of_two() / 2;
        let mut id = self.head(divided);
        self.set_head(divided, Id::NONE);
        self.push_bucket(Id::NONE);
        while let Some(segment) = nodes.get(id).and_then(Node::segment) {
            let next = segment.next;
            self.prepend(nodes, id);
            id = next;
        }
    }

    fn prepend(&mut self, nodes: &mut Slab<Node>, id: Id<Node>) {
        let Some(segment) = nodes.get_mut(id).and_then(Node::segment_mut) else { return };
        let bucket = self.bucket_of(segment.first());
        segment.next = self.head(bucket);
        self.set_head(bucket, id);
    }

    fn bucket_of(&self, hash: BlockHash) -> usize {
        let product = u128::from(hash.0 ^ self.seed) * u128::from(MULTIPLIER ^ self.seed << 1);
        let mixed = (product >> 64) as usize ^ product as usize;
        let mask = self.n_buckets.next_power_of_two() - 1;
        let bucket = mixed & mask;
        if bucket < self.n_buckets { bucket } else { bucket & (mask >> 1) }
    }

    fn head(&self, bucket: usize) -> Id<Node> {
        let chunk = self.chunks.get(bucket >> CHUNK_BITS);
        chunk.and_then(|chunk| chunk.get(bucket % CHUNK_LEN)).copied().unwrap_or(Id::NONE)
    }

    fn set_head(&mut self, bucket: usize, id: Id<Node>) {
        let chunk = self.chunks.get_mut(bucket >> CHUNK_BITS);
        if let Some(head) = chunk.and_then(|chunk| chunk.get_mut(bucket % CHUNK_LEN)) {
            *head = id;
        }
    }

    fn push_bucket(&mut self, head: Id<Node>) {
        self.n_buckets += 1;
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK_LEN => chunk.push(head),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK_LEN);
                chunk.push(head);
                self.chunks.push(chunk);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::node::{HolderId, Links, Past, Segment};

    fn owned(hash: u64) -> Node {
        let segment = Segment::new(BlockHash(hash), Id::NONE);
        Node::Owned { segment, holder: HolderId(0), past: Past::SERVED, links: Links::in_use(0) }
    }

    #[test]
    fn finds_all_through_growth_and_removal() {
        for seed in [0, 1, u64::MAX, 0xDEAD_BEEF] {
            let mut nodes = Slab::default();
            let mut table = Table::new(seed);
            let ids: Vec<_> = (0..5000)
                .map(|hash| {
                    let id = nodes.insert(owned(hash << 20));
                    table.insert(&mut nodes, id);
                    id
                })
                .collect();
            for (&id, hash) in ids.iter().zip(0u64..) {
                assert_eq!(table.find(&nodes, BlockHash(hash << 20)), Some(id));
                if hash % 3 == 0 {
                    table.remove(&mut nodes, id);
                    nodes.remove(id);
                }
            }
            for (&id, hash) in ids.iter().zip(0u64..) {
                let found = (hash % 3 != 0).then_some(id);
                assert_eq!(table.find(&nodes, BlockHash(hash << 20)), found);
            }
            assert_eq!(table.len(), 3333);
            assert_eq!(table.find(&nodes, BlockHash(77)), None);
        }
    }

    #[test]
    fn equal_hashes_are_told_apart_on_removal() {
        let mut nodes = Slab::default();
        let mut table = Table::new(9);
        let ids = [nodes.insert(owned(5)), nodes.insert(owned(5))];
        for id in ids {
            table.insert(&mut nodes, id);
        }
        table.remove(&mut nodes, ids[0]);
        assert_eq!(table.find(&nodes, BlockHash(5)), Some(ids[1]));
    }
}
