//! The page of a vLLM server: names, labels and types as version 0.32 prints them.

use super::{Shown, page::Page};

pub(super) fn write(page: &mut Page, shown: &Shown<'_>) {
    let labels = &[("engine", "0"), ("model_name", shown.model())];
    gauges(page, shown, labels);
    if shown.fake.is_none() {
        counters(page, shown, labels);
        histograms(page, shown, labels);
    }
    cache_config(page, shown);
    lora(page, shown);
}

fn gauges(page: &mut Page, shown: &Shown<'_>, labels: &[(&str, &str); 2]) {
    page.gauge(
        "vllm:num_requests_running",
        "Number of requests in model execution batches.",
        labels,
        shown.running(),
    );
    page.gauge(
        "vllm:num_requests_waiting",
        "Number of requests waiting to be processed.",
        labels,
        shown.waiting(),
    );
    if shown.fake.is_none() {
        let name = "vllm:num_requests_waiting_by_reason";
        page.family(name, "gauge", "Number of waiting requests by reason.");
        let deferred = shown.signals.waiting_for_adapter;
        let capacity = shown.signals.waiting - deferred;
        for (reason, n) in [("capacity", capacity), ("deferred", deferred)] {
            page.sample(name, &[labels[0], labels[1], ("reason", reason)], f64::from(n));
        }
        let name = "vllm:engine_sleep_state";
        page.family(name, "gauge", "Engine sleep state; awake = 0 means engine is sleeping.");
        for (state, on) in
            [("awake", !shown.asleep), ("weights_offloaded", shown.asleep), ("discard_all", false)]
        {
            let value = f64::from(u8::from(on));
            page.sample(name, &[labels[0], labels[1], ("sleep_state", state)], value);
        }
    }
    page.gauge(
        "vllm:kv_cache_usage_perc",
        "KV-cache usage. 1 means 100 percent usage.",
        labels,
        shown.kv_usage(),
    );
}

fn counters(page: &mut Page, shown: &Shown<'_>, labels: &[(&str, &str); 2]) {
    let counters = &shown.signals.counters;
    for (name, help, value) in [
        (
            "vllm:prefix_cache_queries",
            "Prefix cache queries, in terms of number of queried tokens.",
            counters.prefix_cache_queries,
        ),
        (
            "vllm:prefix_cache_hits",
            "Prefix cache hits, in terms of number of cached tokens.",
            counters.prefix_cache_hits,
        ),
        (
            "vllm:num_preemptions",
            "Cumulative number of preemption from the engine.",
            counters.preemptions,
        ),
        ("vllm:prompt_tokens", "Number of prefill tokens processed.", counters.prompt_tokens),
        (
            "vllm:prompt_tokens_cached",
            "Number of cached prompt tokens (local + external).",
            counters.cached_prompt_tokens,
        ),
        (
            "vllm:generation_tokens",
            "Number of generation tokens processed.",
            counters.generation_tokens,
        ),
    ] {
        page.counter(name, help, labels, None, &[("", value)]);
    }
    page.counter(
        "vllm:prompt_tokens_by_source",
        "Number of prompt tokens by source.",
        labels,
        Some("source"),
        &[
            ("local_compute", counters.prompt_tokens - counters.cached_prompt_tokens),
            ("local_cache_hit", counters.cached_prompt_tokens),
            ("external_kv_transfer", 0),
        ],
    );
    page.counter(
        "vllm:request_success",
        "Count of successfully processed requests.",
        labels,
        Some("finished_reason"),
        &[
            ("stop", counters.finished_stop),
            ("length", counters.finished_length),
            ("abort", counters.cancelled),
            ("error", 0),
            ("repetition", 0),
        ],
    );
    page.counter(
        "vllm:admission_rejections",
        "Number of admission attempts rejected by a queue limit, by reason.",
        &[labels[1]],
        Some("reason"),
        &[("max_num_queued_reqs", counters.refused), ("max_num_queued_tokens", 0)],
    );
}

