//! Families that belong to plugins and exist only where these are configured.

use std::sync::Arc;

use super::{FirstNames, buckets};
use crate::metrics::{Def, Family, Gauge, Histogram, RegisterError, Registry, Twin};

/// The prefix index of one plugin.
#[derive(Clone, Debug)]
pub struct PrefixIndexMetrics {
    /// Entries in the index.
    pub size: Arc<Gauge>,
    /// Matched share of a prompt, 0 to 1.
    pub hit_ratio: Arc<Histogram>,
    /// Matched length of a prompt, in bytes.
    pub hit_bytes: Arc<Histogram>,
}

/// Requests and tokens that endpoints work on.
///
/// Labels: `endpoint_name`, `namespace`, `producer_name`, `fairness_id`, `priority`.
#[derive(Clone, Debug)]
pub struct InflightMetrics {
    pub requests: Family<Gauge, 5>,
    pub tokens: Family<Gauge, 5>,
}

/// Programs of `program-aware-fairness`. Set by a scrape hook with [`Family::replace`].
#[derive(Clone, Debug)]
pub struct ProgramAwareMetrics {
    pub jains_fairness_index: Arc<Gauge>,
    /// Label: `program_id`.
    pub avg_wait: Family<Gauge, 1>,
    /// Label: `program_id`.
    pub attained_service: Family<Gauge, 1>,
    /// The programs that are shown.
    pub names: Arc<FirstNames>,
}

/// Programs that the page shows; clients make up their names.
const MAX_PROGRAMS: usize = 1_000;

impl PrefixIndexMetrics {
    /// The handles of the plugin with this name and type. Twins have no labels: they show the sum
    /// over all plugins.
    pub fn new(
        registry: &Registry,
        plugin_name: &str,
        plugin_type: &str,
    ) -> Result<Self, RegisterError> {
        let def = |name, help, twin| {
            Def::alpha(name, help, ["plugin_name", "plugin_type"]).twin(Twin::new(twin, &[]))
        };
        let size = def(
            "llm_d_epp_prefix_indexer_size",
            "Entries in the prefix index.",
            "inference_extension_prefix_indexer_size",
        );
        let hit_ratio = def(
            "llm_d_epp_prefix_indexer_hit_ratio",
            "Share of a prompt that the prefix index knew.",
            "inference_extension_prefix_indexer_hit_ratio",
        );
        let hit_bytes = def(
            "llm_d_epp_prefix_indexer_hit_bytes",
            "Length of the part of a prompt that the prefix index knew.",
            "inference_extension_prefix_indexer_hit_bytes",
        );
        let labels = [plugin_name, plugin_type];
        Ok(Self {
            size: registry.gauge(size)?.with(labels),
            hit_ratio: registry.histogram(hit_ratio, &buckets::ratio())?.with(labels),
            hit_bytes: registry.histogram(hit_bytes, &buckets::hit_bytes())?.with(labels),
        })
    }
}

impl InflightMetrics {
    pub fn new(registry: &Registry) -> Result<Self, RegisterError> {
        let labels = ["endpoint_name", "namespace", "producer_name", "fairness_id", "priority"];
        let requests = "Requests that an endpoint works on.";
        let tokens = "Tokens of requests that an endpoint works on.";
        Ok(Self {
            requests: registry.gauge(Def::alpha(
                "llm_d_epp_inflight_requests",
                requests,
                labels,
            ))?,
            tokens: registry.gauge(Def::alpha("llm_d_epp_inflight_tokens", tokens, labels))?,
        })
    }
}

impl ProgramAwareMetrics {
    pub fn new(registry: &Registry) -> Result<Self, RegisterError> {
        let index = Def::alpha(
            "llm_d_epp_program_aware_jains_fairness_index",
            "Jain's fairness index of the service that programs attained.",
            [],
        );
        let wait = Def::alpha(
            "llm_d_epp_program_aware_avg_wait_time_milliseconds",
            "Average time that requests of a program waited.",
            ["program_id"],
        );
        let service = Def::alpha(
            "llm_d_epp_program_aware_attained_service_tokens",
            "Service that a program attained lately, in tokens.",
            ["program_id"],
        );
        Ok(Self {
            jains_fairness_index: registry.gauge(index)?.with([]),
            avg_wait: registry.gauge(wait)?,
            attained_service: registry.gauge(service)?,
            names: Arc::new(FirstNames::new(MAX_PROGRAMS)),
        })
    }
}
