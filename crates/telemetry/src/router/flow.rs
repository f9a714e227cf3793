//! Families of flow control (`spec/request-path.md` §6.2), and what operators see beyond those.

use std::sync::Arc;

use super::{FirstNames, buckets};
use crate::metrics::{
    Counter, Def, Family, Gauge, Histogram, Limits, RegisterError, Registry, Total, Twin,
};

const FLOW: [&str; 5] =
    ["fairness_id", "priority", "inference_pool", "model_name", "target_model_name"];
const POOL: [&str; 1] = ["inference_pool"];
const BAND: [&str; 2] = ["priority", "inference_pool"];

/// A histogram takes nearly twenty lines a series, and its twin as many: no more of them than keeps the whole
/// page within its bound.
const HISTOGRAM_LIMITS: Limits =
    Limits { max_values_per_label: 100, max_series: 128, max_label_bytes: 128 * 160 };

/// What flow control shows.
#[derive(Clone, Debug)]
pub struct FlowMetrics {
    /// Labels: `fairness_id`, `priority`, `outcome`, `inference_pool`, `model_name`, `target_model_name`.
    pub queue_duration: Family<Histogram, 6>,
    /// Labels: `fairness_id`, `priority`, `outcome`.
    pub enqueue_duration: Family<Histogram, 3>,
    pub dispatch_cycle_duration: Arc<Histogram>,
    /// Labels: `fairness_id`, `priority`, `inference_pool`, `model_name`, `target_model_name`.
    pub queue_size: Family<Gauge, 5>,
    /// The same.
    pub queue_bytes: Family<Gauge, 5>,
    /// Labels: `inference_pool`, `stage`.
    pub pool_saturation: Family<Gauge, 2>,
    /// Label: `detector`, the plugin's name.
    pub stale_endpoints: Family<Gauge, 1>,
    /// Labels: `priority`, `inference_pool`.
    pub capacity_utilization_requests: Family<Gauge, 2>,
    /// The same.
    pub capacity_utilization_bytes: Family<Gauge, 2>,
    /// Label: `inference_pool`.
    pub global_capacity_utilization_requests: Family<Gauge, 1>,
    /// The same.
    pub global_capacity_utilization_bytes: Family<Gauge, 1>,
    /// Labels: `outcome`, `priority`, `inference_pool`.
    pub requests: Family<Counter, 3>,
    /// Labels: `priority` of those for whom room is made, `inference_pool`.
    pub revocations_issued: Family<Counter, 2>,
    /// Labels: `outcome` (`confirmed`, `timed_out`), `inference_pool`.
    pub revocations: Family<Total, 2>,
    /// Label: `inference_pool`.
    pub reclaim_target: Family<Gauge, 1>,
    /// The same.
    pub pending_reclaim: Family<Gauge, 1>,
    /// The same.
    pub revocation_confirmation: Family<Histogram, 1>,
    /// Labels: `inference_pool`, `stage`; 1 while no signal of the stage is fresh.
    pub counting_in_flight: Family<Gauge, 2>,
    /// Label: `inference_pool`.
    pub signal_age: Family<Gauge, 1>,
    /// Labels: `inference_pool`, `phase` (`on_the_way`, `placed`).
    pub in_flight: Family<Gauge, 2>,
    /// Labels: `fairness_id`, `priority`, `inference_pool`.
    pub flow_service: Family<Gauge, 3>,
    /// Labels: `priority`, `inference_pool`.
    pub jain_index: Family<Gauge, 2>,
    /// Label: `inference_pool`.
    pub subsets_judged_as_pool: Family<Total, 1>,
    /// Flows that `flow_service` shows by name.
    pub names: Arc<FirstNames>,
}

/// Fairness ids that are shown by name, as many as requests show; clients make them up.
const MAX_NAMES: usize = 1_000;

