//! Metrics pages in the words of several engines.

mod broken;
mod histogram;
mod others;
mod page;
mod vllm;

use std::time::Duration;

pub(crate) use self::{broken::endless, broken::garbage, broken::huge, page::Twist};
use self::{histogram::Histogram, page::Page};
use super::{
    config::{MetricsDialect, ServerConfig},
    fake::{FakeLora, FakeMetrics},
};
use crate::model::{EngineSignals, Finished};

/// How long things took, and how large they were, since the server started.
#[derive(Debug)]
pub(crate) struct Latencies {
    time_to_first_token: Histogram,
    inter_token: Histogram,
    per_output_token: Histogram,
    end_to_end: Histogram,
    queue: Histogram,
    inference: Histogram,
    prefill: Histogram,
    decode: Histogram,
    prompt_tokens: Histogram,
    generation_tokens: Histogram,
    computed_prompt_tokens: Histogram,
    params_max_tokens: Histogram,
    params_n: Histogram,
    n_preemptions: Histogram,
}

/// Everything a page shows.
pub(crate) struct Shown<'a> {
    pub(crate) config: &'a ServerConfig,
    pub(crate) signals: &'a EngineSignals,
    pub(crate) latencies: &'a Latencies,
    pub(crate) loras: &'a [FakeLora],
    pub(crate) fake: Option<&'a FakeMetrics>,
    pub(crate) asleep: bool,
    /// When the server started, in seconds since the Unix epoch.
    pub(crate) created: f64,
    pub(crate) now: f64,
}

impl Latencies {
    pub(crate) fn new(max_model_len: u32) -> Self {
        let seconds = || Histogram::new(histogram::REQUEST_SECONDS);
        let per_token = || Histogram::new(histogram::TOKEN_SECONDS);
        let tokens = || Histogram::new(&histogram::one_two_five(max_model_len));
        Self {
            time_to_first_token: Histogram::new(histogram::FIRST_TOKEN_SECONDS),
            inter_token: per_token(),
            per_output_token: per_token(),
            end_to_end: seconds(),
            queue: seconds(),
            inference: seconds(),
            prefill: seconds(),
            decode: seconds(),
            prompt_tokens: tokens(),
            generation_tokens: tokens(),
            computed_prompt_tokens: tokens(),
            params_max_tokens: tokens(),
            params_n: Histogram::new(&[1.0, 2.0, 5.0, 10.0, 20.0]),
            n_preemptions: Histogram::new(&[1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0]),
        }
    }

    /// A request came in.
    pub(crate) fn requested(&mut self, n: u32, max_tokens: Option<u32>) {
        self.params_n.observe(f64::from(n), 1);
        if let Some(max_tokens) = max_tokens {
            self.params_max_tokens.observe(f64::from(max_tokens), 1);
        }
    }

    /// `n` tokens came, each so long after the one before.
    pub(crate) fn between_tokens(&mut self, gap: Duration, n: u64) {
        self.inter_token.observe(gap.as_secs_f64(), n);
    }

    /// A request ended. Its gaps between tokens are counted here unless each token was an event.
    pub(crate) fn finished(&mut self, end: &Finished, token_events: bool) {
        let times = end.timings;
        let decode = times.finished.since(times.first_token);
        if end.output_tokens > 0 {
            let first = times.first_token.since(times.arrived);
            self.time_to_first_token.observe(first.as_secs_f64(), 1);
        }
        if end.output_tokens > 1 {
            let per_token = decode / (end.output_tokens - 1);
            self.per_output_token.observe(per_token.as_secs_f64(), 1);
            if !token_events {
                self.between_tokens(per_token, u64::from(end.output_tokens - 1));
            }
        }
        self.decode.observe(decode.as_secs_f64(), 1);
        self.end_to_end.observe(times.finished.since(times.arrived).as_secs_f64(), 1);
        self.queue.observe(times.admitted.since(times.arrived).as_secs_f64(), 1);
        self.inference.observe(times.finished.since(times.admitted).as_secs_f64(), 1);
        self.prefill.observe(times.first_token.since(times.admitted).as_secs_f64(), 1);
        self.prompt_tokens.observe(f64::from(end.prompt_tokens), 1);
        self.generation_tokens.observe(f64::from(end.output_tokens), 1);
        self.computed_prompt_tokens.observe(f64::from(end.prompt_tokens - end.cached_tokens), 1);
        self.n_preemptions.observe(f64::from(end.n_preemptions), 1);
    }
}

/// The page of a server in its dialect.
pub(crate) fn page(shown: &Shown<'_>, twist: Twist) -> String {
    let mut page = Page::new(twist, shown.created);
    match shown.config.metrics_dialect {
        MetricsDialect::Vllm => vllm::write(&mut page, shown),
        MetricsDialect::Sglang => others::sglang(&mut page, shown),
        MetricsDialect::TrtllmServe => others::trtllm_serve(&mut page, shown),
        MetricsDialect::TritonTensorrtLlm => others::triton_tensorrt_llm(&mut page, shown),
        MetricsDialect::Triton => others::triton(&mut page, shown),
    }
    page.finish()
}

impl Shown<'_> {
    fn running(&self) -> f64 {
        self.fake.map_or(f64::from(self.signals.running), |fake| fake.running_requests)
    }

    fn waiting(&self) -> f64 {
        self.fake.map_or(f64::from(self.signals.waiting), |fake| fake.waiting_requests)
    }

    fn kv_usage(&self) -> f64 {
        self.fake.map_or(self.signals.kv_usage(), |fake| fake.kv_cache_usage)
    }

    fn model(&self) -> &str {
        self.config.served_model_name.first().unwrap_or(&self.config.model)
    }
}

#[cfg(test)]
mod tests;
