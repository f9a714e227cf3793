//! LoRA adapter slots: which adapters are resident, least recently used first.

/// An adapter, by a number that the caller gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdapterId(pub u32);

/// The resident adapters. At most `capacity` of them.
#[derive(Debug)]
pub(crate) struct AdapterSlots {
    /// Least recently used first.
    resident: Vec<AdapterId>,
    capacity: usize,
}

impl AdapterSlots {
    pub(crate) fn new(capacity: u32) -> Self {
        Self { resident: Vec::new(), capacity: capacity as usize }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes `adapter` the most recently used one; true when it had to be loaded. An adapter that a running
    /// request uses (`in_use`) is never dropped: the scheduler admits at most `capacity` different ones.
    pub(crate) fn touch(&mut self, adapter: AdapterId, in_use: impl Fn(AdapterId) -> bool) -> bool {
        if let Some(idx) = self.resident.iter().position(|&known| known == adapter) {
            self.resident.remove(idx);
            self.resident.push(adapter);
            return false;
        }
        if self.resident.len() >= self.capacity
            && let Some(idx) = self.resident.iter().position(|&known| !in_use(known))
        {
            self.resident.remove(idx);
        }
        self.resident.push(adapter);
        true
    }

    /// Forgets an adapter that was unloaded.
    pub(crate) fn forget(&mut self, adapter: AdapterId) {
        self.resident.retain(|&known| known != adapter);
    }
}