impl FlowMetrics {
    pub fn new(registry: &Registry) -> Result<Self, RegisterError> {
        let pool = |name, help| registry.gauge(Def::alpha(name, help, POOL));
        let band = |name, help| registry.gauge(Def::alpha(name, help, BAND));
        let confirmation = Def::alpha(
            "llm_d_epp_flow_control_revocation_confirmation_seconds",
            "Time from the order to evict a request to its end.",
            POOL,
        );
        Ok(Self {
            queue_duration: queue_duration(registry)?,
            enqueue_duration: enqueue_duration(registry)?,
            dispatch_cycle_duration: dispatch_cycle_duration(registry)?,
            queue_size: per_flow(
                registry,
                "llm_d_epp_flow_control_queue_size",
                "Requests that wait.",
                "inference_extension_flow_control_queue_size",
            )?,
            queue_bytes: per_flow(
                registry,
                "llm_d_epp_flow_control_queue_bytes",
                "Bytes of the bodies of requests that wait.",
                "inference_extension_flow_control_queue_bytes",
            )?,
            pool_saturation: saturation(registry)?,
            stale_endpoints: registry.gauge(Def::alpha(
                "llm_d_epp_flow_control_stale_endpoints",
                "Endpoints without fresh signals when the detector was asked last.",
                ["detector"],
            ))?,
            capacity_utilization_requests: band(
                "llm_d_epp_flow_control_capacity_utilization_requests",
                "Share of a band's limit in requests that is taken.",
            )?,
            capacity_utilization_bytes: band(
                "llm_d_epp_flow_control_capacity_utilization_bytes",
                "Share of a band's limit in bytes that is taken.",
            )?,
            global_capacity_utilization_requests: pool(
                "llm_d_epp_flow_control_global_capacity_utilization_requests",
                "Share of the limit in requests over all bands that is taken.",
            )?,
            global_capacity_utilization_bytes: pool(
                "llm_d_epp_flow_control_global_capacity_utilization_bytes",
                "Share of the limit in bytes over all bands that is taken.",
            )?,
            requests: requests(registry)?,
            revocations_issued: registry.counter(Def::alpha(
                "llm_d_epp_flow_control_revocations_issued_total",
                "Total number of requests in flight that were told to make room.",
                BAND,
            ))?,
            revocations: revocations(registry)?,
            reclaim_target: pool(
                "llm_d_epp_flow_control_reclaim_target",
                "Saturation that was last to be made free by eviction.",
            )?,
            pending_reclaim: pool(
                "llm_d_epp_flow_control_pending_reclaim",
                "Saturation of evicted requests that have not ended.",
            )?,
            revocation_confirmation: registry
                .histogram(confirmation, &buckets::revocation_confirmation())?,
            counting_in_flight: counting_in_flight(registry)?,
            signal_age: pool(
                "llm_d_epp_flow_control_signal_age_seconds",
                "How old what the pool's signal shows is.",
            )?,
            in_flight: in_flight(registry)?,
            flow_service: flow_service(registry)?,
            jain_index: band(
                "llm_d_epp_flow_control_jain_index",
                "Jain's fairness index of the service of a band's flows.",
            )?,
            subsets_judged_as_pool: subsets_judged_as_pool(registry)?,
            names: Arc::new(FirstNames::new(MAX_NAMES)),
        })
    }

    /// Takes the series of flows off the page that are not known any more.
    pub fn forget_flows(&self, mut is_gone: impl FnMut(&str, &str) -> bool) {
        self.queue_duration.retain(|[flow, priority, ..]| !is_gone(flow, priority));
        self.enqueue_duration.retain(|[flow, priority, _]| !is_gone(flow, priority));
        self.queue_size.retain(|[flow, priority, ..]| !is_gone(flow, priority));
        self.queue_bytes.retain(|[flow, priority, ..]| !is_gone(flow, priority));
    }
}

fn dispatch_cycle_duration(registry: &Registry) -> Result<Arc<Histogram>, RegisterError> {
    let def = Def::alpha(
        "llm_d_epp_flow_control_dispatch_cycle_duration_seconds",
        "Time that one event takes in the queues, with all who are let go for it.",
        [],
    )
    .twin(Twin::new("inference_extension_flow_control_dispatch_cycle_duration_seconds", &[]));
    Ok(registry.histogram(def, &buckets::microseconds())?.with([]))
}

