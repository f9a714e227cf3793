//! Which holds requests under way use, and each holder's list of all others, most recently used first, linked
//! through the nodes.

use super::{
    node::{HolderId, Links, Node},
    slab::Id,
    trie::Trie,
};

impl Trie {
    /// One more request uses the hold.
    pub(super) fn begin_use(&mut self, holder: HolderId, hold: Id<Node>) {
        let n_users = self.n_users(hold).unwrap_or(0);
        if n_users == 0 {
            self.unlink(holder, hold);
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

    /// Puts a hold that is in no list at the newest end.
    pub(super) fn push_newest(&mut self, holder: HolderId, hold: Id<Node>) {
        let Some(state) = self.holders.get(holder) else { return };
        self.link(holder, hold, Links { newer: Id::NONE, older: state.newest });
    }

    /// Puts a hold that is in no list just behind `newer`, or in use by those who use that.
    pub(super) fn push_behind(&mut self, holder: HolderId, newer: Id<Node>, hold: Id<Node>) {
        let Some(newer_hold) = self.nodes.get(newer).and_then(Node::hold) else { return };
        if let Some(n_users) = newer_hold.links.n_users() {
            return self.set_users(hold, n_users);
        }
        self.link(holder, hold, Links { newer, older: newer_hold.links.older });
    }

    pub(super) fn unlink(&mut self, holder: HolderId, hold: Id<Node>) {
        let links = self.nodes.get(hold).and_then(Node::hold).map(|hold| hold.links);
        let Some(links) = links.filter(|links| links.n_users().is_none()) else { return };
        self.set_older(holder, links.newer, links.older);
        self.set_newer(holder, links.older, links.newer);
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
}
