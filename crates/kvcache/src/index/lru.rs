//! Each holder's list of holds, most recently used first, linked through the nodes.

use super::{
    node::{HolderId, Links, Node},
    slab::Id,
    trie::Trie,
};

impl Trie {
    /// Moves a hold to the newest end.
    pub(super) fn touch(&mut self, holder: HolderId, hold: Id<Node>) {
        if self.holders.get(holder).is_some_and(|holder| holder.newest != hold) {
            self.unlink(holder, hold);
            self.push_newest(holder, hold);
        }
    }

    /// Puts a hold that is in no list at the newest end.
    pub(super) fn push_newest(&mut self, holder: HolderId, hold: Id<Node>) {
        let Some(state) = self.holders.get(holder) else { return };
        self.link(holder, hold, Links { newer: Id::NONE, older: state.newest });
    }

    /// Puts a hold that is in no list just behind `newer`.
    pub(super) fn push_behind(&mut self, holder: HolderId, newer: Id<Node>, hold: Id<Node>) {
        let Some(newer_hold) = self.nodes.get(newer).and_then(Node::hold) else { return };
        self.link(holder, hold, Links { newer, older: newer_hold.links.older });
    }

    pub(super) fn unlink(&mut self, holder: HolderId, hold: Id<Node>) {
        let Some(links) = self.nodes.get(hold).and_then(Node::hold).map(|hold| hold.links) else {
            return;
        };
        self.set_older(holder, links.newer, links.older);
        self.set_newer(holder, links.older, links.newer);
    }

    /// Makes the neighbours of a hold that has moved to another node point there.
    pub(super) fn relink(&mut self, holder: HolderId, moved_to: Id<Node>) {
        if let Some(hold) = self.nodes.get(moved_to).and_then(Node::hold) {
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
}
