//! Endpoints that hold blocks, one entry per endpoint and generation.

use router_core::EndpointIndex;

use super::{
    ages::Ages,
    node::{HolderId, Node},
    slab::Id,
};

/// Slots above this are not indexed, and no more endpoints than this are remembered at once, those that are
/// being forgotten included.
pub(super) const MAX_ENDPOINTS: usize = 1 << 16;

/// Upper limit of an endpoint's capacity, in blocks.
pub(super) const MAX_CAPACITY: usize = 1 << 24;

/// Requests under way use at most so many times the capacity: what they would use beyond that is not remembered.
/// A model server has no room for more than one of these, and has requests wait that it has no room for.
const MAX_IN_USE: usize = 4;

#[derive(Debug)]
pub(super) struct Holder {
    pub(super) endpoint: EndpointIndex,
    /// False once the endpoint has gone; its blocks are then invisible and wait for removal.
    pub(super) live: bool,
    /// On the list of the dead.
    is_listed: bool,
    pub(super) capacity: usize,
    pub(super) n_blocks: usize,
    /// Of these, blocks that requests under way use.
    pub(super) n_in_use: usize,
    /// Blocks that requests under way will fill beside those.
    pub(super) n_reserved: usize,
    /// Blocks of ended answers behind holds in the list.
    pub(super) n_answered: usize,
    /// Inserts that have been neither released nor undone.
    pub(super) n_outstanding: usize,
    /// Ends of the list of its holds.
    pub(super) newest: Id<Node>,
    pub(super) oldest: Id<Node>,
    /// Where what the endpoint holds is not known, and may be less than the capacity.
    pub(super) ages: Option<Box<Ages>>,
}

#[derive(Clone, Copy, Default)]
struct SlotState {
    /// Oldest generation that may still register; none before the first.
    floor: Option<u32>,
    current: Option<HolderId>,
}

pub(super) struct Holders {
    all: Vec<Holder>,
    slots: Vec<SlotState>,
    free: Vec<HolderId>,
    dead: Vec<HolderId>,
    default_capacity: usize,
}

/// Generations wrap around: one is newer than another when it is less than half the circle ahead.
fn is_newer(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 31
}

impl Holder {
    fn new(endpoint: EndpointIndex, capacity: usize) -> Self {
        Self {
            endpoint,
            live: true,
            is_listed: false,
            capacity,
            n_blocks: 0,
            n_in_use: 0,
            n_reserved: 0,
            n_answered: 0,
            n_outstanding: 0,
            newest: Id::NONE,
            oldest: Id::NONE,
            ages: None,
        }
    }

    pub(super) fn set_capacity(&mut self, n_blocks: usize) {
        self.capacity = n_blocks.min(MAX_CAPACITY);
    }

    /// Blocks that the endpoint has room for, as far as is known.
    pub(super) fn expected(&self) -> usize {
        self.ages.as_ref().map_or(self.capacity, |ages| ages.believed().min(self.capacity))
    }

    /// Blocks that are remembered and thought gone.
    pub(super) fn n_gone(&self) -> usize {
        self.ages.as_ref().map_or(0, |ages| ages.n_gone())
    }

    /// Blocks that one more request may use.
    pub(super) fn room(&self) -> usize {
        let left = (MAX_IN_USE * self.expected()).saturating_sub(self.n_used());
        left.min(self.expected())
    }

    /// Blocks that requests under way use or will fill.
    pub(super) fn n_used(&self) -> usize {
        self.n_in_use + self.n_reserved
    }

    /// Blocks beyond the capacity.
    pub(super) fn n_over(&self) -> usize {
        (self.n_blocks + self.n_answered + self.n_reserved).saturating_sub(self.capacity)
    }
}

// === impl Holders ===

impl Holders {
    pub(super) fn new(default_capacity: usize) -> Self {
        Self {
            all: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
            dead: Vec::new(),
            default_capacity: default_capacity.min(MAX_CAPACITY),
        }
    }

    pub(super) fn get(&self, id: HolderId) -> Option<&Holder> {
        self.all.get(usize::from(id.0))
    }

    pub(super) fn get_mut(&mut self, id: HolderId) -> Option<&mut Holder> {
        self.all.get_mut(usize::from(id.0))
    }

    pub(super) fn find(&self, endpoint: EndpointIndex) -> Option<HolderId> {
        let id = self.slots.get(endpoint.slot as usize)?.current?;
        (self.get(id)?.endpoint == endpoint).then_some(id)
    }

    /// The holder of `endpoint`, made on first use. An older generation in the same slot is retired; an
    /// endpoint that was removed or replaced does not come back.
    pub(super) fn register(&mut self, endpoint: EndpointIndex) -> Option<HolderId> {
        if let Some(id) = self.find(endpoint) {
            return Some(id);
        }
        let state = *self.slot_mut(endpoint.slot)?;
        if state.floor.is_some_and(|floor| is_newer(floor, endpoint.generation)) {
            return None;
        }
        self.retire(state.current);
        let id = self.allocate(Holder::new(endpoint, self.default_capacity));
        if let Some(state) = self.slot_mut(endpoint.slot) {
            *state = SlotState { floor: Some(endpoint.generation), current: id };
        }
        id
    }

