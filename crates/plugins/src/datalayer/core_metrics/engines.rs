//! The engines that are known, as configuration.

use router_framework::BuildError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which series of an engine's metrics page mean what. An empty series is not read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct EngineConfig {
    /// Name that endpoints give in their label. Not empty and not `default`.
    pub name: String,
    /// Requests that wait.
    pub queued_requests_spec: String,
    /// Requests that run.
    pub running_requests_spec: String,
    /// Share of the KV cache in use, 0 to 1 or in percent.
    pub kv_usage_spec: String,
    /// LoRA adapters, in the labels `running_lora_adapters`, `waiting_lora_adapters` and `max_lora`. Of
    /// several series the one with the greatest value counts.
    pub lora_spec: String,
    /// Size of the KV cache, in the labels named below.
    pub cache_info_spec: String,
    /// Label of `cacheInfoSpec` with the tokens per block.
    pub cache_block_size_label_name: String,
    /// Label of `cacheInfoSpec` with the number of blocks.
    pub cache_num_blocks_label_name: String,
    /// Tokens per block, as a value of its own.
    pub cache_block_size_spec: String,
    /// Number of blocks, as a value of its own.
    pub cache_num_blocks_spec: String,
    /// Series that become attributes of the endpoint.
    pub custom_metrics: Vec<CustomMetric>,
}

/// A series that becomes an attribute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct CustomMetric {
    /// Name of the attribute; once per engine.
    pub attribute_key: String,
    /// The series.
    pub metric_spec: String,
}

/// The configured engines with their places in the parameters, then the built-in ones that they do not
/// replace.
pub(super) fn all(configured: &[EngineConfig]) -> Result<Vec<(String, EngineConfig)>, BuildError> {
    let mut engines: Vec<(String, EngineConfig)> = Vec::new();
    for (at, config) in configured.iter().enumerate() {
        let place = format!("engineConfigs[{at}]");
        let wrong = |message: &str| BuildError::at(format!("{place}.name"), message);
        if config.name.is_empty() {
            return Err(wrong("must be given"));
        }
        if config.name == "default" {
            return Err(wrong("`default` is reserved; set defaultEngine"));
        }
        if engines.iter().any(|(_, have)| have.name == config.name) {
            return Err(wrong("is there twice"));
        }
        engines.push((place, config.clone()));
    }
    for built_in in built_in() {
        if engines.iter().all(|(_, have)| have.name != built_in.name) {
            engines.push((built_in.name.clone(), built_in));
        }
    }
    Ok(engines)
}

fn built_in() -> [EngineConfig; 5] {
    let engine = |name: &str, [queued, running, kv]: [&str; 3]| EngineConfig {
        name: name.to_owned(),
        queued_requests_spec: queued.to_owned(),
        running_requests_spec: running.to_owned(),
        kv_usage_spec: kv.to_owned(),
        ..EngineConfig::default()
    };
    let cache_labels = |config: EngineConfig, [info, size, blocks]: [&str; 3]| EngineConfig {
        cache_info_spec: info.to_owned(),
        cache_block_size_label_name: size.to_owned(),
        cache_num_blocks_label_name: blocks.to_owned(),
        ..config
    };
    let cache_values = |config: EngineConfig, [size, blocks]: [&str; 2]| EngineConfig {
        cache_block_size_spec: size.to_owned(),
        cache_num_blocks_spec: blocks.to_owned(),
        ..config
    };
    let vllm = engine(
        "vllm",
        ["vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc"],
    );
    let vllm = EngineConfig { lora_spec: "vllm:lora_requests_info".to_owned(), ..vllm };
    let sglang = engine(
        "sglang",
        ["sglang:num_queue_reqs", "sglang:num_running_reqs", "sglang:token_usage"],
    );
    let trtllm = engine(
        "trtllm-serve",
        [
            "trtllm_num_requests_waiting",
            "trtllm_num_requests_running",
            "trtllm_kv_cache_utilization",
        ],
    );
    let triton_trtllm = engine(
        "triton-tensorrt-llm",
        [
            "nv_trt_llm_request_metrics{request_type=waiting}",
            "nv_trt_llm_request_metrics{request_type=scheduled}",
            "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=fraction}",
        ],
    );
    let triton =
        engine("triton", ["nv_inference_pending_request_count", "nv_inference_exec_count", ""]);
    [
        cache_labels(vllm, ["vllm:cache_config_info", "block_size", "num_gpu_blocks"]),
        cache_labels(sglang, ["sglang:cache_config_info", "page_size", "num_pages"]),
        cache_values(trtllm, ["trtllm_kv_cache_tokens_per_block", "trtllm_kv_cache_max_blocks"]),
        cache_values(
            triton_trtllm,
            [
                "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=tokens_per}",
                "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=max}",
            ],
        ),
        triton,
    ]
}
