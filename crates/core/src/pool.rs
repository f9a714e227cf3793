//! The endpoints that are alive, as an immutable snapshot that a membership change replaces.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::endpoint::{Endpoint, EndpointIndex, EndpointSpec, EndpointState};

/// Endpoints of one moment. Cheap to share and never changed.
#[derive(Debug, Default)]
pub struct PoolSnapshot {
    version: u64,
    endpoints: Vec<Arc<Endpoint>>,
    n_slots: usize,
}

impl PoolSnapshot {
    /// Grows with every change of the pool.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Live endpoints in the order in which they came.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// One more than the largest dense index in use; the length of an array that is indexed by slot.
    pub fn n_slots(&self) -> usize {
        self.n_slots
    }

    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    pub fn by_id(&self, id: &str) -> Option<&Arc<Endpoint>> {
        self.endpoints.iter().find(|endpoint| &**endpoint.id() == id)
    }
}

/// What a change did, in terms of endpoints.
#[derive(Debug, Default)]
pub struct PoolDelta {
    pub added: Vec<Arc<Endpoint>>,
    /// Same endpoint, new spec.
    pub updated: Vec<Arc<Endpoint>>,
    pub removed: Vec<Arc<Endpoint>>,
}

impl PoolDelta {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.updated.is_empty() && self.removed.is_empty()
    }
}

/// The pool: readers take the snapshot, one writer at a time replaces it.
#[derive(Debug)]
pub struct Pool {
    snapshot: ArcSwap<PoolSnapshot>,
    writer: Mutex<IndexAllocator>,
    /// Slots of plugin state on every endpoint.
    n_state_slots: usize,
}

impl Pool {
    /// An empty pool whose endpoints carry `n_state_slots` slots of plugin state.
    pub fn new(n_state_slots: usize) -> Self {
        Self { snapshot: ArcSwap::default(), writer: Mutex::default(), n_state_slots }
    }

    pub fn snapshot(&self) -> Arc<PoolSnapshot> {
        self.snapshot.load_full()
    }

    /// Applies all edits of `change` at once and publishes one new snapshot, unless nothing changed.
    pub fn update(&self, change: impl FnOnce(&mut PoolEdit<'_>)) -> PoolDelta {
        let mut allocator = self.writer.lock();
        let current = self.snapshot.load_full();
        let mut edit = PoolEdit {
            by_id: current
                .endpoints
                .iter()
                .enumerate()
                .map(|(at, e)| (Arc::clone(e.id()), at))
                .collect(),
            endpoints: current.endpoints.iter().cloned().map(Some).collect(),
            allocator: &mut allocator,
            delta: PoolDelta::default(),
            n_state_slots: self.n_state_slots,
        };
        change(&mut edit);
        let PoolEdit { endpoints, delta, .. } = edit;
        if !delta.is_empty() {
            self.snapshot.store(Arc::new(PoolSnapshot {
                version: current.version + 1,
                endpoints: endpoints.into_iter().flatten().collect(),
                n_slots: allocator.generations.len(),
            }));
        }
        delta
    }

    /// Makes the pool hold exactly `specs`; of two specs with one id the later counts.
    pub fn replace(&self, specs: Vec<EndpointSpec>) -> PoolDelta {
        self.update(|edit| {
            let keep: std::collections::HashSet<String> =
                specs.iter().map(|spec| format!("{}/{}", spec.namespace, spec.name)).collect();
            edit.retain(|endpoint| keep.contains(&**endpoint.id()));
            for spec in specs {
                edit.upsert(spec);
            }
        })
    }
}

/// Edits that [`Pool::update`] publishes together.
#[derive(Debug)]
pub struct PoolEdit<'a> {
    by_id: HashMap<Arc<str>, usize>,
    endpoints: Vec<Option<Arc<Endpoint>>>,
    allocator: &'a mut IndexAllocator,
    delta: PoolDelta,
    n_state_slots: usize,
}

