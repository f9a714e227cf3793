//! What flow control shows of itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use router_core::Stamp;
use router_flow::{Outcome, PolicyFailure, Snapshot};
use router_telemetry::{
    RouterMetrics,
    metrics::Gauge,
    router::{FlowMetrics, RequestSeries},
};

/// Label for how putting a request into its queue ended while it waits there.
const WAITS: &str = "NotYetFinalized";
/// Flows of a band that the page shows, those with the most requests waiting and the most service.
const MAX_FLOWS_SHOWN: usize = 100;

/// The metrics of one pool.
pub struct Meters {
    families: FlowMetrics,
    pool: Arc<str>,
    router: Arc<RouterMetrics>,
    counted: Mutex<Counts>,
}

/// Counts that the queues keep, as far as they are on the page: totals are of all configurations that there were.
#[derive(Clone, Copy, Default)]
struct Counts {
    confirmed: u64,
    timed_out: u64,
    unjudged: u64,
}

/// A request's part of the metrics while it waits.
pub(super) struct Place {
    series: Arc<RequestSeries>,
    priority: i32,
    size: Arc<Gauge>,
    bytes: Arc<Gauge>,
    n_bytes: u64,
}

impl Place {
    /// The priority that the request asked for.
    pub(super) fn priority(&self) -> i32 {
        self.priority
    }
}

impl Meters {
    /// `pool` is the pool's name.
    pub fn new(families: FlowMetrics, pool: &str, router: Arc<RouterMetrics>) -> Self {
        Self { families, pool: pool.into(), router, counted: Mutex::default() }
    }

    /// For what is shown where it is found out.
    pub fn families(&self) -> &FlowMetrics {
        &self.families
    }

    pub(super) fn policy_failed(&self, failure: &PolicyFailure) {
        self.router.scheduler.plugin_panics.with([failure.kind.as_str(), "", ""]).inc();
    }

    /// A request comes.
    pub(super) fn enter(&self, series: Arc<RequestSeries>, priority: i32, n_bytes: u64) -> Place {
        let (size, bytes) = {
            let labels = [
                series.fairness_id(),
                series.priority(),
                &*self.pool,
                series.model(),
                series.target_model(),
            ];
            (self.families.queue_size.with(labels), self.families.queue_bytes.with(labels))
        };
        size.inc();
        bytes.add(n_bytes as f64);
        Place { series, priority, size, bytes, n_bytes }
    }

    /// It is in its queue, or its wait is over already.
    pub(super) fn entered(&self, place: &Place, outcome: Option<&'static str>, took: Duration) {
        let labels =
            [place.series.fairness_id(), place.series.priority(), outcome.unwrap_or(WAITS)];
        self.families.enqueue_duration.with(labels).observe_duration(took);
    }

    /// Its wait is over.
    pub(super) fn left(&self, place: &Place, outcome: Outcome, waited: Duration) {
        place.size.dec();
        place.bytes.add(-(place.n_bytes as f64));
        let (series, outcome, pool) = (&place.series, outcome.label(), &*self.pool);
        let labels = [
            series.fairness_id(),
            series.priority(),
            outcome,
            pool,
            series.model(),
            series.target_model(),
        ];
        self.families.queue_duration.with(labels).observe_duration(waited);
        self.families.requests.with([outcome, series.priority(), pool]).inc();
    }

    pub(super) fn evicted(&self, demand: i32) {
        self.families.revocations_issued.with([&demand.to_string(), &*self.pool]).inc();
    }

    pub(super) fn eviction_ended(&self, took: Duration) {
        self.families.revocation_confirmation.with([&*self.pool]).observe_duration(took);
    }

    pub(super) fn cycle(&self, took: Duration) {
        self.families.dispatch_cycle_duration.observe_duration(took);
    }

    /// Flows that nothing is known of any more, by priority.
    pub(super) fn forget(&self, gone: &BTreeSet<(String, String)>) {
        self.families
            .forget_flows(|flow, priority| gone.contains(&(flow.to_owned(), priority.to_owned())));
    }

