//! What the router knows at this moment: the pool's endpoints, the objectives and the model rewrites.

use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use router_core::{EndpointSpec, Pool, PoolSnapshot};
use router_framework::{EndpointListener, EndpointSink, loader::Named};
use router_telemetry::{RouterMetrics, router::KnownBy};
use tokio::sync::watch;

use crate::{
    flow::FlowController, isolate::isolated, objectives::Objectives, record::Record,
    rewrites::Rewrites,
};

/// The pool, the objectives and the model rewrites, with everyone who wants to hear of changes.
pub struct Datastore {
    pool: Pool,
    objectives: ArcSwap<Objectives>,
    rewrites: ArcSwap<Rewrites>,
    listeners: Vec<Named<dyn EndpointListener>>,
    metrics: Arc<RouterMetrics>,
    record: Option<Record>,
    /// Keeps deltas in order for the listeners.
    publishing: Mutex<()>,
    /// Version of the snapshot that was published last.
    version: watch::Sender<u64>,
    synced: AtomicBool,
    /// Has a band for every priority of an objective.
    flow: OnceLock<Weak<FlowController>>,
}

impl Datastore {
    pub(crate) fn new(
        n_state_slots: usize,
        listeners: Vec<Named<dyn EndpointListener>>,
        metrics: Arc<RouterMetrics>,
        record: Option<Record>,
    ) -> Self {
        Self {
            pool: Pool::new(n_state_slots),
            objectives: ArcSwap::default(),
            rewrites: ArcSwap::default(),
            listeners,
            metrics,
            record,
            publishing: Mutex::new(()),
            version: watch::Sender::new(0),
            synced: AtomicBool::new(false),
            flow: OnceLock::new(),
        }
    }

    pub fn snapshot(&self) -> Arc<PoolSnapshot> {
        self.pool.snapshot()
    }

    pub fn objectives(&self) -> Arc<Objectives> {
        self.objectives.load_full()
    }

    pub fn set_objectives(&self, objectives: Objectives) {
        let priorities = objectives.priorities();
        self.objectives.store(Arc::new(objectives));
        if let Some(flow) = self.flow.get().and_then(Weak::upgrade) {
            flow.provision(&priorities);
        }
    }

    /// Flow control that is to have a band for every priority of an objective.
    pub(crate) fn provisions(&self, flow: &Arc<FlowController>) {
        let _set_once = self.flow.set(Arc::downgrade(flow));
    }

    pub fn rewrites(&self) -> Guard<Arc<Rewrites>> {
        self.rewrites.load()
    }

    /// Models that rewrites name are shown in metrics from here on.
    pub fn set_rewrites(&self, rewrites: Rewrites) {
        for model in rewrites.models() {
            self.metrics.requests.know_model(model, KnownBy::Configured);
        }
        self.rewrites.store(Arc::new(rewrites));
    }

    /// Whether discovery has reported at least once.
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// Tells of every published snapshot by its version.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn publish(&self, endpoints: Vec<EndpointSpec>) {
        let _in_order = self.publishing.lock();
        let recorded = self.record.as_ref().filter(|record| record.wants_members());
        let recorded = recorded.map(|record| (record, endpoints.clone()));
        let delta = self.pool.replace(endpoints);
        for Named { ident, role } in &self.listeners {
            for endpoint in &delta.removed {
                isolated(&self.metrics, ident, "Discovery", || role.removed(endpoint));
            }
            for endpoint in &delta.added {
                isolated(&self.metrics, ident, "Discovery", || role.added(endpoint));
            }
        }
        self.synced.store(true, Ordering::Release);
        if !delta.is_empty() {
            if let Some((record, endpoints)) = recorded {
                record.members(endpoints);
            }
            tracing::info!(
                added = delta.added.len(),
                updated = delta.updated.len(),
                removed = delta.removed.len(),
                endpoints = self.pool.snapshot().len(),
                "endpoints changed"
            );
            self.version.send_replace(self.pool.snapshot().version());
        }
    }
}

impl EndpointSink for Datastore {
    fn replace(&self, endpoints: Vec<EndpointSpec>) {
        self.publish(endpoints);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use router_core::Endpoint;
    use router_framework::loader::Ident;
    use router_telemetry::{BUILD, Registry};

    #[derive(Default)]
    struct Log(Mutex<Vec<String>>);

    impl EndpointListener for Log {
        fn added(&self, endpoint: &Arc<Endpoint>) {
            self.0.lock().push(format!("+{}", endpoint.name()));
        }

        fn removed(&self, endpoint: &Arc<Endpoint>) {
            self.0.lock().push(format!("-{}", endpoint.name()));
        }
    }

    #[test]
    fn a28_listeners_hear_of_a_removal_before_the_slot_is_used_again() {
        let log = Arc::new(Log::default());
        let ident = Ident { name: "log".into(), plugin_type: "log".into() };
        let listener = Named { ident, role: Arc::clone(&log) as Arc<dyn EndpointListener> };
        let metrics = RouterMetrics::new(&Registry::default(), &BUILD).unwrap();
        let store = Datastore::new(0, vec![listener], Arc::new(metrics), None);
        assert!(!store.is_synced());
        let spec = |name: &str| EndpointSpec::new("d", name, "10.0.0.1", 1);
        store.replace(vec![spec("a")]);
        store.replace(vec![spec("b")]);
        assert!(store.is_synced());
        assert_eq!(*log.0.lock(), ["+a", "-a", "+b"]);
    }
}