fn requests(registry: &Registry) -> Result<Family<Counter, 3>, RegisterError> {
    registry.counter(Def::alpha(
        "llm_d_epp_flow_control_requests_total",
        "Total number of requests by how their wait ended.",
        ["outcome", "priority", "inference_pool"],
    ))
}

fn revocations(registry: &Registry) -> Result<Family<Total, 2>, RegisterError> {
    registry.total(Def::alpha(
        "llm_d_epp_flow_control_revocations_total",
        "Total number of evicted requests that ended, or did not in time.",
        ["outcome", "inference_pool"],
    ))
}

fn subsets_judged_as_pool(registry: &Registry) -> Result<Family<Total, 1>, RegisterError> {
    registry.total(Def::alpha(
        "llm_d_epp_flow_control_subsets_judged_as_pool_total",
        "Total number of requests that waited for the pool and not for their subset of endpoints, because it is too large or too many are in use.",
        POOL,
    ))
}

fn counting_in_flight(registry: &Registry) -> Result<Family<Gauge, 2>, RegisterError> {
    registry.gauge(Def::alpha(
        "llm_d_epp_flow_control_counting_in_flight",
        "1 while no signal of a stage is fresh, so that requests in flight are counted instead.",
        ["inference_pool", "stage"],
    ))
}

fn in_flight(registry: &Registry) -> Result<Family<Gauge, 2>, RegisterError> {
    registry.gauge(Def::alpha(
        "llm_d_epp_flow_control_in_flight_requests",
        "Requests that were let go and have not ended.",
        ["inference_pool", "phase"],
    ))
}

fn flow_service(registry: &Registry) -> Result<Family<Gauge, 3>, RegisterError> {
    registry.gauge(Def::alpha(
        "llm_d_epp_flow_control_flow_service_tokens",
        "Uncached prompt and output tokens that a flow was served since it is known.",
        ["fairness_id", "priority", "inference_pool"],
    ))
}

fn queue_duration(registry: &Registry) -> Result<Family<Histogram, 6>, RegisterError> {
    let labels =
        ["fairness_id", "priority", "outcome", "inference_pool", "model_name", "target_model_name"];
    let def = Def::alpha(
        "llm_d_epp_flow_control_request_queue_duration_seconds",
        "Time that a request waited, by how that ended.",
        labels,
    )
    .twin(Twin::new("inference_extension_flow_control_request_queue_duration_seconds", &labels))
    .limits(HISTOGRAM_LIMITS);
    registry.histogram(def, &buckets::queue_wait())
}

fn enqueue_duration(registry: &Registry) -> Result<Family<Histogram, 3>, RegisterError> {
    let labels = ["fairness_id", "priority", "outcome"];
    let def = Def::alpha(
        "llm_d_epp_flow_control_request_enqueue_duration_seconds",
        "Time that it took to put a request into its queue.",
        labels,
    )
    .twin(Twin::new("inference_extension_flow_control_request_enqueue_duration_seconds", &labels))
    .limits(HISTOGRAM_LIMITS);
    registry.histogram(def, &buckets::microseconds())
}

fn per_flow(
    registry: &Registry,
    name: &'static str,
    help: &str,
    twin: &'static str,
) -> Result<Family<Gauge, 5>, RegisterError> {
    registry.gauge(Def::alpha(name, help, FLOW).twin(Twin::new(twin, &FLOW)))
}

fn saturation(registry: &Registry) -> Result<Family<Gauge, 2>, RegisterError> {
    let labels = ["inference_pool", "stage"];
    let def = Def::alpha(
        "llm_d_epp_flow_control_pool_saturation",
        "How full the pool is: by stage as its signals say, effective with what came and went since.",
        labels,
    );
    registry.gauge(def.twin(Twin::new("inference_extension_flow_control_pool_saturation", &labels)))
}
