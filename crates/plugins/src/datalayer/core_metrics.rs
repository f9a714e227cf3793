//! Reads from a model server's metrics page what scheduling needs: queue, running requests, KV-cache use, LoRA adapters, size of the KV cache.
//!
//! Which series say so depends on the engine.
//! The label `llm-d.ai/engine-type` of an endpoint names it (or the label `inference.networking.k8s.io/engine-type`); without it, or with a name that nothing describes, it is `defaultEngine`.
//!
//! | engine | waiting | running | KV-cache use | LoRA adapters | KV cache |
//! | --- | --- | --- | --- | --- | --- |
//! | `vllm` | `vllm:num_requests_waiting` | `vllm:num_requests_running` | `vllm:kv_cache_usage_perc` | `vllm:lora_requests_info` | `vllm:cache_config_info`, labels `block_size`, `num_gpu_blocks` |
//! | `sglang` | `sglang:num_queue_reqs` | `sglang:num_running_reqs` | `sglang:token_usage` | | `sglang:cache_config_info`, labels `page_size`, `num_pages` |
//! | `trtllm-serve` | `trtllm_num_requests_waiting` | `trtllm_num_requests_running` | `trtllm_kv_cache_utilization` | | `trtllm_kv_cache_tokens_per_block`, `trtllm_kv_cache_max_blocks` |
//! | `triton-tensorrt-llm` | `nv_trt_llm_request_metrics{request_type=waiting}` | `nv_trt_llm_request_metrics{request_type=scheduled}` | `nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=fraction}` | | `…{kv_cache_block_type=tokens_per}`, `…{kv_cache_block_type=max}` |
//! | `triton` | `nv_inference_pending_request_count` | `nv_inference_exec_count` | | | |
//!
//! `engineConfigs` adds engines; one with the name of a built-in engine replaces it as a whole.
//! A series is written as `name` or `name{label=value,label2="value"}`; an empty one is not read.
//! Of several series that fit, the one with the newest written time counts, else the first.
//!
//! **What is missing.** Waiting, running and KV-cache use always come from one page: what that page does not say, or says as NaN, as a negative or as an absurd number, is unknown from then on, and scorers have no opinion on it.
//! An endpoint counts as scraped only when a page said at least one of these.
//! A page without a series that it should have counts as an extraction error, with everything else in it still taken; LoRA adapters may be missing.
//! The size of the KV cache does not change while a server runs, and stays known.
//!
//! **KV-cache use** is a share from 0 to 1; an endpoint that once says more than 1.5 is taken to say percent.
//!
//! **Names of models.** The label `model_name` (Triton's: `model`) of the series about load and the names of LoRA adapters are models that the router's own metrics show by name from then on.
//!
//! `customMetrics` puts other series, as they are, into attributes of the endpoint that plugins read by `attributeKey` and this plugin's name.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: metrics-data-source
//! - type: core-metrics-extractor
//!   parameters:
//!     defaultEngine: my-engine
//!     engineConfigs:
//!     - name: my-engine
//!       queuedRequestsSpec: my_queue{kind=prompt}
//!       runningRequestsSpec: my_running
//!       kvUsageSpec: my_cache_use
//!       customMetrics:
//!       - attributeKey: power
//!         metricSpec: my_watts
//! dataLayer:
//!   sources:
//!   - pluginRef: metrics-data-source
//!     extractors:
//!     - pluginRef: core-metrics-extractor
//! ```

use std::{collections::BTreeMap, sync::Arc};

use router_core::{Endpoint, EndpointSlot, LoraSignals, Signals, Stamp};
use router_framework::{
    BuildCx, BuildError, ExtractError, Extractor, Instance, PluginDef, Role,
    keys::{self, Scalar},
};
use router_telemetry::{RouterMetrics, router::KnownBy};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::{
    engines::EngineConfig,
    page::{Engine, Reading},
};
use crate::signal::KvUsage;

pub mod engines;
mod page;

pub const PLUGIN: PluginDef =
    PluginDef::new::<Params>("core-metrics-extractor", &[Role::Extractor], file!(), build);

