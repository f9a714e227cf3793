//! The pages of other engines: the series that routing needs, under their names.

use super::{Shown, page::Page};

pub(super) fn sglang(page: &mut Page, shown: &Shown<'_>) {
    let labels = &[
        ("engine_type", "unified"),
        ("model_name", shown.model()),
        ("pp_rank", "0"),
        ("tp_rank", "0"),
    ];
    let used = f64::from(shown.signals.kv_used_blocks) * f64::from(shown.config.profile.block_size);
    page.gauge(
        "sglang:num_running_reqs",
        "The number of running requests.",
        labels,
        shown.running(),
    );
    page.gauge(
        "sglang:num_queue_reqs",
        "The number of requests in the waiting queue.",
        labels,
        shown.waiting(),
    );
    page.gauge("sglang:token_usage", "The token usage.", labels, shown.kv_usage());
    page.gauge("sglang:num_used_tokens", "The number of used tokens.", labels, used);
    let (page_size, num_pages) = (
        shown.config.profile.block_size.to_string(),
        shown.config.profile.kv_cache_size.to_string(),
    );
    let mut info = labels.to_vec();
    info.extend([("num_pages", num_pages.as_str()), ("page_size", page_size.as_str())]);
    info.sort_unstable();
    page.gauge("sglang:cache_config_info", "Information of the cache configuration.", &info, 1.0);
    if shown.fake.is_some() {
        return;
    }
    let counters = &shown.signals.counters;
    for (name, help, value) in [
        ("sglang:prompt_tokens", "Number of prefill tokens processed.", counters.prompt_tokens),
        (
            "sglang:generation_tokens",
            "Number of generation tokens processed.",
            counters.generation_tokens,
        ),
        ("sglang:cached_tokens", "Number of cached prompt tokens.", counters.cached_prompt_tokens),
        (
            "sglang:num_requests",
            "Number of requests processed.",
            counters.finished_stop + counters.finished_length,
        ),
    ] {
        page.counter(name, help, labels, None, &[("", value)]);
    }
    let latencies = shown.latencies;
    for (name, help, histogram) in [
        (
            "sglang:time_to_first_token_seconds",
            "Histogram of time to first token in seconds.",
            &latencies.time_to_first_token,
        ),
        (
            "sglang:inter_token_latency_seconds",
            "Histogram of inter-token latency in seconds.",
            &latencies.inter_token,
        ),
        (
            "sglang:e2e_request_latency_seconds",
            "Histogram of End-to-end request latency in seconds",
            &latencies.end_to_end,
        ),
    ] {
        page.histogram(name, help, labels, histogram);
    }
}

pub(super) fn trtllm_serve(page: &mut Page, shown: &Shown<'_>) {
    let labels = &[("engine_type", "trtllm"), ("model_name", shown.model())];
    let profile = &shown.config.profile;
    for (name, help, value) in [
        ("trtllm_num_requests_running", "Number of running requests.", shown.running()),
        ("trtllm_num_requests_waiting", "Number of waiting requests.", shown.waiting()),
        ("trtllm_kv_cache_utilization", "KV cache utilization.", shown.kv_usage()),
        (
            "trtllm_kv_cache_tokens_per_block",
            "Tokens per KV cache block.",
            f64::from(profile.block_size),
        ),
        ("trtllm_kv_cache_max_blocks", "KV cache blocks.", f64::from(profile.kv_cache_size)),
    ] {
        page.gauge(name, help, labels, value);
    }
}

pub(super) fn triton_tensorrt_llm(page: &mut Page, shown: &Shown<'_>) {
    let model = ("model", shown.model());
    let profile = &shown.config.profile;
    let name = "nv_trt_llm_request_metrics";
    page.family(name, "gauge", "TRT LLM request metrics");
    for (kind, value) in [
        ("waiting", shown.waiting()),
        ("scheduled", shown.running()),
        ("active", shown.running() + shown.waiting()),
    ] {
        page.sample(name, &[model, ("request_type", kind), ("version", "1")], value);
    }
    let name = "nv_trt_llm_kv_cache_block_metrics";
    page.family(name, "gauge", "TRT LLM KV cache block metrics");
    let used = f64::from(shown.signals.kv_used_blocks);
    let max = f64::from(profile.kv_cache_size);
    for (kind, value) in [
        ("fraction", shown.kv_usage()),
        ("tokens_per", f64::from(profile.block_size)),
        ("max", max),
        ("used", used),
        ("free", max - used),
    ] {
        page.sample(name, &[("kv_cache_block_type", kind), model, ("version", "1")], value);
    }
}

pub(super) fn triton(page: &mut Page, shown: &Shown<'_>) {
    let labels = &[("model", shown.model()), ("version", "1")];
    for (name, help, value) in [
        (
            "nv_inference_pending_request_count",
            "Instantaneous number of pending requests awaiting execution per-model.",
            shown.waiting(),
        ),
        ("nv_inference_exec_count", "Number of model executions performed.", shown.running()),
    ] {
        page.gauge(name, help, labels, value);
    }
}
