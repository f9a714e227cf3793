//! Typed data that flows between plugins.
//!
//! A value has a key: what it is, and which plugin instance wrote it. A plugin declares its reads and
//! writes while it is built and gets handles; the loader checks the graph (`crate::graph`) and binds every
//! handle to a slot once, so that nothing is looked up by name while a request runs.

use std::{
    any::Any,
    borrow::Cow,
    fmt,
    marker::PhantomData,
    sync::{Arc, OnceLock},
};

/// Key of a value that lives as long as a request: a [`Column`](router_core::Column) or anything else.
pub struct DataKey<T> {
    pub name: &'static str,
    /// Plugin type that is created when nobody else writes the key; empty for none.
    pub default_producer: &'static str,
    value: PhantomData<fn() -> T>,
}

impl<T> DataKey<T> {
    pub const fn new(name: &'static str, default_producer: &'static str) -> Self {
        Self { name, default_producer, value: PhantomData }
    }
}

/// Key of a value that lives on an endpoint.
pub struct EndpointDataKey<T> {
    pub name: Cow<'static, str>,
    pub default_producer: &'static str,
    value: PhantomData<fn() -> T>,
}

impl<T> EndpointDataKey<T> {
    pub const fn new(name: &'static str, default_producer: &'static str) -> Self {
        Self { name: Cow::Borrowed(name), default_producer, value: PhantomData }
    }

    /// A key that a configuration names, such as the attribute of a custom metric.
    pub const fn named(name: String, default_producer: &'static str) -> Self {
        Self { name: Cow::Owned(name), default_producer, value: PhantomData }
    }
}

/// A reader's handle to a request's value. Unbound reads give nothing.
pub struct Read<T> {
    slot: Arc<OnceLock<usize>>,
    value: PhantomData<fn() -> T>,
}

impl<T> Read<T> {
    pub(crate) fn unbound() -> Self {
        Self { slot: Arc::default(), value: PhantomData }
    }

    pub(crate) fn binding(&self) -> Arc<OnceLock<usize>> {
        Arc::clone(&self.slot)
    }

    /// Whether somebody writes the value.
    pub fn is_bound(&self) -> bool {
        self.slot.get().is_some()
    }
}

impl<T> Clone for Read<T> {
    fn clone(&self) -> Self {
        Self { slot: Arc::clone(&self.slot), value: PhantomData }
    }
}

impl<T> fmt::Debug for Read<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Read({:?})", self.slot.get())
    }
}

/// A writer's handle to a request's value.
pub struct Write<T> {
    slot: Arc<OnceLock<usize>>,
    value: PhantomData<fn() -> T>,
}

impl<T> Write<T> {
    pub(crate) fn unbound() -> Self {
        Self { slot: Arc::default(), value: PhantomData }
    }

    pub(crate) fn binding(&self) -> Arc<OnceLock<usize>> {
        Arc::clone(&self.slot)
    }
}

impl<T> Clone for Write<T> {
    fn clone(&self) -> Self {
        Self { slot: Arc::clone(&self.slot), value: PhantomData }
    }
}

impl<T> fmt::Debug for Write<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Write({:?})", self.slot.get())
    }
}

/// What one producer made for one request, handed to the engine.
#[derive(Default)]
pub struct Outputs(Vec<(usize, Box<dyn Any + Send + Sync>)>);

impl Outputs {
    /// One value.
    pub fn of<T: Send + Sync + 'static>(handle: &Write<T>, value: T) -> Self {
        let mut outputs = Self::default();
        outputs.put(handle, value);
        outputs
    }

    pub fn put<T: Send + Sync + 'static>(&mut self, handle: &Write<T>, value: T) {
        if let Some(&slot) = handle.slot.get() {
            self.0.push((slot, Box::new(value)));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Outputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(slot, _)| slot)).finish()
    }
}

/// All values of one request, by slot.
#[derive(Default)]
pub struct RequestData(Vec<Option<Box<dyn Any + Send + Sync>>>);

impl RequestData {
    pub fn new(n_slots: usize) -> Self {
        Self((0..n_slots).map(|_| None).collect())
    }

    /// The value, if its producer ran and succeeded.
    pub fn read<T: 'static>(&self, handle: &Read<T>) -> Option<&T> {
        self.0.get(*handle.slot.get()?)?.as_ref()?.downcast_ref()
    }

    /// Takes over what a producer made.
    pub fn accept(&mut self, outputs: Outputs) {
        for (slot, value) in outputs.0 {
            if let Some(place) = self.0.get_mut(slot) {
                *place = Some(value);
            }
        }
    }
}

impl fmt::Debug for RequestData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestData({}/{})", self.0.iter().flatten().count(), self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unbound_read_and_a_missing_value_give_nothing() {
        let mut data = RequestData::new(1);
        let read = Read::<u64>::unbound();
        assert_eq!(data.read(&read), None);
        read.binding().set(0).unwrap();
        assert_eq!(data.read(&read), None);
        let write = Write::<u64>::unbound();
        write.binding().set(0).unwrap();
        data.accept(Outputs::of(&write, 7));
        assert_eq!(data.read(&read), Some(&7));
    }
}
