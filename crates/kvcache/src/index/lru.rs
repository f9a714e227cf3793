//! Which holds requests under way use, and each holder's list of all others, most recently used first, linked
//! through the nodes, and the stamps of their last use where ages are kept.

use smallvec::SmallVec;

use super::{
    ages::{Ages, Run},
    node::{HolderId, Links, Node, Past},
    slab::Id,
    trie::{Step, Trie},
};
use crate::BlockHash;

impl Trie {
    /// One more request uses the hold.
    pub(super) fn begin_use(&mut self, holder: HolderId, hold: Id<Node>) {
        let n_users = self.n_users(hold).unwrap_or(0);
        if n_users == 0 {
            self.unlink(holder, hold, Ages::take);
            let n_held = self.n_held(hold) as usize;
            if let Some(state) = self.holders.get_mut(holder) {
                state.n_in_use += n_held;
            }
        }
        self.set_users(hold, n_users + 1);
    }

    /// One request less uses the hold; true when none does any more. It is in no list then.
    pub(super) fn end_use(&mut self, holder: HolderId, hold: Id<Node>) -> bool {
        let Some(n_users) = self.n_users(hold).filter(|n_users| *n_users > 0) else { return false };
        self.set_users(hold, n_users - 1);
        if n_users > 1 {
            return false;
        }
        let n_held = self.n_held(hold) as usize;
        if let Some(state) = self.holders.get_mut(holder) {
            state.n_in_use = state.n_in_use.saturating_sub(n_held);
        }
        true
    }

    fn n_users(&self, hold: Id<Node>) -> Option<u32> {
        self.nodes.get(hold)?.hold()?.links.n_users()
    }

    fn set_users(&mut self, hold: Id<Node>, n_users: u32) {
        if let Some(links) = self.nodes.get_mut(hold).and_then(Node::links_mut) {
            *links = Links::in_use(n_users);
        }
    }

    /// Puts a hold that is in no list at the newest end, with so many blocks of an answer behind it.
    pub(super) fn push_newest(&mut self, holder: HolderId, hold: Id<Node>, n_answer: usize) {
        let past = Past::answered(n_answer);
        let Some(state) = self.holders.get_mut(holder) else { return };
        state.n_answered += past.n_answer() as usize;
        let links = Links { newer: Id::NONE, older: state.newest };
        self.link(holder, hold, links);
        self.set_past(hold, past);
        let n_blocks = self.n_with_answer(hold);
        if let Some(stamp) = self.holders.ages(holder).map(|ages| ages.push(n_blocks)) {
            self.set_stamp(hold, stamp);
        }
    }

    /// Puts a hold that is in no list just behind `newer`, or in use by those who use that.
    pub(super) fn push_behind(&mut self, holder: HolderId, newer: Id<Node>, hold: Id<Node>) {
        let Some(newer_hold) = self.nodes.get(newer).and_then(Node::hold) else { return };
        if let Some(n_users) = newer_hold.links.n_users() {
            return self.set_users(hold, n_users);
        }
        let links = Links { newer, older: newer_hold.links.older };
        self.link(holder, hold, links);
        self.copy_stamp(newer, hold);
    }

    /// Takes a hold out of the list if it is in it, and forgets the answer behind it; `out` takes its blocks out of
    /// the ages.
    pub(super) fn unlink(
        &mut self,
        holder: HolderId,
        hold: Id<Node>,
        out: impl FnOnce(&mut Ages, u32, u32),
    ) {
        let links = self.nodes.get(hold).and_then(Node::hold).map(|hold| hold.links);
        let Some(links) = links.filter(|links| links.n_users().is_none()) else { return };
        self.set_older(holder, links.newer, links.older);
        self.set_newer(holder, links.older, links.newer);
        let (stamp, past, n_blocks) = (self.stamp(hold), self.past(hold), self.n_with_answer(hold));
        self.set_past(hold, past.of_beginning());
        let Some(state) = self.holders.get_mut(holder) else { return };
        state.n_answered = state.n_answered.saturating_sub(past.n_answer() as usize);
        if let Some(ages) = state.ages.as_deref_mut() {
            out(ages, stamp, n_blocks);
        }
    }

    /// Makes the neighbours of a hold that has moved to another node point there.
    pub(super) fn relink(&mut self, holder: HolderId, moved_to: Id<Node>) {
        if let Some(hold) = self.nodes.get(moved_to).and_then(Node::hold)
            && hold.links.n_users().is_none()
        {
            self.link(holder, moved_to, hold.links);
        }
    }

    fn link(&mut self, holder: HolderId, hold: Id<Node>, links: Links) {
        if let Some(own) = self.nodes.get_mut(hold).and_then(Node::links_mut) {
            *own = links;
        }
        self.set_older(holder, links.newer, hold);
        self.set_newer(holder, links.older, hold);
    }

    /// Sets what comes behind `hold`, or the newest hold when there is none before it.
    fn set_older(&mut self, holder: HolderId, hold: Id<Node>, older: Id<Node>) {
        if let Some(links) = self.nodes.get_mut(hold).and_then(Node::links_mut) {
            links.older = older;
        } else if let Some(holder) = self.holders.get_mut(holder) {
            holder.newest = older;
        }
    }

