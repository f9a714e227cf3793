//! The index proper: a trie of block hashes whose segments know their holders.
//!
//! What an endpoint holds is closed towards the root: requests use whole beginnings of prompts, and as one ends
//! its blocks become the last used from the last to the first, so the least recently used block of an endpoint
//! never has a successor that the endpoint holds. Everything here leans on that: matching compares whole
//! segments, a segment without holders has no successors, and the match of an endpoint is one length. It is
//! exact LRU per block, kept per run of blocks: the blocks of one hold are neighbours in the order of use, the
//! last one oldest. What a request uses ends where a hold ends, and stays so: holds in use are divided, never
//! shortened.

use smallvec::SmallVec;

use super::{
    holder::{Holder, Holders},
    node::{HolderId, Node, Past, Sharer, Sharers, Tail},
    slab::{Id, Slab},
    table::Table,
};
use crate::BlockHash;

/// Inserts stop at this many nodes, far above what fits in memory, so that numbers cannot run out.
const MAX_NODES: usize = 1 << 31;

/// Segments on a prompt's way through the trie that need no heap.
const SHORT_PATH: usize = 16;

pub(super) struct Trie {
    pub(super) nodes: Slab<Node>,
    pub(super) tails: Slab<Tail>,
    pub(super) sets: Slab<Sharers>,
    pub(super) table: Table,
    /// By node, where it is a hold in a list: when its blocks were used last, as its holder's ages count. Empty where
    /// no ages are kept.
    pub(super) stamps: Vec<u32>,
    pub(super) holders: Holders,
    /// Blocks, each counted once however many endpoints hold it.
    pub(super) n_blocks: usize,
    /// Pairs of block and endpoint.
    pub(super) n_pairs: usize,
    /// Heap behind tails and sets.
    pub(super) n_heap_bytes: usize,
}

/// What an insert did, in blocks from the start of the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InsertedBlocks {
    pub(super) holder: HolderId,
    pub(super) first_new: usize,
    pub(super) n_blocks: usize,
    /// Those that its answer lies behind: all but the one in which the prompt ends, if that is not full and not the
    /// only one.
    pub(super) n_before_answer: usize,
    pub(super) n_reserved: usize,
}

/// A segment on a prompt's way.
#[derive(Clone, Copy)]
pub(super) struct Step {
    pub(super) segment: Id<Node>,
    /// Blocks of the prompt before it.
    pub(super) start: usize,
    /// Leading blocks of the segment that the prompt has.
    pub(super) n_common: u32,
}

/// The holders of a segment of either kind, as a slice ordered by holder.
enum SharersView<'a> {
    One(Sharer),
    Many(&'a [Sharer]),
}

impl SharersView<'_> {
    fn as_slice(&self) -> &[Sharer] {
        match self {
            Self::One(sharer) => std::slice::from_ref(sharer),
            Self::Many(sharers) => sharers,
        }
    }
}

// === impl Trie ===

impl Trie {
    pub(super) fn new(default_capacity: usize, seed: u64) -> Self {
        Self {
            nodes: Slab::default(),
            tails: Slab::default(),
            sets: Slab::default(),
            table: Table::new(seed),
            stamps: Vec::new(),
            holders: Holders::new(default_capacity),
            n_blocks: 0,
            n_pairs: 0,
            n_heap_bytes: 0,
        }
    }

    /// Records that a request uses the blocks at `holder`, those beyond its capacity left out, and will fill
    /// `n_more`, and evicts what no longer fits. `None` when the index cannot take more.
    ///
    /// Holds end after the `n_full` first blocks, too: the next turn of a conversation has these, and not the block
    /// in which this prompt ends.
    pub(super) fn insert(
        &mut self,
        holder: HolderId,
        hashes: &[BlockHash],
        n_full: usize,
        n_more: usize,
    ) -> Option<InsertedBlocks> {
        if self.nodes.len() > MAX_NODES {
            return None;
        }
        let n_blocks = hashes.len().min(self.holders.get(holder)?.room());
        let hashes = hashes.get(..n_blocks)?;
        let n_full = n_full.min(n_blocks);
        let mut first_new = None;
        let mut at = 0;
        let part = |at: usize| hashes.get(at..if at < n_full { n_full } else { n_blocks });
        while let Some((&first, rest)) = part(at).and_then(<[_]>::split_first) {
            let Some(segment) = self.table.find(&self.nodes, first) else {
                let hold = self.create(holder, first, rest);
                self.begin_use(holder, hold);
                first_new.get_or_insert(at);
                at += 1 + rest.len();
                continue;
            };
            let n_common = self.n_common(segment, rest);
            if at + n_common as usize == n_full && n_full < n_blocks {
                // The last block begins a segment, also where others have both.
                self.split(segment, n_common);
            }
            let Some((hold, n_held)) = self.held(segment, holder) else {
                let hold = self.join(segment, holder, n_common);
                self.begin_use(holder, hold);
                first_new.get_or_insert(at);
                at += n_common as usize;
                continue;
            };
            let n_used = n_held.min(n_common);
            if n_held != n_common {
                // What the prompt uses and the rest differ in age or in who made them.
                self.split(segment, n_used);
            }
            self.begin_use(holder, hold);
            at += n_used as usize;
        }
        let state = self.holders.get_mut(holder)?;
        let n_reserved = n_more.min(state.room());
        state.n_reserved += n_reserved;
        state.n_outstanding += 1;
        self.evict(holder);
        let first_new = first_new.unwrap_or(n_blocks);
        let n_before_answer = if n_full > 0 { n_full } else { n_blocks };
        Some(InsertedBlocks { holder, first_new, n_blocks, n_before_answer, n_reserved })
    }

