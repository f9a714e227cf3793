//! Every in-tree plugin, one file each.
//!
//! A plugin is a file in the folder of its extension point: its module doc is its reference page, `Params`
//! are its parameters, `PLUGIN` is its definition. [`PLUGINS`] lists them all; a new plugin is one new file
//! and one line there.
//!
//! Plugins see requests, endpoints and signals through `router-framework`. They know no engine, no socket,
//! no proxy, no Kubernetes, and not each other: what one writes and another reads goes through typed keys.
//!
//! ```
//! use router_framework::Registry;
//!
//! let registry = Registry::new(router_plugins::PLUGINS.iter().copied());
//! assert!(registry.get("queue-scorer").is_some());
//! ```

use router_framework::PluginDef;

pub mod admitter;
pub mod datalayer;
pub mod discovery;
pub mod filter;
pub mod flow;
pub mod parser;
pub mod picker;
pub mod producer;
pub mod profile;
pub mod scorer;
mod signal;

#[cfg(test)]
mod reference;

/// All plugin types of this crate.
pub const PLUGINS: &[&PluginDef] = &[
    &profile::single::PLUGIN,
    &profile::header::PLUGIN,
    &filter::label_selector::PLUGIN,
    &filter::by_label::PLUGIN,
    &filter::by_label_selector::PLUGIN,
    &filter::decode::PLUGIN,
    &filter::prefill::PLUGIN,
    &filter::encode::PLUGIN,
    &filter::header_based_testing::PLUGIN,
    &filter::prefix_cache_affinity::PLUGIN,
    &scorer::queue::PLUGIN,
    &scorer::running_requests::PLUGIN,
    &scorer::kv_cache_utilization::PLUGIN,
    &scorer::load_aware::PLUGIN,
    &scorer::lora_affinity::PLUGIN,
    &scorer::prefix_cache::PLUGIN,
    &scorer::active_request::PLUGIN,
    &scorer::token_load::PLUGIN,
    &scorer::no_hit_lru::PLUGIN,
    &scorer::estimated_ttft::PLUGIN,
    &picker::max_score::PLUGIN,
    &picker::random::PLUGIN,
    &picker::weighted_random::PLUGIN,
    &admitter::probabilistic::PLUGIN,
    &flow::utilization_detector::PLUGIN,
    &flow::concurrency_detector::PLUGIN,
    &flow::fcfs_ordering::PLUGIN,
    &flow::edf_ordering::PLUGIN,
    &flow::slo_deadline_ordering::PLUGIN,
    &flow::global_strict_fairness::PLUGIN,
    &flow::round_robin_fairness::PLUGIN,
    &flow::program_aware_fairness::PLUGIN,
    &flow::deficit_fairness::PLUGIN,
    &flow::static_usage_limit::PLUGIN,
    &flow::priority_holdback::PLUGIN,
    &flow::soft_reflective_ceiling::PLUGIN,
    &flow::sheddable_eviction::PLUGIN,
    &flow::priority_then_time_eviction::PLUGIN,
    &parser::openai::PLUGIN,
    &parser::anthropic::PLUGIN,
    &parser::vllmhttp::PLUGIN,
    &parser::passthrough::PLUGIN,
    &producer::token::PLUGIN,
    &producer::approx_prefix_cache::PLUGIN,
    &producer::inflight_load::PLUGIN,
    &datalayer::metrics_source::PLUGIN,
    &datalayer::core_metrics::PLUGIN,
    &discovery::file::PLUGIN,
];
