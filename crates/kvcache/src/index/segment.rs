//! Changes to segments: making, joining, leaving, shortening and splitting them. They keep the counters and
//! the rule that a segment with one holder is `Owned` and is exactly as long as its longest hold.

use smallvec::SmallVec;

use super::{
    ages::Ages,
    node::{HoldView, HolderId, Links, Node, Past, Segment, Sharer, Sharers, Tail},
    slab::Id,
    trie::Trie,
};
use crate::BlockHash;

impl Trie {
    /// Makes a segment of blocks that nobody holds. The hold is in no list.
    pub(super) fn create(
        &mut self,
        holder: HolderId,
        first: BlockHash,
        rest: &[BlockHash],
    ) -> Id<Node> {
        let segment = Segment::new(first, self.put_tail(rest));
        let node = Node::Owned { segment, holder, past: Past::NONE, links: Links::in_use(0) };
        let id = self.nodes.insert(node);
        self.table.insert(&mut self.nodes, id);
        let n_blocks = 1 + rest.len();
        self.n_blocks += n_blocks;
        self.count(holder, n_blocks as i64);
        id
    }

    /// Makes `holder`, who holds nothing of the segment, hold its first `n_blocks`. The hold is in no list.
    pub(super) fn join(&mut self, segment: Id<Node>, holder: HolderId, n_blocks: u32) -> Id<Node> {
        self.make_shared(segment);
        let links = Links::in_use(0);
        let hold = self.nodes.insert(Node::Hold { segment, holder, past: Past::NONE, links });
        self.edit_sharers(segment, |sharers| {
            let at = sharers.partition_point(|sharer| sharer.holder < holder);
            if sharers.len() == sharers.capacity() {
                sharers.reserve_exact(1 + sharers.len() / 4);
            }
            sharers.insert(at, Sharer { holder, n_blocks, hold });
        });
        self.count(holder, i64::from(n_blocks));
        hold
    }

    /// Ends a hold. A segment that nobody holds goes with it.
    pub(super) fn leave(&mut self, hold: Id<Node>) {
        let n_held = self.n_held(hold);
        match self.nodes.get(hold).copied() {
            Some(Node::Owned { segment, holder, .. }) => {
                self.unlink(holder, hold, Ages::forget);
                self.table.remove(&mut self.nodes, hold);
                self.nodes.remove(hold);
                self.drop_tail(segment.tail);
                self.n_blocks -= n_held as usize;
                self.count(holder, -i64::from(n_held));
            }
            Some(Node::Hold { segment, holder, .. }) => {
                self.unlink(holder, hold, Ages::forget);
                self.nodes.remove(hold);
                self.edit_sharers(segment, |sharers| sharers.retain(|other| other.hold != hold));
                self.count(holder, -i64::from(n_held));
                self.settle(segment);
            }
            Some(Node::Free | Node::Shared { .. }) | None => {}
        }
    }

    /// Cuts a hold without an answer down to its first `n_blocks`, which are at least one and fewer than it has.
    pub(super) fn shorten(&mut self, hold: Id<Node>, n_blocks: u32) {
        let n_gone = self.n_held(hold).saturating_sub(n_blocks);
        match self.nodes.get(hold).copied() {
            Some(Node::Owned { holder, .. }) => {
                self.forget_last(holder, hold, n_gone);
                self.trim(hold, n_blocks);
            }
            Some(Node::Hold { segment, holder, .. }) => {
                self.forget_last(holder, hold, n_gone);
                self.edit_sharers(segment, |sharers| {
                    if let Some(own) = sharers.iter_mut().find(|sharer| sharer.hold == hold) {
                        own.n_blocks = n_blocks;
                    }
                });
                self.settle(segment);
            }
            Some(Node::Free | Node::Shared { .. }) | None => {}
        }
    }

    /// Forgets so many blocks of the answer behind a hold in the list.
    pub(super) fn forget_answer(&mut self, hold: Id<Node>, n_blocks: u32) {
        let Some(view) = self.nodes.get(hold).and_then(Node::hold) else { return };
        let n_left = view.past.n_answer().saturating_sub(n_blocks);
        self.set_past(hold, Past::answered(n_left as usize));
        if let Some(holder) = self.holders.get_mut(view.holder) {
            holder.n_answered = holder.n_answered.saturating_sub(n_blocks as usize);
        }
        let stamp = self.stamp(hold);
        if let Some(ages) = self.holders.ages(view.holder) {
            ages.forget(stamp, n_blocks);
        }
    }