    /// Makes the endpoint's blocks invisible; they are on the list of the dead until removed.
    pub(super) fn remove(&mut self, endpoint: EndpointIndex) {
        let found = self.find(endpoint);
        let next = endpoint.generation.wrapping_add(1);
        let Some(state) = self.slot_mut(endpoint.slot) else { return };
        if state.floor.is_none_or(|floor| is_newer(next, floor)) {
            state.floor = Some(next);
        }
        if found.is_some() {
            state.current = None;
        }
        self.retire(found);
    }

    /// A holder that is gone and may still have blocks that nobody uses.
    pub(super) fn next_dead(&self) -> Option<HolderId> {
        self.dead.last().copied()
    }

    /// Gives the number of the holder that [`next_dead`](Self::next_dead) names back for use, or lets it wait for
    /// requests that still refer to it.
    pub(super) fn release_dead(&mut self) {
        let Some(id) = self.dead.pop() else { return };
        let Some(holder) = self.get_mut(id) else { return };
        holder.is_listed = false;
        holder.ages = None;
        if holder.n_outstanding == 0 {
            self.free.push(id);
        }
    }

    pub(super) fn ages(&mut self, id: HolderId) -> Option<&mut Ages> {
        self.get_mut(id)?.ages.as_deref_mut()
    }

    pub(super) fn live(&self) -> impl Iterator<Item = (HolderId, &Holder)> {
        self.slots.iter().filter_map(|state| Some((state.current?, self.get(state.current?)?)))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (HolderId, &Holder)> {
        (0..).map(HolderId).zip(&self.all)
    }

    pub(super) fn n_bytes(&self) -> usize {
        let ages = self.all.iter().filter_map(|holder| holder.ages.as_deref());
        ages.map(Ages::n_bytes).sum::<usize>()
            + self.all.capacity() * size_of::<Holder>()
            + self.slots.capacity() * size_of::<SlotState>()
    }

    /// Ends one of the holder's outstanding inserts; true when it was the last.
    pub(super) fn end_insert(&mut self, id: HolderId, n_reserved: usize) -> bool {
        let Some(holder) = self.get_mut(id) else { return false };
        holder.n_reserved = holder.n_reserved.saturating_sub(n_reserved);
        holder.n_outstanding = holder.n_outstanding.saturating_sub(1);
        let (is_last, live) = (holder.n_outstanding == 0, holder.live);
        if is_last && !live {
            self.retire(Some(id));
        }
        is_last
    }

    fn retire(&mut self, id: Option<HolderId>) {
        if let Some(id) = id
            && let Some(holder) = self.get_mut(id)
        {
            holder.live = false;
            if !std::mem::replace(&mut holder.is_listed, true) {
                self.dead.push(id);
            }
        }
    }

    fn allocate(&mut self, holder: Holder) -> Option<HolderId> {
        if let Some(id) = self.free.pop() {
            *self.get_mut(id)? = holder;
            return Some(id);
        }
        if self.all.len() >= MAX_ENDPOINTS {
            return None;
        }
        let id = HolderId(self.all.len() as u16);
        self.all.push(holder);
        Some(id)
    }

    fn slot_mut(&mut self, slot: u32) -> Option<&mut SlotState> {
        let slot = slot as usize;
        if slot >= MAX_ENDPOINTS {
            return None;
        }
        if slot >= self.slots.len() {
            self.slots.resize(slot + 1, SlotState::default());
        }
        self.slots.get_mut(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(slot: u32, generation: u32) -> EndpointIndex {
        EndpointIndex { slot, generation }
    }

    #[test]
    fn an_endpoint_that_has_gone_does_not_come_back() {
        let mut holders = Holders::new(8);
        let first = holders.register(endpoint(2, 7));
        assert_eq!(holders.register(endpoint(2, 7)), first);
        holders.remove(endpoint(2, 7));
        assert_eq!(holders.register(endpoint(2, 7)), None, "removed");
        assert_eq!(holders.register(endpoint(2, 6)), None, "older than removed");
        let next = holders.register(endpoint(2, 8));
        assert!(next.is_some() && next != first, "its number is still taken");
        assert_eq!(holders.next_dead(), first);
        holders.release_dead();
        assert_eq!(holders.register(endpoint(5, 0)), first);
    }

    #[test]
    fn removal_is_remembered_before_the_first_insert() {
        let mut holders = Holders::new(8);
        holders.remove(endpoint(0, 3));
        assert_eq!(holders.register(endpoint(0, 3)), None);
        assert!(holders.register(endpoint(0, 4)).is_some());
        holders.remove(endpoint(0, 3));
        assert!(holders.find(endpoint(0, 4)).is_some(), "a late removal of the earlier generation");
    }

    #[test]
    fn generations_wrap() {
        let mut holders = Holders::new(8);
        assert!(holders.register(endpoint(0, u32::MAX)).is_some());
        assert!(holders.register(endpoint(0, 0)).is_some());
        assert_eq!(holders.register(endpoint(0, u32::MAX)), None);
    }

    #[test]
    fn slots_and_numbers_are_bounded() {
        let mut holders = Holders::new(8);
        assert_eq!(holders.register(endpoint(MAX_ENDPOINTS as u32, 0)), None);
        for slot in 0..MAX_ENDPOINTS as u32 {
            assert!(holders.register(endpoint(slot, 0)).is_some());
        }
        assert_eq!(
            holders.register(endpoint(0, 1)),
            None,
            "the old generation is still being forgotten"
        );
        holders.release_dead();
        assert!(holders.register(endpoint(0, 1)).is_some());
    }
}
