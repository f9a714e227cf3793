//! The endpoints that are alive, for the debug pages of plugins that keep state per endpoint.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use router_core::{Endpoint, EndpointIndex};
use router_framework::DUMP_LIMIT;

/// Holds as many entries as there are endpoints in the pool.
#[derive(Debug, Default)]
pub(super) struct KnownEndpoints(Mutex<BTreeMap<EndpointIndex, Arc<Endpoint>>>);

impl KnownEndpoints {
    pub(super) fn add(&self, endpoint: &Arc<Endpoint>) {
        self.0.lock().insert(endpoint.index(), Arc::clone(endpoint));
    }

    pub(super) fn remove(&self, endpoint: &Endpoint) {
        self.0.lock().remove(&endpoint.index());
    }

    pub(super) fn id(&self, index: EndpointIndex) -> Option<Arc<str>> {
        self.0.lock().get(&index).map(|endpoint| Arc::clone(endpoint.id()))
    }

    /// The first [`DUMP_LIMIT`] endpoints, and how many there are in all.
    pub(super) fn first(&self) -> (Vec<Arc<Endpoint>>, usize) {
        let known = self.0.lock();
        (known.values().take(DUMP_LIMIT).cloned().collect(), known.len())
    }
}
