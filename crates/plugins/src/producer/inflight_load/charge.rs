//! What one request counts for on the endpoints that it was sent to.

use std::sync::Arc;

use router_core::{Endpoint, EndpointIndex, EndpointSlot, Stamp};
use router_framework::{End, Lease, MAX_TARGETS, keys::InFlightLoad};
use router_telemetry::{
    metrics::Gauge,
    router::{InflightMetrics, RequestSeries},
};
use smallvec::SmallVec;

/// The gauges of one endpoint for requests of one kind.
#[derive(Clone, Debug)]
pub(super) struct Gauges {
    pub(super) requests: Arc<Gauge>,
    pub(super) tokens: Arc<Gauge>,
}

/// The gauges of one instance.
#[derive(Debug)]
pub(super) struct Meters {
    pub(super) families: InflightMetrics,
    /// Instance name.
    pub(super) producer: Arc<str>,
}

/// One request's part of one endpoint's load. It knows the endpoint itself, not its name, and gives back
/// exactly what it took, once.
#[derive(Debug)]
pub(super) struct Charge {
    endpoint: Arc<Endpoint>,
    load: EndpointSlot<InFlightLoad>,
    gauges: Gauges,
    requests: i64,
    tokens: i64,
}

impl Meters {
    pub(super) fn gauges(&self, endpoint: &Endpoint, series: &RequestSeries) -> Gauges {
        let spec = endpoint.spec();
        let (fairness_id, priority) = (series.fairness_id(), series.priority());
        let labels = [&*spec.name, &*spec.namespace, &*self.producer, fairness_id, priority];
        let InflightMetrics { requests, tokens } = &self.families;
        Gauges { requests: requests.with(labels), tokens: tokens.with(labels) }
    }

    /// Takes the endpoint's series off the page. Requests under way there count on, unseen.
    pub(super) fn forget(&self, endpoint: &Endpoint) {
        let spec = endpoint.spec();
        let is_other = |[name, namespace, producer, ..]: [&str; 5]| {
            name != &*spec.name || namespace != &*spec.namespace || producer != &*self.producer
        };
        self.families.requests.retain(is_other);
        self.families.tokens.retain(is_other);
    }
}

impl Charge {
    pub(super) fn take(
        endpoint: Arc<Endpoint>,
        load: EndpointSlot<InFlightLoad>,
        gauges: Gauges,
        tokens: i64,
    ) -> Self {
        let charge = Self { endpoint, load, gauges, requests: 1, tokens };
        charge.add(1, tokens);
        charge
    }

    fn add(&self, requests: i64, tokens: i64) {
        if let Some(load) = self.endpoint.slot(&self.load) {
            load.add(requests, tokens);
        }
        if requests != 0 {
            self.gauges.requests.add(requests as f64);
        }
        if tokens != 0 {
            self.gauges.tokens.add(tokens as f64);
        }
    }

    fn release_tokens(&mut self) {
        let tokens = std::mem::take(&mut self.tokens);
        self.add(0, -tokens);
    }

    fn release(&mut self) {
        let requests = std::mem::take(&mut self.requests);
        let tokens = std::mem::take(&mut self.tokens);
        self.add(-requests, -tokens);
    }
}

/// A charge that is forgotten is released all the same.
impl Drop for Charge {
    fn drop(&mut self) {
        self.release();
    }
}

/// All charges of one request.
#[derive(Debug)]
pub(super) struct LoadLease {
    pub(super) primary: Option<Charge>,
    pub(super) others: SmallVec<[Charge; 1]>,
    /// Tokens on the endpoints that the request may move to.
    pub(super) fallbacks: SmallVec<[(EndpointIndex, i64); MAX_TARGETS]>,
    pub(super) counts_output: bool,
    pub(super) meters: Arc<Meters>,
    pub(super) series: Arc<RequestSeries>,
}

impl Lease for LoadLease {
    fn moved(&mut self, endpoint: &Arc<Endpoint>, _: Stamp) {
        let Some(old) = self.primary.take() else { return };
        let known = self.fallbacks.iter().find(|(index, _)| *index == endpoint.index());
        // What has been released stays released.
        let tokens = match known {
            Some((_, tokens)) if old.tokens != 0 => *tokens,
            _ => old.tokens,
        };
        let load = old.load.clone();
        let gauges = self.meters.gauges(endpoint, &self.series);
        drop(old);
        self.primary = Some(Charge::take(Arc::clone(endpoint), load, gauges, tokens));
    }

    fn first_byte(&mut self, _: Stamp) {
        self.others.clear();
        self.fallbacks = SmallVec::new();
        if let Some(primary) = self.primary.as_mut().filter(|_| !self.counts_output) {
            primary.release_tokens();
        }
    }

    fn end(&mut self, _: &End) {
        self.others.clear();
        self.primary = None;
    }
}
