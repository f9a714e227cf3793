//! Families about requests, and the handles that one request needs.

use std::{
    hash::{Hash, Hasher},
    sync::{Arc, OnceLock},
};

use hashbrown::{Equivalent, HashMap};
use parking_lot::RwLock;

use super::{buckets, limiter::NameLimiter};
use crate::metrics::{
    Buckets, Counter, Def, Family, Gauge, Histogram, Limits, Metric, OTHER, RegisterError,
    Registry, Twin,
};

/// Families labelled by model, target model, fairness id and priority, and the two processing
/// times that have no labels.
#[derive(Debug)]
pub struct RequestMetrics {
    /// Receipt to the replies for the request, or its error; includes waiting in queues. Seconds.
    pub processing_duration: Arc<Histogram>,
    /// Handling time of the response, summed over its chunks. Seconds.
    pub response_processing_duration: Arc<Histogram>,
    families: Families,
    models: NameLimiter,
    fairness_ids: NameLimiter,
    series: RwLock<HashMap<Key, Arc<RequestSeries>>>,
}

/// The series of requests with one model, target model, fairness id and priority. Resolved once;
/// a series appears on the page with its first observation.
#[derive(Debug)]
pub struct RequestSeries {
    families: Families,
    key: Key,
    priority: Box<str>,
    total: OnceLock<Arc<Counter>>,
    duration: OnceLock<Arc<Histogram>>,
    request_size: OnceLock<Arc<Histogram>>,
    response_size: OnceLock<Arc<Histogram>>,
    input_tokens: OnceLock<Arc<Histogram>>,
    output_tokens: OnceLock<Arc<Histogram>>,
    cached_tokens: OnceLock<Arc<Histogram>>,
    running: OnceLock<Arc<Gauge>>,
    ntpot: OnceLock<Arc<Histogram>>,
    ttft_streaming: OnceLock<Arc<Histogram>>,
    ttft_whole: OnceLock<Arc<Histogram>>,
    tpot: OnceLock<Arc<Histogram>>,
    itl: OnceLock<Arc<Histogram>>,
}

/// Counts a request as running until it is dropped.
#[derive(Debug)]
pub struct RunningGuard {
    gauge: Arc<Gauge>,
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

#[derive(Clone, Debug)]
struct Families {
    total: Family<Counter, 4>,
    errors: Family<Counter, 5>,
    duration: Family<Histogram, 4>,
    request_size: Family<Histogram, 4>,
    response_size: Family<Histogram, 4>,
    input_tokens: Family<Histogram, 4>,
    output_tokens: Family<Histogram, 4>,
    cached_tokens: Family<Histogram, 4>,
    running: Family<Gauge, 4>,
    ntpot: Family<Histogram, 4>,
    ttft: Family<Histogram, 5>,
    tpot: Family<Histogram, 4>,
    itl: Family<Histogram, 4>,
}

#[derive(Debug, PartialEq, Eq)]
struct Key {
    model: Box<str>,
    target_model: Box<str>,
    fairness_id: Box<str>,
    priority: i32,
}

#[derive(Clone, Copy)]
struct KeyRef<'a> {
    model: &'a str,
    target_model: &'a str,
    fairness_id: &'a str,
    priority: i32,
}

/// Distinct model names and, apart from them, fairness ids that are shown; as in Go.
const MAX_NAMES: usize = 1_000;

/// Combinations of labels with series of their own. Families hold a few series per combination
/// and at most [`LIMITS`] in all.
const MAX_COMBINATIONS: usize = 4_096;

const LIMITS: Limits =
    Limits { max_values_per_label: 4 * MAX_NAMES, max_series: 4 * MAX_COMBINATIONS };

const MODELS: [&str; 2] = ["model_name", "target_model_name"];
const MFP: [&str; 4] = ["model_name", "target_model_name", "fairness_id", "priority"];

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
            models: NameLimiter::new(MAX_NAMES),
            fairness_ids: NameLimiter::new(MAX_NAMES),
            series: RwLock::default(),
        })
    }

    /// The series for these labels. One hash lookup for labels seen before; names beyond the
    /// bounds are shown as `other`.
    pub fn series(
        &self,
        model: &str,
        target_model: &str,
        fairness_id: &str,
        priority: i32,
    ) -> Arc<RequestSeries> {
        let asked = KeyRef { model, target_model, fairness_id, priority };
        if let Some(series) = self.series.read().get(&asked) {
            return Arc::clone(series);
        }
        let shown = KeyRef {
            model: self.models.show(model),
            target_model: self.models.show(target_model),
            fairness_id: self.fairness_ids.show(fairness_id),
            priority,
        };
        if let Some(series) = self.series.read().get(&shown) {
            return Arc::clone(series);
        }
        let mut all = self.series.write();
        let shown = if all.len() < MAX_COMBINATIONS { shown } else { KeyRef::OVERFLOW };
        let series = all
            .entry_ref(&shown)
            .or_insert_with(|| Arc::new(RequestSeries::new(&self.families, shown)));
        Arc::clone(series)
    }

    /// Says that an endpoint or a rewrite knows this model, so that its name is shown. False when
    /// there is no room for another.
    pub fn known_model(&self, name: &str) -> bool {
        self.models.pin(name)
    }
}