fn histograms(page: &mut Page, shown: &Shown<'_>, labels: &[(&str, &str); 2]) {
    let latencies = shown.latencies;
    for (name, help, histogram) in [
        (
            "vllm:request_prompt_tokens",
            "Number of prefill tokens processed.",
            &latencies.prompt_tokens,
        ),
        (
            "vllm:request_generation_tokens",
            "Number of generation tokens processed.",
            &latencies.generation_tokens,
        ),
        (
            "vllm:request_max_num_generation_tokens",
            "Histogram of maximum number of requested generation tokens.",
            &latencies.generation_tokens,
        ),
        ("vllm:request_params_n", "Histogram of the n request parameter.", &latencies.params_n),
        (
            "vllm:request_params_max_tokens",
            "Histogram of the max_tokens request parameter.",
            &latencies.params_max_tokens,
        ),
        (
            "vllm:time_to_first_token_seconds",
            "Histogram of time to first token in seconds.",
            &latencies.time_to_first_token,
        ),
        (
            "vllm:inter_token_latency_seconds",
            "Histogram of inter-token latency in seconds.",
            &latencies.inter_token,
        ),
        (
            "vllm:request_time_per_output_token_seconds",
            "Histogram of time_per_output_token_seconds per request.",
            &latencies.per_output_token,
        ),
        (
            "vllm:e2e_request_latency_seconds",
            "Histogram of e2e request latency in seconds.",
            &latencies.end_to_end,
        ),
        (
            "vllm:request_queue_time_seconds",
            "Histogram of time spent in WAITING phase for request.",
            &latencies.queue,
        ),
        (
            "vllm:request_inference_time_seconds",
            "Histogram of time spent in RUNNING phase for request.",
            &latencies.inference,
        ),
        (
            "vllm:request_prefill_time_seconds",
            "Histogram of time spent in PREFILL phase for request.",
            &latencies.prefill,
        ),
        (
            "vllm:request_decode_time_seconds",
            "Histogram of time spent in DECODE phase for request.",
            &latencies.decode,
        ),
        (
            "vllm:request_num_preemptions",
            "Histogram of the number of times a request was preempted.",
            &latencies.n_preemptions,
        ),
        (
            "vllm:request_prefill_kv_computed_tokens",
            "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
            &latencies.computed_prompt_tokens,
        ),
    ] {
        page.histogram(name, help, labels, histogram);
    }
}

fn cache_config(page: &mut Page, shown: &Shown<'_>) {
    let profile = &shown.config.profile;
    let (block_size, n_blocks) =
        (profile.block_size.to_string(), profile.kv_cache_size.to_string());
    let n_tokens = (u64::from(profile.block_size) * u64::from(profile.kv_cache_size)).to_string();
    let caching = if profile.enable_prefix_caching { "True" } else { "False" };
    page.gauge(
        "vllm:cache_config_info",
        "Information of the LLMEngine CacheConfig",
        &[
            ("block_size", &block_size),
            ("cache_dtype", "auto"),
            ("enable_prefix_caching", caching),
            ("engine", "0"),
            ("kv_cache_size_tokens", &n_tokens),
            ("num_cpu_blocks", "None"),
            ("num_gpu_blocks", &n_blocks),
            ("num_gpu_blocks_override", "None"),
            ("sliding_window", "None"),
        ],
        1.0,
    );
}

/// Without the model's labels, and one series for each set of adapters that was ever seen: the newest has the
/// largest value.
fn lora(page: &mut Page, shown: &Shown<'_>) {
    if shown.config.profile.max_loras == 0 || (shown.fake.is_some() && shown.loras.is_empty()) {
        return;
    }
    let name = "vllm:lora_requests_info";
    page.family(name, "gauge", "Running stats on lora requests.");
    let max = shown.config.profile.max_loras.to_string();
    for lora in shown.loras {
        let value = if lora.timestamp == 0.0 { shown.now } else { lora.timestamp };
        let labels = [
            ("max_lora", max.as_str()),
            ("running_lora_adapters", &lora.running),
            ("waiting_lora_adapters", &lora.waiting),
        ];
        page.sample(name, &labels, value);
    }
}
