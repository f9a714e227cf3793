use proptest::prelude::*;

use super::*;

/// The pool as one would write it without caring for speed: a list of free blocks in hand-out order.
struct SlowPool {
    free: Vec<usize>,
    hash: Vec<Option<u64>>,
    is_full: Vec<bool>,
    refs: Vec<u32>,
}

impl SlowPool {
    fn new(n: usize) -> Self {
        let (hash, is_full, refs) = (vec![None; n], vec![false; n], vec![0; n]);
        Self { free: (0..n).collect(), hash, is_full, refs }
    }

    fn allocate(&mut self) -> Option<usize> {
        let idx = if self.free.is_empty() { return None } else { self.free.remove(0) };
        (self.hash[idx], self.is_full[idx]) = (None, false);
        self.refs[idx] = 1;
        Some(idx)
    }

    fn claim(&mut self, hash: u64) -> Option<usize> {
        let idx = self.hash.iter().position(|&known| known == Some(hash))?;
        self.free.retain(|&free| free != idx);
        self.refs[idx] += 1;
        Some(idx)
    }

    fn store(&mut self, idx: usize, hash: Option<u64>) {
        self.is_full[idx] = true;
        if hash.is_some() && !self.hash.contains(&hash) {
            self.hash[idx] = hash;
        }
    }

    fn release(&mut self, table: &[usize]) {
        for &idx in table.iter().rev() {
            self.refs[idx] -= 1;
            if self.refs[idx] == 0 {
                let at = if self.is_full[idx] { self.free.len() } else { 0 };
                self.free.insert(at, idx);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Content {
    Part,
    Full { hash: Option<u64> },
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        1 => Just(Content::Part),
        2 => Just(Content::Full { hash: None }),
        7 => (0..12u64).prop_map(|hash| Content::Full { hash: Some(hash) }),
    ]
}

#[derive(Clone, Debug)]
enum Op {
    Allocate(Content),
    Claim(u64),
    Release(prop::sample::Index),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        3 => content().prop_map(Op::Allocate),
        3 => (0..12u64).prop_map(Op::Claim),
        3 => any::<prop::sample::Index>().prop_map(Op::Release),
    ];
    prop::collection::vec(op, 0..120)
}

proptest! {
    #[test]
    fn equals_the_slow_pool(n in 1..8u32, ops in ops()) {
        let (mut fast, mut slow) = (BlockPool::new(n, true), SlowPool::new(n as usize));
        let mut tables: Vec<Vec<u32>> = vec![Vec::new()];
        for op in ops {
            match op {
                Op::Allocate(content) => {
                    let (block, expected) = (fast.allocate(), slow.allocate());
                    prop_assert_eq!(block.map(|idx| idx as usize), expected);
                    if let Some(block) = block {
                        tables.last_mut().unwrap().push(block);
                        if let Content::Full { hash } = content {
                            fast.store(block, hash.map(BlockHash));
                            slow.store(block as usize, hash);
                        }
                    }
                }
                Op::Claim(hash) => {
                    let (block, expected) = (fast.claim(BlockHash(hash)), slow.claim(hash));
                    prop_assert_eq!(block.map(|idx| idx as usize), expected);
                    tables.last_mut().unwrap().extend(block);
                    tables.push(Vec::new());
                }
                Op::Release(which) => {
                    let table = tables.swap_remove(which.index(tables.len()));
                    fast.release(&table);
                    slow.release(&table.iter().map(|&idx| idx as usize).collect::<Vec<_>>());
                    if tables.is_empty() {
                        tables.push(Vec::new());
                    }
                }
            }
            prop_assert_eq!(fast.n_free() as usize, slow.free.len());
            for hash in 0..12 {
                let hits = fast.find(&[BlockHash(hash)], 1);
                let known = slow.hash.iter().position(|&known| known == Some(hash));
                prop_assert_eq!(hits.n_blocks, u32::from(known.is_some()));
                let free = known.is_some_and(|idx| slow.refs[idx] == 0);
                prop_assert_eq!(hits.n_free, u32::from(free));
            }
        }
        for table in tables {
            fast.release(&table);
        }
        prop_assert_eq!(fast.n_free(), n);
    }
}

#[test]
fn blocks_take_memory_when_they_are_used() {
    let mut pool = BlockPool::new(u32::MAX, true);
    let table: Vec<_> = (0..3).filter_map(|_| pool.allocate()).collect();
    assert_eq!((table.len(), pool.n_free()), (3, u32::MAX - 3));
    assert!(pool.blocks.capacity() < 100, "{}", pool.blocks.capacity());
}

impl BlockPool {
    /// References are those of the tables, free blocks are in the list once, hashes lead to their blocks.
    pub(crate) fn check_invariants<'a>(&self, tables: impl Iterator<Item = &'a [BlockIdx]>) {
        let mut refs = vec![0; self.blocks.len()];
        for &idx in tables.flatten() {
            refs[idx as usize] += 1;
        }
        let held: Vec<_> = self.blocks.iter().map(|block| block.refs).collect();
        assert_eq!(refs, held);
        let (mut free, mut idx, mut prev) = (Vec::new(), self.head, NONE);
        while idx != NONE {
            assert_eq!(self.block(idx).prev, prev);
            assert_eq!(self.block(idx).refs, 0);
            free.push(idx);
            (prev, idx) = (idx, self.block(idx).next);
        }
        assert_eq!(self.tail, prev);
        free.extend(&self.spare);
        assert_eq!(held.iter().filter(|&&refs| refs == 0).count(), free.len());
        let n_unused = self.n_blocks as usize - self.blocks.len();
        assert_eq!(self.n_free as usize, free.len() + n_unused);
        let hashed = self.blocks.iter().filter(|block| block.hash.is_some()).count();
        assert_eq!(hashed, self.by_hash.len());
        for (&hash, &idx) in &self.by_hash {
            assert_eq!(self.block(idx).hash, Some(hash));
        }
    }
}

#[test]
fn the_tail_of_a_chain_goes_first() {
    let mut pool = BlockPool::new(3, true);
    let table: Vec<_> = (0..3).map(|_| pool.allocate().unwrap()).collect();
    for (&block, hash) in table.iter().zip(10..) {
        pool.store(block, Some(BlockHash(hash)));
    }
    pool.release(&table);
    let chain = [BlockHash(10), BlockHash(11), BlockHash(12)];
    assert_eq!(pool.find(&chain, 3), Hits { n_blocks: 3, n_free: 3 });
    pool.allocate().unwrap();
    assert_eq!(pool.find(&chain, 3).n_blocks, 2);
    assert_eq!(pool.n_evicted(), 1);
}

#[test]
fn without_caching_nothing_is_found() {
    let mut pool = BlockPool::new(2, true);
    let block = pool.allocate().unwrap();
    pool.store(block, Some(BlockHash(1)));
    pool.set_caching(false);
    assert!(!pool.contains(BlockHash(1)));
    pool.store(block, Some(BlockHash(1)));
    assert!(!pool.contains(BlockHash(1)));
    pool.set_caching(true);
    pool.store(block, Some(BlockHash(1)));
    assert!(pool.contains(BlockHash(1)));
}

#[test]
fn what_was_full_with_caching_is_handed_out_first_without() {
    let mut pool = BlockPool::new(2, true);
    let block = pool.allocate().unwrap();
    pool.store(block, None);
    pool.set_caching(false);
    pool.release(&[block]);
    assert_eq!(pool.allocate(), Some(block));
}