impl Families {
    fn new(registry: &Registry) -> Result<Self, RegisterError> {
        let histogram = |name, help, twin: Option<&'static str>, buckets: Buckets| {
            let def = mfp(name, help);
            let def = match twin {
                Some(twin) => def.twin(Twin::new(twin, &MODELS)),
                None => def,
            };
            registry.histogram(def, &buckets)
        };
        Ok(Self {
            total: registry.counter(total())?,
            errors: registry.counter(errors())?,
            duration: histogram(
                "llm_d_epp_request_duration_seconds",
                "Time from the receipt of a request to the end of its response.",
                Some("inference_objective_request_duration_seconds"),
                buckets::latency(),
            )?,
            request_size: histogram(
                "llm_d_epp_request_size_bytes",
                "Size of the request body as forwarded.",
                Some("inference_objective_request_sizes"),
                buckets::request_size(),
            )?,
            response_size: histogram(
                "llm_d_epp_response_size_bytes",
                "Size of the response body.",
                Some("inference_objective_response_sizes"),
                buckets::response_size(),
            )?,
            input_tokens: histogram(
                "llm_d_epp_request_input_tokens",
                "Prompt tokens of a request.",
                Some("inference_objective_input_tokens"),
                buckets::input_tokens(),
            )?,
            output_tokens: histogram(
                "llm_d_epp_request_output_tokens",
                "Generated tokens of a request.",
                Some("inference_objective_output_tokens"),
                buckets::output_tokens(),
            )?,
            cached_tokens: histogram(
                "llm_d_epp_request_cached_tokens",
                "Prompt tokens that the model server had cached.",
                Some("inference_objective_prompt_cached_tokens"),
                buckets::input_tokens(),
            )?,
            running: registry.gauge(running())?,
            ntpot: histogram(
                "llm_d_epp_request_ntpot_seconds",
                "Duration of a request divided by its generated tokens.",
                Some("inference_objective_normalized_time_per_output_token_seconds"),
                buckets::time_per_token(),
            )?,
            ttft: registry.histogram(ttft(), &buckets::first_token())?,
            tpot: histogram(
                "llm_d_epp_request_streaming_tpot_seconds",
                "Mean time per output token of a streamed response, the first left out.",
                None,
                buckets::streaming_time_per_token(),
            )?,
            itl: histogram(
                "llm_d_epp_request_streaming_itl_seconds",
                "Time between the chunks of a streamed response.",
                None,
                buckets::inter_token(),
            )?,
        })
    }
}

fn mfp(name: &'static str, help: &str) -> Def<4> {
    Def::alpha(name, help, MFP).limits(LIMITS)
}

/// The labels of most families and one more.
fn mfp_and(name: &'static str, help: &str, label: &'static str) -> Def<5> {
    let [model, target_model, fairness_id, priority] = MFP;
    Def::alpha(name, help, [model, target_model, fairness_id, priority, label]).limits(LIMITS)
}

fn total() -> Def<4> {
    mfp("llm_d_epp_request_total", "Total number of requests routed.").twin(Twin::new(
        "inference_objective_request_total",
        &["model_name", "target_model_name", "priority"],
    ))
}

fn errors() -> Def<5> {
    let help = "Total number of requests that ended with an error.";
    mfp_and("llm_d_epp_request_error_total", help, "error_code").twin(Twin::new(
        "inference_objective_request_error_total",
        &["model_name", "target_model_name", "error_code"],
    ))
}

fn running() -> Def<4> {
    mfp("llm_d_epp_request_running", "Requests that are running.")
        .twin(Twin::new("inference_objective_running_requests", &["model_name"]))
}

fn ttft() -> Def<5> {
    let help = "Time from the receipt of a request to the first byte of its response body.";
    mfp_and("llm_d_epp_request_ttft_seconds", help, "streaming")
}

// === impl RequestSeries ===

impl RequestSeries {
    fn new(families: &Families, key: KeyRef<'_>) -> Self {
        Self {
            families: families.clone(),
            key: Key::from(&key),
            priority: key.priority.to_string().into(),
            total: OnceLock::new(),
            duration: OnceLock::new(),
            request_size: OnceLock::new(),
            response_size: OnceLock::new(),
            input_tokens: OnceLock::new(),
            output_tokens: OnceLock::new(),
            cached_tokens: OnceLock::new(),
            running: OnceLock::new(),
            ntpot: OnceLock::new(),
            ttft_streaming: OnceLock::new(),
            ttft_whole: OnceLock::new(),
            tpot: OnceLock::new(),
            itl: OnceLock::new(),
        }
    }