    /// How many flows [`publish`](Self::publish) wants of each band.
    pub(super) fn max_flows(&self) -> usize {
        MAX_FLOWS_SHOWN
    }

    /// Brings the gauges up to date.
    pub(super) fn publish(&self, now: Stamp, snapshot: &Snapshot) {
        let (families, pool) = (&self.families, &*self.pool);
        let stages = [
            ("prefill", snapshot.signal.prefill.map(|load| load.saturation)),
            ("decode", snapshot.signal.decode.map(|load| load.saturation)),
            ("effective", Some(snapshot.saturation)),
        ];
        for (stage, value) in stages {
            match value {
                Some(value) => families.pool_saturation.with([pool, stage]).set(value),
                None => {
                    families.pool_saturation.remove([pool, stage]);
                }
            }
        }
        families.signal_age.with([pool]).set(now.since(snapshot.signal.as_of).as_secs_f64());
        let in_flight = &snapshot.in_flight;
        let n_placed = in_flight.requests - in_flight.unplaced_requests;
        families.in_flight.with([pool, "on_the_way"]).set(in_flight.unplaced_requests as f64);
        families.in_flight.with([pool, "placed"]).set(n_placed as f64);
        let share = |taken: u64, of: u64| taken as f64 / of.max(1) as f64;
        if let Some(of) = snapshot.max_requests {
            let gauge = families.global_capacity_utilization_requests.with([pool]);
            gauge.set(share(snapshot.n_waiting, of));
        }
        if let Some(of) = snapshot.max_bytes {
            let gauge = families.global_capacity_utilization_bytes.with([pool]);
            gauge.set(share(snapshot.waiting_bytes, of));
        }
        self.publish_bands(snapshot);
        let reclaim = &snapshot.reclaim;
        families.reclaim_target.with([pool]).set(reclaim.target);
        families.pending_reclaim.with([pool]).set(reclaim.pending);
        self.count(snapshot);
    }

    /// Adds to the totals what has been counted since the last time.
    pub(super) fn count(&self, snapshot: &Snapshot) {
        let mut counted = self.counted.lock();
        let more = |known: &mut u64, now: u64| {
            let before = std::mem::replace(known, now.max(*known));
            now.saturating_sub(before) as f64
        };
        let (families, pool) = (&self.families, &*self.pool);
        let revocations = |outcome| families.revocations.with([outcome, pool]);
        revocations("confirmed").add(more(&mut counted.confirmed, snapshot.reclaim.confirmed));
        revocations("timed_out").add(more(&mut counted.timed_out, snapshot.reclaim.timed_out));
        let unjudged = families.subsets_judged_as_pool.with([pool]);
        unjudged.add(more(&mut counted.unjudged, snapshot.n_unjudged));
    }

    fn publish_bands(&self, snapshot: &Snapshot) {
        let (families, pool) = (&self.families, &*self.pool);
        let share = |taken: u64, of: u64| taken as f64 / of.max(1) as f64;
        let priorities: Vec<String> =
            snapshot.bands.iter().map(|band| band.priority.to_string()).collect();
        let bands = || priorities.iter().zip(&snapshot.bands);
        families.capacity_utilization_requests.replace(bands().map(|(priority, band)| {
            ([priority.as_str(), pool], share(band.n_waiting, band.max_requests))
        }));
        families.capacity_utilization_bytes.replace(bands().map(|(priority, band)| {
            ([priority.as_str(), pool], share(band.waiting_bytes, band.max_bytes))
        }));
        families
            .jain_index
            .replace(bands().map(|(priority, band)| ([priority.as_str(), pool], band.jain)));
        let mut service: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for (priority, band) in bands() {
            for flow in &band.flows {
                let id = families.names.show(flow.id.as_str());
                let sum = service.entry((id, priority)).or_default();
                *sum = sum.saturating_add(flow.service);
            }
        }
        families.flow_service.replace(
            service.into_iter().map(|((id, priority), sum)| ([id, priority, pool], sum as f64)),
        );
    }
}
