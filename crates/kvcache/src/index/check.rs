//! Figures about the trie: its memory, what a dump shows, and whether its links and counters agree.

use std::collections::BTreeMap;

use super::{
    holder::Holder,
    node::{HolderId, Node, Sharer},
    segment::{heap_of_sharers, heap_of_tail},
    slab::Id,
    trie::Trie,
};
use crate::BlockHash;

/// Fails a check with a message that names what was compared.
macro_rules! agree {
    ($left:expr, $right:expr, $($what:tt)+) => {
        let (left, right) = (&$left, &$right);
        if left != right {
            return Err(format!("{}: {left:?} and {right:?}", format_args!($($what)+)));
        }
    };
}

impl Trie {
    pub(super) fn n_bytes(&self) -> usize {
        size_of::<Self>()
            + self.nodes.n_bytes()
            + self.tails.n_bytes()
            + self.sets.n_bytes()
            + self.table.n_bytes()
            + self.stamps.capacity() * size_of::<u32>()
            + self.holders.n_bytes()
            + self.n_heap_bytes
    }

    /// First blocks of the holder's most recently used runs.
    pub(super) fn newest_prefixes(&self, id: HolderId, limit: usize) -> Vec<BlockHash> {
        let Some(holder) = self.holders.get(id) else { return Vec::new() };
        let first = |id: Id<Node>| self.nodes.get(id)?.segment().map(|segment| segment.first());
        let firsts = self.holds(holder).filter_map(|hold| match self.nodes.get(hold)? {
            &Node::Hold { segment, .. } => first(segment),
            _ => first(hold),
        });
        firsts.take(limit).collect()
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let mut n_holds = 0;
        let mut n_pairs = 0;
        for (id, holder) in self.holders.all() {
            n_holds += self.check_holder(id, holder)?;
            n_pairs += holder.n_blocks;
        }
        agree!(self.n_pairs, n_pairs, "pairs in all and by holder");
        let mut n_segments = 0;
        let mut n_blocks = 0;
        let mut n_sets = 0;
        for (id, node) in self.nodes.iter() {
            let Some(segment) = node.segment() else { continue };
            n_segments += 1;
            n_blocks += self.segment_len(id) as usize;
            if let Node::Shared { .. } = node {
                n_sets += 1;
                self.check_shared(id, node)?;
            }
            if self.table.find(&self.nodes, segment.first()).is_none() {
                return Err(format!("segment {id:?} is not in the table"));
            }
        }
        agree!(self.table.len(), n_segments, "segments in the table and in all");
        agree!(self.n_blocks, n_blocks, "blocks");
        agree!(self.sets.len(), n_sets, "sets and shared segments");
        let n_owned = n_segments - n_sets;
        agree!(self.nodes.len(), n_segments + n_holds - n_owned, "nodes in use");
        let n_tails = self.nodes.iter().filter(|(id, _)| !self.tail(*id).is_empty()).count();
        agree!(self.tails.len(), n_tails, "tails in use");
        let heap = self.tails.iter().map(|(_, tail)| heap_of_tail(tail)).sum::<usize>()
            + self.sets.iter().map(|(_, sharers)| heap_of_sharers(sharers)).sum::<usize>();
        agree!(self.n_heap_bytes, heap, "bytes on the heap");
        Ok(())
    }

    fn check_holder(&self, id: HolderId, holder: &Holder) -> Result<usize, String> {
        let mut n_holds = 0;
        let (mut n_blocks, mut n_answered) = (0, 0);
        let mut newer = Id::NONE;
        let mut stamp = u32::MAX;
        let mut by_stamp = BTreeMap::new();
        for hold in self.holds(holder) {
            let Some(view) = self.nodes.get(hold).and_then(Node::hold) else {
                return Err(format!("{hold:?} in the list of {id:?} is no hold"));
            };
            agree!(view.holder, id, "holder of {hold:?}");
            agree!(view.links.newer, newer, "what is newer than {hold:?}");
            newer = hold;
            if holder.ages.is_some() && self.stamp(hold) > stamp {
                return Err(format!(
                    "{hold:?} in the list of {id:?} is younger than those before it"
                ));
            }
            stamp = self.stamp(hold);
            *by_stamp.entry(stamp).or_default() += self.n_with_answer(hold);
            let n_held = self.n_held(hold) as usize;
            if n_held == 0 || n_holds > self.nodes.len() {
                return Err(format!("{hold:?} in the list of {id:?} holds nothing or again"));
            }
            n_blocks += n_held;
            n_answered += view.past.n_answer() as usize;
            n_holds += 1;
        }
        agree!(holder.oldest, newer, "oldest hold of {id:?}");
        if holder.live && n_holds > 0 && holder.n_over() > 0 {
            return Err(format!("{id:?} holds {n_blocks} blocks that should be evicted"));
        }
        if let Some(ages) = &holder.ages {
            ages.check()?;
            agree!(ages.n_blocks(), n_blocks + n_answered, "blocks of {id:?} by age");
            agree!(ages.by_stamp(), by_stamp, "blocks of {id:?} by stamp");
        }
        let (n_used_holds, n_in_use) = self.in_use(id);
        agree!(holder.n_answered, n_answered, "blocks of answers of {id:?}");
        agree!(holder.n_in_use, n_in_use, "blocks of {id:?} in use");
        agree!(holder.n_blocks, n_blocks + n_in_use, "blocks of {id:?}");
        Ok(n_holds + n_used_holds)
    }

    /// Holds, and blocks, of a holder that requests use.
    fn in_use(&self, id: HolderId) -> (usize, usize) {
        let used = self.nodes.iter().filter(|(_, node)| {
            let view = node.hold().filter(|view| view.holder == id);
            view.is_some_and(|view| view.links.n_users().is_some())
        });
        used.fold((0, 0), |(n_holds, n_blocks), (hold, _)| {
            (n_holds + 1, n_blocks + self.n_with_answer(hold) as usize)
        })
    }

    fn check_shared(&self, id: Id<Node>, node: &Node) -> Result<(), String> {
        let sharers = match node {
            Node::Shared { sharers, .. } => self.sets.get(*sharers).map_or(&[][..], Vec::as_slice),
            Node::Free | Node::Owned { .. } | Node::Hold { .. } => &[],
        };
        if sharers.len() < 2 || !sharers.is_sorted_by(|a, b| a.holder < b.holder) {
            return Err(format!("sharers of {id:?}: {sharers:?}"));
        }
        let longest = sharers.iter().map(|sharer| sharer.n_blocks).max();
        agree!(longest, Some(self.segment_len(id)), "longest hold and length of {id:?}");
        for Sharer { holder, hold, .. } in sharers {
            let of = match self.nodes.get(*hold) {
                Some(Node::Hold { segment, holder, .. }) => Some((*segment, *holder)),
                _ => None,
            };
            agree!(of, Some((id, *holder)), "hold {hold:?}");
        }
        Ok(())
    }

    /// The holds of a holder, most recently used first.
    fn holds(&self, holder: &Holder) -> impl Iterator<Item = Id<Node>> {
        let behind = |&hold: &Id<Node>| {
            let older = self.nodes.get(hold)?.hold()?.links.older;
            (!older.is_none()).then_some(older)
        };
        std::iter::successors((!holder.newest.is_none()).then_some(holder.newest), behind)
    }
}