    /// Counts the last blocks of a hold in the list as not held any more.
    fn forget_last(&mut self, holder: HolderId, hold: Id<Node>, n_blocks: u32) {
        self.count(holder, -i64::from(n_blocks));
        let stamp = self.stamp(hold);
        if let Some(ages) = self.holders.ages(holder) {
            ages.forget(stamp, n_blocks);
        }
    }

    /// Divides a segment after its first `n_upper` blocks. Every hold that reaches further is divided too; its
    /// lower part comes just behind the upper part in the order of use.
    pub(super) fn split(&mut self, upper: Id<Node>, n_upper: u32) {
        let lower =
            self.tail(upper).get((n_upper as usize).saturating_sub(1)..).unwrap_or_default();
        let Some((&first, rest)) = lower.split_first() else { return };
        let rest = Tail::from_slice(rest);
        let segment = Segment::new(first, self.put_tail(&rest));
        self.truncate_tail(upper, n_upper);
        match self.nodes.get(upper).copied() {
            Some(Node::Owned { holder, past, .. }) => {
                let node = Node::Owned { segment, holder, past, links: Links::in_use(0) };
                let id = self.nodes.insert(node);
                self.set_past(upper, past.of_beginning());
                self.push_behind(holder, upper, id);
                self.table.insert(&mut self.nodes, id);
            }
            Some(Node::Shared { .. }) => self.split_shared(upper, n_upper, segment),
            Some(Node::Free | Node::Hold { .. }) | None => {}
        }
    }

    fn split_shared(&mut self, upper: Id<Node>, n_upper: u32, segment: Segment) {
        let mut below = Sharers::new();
        self.edit_sharers(upper, |sharers| {
            for sharer in sharers.iter_mut().filter(|sharer| sharer.n_blocks > n_upper) {
                below.push(Sharer { n_blocks: sharer.n_blocks - n_upper, ..*sharer });
                sharer.n_blocks = n_upper;
            }
        });
        let lower = self.nodes.insert(Node::Shared { segment, sharers: Id::NONE });
        self.table.insert(&mut self.nodes, lower);
        for sharer in &mut below {
            let upper_hold = sharer.hold;
            let past = self.past(upper_hold);
            self.set_past(upper_hold, past.of_beginning());
            let (holder, links) = (sharer.holder, Links::in_use(0));
            sharer.hold = self.nodes.insert(Node::Hold { segment: lower, holder, past, links });
            self.push_behind(holder, upper_hold, sharer.hold);
        }
        below.shrink_to_fit();
        self.n_heap_bytes += heap_of_sharers(&below);
        let set = self.sets.insert(below);
        if let Some(Node::Shared { sharers, .. }) = self.nodes.get_mut(lower) {
            *sharers = set;
        }
        self.settle(lower);
    }

    /// Turns an owned segment into a shared one whose only holder, for now, is its owner.
    fn make_shared(&mut self, id: Id<Node>) {
        let Some(&Node::Owned { segment, holder, past, links }) = self.nodes.get(id) else {
            return;
        };
        let n_blocks = self.segment_len(id);
        let hold = self.nodes.insert(Node::Hold { segment: id, holder, past, links });
        self.relink(holder, hold);
        self.copy_stamp(id, hold);
        let set = vec![Sharer { holder, n_blocks, hold }];
        self.n_heap_bytes += heap_of_sharers(&set);
        let sharers = self.sets.insert(set);
        if let Some(node) = self.nodes.get_mut(id) {
            *node = Node::Shared { segment, sharers };
        }
    }

    /// After a hold of a shared segment has ended or become shorter: forgets blocks that nobody holds, and
    /// makes the last holder the owner.
    fn settle(&mut self, id: Id<Node>) {
        let Some(&Node::Shared { sharers: set, .. }) = self.nodes.get(id) else { return };
        let sharers = self.sets.get(set).map_or(&[][..], Vec::as_slice);
        let n_blocks = sharers.iter().map(|sharer| sharer.n_blocks).max().unwrap_or(1);
        let last = if let &[last] = sharers { Some(last.hold) } else { None };
        self.trim(id, n_blocks);
        let Some(hold) = last else { return };
        let Some(HoldView { holder, past, links }) = self.nodes.get(hold).and_then(Node::hold)
        else {
            return;
        };
        self.nodes.remove(hold);
        let sharers = self.sets.remove(set);
        self.n_heap_bytes -= heap_of_sharers(&sharers);
        if let Some(node) = self.nodes.get_mut(id)
            && let Some(&segment) = node.segment()
        {
            *node = Node::Owned { segment, holder, past, links };
        }
        self.relink(holder, id);
        self.copy_stamp(hold, id);
    }