    /// Ends a request's use of what an insert of `hashes` recorded. Blocks that no other request uses are then
    /// those used last, with those that its answer filled behind the last full one, or gone if no request that used
    /// them was served. `answered` has the blocks of the answer, and nothing where this one was not served.
    pub(super) fn end(
        &mut self,
        hashes: &[BlockHash],
        inserted: InsertedBlocks,
        answered: Option<usize>,
    ) {
        let InsertedBlocks { holder, n_blocks, n_before_answer, n_reserved, .. } = inserted;
        for step in self.path(hashes.get(..n_blocks).unwrap_or_default()).iter().rev() {
            let Some((hold, _)) = self.held(step.segment, holder) else { continue };
            if answered.is_some() {
                self.set_past(hold, self.past(hold).served());
            }
            let is_before_answer = step.start + step.n_common as usize == n_before_answer;
            let n_answer = answered.filter(|_| is_before_answer).unwrap_or(0);
            if !self.end_use(holder, hold) {
                continue;
            }
            if self.past(hold) == Past::NONE {
                self.leave(hold);
            } else {
                self.push_newest(holder, hold, n_answer);
            }
        }
        if self.holders.end_insert(holder, n_reserved) {
            self.sweep(holder);
        }
        self.evict(holder);
    }

    /// Nothing of the holder is in use any more. If something seems to be, hashes have collided, and it was not
    /// found again on its prompt's way.
    fn sweep(&mut self, holder: HolderId) {
        if self.holders.get(holder).is_none_or(|state| state.n_in_use == 0) {
            return;
        }
        let is_left = |node: &Node| {
            let hold = node.hold().filter(|hold| hold.holder == holder);
            hold.is_some_and(|hold| hold.links.n_users().is_some())
        };
        let left: Vec<_> =
            self.nodes.iter().filter(|(_, node)| is_left(node)).map(|(id, _)| id).collect();
        // Leaving one may make another node the hold of the same holder's part, never of what is left here.
        for hold in left {
            self.leave(hold);
        }
        if let Some(state) = self.holders.get_mut(holder) {
            state.n_in_use = 0;
        }
    }

    /// Calls `visit` once for every live endpoint that holds a prefix of the prompt, with the prefix's length
    /// in blocks; deepest first.
    pub(super) fn match_prefix(&self, hashes: &[BlockHash], mut visit: impl FnMut(&Holder, u32)) {
        let path = self.path(hashes);
        let mut deeper = SharersView::Many(&[]);
        for (at, step) in path.iter().enumerate().rev() {
            let here = self.sharers(step.segment);
            // Holders of the next segment hold this one too.
            for sharer in difference(here.as_slice(), deeper.as_slice()) {
                let n_here = sharer.n_blocks.min(step.n_common);
                match self.holders.get(sharer.holder) {
                    Some(holder) if holder.live => {
                        let path = path.get(..=at).unwrap_or_default();
                        let n_kept = self.n_kept(sharer.holder, path, n_here);
                        if n_kept > 0 {
                            visit(holder, n_kept as u32);
                        }
                    }
                    _ => {}
                }
            }
            deeper = here;
        }
    }

    /// Evicts the least recently used blocks of `holder`, of those that nobody uses, until it is within its
    /// capacity or `n_steps` holds are gone; returns whether there is nothing left to evict.
    pub(super) fn evict_some(&mut self, holder: HolderId, n_steps: usize) -> bool {
        for _ in 0..n_steps {
            let Some(state) = self.holders.get(holder) else { return true };
            let (n_over, oldest) = (state.n_over(), state.oldest);
            if n_over == 0 || oldest.is_none() {
                return true;
            }
            let (n_held, n_answer) = (self.n_held(oldest), self.past(oldest).n_answer());
            if n_answer > 0 {
                self.forget_answer(oldest, n_answer.min(u32::try_from(n_over).unwrap_or(u32::MAX)));
            } else if n_held as usize <= n_over {
                self.leave(oldest);
            } else {
                self.shorten(oldest, n_held - n_over as u32);
            }
        }
        false
    }

