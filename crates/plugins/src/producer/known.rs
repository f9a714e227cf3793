//! The endpoints that are alive, for the debug pages of plugins that keep state per endpoint.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use router_core::{Endpoint, EndpointIndex};
use router_framework::DUMP_LIMIT;

/// Holds as many entries as there are endpoints in the pool.
#[derive(Debug, Default)]
pub(crate) struct KnownEndpoints(Mutex<BTreeMap<EndpointIndex, Arc<Endpoint>>>);

impl KnownEndpoints {
    pub(crate) fn add(&self, endpoint: &Arc<Endpoint>) {
        self.0.lock().insert(endpoint.index(), Arc::clone(endpoint));
    }

    pub(crate) fn remove(&self, endpoint: &Endpoint) {
        self.0.lock().remove(&endpoint.index());
    }

    pub(crate) fn id(&self, index: EndpointIndex) -> Option<Arc<str>> {
        self.0.lock().get(&index).map(|endpoint| Arc::clone(endpoint.id()))
    }

    /// The first [`DUMP_LIMIT`] endpoints, and how many there are in all.
    pub(crate) fn first(&self) -> (Vec<Arc<Endpoint>>, usize) {
        let known = self.0.lock();
        (known.values().take(DUMP_LIMIT).cloned().collect(), known.len())
    }
}
