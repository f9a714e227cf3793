//! The families that have a request's model, target model, fairness id and priority as labels.

use super::super::buckets;
use crate::metrics::{
    Buckets, Counter, Def, Family, Gauge, Histogram, Limits, RegisterError, Registry, Twin,
};

#[derive(Clone, Debug)]
pub(super) struct Families {
    pub(super) total: Family<Counter, 4>,
    pub(super) errors: Family<Counter, 5>,
    pub(super) duration: Family<Histogram, 4>,
    pub(super) request_size: Family<Histogram, 4>,
    pub(super) response_size: Family<Histogram, 4>,
    pub(super) input_tokens: Family<Histogram, 4>,
    pub(super) output_tokens: Family<Histogram, 4>,
    pub(super) cached_tokens: Family<Histogram, 4>,
    pub(super) running: Family<Gauge, 4>,
    pub(super) ntpot: Family<Histogram, 4>,
    pub(super) ttft: Family<Histogram, 5>,
    pub(super) tpot: Family<Histogram, 4>,
    pub(super) itl: Family<Histogram, 4>,
}

/// What these families may hold is bounded by the combinations that are made, see
/// [`Combinations`](super::combinations::Combinations); a family of its own accord never says `other`.
const LIMITS: Limits =
    Limits { max_values_per_label: usize::MAX, max_series: 4_096, max_label_bytes: usize::MAX };

const MODELS: [&str; 2] = ["model_name", "target_model_name"];
const MFP: [&str; 4] = ["model_name", "target_model_name", "fairness_id", "priority"];

impl Families {
    pub(super) fn new(registry: &Registry) -> Result<Self, RegisterError> {
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
