//! Numbered places in chunks of a fixed size: growing never moves what is there, so an insert never pauses
//! to copy the whole index, and no memory is spare but the last chunk's.

use std::{fmt, marker::PhantomData};

const CHUNK_BITS: u32 = 10;
const CHUNK_LEN: usize = 1 << CHUNK_BITS;

/// Number of a place in a `Slab<T>`.
pub(super) struct Id<T>(u32, PhantomData<fn() -> T>);

#[derive(Default)]
pub(super) struct Slab<T> {
    chunks: Vec<Vec<T>>,
    free: Vec<Id<T>>,
}

impl<T> Id<T> {
    pub(super) const NONE: Self = Self(u32::MAX, PhantomData);
    /// No place either: a mark for whoever keeps something else beside it.
    pub(super) const MARK: Self = Self(u32::MAX - 1, PhantomData);

    pub(super) const fn from_raw(raw: u32) -> Self {
        Self(raw, PhantomData)
    }

    pub(super) const fn raw(self) -> u32 {
        self.0
    }

    pub(super) fn is_none(self) -> bool {
        self == Self::NONE
    }
}

impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Id<T> {}

impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() { f.write_str("none") } else { write!(f, "#{}", self.0) }
    }
}

// === impl Slab ===

impl<T: Default> Slab<T> {
    pub(super) fn get(&self, id: Id<T>) -> Option<&T> {
        let at = id.0 as usize;
        self.chunks.get(at >> CHUNK_BITS)?.get(at % CHUNK_LEN)
    }

    pub(super) fn get_mut(&mut self, id: Id<T>) -> Option<&mut T> {
        let at = id.0 as usize;
        self.chunks.get_mut(at >> CHUNK_BITS)?.get_mut(at % CHUNK_LEN)
    }

    /// The caller keeps the number of places below `u32::MAX` (see `MAX_NODES`).
    pub(super) fn insert(&mut self, value: T) -> Id<T> {
        if let Some(id) = self.free.pop() {
            if let Some(place) = self.get_mut(id) {
                *place = value;
            }
            return id;
        }
        let id = Id(self.n_places() as u32, PhantomData);
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK_LEN => chunk.push(value),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK_LEN);
                chunk.push(value);
                self.chunks.push(chunk);
            }
        }
        id
    }

    /// Frees a place, which must be in use.
    pub(super) fn remove(&mut self, id: Id<T>) -> T {
        let Some(place) = self.get_mut(id) else { return T::default() };
        let value = std::mem::take(place);
        self.free.push(id);
        value
    }

    /// Places in use.
    pub(super) fn len(&self) -> usize {
        self.n_places() - self.free.len()
    }

    /// Memory of the places themselves, in use or not, without what their values point to.
    pub(super) fn n_bytes(&self) -> usize {
        let places: usize = self.chunks.iter().map(|chunk| chunk.capacity() * size_of::<T>()).sum();
        places
            + self.chunks.capacity() * size_of::<Vec<T>>()
            + self.free.capacity() * size_of::<Id<T>>()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Id<T>, &T)> {
        (0u32..).map(|at| Id(at, PhantomData)).zip(self.chunks.iter().flatten())
    }

    fn n_places(&self) -> usize {
        match self.chunks.split_last() {
            Some((last, full)) => full.len() * CHUNK_LEN + last.len(),
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again_and_growth_is_by_chunks() {
        let mut slab = Slab::<u32>::default();
        let ids: Vec<_> = (0..3000).map(|n| slab.insert(n)).collect();
        assert_eq!(slab.n_bytes() / CHUNK_LEN, 3 * 4, "three chunks and little else");
        assert_eq!(slab.remove(ids[1500]), 1500);
        assert_eq!(slab.len(), 2999);
        assert_eq!(slab.insert(7), ids[1500]);
        assert_eq!(slab.get(ids[1500]), Some(&7));
        assert_eq!(slab.get(Id::NONE), None);
        assert!(ids.iter().zip(0..).all(|(&id, n)| n == 1500 || slab.get(id) == Some(&n)));
    }
}