    /// Removes up to `n_steps` holds of endpoints that have gone; returns whether none is left.
    pub(super) fn reap(&mut self, n_steps: usize) -> bool {
        let mut n_left = n_steps;
        while let Some(dead) = self.holders.next_dead() {
            let Some(oldest) = self.holders.get(dead).map(|dead| dead.oldest) else { return true };
            if oldest.is_none() {
                self.holders.release_dead();
            } else if n_left == 0 {
                return false;
            } else {
                n_left -= 1;
                self.leave(oldest);
            }
        }
        true
    }

    fn evict(&mut self, holder: HolderId) {
        while !self.evict_some(holder, usize::MAX) {}
        let Some(state) = self.holders.get_mut(holder) else { return };
        let n_used = state.n_used();
        let Some(ages) = state.ages.as_deref_mut() else { return };
        ages.settle(n_used);
        if ages.is_worn() {
            let believed = ages.believed();
            self.stamp_all(holder, believed);
        }
    }

    /// The segments that the prompt runs through, as far as anybody holds its blocks.
    pub(super) fn path(&self, hashes: &[BlockHash]) -> SmallVec<[Step; SHORT_PATH]> {
        let mut path = SmallVec::new();
        let mut start = 0;
        while let Some((&first, rest)) = hashes.get(start..).and_then(<[_]>::split_first) {
            let Some(segment) = self.table.find(&self.nodes, first) else { break };
            let n_common = self.n_common(segment, rest);
            path.push(Step { segment, start, n_common });
            start += n_common as usize;
        }
        path
    }

    /// Leading blocks that a segment and a prompt share, given that the first is one of them.
    fn n_common(&self, segment: Id<Node>, rest: &[BlockHash]) -> u32 {
        1 + self.tail(segment).iter().zip(rest).take_while(|(a, b)| a == b).count() as u32
    }

    /// The hold of `holder` on a segment and how many of its blocks it covers.
    pub(super) fn held(&self, segment: Id<Node>, holder: HolderId) -> Option<(Id<Node>, u32)> {
        let sharers = self.sharers(segment);
        let sharers = sharers.as_slice();
        let at = sharers.binary_search_by_key(&holder, |sharer| sharer.holder).ok()?;
        sharers.get(at).map(|sharer| (sharer.hold, sharer.n_blocks))
    }

    fn sharers(&self, segment: Id<Node>) -> SharersView<'_> {
        match self.nodes.get(segment) {
            Some(&Node::Owned { holder, .. }) => SharersView::One(Sharer {
                holder,
                n_blocks: self.segment_len(segment),
                hold: segment,
            }),
            Some(&Node::Shared { sharers, .. }) => {
                SharersView::Many(self.sets.get(sharers).map_or(&[], Vec::as_slice))
            }
            Some(Node::Free | Node::Hold { .. }) | None => SharersView::Many(&[]),
        }
    }
}

/// Those of `all` that are not in `known`, which is a part of `all`; both are ordered by holder. Equal
/// stretches are skipped by doubling steps, so the cost goes with the difference and not with the sets.
fn difference<'a>(all: &'a [Sharer], known: &'a [Sharer]) -> impl Iterator<Item = &'a Sharer> {
    let mut n_known = 0;
    (0..all.len().saturating_sub(known.len())).map_while(move |n_found| {
        let is_equal = |at: usize| match (all.get(n_found + at), known.get(at)) {
            (Some(a), Some(b)) => a.holder == b.holder,
            _ => false,
        };
        let mut step = 1;
        while is_equal(n_known + step - 1) {
            n_known += step;
            step *= 2;
        }
        while step > 1 {
            step /= 2;
            if is_equal(n_known + step - 1) {
                n_known += step;
            }
        }
        all.get(n_found + n_known)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sharers(holders: &[u16]) -> Sharers {
        let sharer = |&holder| Sharer { holder: HolderId(holder), n_blocks: 1, hold: Id::NONE };
        holders.iter().map(sharer).collect()
    }

    proptest! {
        #[test]
        fn difference_of_a_set_and_a_part(
            members in prop::collection::vec(prop::bool::weighted(0.8), 0..200),
        ) {
            let all: Vec<u16> = (0..members.len() as u16).collect();
            let (known, missing): (Vec<u16>, Vec<u16>) =
                all.iter().partition(|&&holder| members[holder as usize]);
            let (all, known) = (sharers(&all), sharers(&known));
            let found: Vec<u16> = difference(&all, &known).map(|sharer| sharer.holder.0).collect();
            prop_assert_eq!(found, missing);
        }
    }
}
