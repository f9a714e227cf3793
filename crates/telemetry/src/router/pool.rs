//! Families about pools, their endpoints and the data layer.

use crate::metrics::{Counter, Def, Family, Gauge, RegisterError, Registry, Twin};

/// Gauges about a pool; label `name` is the pool's.
#[derive(Clone, Debug)]
pub struct PoolMetrics {
    pub average_kv_cache_utilization: Family<Gauge, 1>,
    pub average_queue_size: Family<Gauge, 1>,
    pub average_running_requests: Family<Gauge, 1>,
    pub std_dev_kv_cache_utilization: Family<Gauge, 1>,
    pub std_dev_queue_size: Family<Gauge, 1>,
    pub std_dev_running_requests: Family<Gauge, 1>,
    /// Endpoints whose metrics are fresh.
    pub ready_endpoints: Family<Gauge, 1>,
    /// Labels: `name`, `model_server_endpoint`. Set by a scrape hook with [`Family::replace`].
    pub per_endpoint_queue_size: Family<Gauge, 2>,
    /// Sheddable requests for which requests in flight counted, because no candidate had fresh metrics.
    pub judged_blindly: Family<Counter, 1>,
}

/// Errors of data sources and extractors.
#[derive(Clone, Debug)]
pub struct DataLayerMetrics {
    /// Label: `source_type`.
    pub poll_errors: Family<Counter, 1>,
    /// Labels: `source_type`, `extractor_type`.
    pub extract_errors: Family<Counter, 2>,
}

impl PoolMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, RegisterError> {
        let gauge = |name, help| registry.gauge(Def::alpha(name, help, ["name"]));
        let twinned = |name, help, twin| {
            registry.gauge(Def::alpha(name, help, ["name"]).twin(Twin::new(twin, &["name"])))
        };
        let per_endpoint = Def::alpha(
            "llm_d_epp_per_endpoint_queue_size",
            "Requests waiting in the queue of an endpoint.",
            ["name", "model_server_endpoint"],
        )
        .twin(
            Twin::new("inference_pool_per_pod_queue_size", &["name"])
                .renamed("model_server_pod", "model_server_endpoint"),
        );
        Ok(Self {
            average_kv_cache_utilization: twinned(
                "llm_d_epp_average_kv_cache_utilization",
                "Mean KV cache utilization of a pool's endpoints.",
                "inference_pool_average_kv_cache_utilization",
            )?,
            average_queue_size: twinned(
                "llm_d_epp_average_queue_size",
                "Mean number of requests waiting on a pool's endpoints.",
                "inference_pool_average_queue_size",
            )?,
            average_running_requests: twinned(
                "llm_d_epp_average_running_requests",
                "Mean number of requests running on a pool's endpoints.",
                "inference_pool_average_running_requests",
            )?,
            std_dev_kv_cache_utilization: gauge(
                "llm_d_epp_std_dev_kv_cache_utilization",
                "Standard deviation of KV cache utilization over a pool's endpoints.",
            )?,
            std_dev_queue_size: gauge(
                "llm_d_epp_std_dev_queue_size",
                "Standard deviation of waiting requests over a pool's endpoints.",
            )?,
            std_dev_running_requests: gauge(
                "llm_d_epp_std_dev_running_requests",
                "Standard deviation of running requests over a pool's endpoints.",
            )?,
            ready_endpoints: twinned(
                "llm_d_epp_ready_endpoints",
                "Endpoints of a pool whose metrics are fresh.",
                "inference_pool_ready_pods",
            )?,
            per_endpoint_queue_size: registry.gauge(per_endpoint)?,
            judged_blindly: registry.counter(Def::alpha(
                "llm_d_epp_admission_without_signals_total",
                "Total number of sheddable requests that were admitted or refused by requests in flight, because no endpoint had fresh metrics.",
                ["name"],
            ))?,
        })
    }
}

impl DataLayerMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, RegisterError> {
        let poll_errors = Def::alpha(
            "llm_d_epp_datalayer_poll_errors_total",
            "Total number of failed polls of a data source.",
            ["source_type"],
        );
        let extract_errors = Def::alpha(
            "llm_d_epp_datalayer_extract_errors_total",
            "Total number of failed extractions from polled data.",
            ["source_type", "extractor_type"],
        );
        Ok(Self {
            poll_errors: registry.counter(poll_errors.twin(Twin::new(
                "llm_d_inference_scheduler_datalayer_poll_errors_total",
                &["source_type"],
            )))?,
            extract_errors: registry.counter(extract_errors.twin(Twin::new(
                "llm_d_inference_scheduler_datalayer_extract_errors_total",
                &["source_type", "extractor_type"],
            )))?,
        })
    }
}
