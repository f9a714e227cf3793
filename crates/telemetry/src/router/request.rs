//! Families about requests, and the handles that one request needs.
//!
//! A model's name is shown once the router knows it ([`RequestMetrics::know_model`]); clients can ask for any.
//! Fairness ids are the clients' own: the first ones that come are shown.
//!
//! A page stays below 16 MiB whatever clients send. Nearly all of it are histograms: one combination of
//! labels takes about 260 lines of 200 bytes, and half as many again under deprecated names. So few
//! combinations have histograms of their own, and many have counters, see [`DETAILS`] and [`COUNTERS`].

mod combinations;
mod families;
mod series;

use std::sync::Arc;

use parking_lot::RwLock;

pub use self::{
    combinations::DEFAULT_FLOW,
    series::{RequestSeries, RunningGuard},
};
use self::{
    combinations::{Bounds, Combinations, KeyRef},
    families::Families,
    series::Details,
};
use super::{
    buckets,
    limiter::{FirstNames, KnownBy, KnownModels},
};
use crate::metrics::{Counter, Def, Family, Gauge, Histogram, OTHER, RegisterError, Registry};

/// Families labelled by model, target model, fairness id and priority, and the two processing
/// times that have no labels.
#[derive(Debug)]
pub struct RequestMetrics {
    /// Receipt to the replies for the request, or its error; includes waiting in queues. Seconds.
    pub processing_duration: Arc<Histogram>,
    /// Handling time of the response, summed over its chunks. Seconds.
    pub response_processing_duration: Arc<Histogram>,
    families: Families,
    models: KnownModels,
    fairness_ids: FirstNames,
    series: RwLock<Combinations<RequestSeries>>,
    details: RwLock<Combinations<Details>>,
}

/// Families of ext-proc streams; only with `--enable-grpc-stream-metrics`.
#[derive(Clone, Debug)]
pub struct ExtProcMetrics {
    pub streams_inflight: Arc<Gauge>,
    /// Label: `code`, the name of the gRPC status.
    pub streams: Family<Counter, 1>,
    /// Seconds.
    pub stream_duration: Arc<Histogram>,
}

/// Distinct fairness ids that are shown; as in Go.
const MAX_FAIRNESS_IDS: usize = 1_000;

/// Combinations of labels with counters of their own: all fairness ids that are shown, of one model.
const COUNTERS: Bounds = Bounds { max_combinations: 1_400, max_bytes: 1_400 * 80 };

/// Combinations of labels with histograms and errors of their own: they make the page large.
const DETAILS: Bounds = Bounds { max_combinations: 128, max_bytes: 128 * 80 };

// === impl RequestMetrics ===

impl RequestMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, RegisterError> {
        let processing = Def::alpha(
            "llm_d_epp_request_processing_duration_seconds",
            "Time from the receipt of a request to its replies or its error, waiting included.",
            [],
        );
        let response_processing = Def::alpha(
            "llm_d_epp_response_processing_duration_seconds",
            "Time spent on handling a response.",
            [],
        );
        Ok(Self {
            processing_duration: registry
                .histogram(processing, &buckets::request_processing())?
                .with([]),
            response_processing_duration: registry
                .histogram(response_processing, &buckets::response_processing())?
                .with([]),
            families: Families::new(registry)?,
            models: KnownModels::new(),
            fairness_ids: FirstNames::new(MAX_FAIRNESS_IDS),
            series: RwLock::new(Combinations::new(COUNTERS)),
            details: RwLock::new(Combinations::new(DETAILS)),
        })
    }

    /// The series for these labels. One hash lookup for labels seen before; models that are not known and names
    /// beyond the bounds are shown as `other`.
    pub fn series(
        &self,
        model: &str,
        target_model: &str,
        fairness_id: &str,
        priority: i32,
    ) -> Arc<RequestSeries> {
        // What has a series is shown as it is, whoever vouches for it.
        let asked = KeyRef { model, target_model, fairness_id, priority, has_sure_models: false };
        if let Some(series) = self.series.read().get(&asked) {
            return Arc::clone(series);
        }
        let (model, is_sure) = self.show_model(model);
        let (target_model, is_sure_target) = self.show_model(target_model);
        let fairness_id = match fairness_id {
            // Not a client's, and not to be crowded out by those.
            DEFAULT_FLOW => fairness_id,
            _ => self.fairness_ids.show(fairness_id),
        };
        let has_sure_models = is_sure && is_sure_target;
        let shown = KeyRef { model, target_model, fairness_id, priority, has_sure_models };
        if let Ok(series) = self.series.read().find(shown) {
            return Arc::clone(series);
        }
        let details = self.details.write().get_or_make(shown, Details::new);
        let make = |key: &_| RequestSeries::new(&self.families, key, details);
        self.series.write().get_or_make(shown, make)
    }

    /// Says that a model is known, so that its name is shown from here on. False where it cannot be: there is
    /// no room for another, or the name cannot stand on a page.
    pub fn know_model(&self, name: &str, by: KnownBy) -> bool {
        self.models.learn(name, by)
    }

    /// Whether this model's name is shown. No name at all is.
    pub fn knows_model(&self, name: &str) -> bool {
        name.is_empty() || self.models.known_by(name).is_some()
    }

    /// The name as it is shown, and whether no client can have brought it about.
    fn show_model<'a>(&self, name: &'a str) -> (&'a str, bool) {
        match self.models.known_by(name) {
            _ if name.is_empty() => (name, true),
            Some(by) => (name, matches!(by, KnownBy::Configured | KnownBy::Page)),
            None => (OTHER, true),
        }
    }
}

// === impl ExtProcMetrics ===

impl ExtProcMetrics {
    pub fn new(registry: &Registry) -> Result<Self, RegisterError> {
        let inflight = "Ext-proc streams that are open.";
        let streams = "Total number of ext-proc streams that ended.";
        let duration = "Life of an ext-proc stream.";
        Ok(Self {
            streams_inflight: registry
                .gauge(Def::alpha("llm_d_epp_extproc_streams_inflight", inflight, []))?
                .with([]),
            streams: registry.counter(Def::alpha(
                "llm_d_epp_extproc_streams_total",
                streams,
                ["code"],
            ))?,
            stream_duration: registry
                .histogram(
                    Def::alpha("llm_d_epp_extproc_stream_duration_seconds", duration, []),
                    &buckets::stream(),
                )?
                .with([]),
        })
    }
}
