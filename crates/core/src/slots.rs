//! Typed state that plugins keep on an endpoint, in slots that are numbered when the configuration loads.

use std::{
    any::Any,
    fmt,
    marker::PhantomData,
    sync::{Arc, OnceLock},
};

/// Number that says "no slot": what an unresolved optional reference holds.
const UNBOUND: usize = usize::MAX;

/// A handle to one slot of every endpoint's state, holding a `T`.
///
/// The number is bound once, when the configuration has been loaded, because a reader may be built before
/// the plugin that it reads from.
pub struct EndpointSlot<T> {
    index: Arc<OnceLock<usize>>,
    value: PhantomData<fn() -> T>,
}

impl<T> EndpointSlot<T> {
    /// A slot whose number is not known yet; it reads as absent until [`bind`](Self::bind).
    pub fn unbound() -> Self {
        Self { index: Arc::default(), value: PhantomData }
    }

    pub fn bound(index: usize) -> Self {
        let slot = Self::unbound();
        slot.bind(index);
        slot
    }

    /// Binds the slot to a number; the first binding counts.
    pub fn bind(&self, index: usize) {
        let _first_wins = self.index.set(index);
    }

    pub fn is_bound(&self) -> bool {
        self.index.get().is_some()
    }

    /// The cell behind the number, so that a loader can bind it without knowing `T`.
    pub fn binding(&self) -> Arc<OnceLock<usize>> {
        Arc::clone(&self.index)
    }

    pub(crate) fn index(&self) -> usize {
        self.index.get().copied().unwrap_or(UNBOUND)
    }
}

impl<T> Clone for EndpointSlot<T> {
    fn clone(&self) -> Self {
        Self { index: Arc::clone(&self.index), value: PhantomData }
    }
}

impl<T> fmt::Debug for EndpointSlot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointSlot({:?})", self.index.get())
    }
}

/// The slots of one endpoint. Values are made on first use and live as long as the endpoint's state.
#[derive(Debug)]
pub(crate) struct SlotValues(Box<[OnceLock<Box<dyn Any + Send + Sync>>]>);

impl SlotValues {
    pub(crate) fn new(n_slots: usize) -> Self {
        Self((0..n_slots).map(|_| OnceLock::new()).collect())
    }

    /// The value in `slot`, made with `T::default()` on first use; `None` when the slot is not bound or
    /// belongs to another layout.
    pub(crate) fn get<T: Default + Send + Sync + 'static>(
        &self,
        slot: &EndpointSlot<T>,
    ) -> Option<&T> {
        let cell = self.0.get(slot.index())?;
        cell.get_or_init(|| Box::<T>::default()).downcast_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unbound_or_foreign_slot_reads_as_absent() {
        let values = SlotValues::new(1);
        let slot = EndpointSlot::<u32>::unbound();
        assert_eq!(values.get(&slot), None);
        slot.bind(0);
        assert_eq!(values.get(&slot), Some(&0));
        assert_eq!(
            values.get(&EndpointSlot::<String>::bound(0)),
            None,
            "another type in the same slot"
        );
        assert_eq!(values.get(&EndpointSlot::<u32>::bound(7)), None);
    }
}