/// Label that names the engine where the configured one is absent.
const FALLBACK_LABEL: &str = "inference.networking.k8s.io/engine-type";

/// Parameters of `core-metrics-extractor`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// Label of endpoints that names their engine.
    pub engine_label_key: String,
    /// Engine of endpoints that name none, or one that is not known.
    pub default_engine: String,
    /// Engines besides the built-in ones, or instead of those with the same name.
    pub engine_configs: Vec<EngineConfig>,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            engine_label_key: "llm-d.ai/engine-type".to_owned(),
            default_engine: "vllm".to_owned(),
            engine_configs: Vec::new(),
        }
    }
}

struct CoreMetrics {
    metrics: Arc<RouterMetrics>,
    label: String,
    engines: BTreeMap<String, Engine>,
    default: Engine,
    kv: KvUsage,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    let configs = engines::all(&params.engine_configs)?;
    let mut attributes: BTreeMap<String, EndpointSlot<Scalar>> = BTreeMap::new();
    let mut engines = BTreeMap::new();
    for (at, config) in &configs {
        let mut slot = |key: &str| {
            let known = attributes.entry(key.to_owned());
            known.or_insert_with(|| cx.writes_endpoint(&keys::scalar(key))).clone()
        };
        engines.insert(config.name.clone(), Engine::new(config, at, &mut slot)?);
    }
    let Some(default) = engines.get(&params.default_engine).cloned() else {
        let known: Vec<&str> = engines.keys().map(String::as_str).collect();
        let message = format!("no such engine; known are {}", known.join(", "));
        return Err(BuildError::at("defaultEngine", message));
    };
    cx.writes_signals();
    let extractor = CoreMetrics {
        metrics: Arc::clone(&cx.env().metrics),
        label: params.engine_label_key,
        engines,
        default,
        kv: KvUsage::new(cx),
    };
    Ok(Instance::new().extractor(Arc::new(extractor)))
}

impl CoreMetrics {
    fn engine_of(&self, endpoint: &Endpoint) -> &Engine {
        let name = endpoint.label(&self.label).or_else(|| endpoint.label(FALLBACK_LABEL));
        name.and_then(|name| self.engines.get(name)).unwrap_or(&self.default)
    }

    fn publish(&self, endpoint: &Endpoint, reading: &Reading<'_>, now: Stamp) {
        let raw = Signals { kv_usage: reading.kv_usage, ..Signals::default() };
        let kv_usage = self.kv.share(endpoint, &raw);
        endpoint.signal_cell().update(|signals| {
            if reading.counts_as_scrape {
                signals.waiting = reading.waiting;
                signals.running = reading.running;
                signals.kv_usage = kv_usage;
                signals.scraped_at = now;
            }
            signals.block_size = reading.block_size.unwrap_or(signals.block_size);
            signals.n_blocks = reading.n_blocks.unwrap_or(signals.n_blocks);
        });
    }
}

impl CoreMetrics {
    fn know_model(&self, name: &str) {
        let _is_shown = self.metrics.requests.know_model(name, KnownBy::Page);
    }

    fn publish_lora(&self, endpoint: &Endpoint, lora: LoraSignals) {
        if **endpoint.lora() != lora {
            lora.active.iter().chain(&lora.waiting).for_each(|name| self.know_model(name));
            endpoint.set_lora(lora);
        }
    }
}

impl Extractor for CoreMetrics {
    fn extract(&self, endpoint: &Endpoint, page: &[u8], now: Stamp) -> Result<(), ExtractError> {
        let engine = self.engine_of(endpoint);
        let reading = engine.read(page);
        self.publish(endpoint, &reading, now);
        if let Some(model) = &reading.model {
            self.know_model(model);
        }
        if let Some(lora) = reading.lora {
            self.publish_lora(endpoint, lora);
        }
        for (slot, value) in reading.custom {
            if let Some(scalar) = endpoint.slot(&slot) {
                scalar.set(value);
            }
        }
        if reading.faults.is_empty() {
            return Ok(());
        }
        Err(ExtractError(format!("no usable {}", reading.faults.join(", "))))
    }
}

#[cfg(test)]
mod tests;