    /// The model name as it is shown.
    pub fn model(&self) -> &str {
        &self.key.model
    }

    /// The target model name as it is shown.
    pub fn target_model(&self) -> &str {
        &self.key.target_model
    }

    /// The fairness id as it is shown.
    pub fn fairness_id(&self) -> &str {
        &self.key.fairness_id
    }

    /// The priority as it is shown.
    pub fn priority(&self) -> &str {
        &self.priority
    }

    /// Routed requests.
    pub fn total(&self) -> &Counter {
        self.lazy(&self.total, &self.families.total)
    }

    /// Requests that ended with `error_code`, the name of an error code.
    pub fn error(&self, error_code: &str) -> Arc<Counter> {
        let [model, target_model, fairness_id, priority] = self.labels();
        self.families.errors.with([model, target_model, fairness_id, priority, error_code])
    }

    /// Receipt to the end of the response, in seconds.
    pub fn duration(&self) -> &Histogram {
        self.lazy(&self.duration, &self.families.duration)
    }

    /// Forwarded body, in bytes.
    pub fn request_size(&self) -> &Histogram {
        self.lazy(&self.request_size, &self.families.request_size)
    }

    /// Response body, in bytes.
    pub fn response_size(&self) -> &Histogram {
        self.lazy(&self.response_size, &self.families.response_size)
    }

    /// Prompt tokens; observe only values above 0.
    pub fn input_tokens(&self) -> &Histogram {
        self.lazy(&self.input_tokens, &self.families.input_tokens)
    }

    /// Generated tokens; observe only values above 0.
    pub fn output_tokens(&self) -> &Histogram {
        self.lazy(&self.output_tokens, &self.families.output_tokens)
    }

    /// Prompt tokens found in the server's cache.
    pub fn cached_tokens(&self) -> &Histogram {
        self.lazy(&self.cached_tokens, &self.families.cached_tokens)
    }

    /// Duration divided by generated tokens, in seconds.
    pub fn ntpot(&self) -> &Histogram {
        self.lazy(&self.ntpot, &self.families.ntpot)
    }

    /// Receipt to the first byte of the response body, in seconds.
    pub fn ttft(&self, streaming: bool) -> &Histogram {
        let (cell, shown) =
            if streaming { (&self.ttft_streaming, "true") } else { (&self.ttft_whole, "false") };
        cell.get_or_init(|| {
            let [model, target_model, fairness_id, priority] = self.labels();
            self.families.ttft.with([model, target_model, fairness_id, priority, shown])
        })
    }

    /// Mean time per output token of a stream, in seconds.
    pub fn streaming_tpot(&self) -> &Histogram {
        self.lazy(&self.tpot, &self.families.tpot)
    }

    /// Time between the chunks of a stream, in seconds.
    pub fn streaming_itl(&self) -> &Histogram {
        self.lazy(&self.itl, &self.families.itl)
    }

    /// Counts a request as running until the guard is dropped. Requests without a model name are
    /// not counted, as in Go.
    pub fn start_running(&self) -> Option<RunningGuard> {
        if self.key.model.is_empty() {
            return None;
        }
        let gauge = self.running.get_or_init(|| self.families.running.with(self.labels()));
        gauge.inc();
        Some(RunningGuard { gauge: Arc::clone(gauge) })
    }

    fn labels(&self) -> [&str; 4] {
        [&self.key.model, &self.key.target_model, &self.key.fairness_id, &self.priority]
    }

    fn lazy<'a, M: Metric>(&self, cell: &'a OnceLock<Arc<M>>, family: &Family<M, 4>) -> &'a M {
        cell.get_or_init(|| family.with(self.labels()))
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.gauge.dec();
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

// === impl Key ===

impl KeyRef<'_> {
    const OVERFLOW: KeyRef<'static> =
        KeyRef { model: OTHER, target_model: OTHER, fairness_id: OTHER, priority: 0 };
}

impl From<&KeyRef<'_>> for Key {
    fn from(key: &KeyRef<'_>) -> Self {
        Self {
            model: key.model.into(),
            target_model: key.target_model.into(),
            fairness_id: key.fairness_id.into(),
            priority: key.priority,
        }
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { model, target_model, fairness_id, priority } = self;
        KeyRef { model, target_model, fairness_id, priority: *priority }.hash(state);
    }
}

impl Hash for KeyRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.model.hash(state);
        self.target_model.hash(state);
        self.fairness_id.hash(state);
        self.priority.hash(state);
    }
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.priority == key.priority
            && *self.model == *key.model
            && *self.target_model == *key.target_model
            && *self.fairness_id == *key.fairness_id
    }
}
