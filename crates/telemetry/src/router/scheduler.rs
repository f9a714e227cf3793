//! Families about scheduling and plugins.

use std::sync::Arc;

use super::buckets;
use crate::metrics::{Counter, Def, Family, Histogram, Limits, RegisterError, Registry, Twin};

/// Families of the scheduler and of plugin calls.
#[derive(Clone, Debug)]
pub struct SchedulerMetrics {
    /// One scheduling decision, in seconds.
    pub e2e_duration: Arc<Histogram>,
    /// Labels: `status` (`success`, `failure`), `target_model_name`, `endpoint_name`,
    /// `namespace`, `port`.
    pub attempts: Family<Counter, 5>,
    /// Labels: `extension_point`, `plugin_type`, `plugin_name`; see [`SchedulerMetrics::plugin`].
    pub plugin_duration: Family<Histogram, 3>,
    /// Labels: `extension_point`, `plugin_type`, `plugin_name`, `access` (`read`, `write`).
    pub data_scope_violations: Family<Counter, 4>,
    /// Labels: `extension_point`, `plugin_type`, `plugin_name`.
    pub plugin_panics: Family<Counter, 3>,
}

/// Where in a request's life a plugin runs: values of the `extension_point` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExtensionPoint {
    RequestParsing,
    ResponseParsing,
    RequestHeader,
    Screener,
    DataProducer,
    Admission,
    ProfilePicker,
    Filter,
    Scorer,
    Picker,
    ProcessProfilesResults,
    PreRequest,
    ResponseReceived,
    ResponseStreaming,
}

/// A pool may have a thousand endpoints and serve a few models.
const ATTEMPTS: Limits =
    Limits { max_values_per_label: 1_000, max_series: 4_096, max_label_bytes: 4_096 * 80 };

impl SchedulerMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, RegisterError> {
        let plugin_labels = ["extension_point", "plugin_type", "plugin_name"];
        let e2e = Def::alpha(
            "llm_d_epp_scheduler_e2e_duration_seconds",
            "Time that one scheduling decision takes.",
            [],
        )
        .twin(Twin::new("inference_extension_scheduler_e2e_duration_seconds", &[]));
        let attempts = Def::alpha(
            "llm_d_epp_scheduler_attempts_total",
            "Total number of scheduling attempts.",
            ["status", "target_model_name", "endpoint_name", "namespace", "port"],
        )
        .twin(
            Twin::new(
                "inference_extension_scheduler_attempts_total",
                &["status", "target_model_name", "namespace", "port"],
            )
            .renamed("pod_name", "endpoint_name"),
        )
        .limits(ATTEMPTS);
        let plugins = Def::alpha(
            "llm_d_epp_plugin_duration_seconds",
            "Time that a plugin takes at an extension point.",
            plugin_labels,
        )
        .twin(Twin::new("inference_extension_plugin_duration_seconds", &plugin_labels));
        let violations = Def::alpha(
            "llm_d_epp_plugin_data_scope_violations_total",
            "Total number of accesses to data that a plugin had not declared.",
            ["extension_point", "plugin_type", "plugin_name", "access"],
        );
        let panics = Def::alpha(
            "llm_d_epp_plugin_panics_total",
            "Total number of calls of a plugin that panicked; each is a bug of the plugin.",
            plugin_labels,
        );
        Ok(Self {
            e2e_duration: registry.histogram(e2e, &buckets::microseconds())?.with([]),
            attempts: registry.counter(attempts)?,
            plugin_duration: registry.histogram(plugins, &buckets::microseconds())?,
            data_scope_violations: registry.counter(violations)?,
            plugin_panics: registry.counter(panics)?,
        })
    }

    /// The duration of one plugin at one extension point: resolve once, when plugins are loaded.
    pub fn plugin(
        &self,
        point: ExtensionPoint,
        plugin_type: &str,
        plugin_name: &str,
    ) -> Arc<Histogram> {
        self.plugin_duration.with([point.as_str(), plugin_type, plugin_name])
    }
}

impl ExtensionPoint {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RequestParsing => "RequestParsing",
            Self::ResponseParsing => "ResponseParsing",
            Self::RequestHeader => "RequestHeader",
            Self::Screener => "Screener",
            Self::DataProducer => "DataProducer",
            Self::Admission => "Admission",
            Self::ProfilePicker => "ProfilePicker",
            Self::Filter => "Filter",
            Self::Scorer => "Scorer",
            Self::Picker => "Picker",
            Self::ProcessProfilesResults => "ProcessProfilesResults",
            Self::PreRequest => "PreRequest",
            Self::ResponseReceived => "ResponseReceived",
            Self::ResponseStreaming => "ResponseStreaming",
        }
    }
}