impl PoolEdit<'_> {
    /// Adds an endpoint, or gives a known one a new spec; its signals and plugin state stay.
    pub fn upsert(&mut self, spec: EndpointSpec) {
        let id = format!("{}/{}", spec.namespace, spec.name);
        let known = self.by_id.get(id.as_str()).copied();
        let Some((at, current)) =
            known.and_then(|at| self.endpoints.get(at)?.as_ref().map(|e| (at, Arc::clone(e))))
        else {
            let state = Arc::new(EndpointState::new(self.n_state_slots));
            let endpoint = Arc::new(Endpoint::new(self.allocator.take(), spec, state));
            self.by_id.insert(Arc::clone(endpoint.id()), self.endpoints.len());
            self.endpoints.push(Some(Arc::clone(&endpoint)));
            self.delta.added.push(endpoint);
            return;
        };
        if *current.spec() == spec {
            return;
        }
        let endpoint = Arc::new(Endpoint::new(current.index(), spec, Arc::clone(current.state())));
        if let Some(place) = self.endpoints.get_mut(at) {
            *place = Some(Arc::clone(&endpoint));
        }
        self.delta.updated.push(endpoint);
    }

    /// Removes the endpoint with this `namespace/name`; an unknown one is no error.
    pub fn remove(&mut self, id: &str) {
        let at = self.by_id.remove(id);
        if let Some(endpoint) = at.and_then(|at| self.endpoints.get_mut(at)?.take()) {
            self.allocator.give_back(endpoint.index());
            self.delta.removed.push(endpoint);
        }
    }

    /// Removes every endpoint for which `keep` says no.
    pub fn retain(&mut self, keep: impl Fn(&Endpoint) -> bool) {
        let gone: Vec<_> = self
            .endpoints
            .iter()
            .flatten()
            .filter(|e| !keep(e))
            .map(|e| Arc::clone(e.id()))
            .collect();
        for id in gone {
            self.remove(&id);
        }
    }
}

/// Hands out dense indices, the smallest free one first.
#[derive(Debug, Default)]
struct IndexAllocator {
    /// Generation by slot; grows by one each time the slot is given back.
    generations: Vec<u32>,
    free: std::collections::BTreeSet<u32>,
}

impl IndexAllocator {
    fn take(&mut self) -> EndpointIndex {
        if let Some(slot) = self.free.pop_first() {
            let generation = self.generations.get(slot as usize).copied().unwrap_or_default();
            return EndpointIndex { slot, generation };
        }
        let slot = self.generations.len() as u32;
        self.generations.push(0);
        EndpointIndex { slot, generation: 0 }
    }

    fn give_back(&mut self, index: EndpointIndex) {
        if let Some(generation) = self.generations.get_mut(index.slot as usize) {
            *generation = generation.wrapping_add(1);
            self.free.insert(index.slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, port: u16) -> EndpointSpec {
        EndpointSpec::new("default", name, "10.0.0.1", port)
    }

    #[test]
    fn an_equal_spec_publishes_nothing() {
        let pool = Pool::new(0);
        pool.update(|edit| edit.upsert(spec("a", 1)));
        let version = pool.snapshot().version();
        assert!(pool.update(|edit| edit.upsert(spec("a", 1))).is_empty());
        assert_eq!(pool.snapshot().version(), version);
    }

    #[test]
    fn a_changed_spec_keeps_index_and_state() {
        let pool = Pool::new(0);
        pool.update(|edit| edit.upsert(spec("a", 1)));
        let before = pool.snapshot().endpoints()[0].clone();
        before.signal_cell().update(|signals| signals.waiting = 7.0);
        let delta = pool.update(|edit| edit.upsert(spec("a", 2)));
        let after = &delta.updated[0];
        assert_eq!(after.authority(), "10.0.0.1:2");
        assert_eq!(after.index(), before.index());
        assert!(after.is_same(&before));
        assert_eq!(after.signals().waiting, 7.0);
    }

    #[test]
    fn a_reused_slot_has_another_generation() {
        let pool = Pool::new(0);
        pool.update(|edit| {
            edit.upsert(spec("a", 1));
            edit.upsert(spec("b", 2));
        });
        let old = pool.snapshot().by_id("default/a").unwrap().index();
        pool.update(|edit| edit.remove("default/a"));
        pool.update(|edit| edit.upsert(spec("c", 3)));
        let new = pool.snapshot().by_id("default/c").unwrap().index();
        assert_eq!(new.slot, old.slot);
        assert_ne!(new.generation, old.generation);
        assert_eq!(pool.snapshot().n_slots(), 2);
    }

    #[test]
    fn replace_gives_exactly_the_listed_endpoints() {
        let pool = Pool::new(0);
        pool.replace(vec![spec("a", 1), spec("b", 2)]);
        let delta = pool.replace(vec![spec("b", 9), spec("c", 3), spec("c", 4)]);
        assert_eq!((delta.added.len(), delta.removed.len()), (1, 1));
        let ports: Vec<_> = pool.snapshot().endpoints().iter().map(|e| e.spec().port).collect();
        assert_eq!(ports, [9, 4]);
    }
}