    /// Sets what comes before `hold`, or the oldest hold when there is none behind it.
    fn set_newer(&mut self, holder: HolderId, hold: Id<Node>, newer: Id<Node>) {
        if let Some(links) = self.nodes.get_mut(hold).and_then(Node::links_mut) {
            links.newer = newer;
        } else if let Some(holder) = self.holders.get_mut(holder) {
            holder.oldest = newer;
        }
    }

    pub(super) fn stamp(&self, hold: Id<Node>) -> u32 {
        self.stamps.get(hold.raw() as usize).copied().unwrap_or(0)
    }

    fn set_stamp(&mut self, hold: Id<Node>, stamp: u32) {
        let at = hold.raw() as usize;
        if at >= self.stamps.len() {
            self.stamps.resize(at + 1, 0);
        }
        if let Some(place) = self.stamps.get_mut(at) {
            *place = stamp;
        }
    }

    /// A part of a hold, or the node that a hold has moved to, is as old as the hold.
    pub(super) fn copy_stamp(&mut self, from: Id<Node>, to: Id<Node>) {
        if !self.stamps.is_empty() {
            self.set_stamp(to, self.stamp(from));
        }
    }

    /// Begins to keep the ages of what an endpoint holds, or counts their stamps anew.
    pub(super) fn stamp_all(&mut self, holder: HolderId, believed: usize) {
        let Some(state) = self.holders.get(holder) else { return };
        let newer = |&hold: &Id<Node>| {
            let newer = self.nodes.get(hold)?.hold()?.links.newer;
            (!newer.is_none()).then_some(newer)
        };
        let holds = std::iter::successors((!state.oldest.is_none()).then_some(state.oldest), newer);
        let holds: Vec<_> = holds.map(|hold| (hold, self.n_with_answer(hold))).collect();
        let mut stamps = Vec::with_capacity(holds.len());
        let ages = match &state.ages {
            Some(ages) => {
                let runs = holds.iter().map(|&(hold, n_blocks)| (self.stamp(hold), n_blocks));
                ages.renumbered(runs, |stamp| stamps.push(stamp))
            }
            None => {
                let mut ages = Ages::new(believed);
                stamps.extend(holds.iter().map(|&(_, n_blocks)| ages.push(n_blocks)));
                ages
            }
        };
        for (&(hold, _), stamp) in holds.iter().zip(stamps) {
            self.set_stamp(hold, stamp);
        }
        if let Some(state) = self.holders.get_mut(holder) {
            state.ages = Some(Box::new(ages));
        }
    }

    /// Of the first blocks of a prompt that the holder has, those that are not thought gone. `path` ends with the
    /// segment of the last, of which it has `n_here`.
    pub(super) fn n_kept(&self, id: HolderId, path: &[Step], n_here: u32) -> usize {
        let Some(last) = path.last() else { return 0 };
        let all = last.start + n_here as usize;
        let ages = self.holders.get(id).and_then(|holder| holder.ages.as_deref());
        let Some(ages) = ages.filter(|ages| ages.n_gone() > 0) else { return all };
        let stamp = |step: &Step| {
            let (hold, n_held) = self.held(step.segment, id)?;
            let is_used = self.n_users(hold).is_some();
            Some((n_held, (!is_used).then(|| self.stamp(hold))))
        };
        // What a prompt has is the older the deeper it is: where its end is there, all is.
        if stamp(last).is_none_or(|(_, stamp)| stamp.is_none_or(|stamp| ages.is_there(stamp))) {
            return all;
        }
        let (mut n_before, mut run) = (0, None);
        for step in path {
            let Some((n_held, Some(stamp))) = stamp(step) else { continue };
            if run != Some(stamp) {
                (n_before, run) = (0, Some(stamp));
            }
            let n_kept = ages.n_kept(stamp).saturating_sub(n_before);
            if n_kept < n_held {
                return all.min(step.start + n_kept as usize);
            }
            n_before += n_held;
        }
        all
    }

    /// How deep the blocks of a prompt that the holder has are, those aside that requests use.
    pub(super) fn runs(&self, id: HolderId, hashes: &[BlockHash]) -> SmallVec<[Run; 4]> {
        let mut runs = SmallVec::new();
        let Some(state) = self.holders.get(id) else { return runs };
        let Some(ages) = state.ages.as_deref() else { return runs };
        let (mut depth, mut newest, mut last) = (state.n_used(), ages.n_stamps(), None);
        for step in self.path(hashes) {
            let Some((hold, n_held)) = self.held(step.segment, id) else { break };
            let links = self.nodes.get(hold).and_then(Node::hold).map(|hold| hold.links);
            if links.is_some_and(|links| links.n_users().is_some()) {
                continue;
            }
            let stamp = self.stamp(hold);
            if last != Some(stamp) {
                depth += ages.n_between(stamp, newest);
                (newest, last) = (stamp as usize, Some(stamp));
            }
            let n_blocks = n_held.min(step.n_common) as usize;
            runs.push(Run { start: step.start, n_blocks, depth });
            depth += self.n_with_answer(hold) as usize;
        }
        runs
    }
}