    /// Forgets the blocks of a segment after its first `n_blocks`.
    fn trim(&mut self, id: Id<Node>, n_blocks: u32) {
        self.n_blocks -= self.segment_len(id).saturating_sub(n_blocks) as usize;
        self.truncate_tail(id, n_blocks);
    }

    pub(super) fn segment_len(&self, id: Id<Node>) -> u32 {
        1 + self.tail(id).len() as u32
    }

    pub(super) fn past(&self, hold: Id<Node>) -> Past {
        self.nodes.get(hold).and_then(Node::hold).map_or(Past::NONE, |hold| hold.past)
    }

    pub(super) fn set_past(&mut self, hold: Id<Node>, past: Past) {
        if let Some(node) = self.nodes.get_mut(hold) {
            node.set_past(past);
        }
    }

    /// Blocks that a hold covers, and those of the answer behind it.
    pub(super) fn n_with_answer(&self, hold: Id<Node>) -> u32 {
        self.n_held(hold) + self.past(hold).n_answer()
    }

    /// Blocks that a hold covers.
    pub(super) fn n_held(&self, hold: Id<Node>) -> u32 {
        match self.nodes.get(hold) {
            Some(Node::Owned { .. }) => self.segment_len(hold),
            Some(&Node::Hold { segment, holder, .. }) => {
                self.held(segment, holder).map_or(0, |(_, n_blocks)| n_blocks)
            }
            Some(Node::Free | Node::Shared { .. }) | None => 0,
        }
    }

    /// Blocks of a segment after its first.
    pub(super) fn tail(&self, id: Id<Node>) -> &[BlockHash] {
        let segment = self.nodes.get(id).and_then(Node::segment);
        segment.and_then(|segment| self.tails.get(segment.tail)).map_or(&[], SmallVec::as_slice)
    }

    fn put_tail(&mut self, blocks: &[BlockHash]) -> Id<Tail> {
        if blocks.is_empty() {
            return Id::NONE;
        }
        let tail = Tail::from_slice(blocks);
        self.n_heap_bytes += heap_of_tail(&tail);
        self.tails.insert(tail)
    }

    fn drop_tail(&mut self, id: Id<Tail>) {
        if !id.is_none() {
            let tail = self.tails.remove(id);
            self.n_heap_bytes -= heap_of_tail(&tail);
        }
    }

    /// Shortens the tail for a segment of `n_blocks`; memory is given back by halves.
    fn truncate_tail(&mut self, id: Id<Node>, n_blocks: u32) {
        let Some(segment) = self.nodes.get_mut(id).and_then(Node::segment_mut) else { return };
        let n_tail = (n_blocks as usize).saturating_sub(1);
        if n_tail == 0 {
            let tail = std::mem::replace(&mut segment.tail, Id::NONE);
            self.drop_tail(tail);
        } else if let Some(tail) = self.tails.get_mut(segment.tail) {
            self.n_heap_bytes -= heap_of_tail(tail);
            tail.truncate(n_tail);
            if tail.capacity() >= 2 * n_tail {
                tail.shrink_to_fit();
            }
            self.n_heap_bytes += heap_of_tail(tail);
        }
    }

    fn edit_sharers(&mut self, id: Id<Node>, edit: impl FnOnce(&mut Sharers)) {
        let Some(&Node::Shared { sharers, .. }) = self.nodes.get(id) else { return };
        if let Some(sharers) = self.sets.get_mut(sharers) {
            self.n_heap_bytes -= heap_of_sharers(sharers);
            edit(sharers);
            if sharers.len() < sharers.capacity() / 2 {
                sharers.shrink_to_fit();
            }
            self.n_heap_bytes += heap_of_sharers(sharers);
        }
    }

    fn count(&mut self, holder: HolderId, n_more: i64) {
        self.n_pairs = self.n_pairs.saturating_add_signed(n_more as isize);
        if let Some(holder) = self.holders.get_mut(holder) {
            holder.n_blocks = holder.n_blocks.saturating_add_signed(n_more as isize);
        }
    }
}

pub(super) fn heap_of_tail(tail: &Tail) -> usize {
    if tail.spilled() { tail.capacity() * size_of::<BlockHash>() } else { 0 }
}

pub(super) fn heap_of_sharers(sharers: &Sharers) -> usize {
    sharers.capacity() * size_of::<Sharer>()
}
