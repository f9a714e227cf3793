//! The router's own metric families: names, labels and buckets exactly as in the Go implementation
//! (`spec/request-path.md` §6.1, `spec/scheduling.md` §16).
//!
//! Each group is a struct built from a [`Registry`]; nothing is global. Groups that only some
//! configurations have ([`PrefixIndexMetrics`], [`InflightMetrics`], [`ProgramAwareMetrics`],
//! [`FlowMetrics`], [`ExtProcMetrics`], [`EstimateMetrics`], [`RecordMetrics`]) are made by who needs them.

mod buckets;
mod estimate;
mod flow;
mod limiter;
mod plugin;
mod pool;
mod process;
mod record;
mod reload;
mod request;
mod scheduler;

pub use estimate::EstimateMetrics;
pub use flow::FlowMetrics;
pub use limiter::{FirstNames, KnownBy, KnownModels};
pub use plugin::{InflightMetrics, PrefixIndexMetrics, ProgramAwareMetrics};
pub use pool::{DataLayerMetrics, PoolMetrics};
pub use process::ProcessMetrics;
pub use record::RecordMetrics;
pub use reload::{Followed, ReloadMetrics, Reloads};
pub use request::{DEFAULT_FLOW, ExtProcMetrics, RequestMetrics, RequestSeries, RunningGuard};
pub use scheduler::{ExtensionPoint, SchedulerMetrics};

use std::sync::Arc;

use crate::{
    build::BuildInfo,
    metrics::{Counter, Def, Family, RegisterError, Registry, Twin},
};

/// All families that every router has.
#[derive(Clone, Debug)]
pub struct RouterMetrics {
    pub requests: Arc<RequestMetrics>,
    pub scheduler: SchedulerMetrics,
    pub pool: PoolMetrics,
    pub data_layer: DataLayerMetrics,
    pub reloads: ReloadMetrics,
    /// Labels: `model_rewrite_name`, `model_name`, `target_model`.
    pub model_rewrite_decisions: Family<Counter, 3>,
}

impl RouterMetrics {
    /// Registers all families and sets the build information.
    pub fn new(registry: &Registry, build: &BuildInfo) -> Result<Self, RegisterError> {
        let info = Def::alpha(
            "llm_d_epp_info",
            "General information of the current build of the endpoint picker.",
            ["commit", "build_ref"],
        );
        registry
            .gauge(info.twin(Twin::new("inference_extension_info", &["commit", "build_ref"])))?
            .with([build.commit, build.build_ref])
            .set(1.0);
        let rewrites = Def::alpha(
            "llm_d_epp_model_rewrite_decisions_total",
            "Total number of requests that a model rewrite decided on.",
            ["model_rewrite_name", "model_name", "target_model"],
        )
        .twin(Twin::new(
            "inference_extension_model_rewrite_decisions_total",
            &["model_rewrite_name", "model_name", "target_model"],
        ));
        Ok(Self {
            requests: Arc::new(RequestMetrics::new(registry)?),
            scheduler: SchedulerMetrics::new(registry)?,
            pool: PoolMetrics::new(registry)?,
            data_layer: DataLayerMetrics::new(registry)?,
            reloads: ReloadMetrics::new(registry)?,
            model_rewrite_decisions: registry.counter(rewrites)?,
        })
    }

    /// The series of a request; see [`RequestMetrics::series`].
    pub fn request(
        &self,
        model: &str,
        target_model: &str,
        fairness_id: &str,
        priority: i32,
    ) -> Arc<RequestSeries> {
        self.requests.series(model, target_model, fairness_id, priority)
    }
}

#[cfg(test)]
mod tests;
