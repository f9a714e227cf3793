//! Families of `estimated-ttft-scorer`: what it predicts, and what it has learned.

use std::sync::Arc;

use crate::metrics::{Buckets, Def, Family, Gauge, Histogram, RegisterError, Registry};

/// The series of one instance of the scorer.
#[derive(Clone, Debug)]
pub struct EstimateMetrics {
    plugin_name: Arc<str>,
    /// Predicted seconds to the first token on the endpoint that was picked.
    pub predicted: Arc<Histogram>,
    /// Observed over predicted seconds, of streamed answers.
    pub error_ratio: Arc<Histogram>,
    prefill_rate: Family<Gauge, 3>,
    decode_step: Family<Gauge, 3>,
}

impl EstimateMetrics {
    pub fn new(registry: &Registry, plugin_name: &str) -> Result<Self, RegisterError> {
        let seconds = [
            0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0,
            20.0, 30.0, 60.0, 120.0,
        ];
        let ratios =
            [0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0];
        let predicted = Def::alpha(
            "llm_d_router_estimated_ttft_seconds",
            "Time to the first token that was predicted for the picked endpoint.",
            ["plugin_name"],
        );
        let error_ratio = Def::alpha(
            "llm_d_router_estimated_ttft_error_ratio",
            "Time to the first byte of streamed answers, over the one that was predicted.",
            ["plugin_name"],
        );
        let per_endpoint =
            |name, help| Def::alpha(name, help, ["endpoint_name", "namespace", "plugin_name"]);
        Ok(Self {
            plugin_name: plugin_name.into(),
            predicted: registry.histogram(predicted, &Buckets::new(seconds))?.with([plugin_name]),
            error_ratio: registry.histogram(error_ratio, &Buckets::new(ratios))?.with([plugin_name]),
            prefill_rate: registry.gauge(per_endpoint(
                "llm_d_router_estimated_prefill_tokens_per_second",
                "Prompt tokens that an endpoint computes in a second, as learned from its answers.",
            ))?,
            decode_step: registry.gauge(per_endpoint(
                "llm_d_router_estimated_decode_step_seconds",
                "Length of a decode step of one short sequence, as learned from an endpoint's answers.",
            ))?,
        })
    }

    /// The gauges of one endpoint: its prefill rate in tokens per second, and its decode step in seconds. They
    /// come into being with this, and stay until [`forget`](Self::forget).
    pub fn of_endpoint(&self, name: &str, namespace: &str) -> (Arc<Gauge>, Arc<Gauge>) {
        let labels = [name, namespace, &*self.plugin_name];
        (self.prefill_rate.with(labels), self.decode_step.with(labels))
    }

    /// Takes the endpoint's series off the page.
    pub fn forget(&self, name: &str, namespace: &str) {
        let labels = [name, namespace, &*self.plugin_name];
        self.prefill_rate.remove(labels);
        self.decode_step.remove(labels);
    }
}
