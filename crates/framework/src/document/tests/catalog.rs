//! The plugin types of the Go implementation as this version has them, with made-up parameters,
//! and a few types that only tests need.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, schema_for};
use serde::Deserialize;

use crate::document::{
    Availability, Catalog, Deprecation, GoDuration, Quantity, Role, Stability, TypeInfo,
};

pub(super) struct Types;

const FILTER: &[Role] = &[Role::Filter];
const SCORER: &[Role] = &[Role::Scorer];
const PICKER: &[Role] = &[Role::Picker];
const PARSER: &[Role] = &[Role::Parser];
const HANDLER: &[Role] = &[Role::ProfileHandler];
const PRODUCER: &[Role] = &[Role::DataProducer];
const SOURCE: &[Role] = &[Role::DataSource];
const EXTRACTOR: &[Role] = &[Role::Extractor];
const DETECTOR: &[Role] = &[Role::SaturationDetector, Role::Filter];

const AVAILABLE: &[(&str, &[Role])] = &[
    ("single-profile-handler", HANDLER),
    ("header-profile-handler", HANDLER),
    ("label-selector-filter", FILTER),
    ("by-label", FILTER),
    ("by-label-selector", FILTER),
    ("decode-filter", FILTER),
    ("prefill-filter", FILTER),
    ("encode-filter", FILTER),
    ("header-based-testing-filter", FILTER),
    ("probabilistic-admitter", &[Role::Admitter]),
    ("queue-scorer", SCORER),
    ("estimated-ttft-scorer", SCORER),
    ("running-requests-size-scorer", SCORER),
    ("kv-cache-utilization-scorer", SCORER),
    ("load-aware-scorer", SCORER),
    ("lora-affinity-scorer", SCORER),
    ("prefix-cache-scorer", SCORER),
    ("active-request-scorer", SCORER),
    ("token-load-scorer", SCORER),
    ("no-hit-lru-scorer", SCORER),
    ("token-producer", PRODUCER),
    ("approx-prefix-cache-producer", PRODUCER),
    ("inflight-load-producer", PRODUCER),
    ("max-score-picker", PICKER),
    ("random-picker", PICKER),
    ("weighted-random-picker", PICKER),
    ("utilization-detector", DETECTOR),
    ("concurrency-detector", DETECTOR),
    ("openai-parser", PARSER),
    ("anthropic-parser", PARSER),
    ("vllmhttp-parser", PARSER),
    ("passthrough-parser", PARSER),
    ("fcfs-ordering-policy", &[Role::OrderingPolicy]),
    ("global-strict-fairness-policy", &[Role::FairnessPolicy]),
    ("static-usage-limit-policy", &[Role::UsageLimitPolicy]),
    ("program-aware-fairness", &[Role::FairnessPolicy]),
    ("soft-reflective-ceiling-policy", &[Role::UsageLimitPolicy]),
    ("sheddable-eviction-filter", &[Role::EvictionFilter]),
    ("priority-then-time-eviction-order-policy", &[Role::EvictionOrder]),
    ("metrics-data-source", SOURCE),
    ("core-metrics-extractor", EXTRACTOR),
    ("file-discovery", &[Role::Discovery]),
    ("test-chain", PRODUCER),
    ("test-selector", FILTER),
    ("test-lone-scorer", SCORER),
];

const LATER: &[(&str, &str)] = &[
    ("disagg-profile-handler", "disaggregated prefill"),
    ("prefix-based-pd-decider", "disaggregated prefill"),
    ("always-disagg-multimodal-decider", "disaggregated encode"),
    ("data-parallel-profile-handler", "data-parallel ranks behind one port"),
    ("burst-prefix-cache-producer", "batch-wise placement"),
    ("precise-prefix-cache-producer", "KV-cache events"),
    ("endpoint-notification-source", "KV-cache events"),
    ("mm-embeddings-cache-producer", "multimodal caches"),
    ("mm-embeddings-cache-scorer", "multimodal caches"),
    ("topology-extractor", "topology"),
    ("topology-affinity-filter", "topology"),
    ("topology-affinity-scorer", "topology"),
    ("dcgm-data-source", "GPU metrics"),
    ("dcgm-extractor", "GPU metrics"),
    ("endpoint-attribute-filter", "custom attributes"),
    ("endpoint-attribute-scorer", "custom attributes"),
    ("request-attribute-reporter", "cost reporting"),
];

const ALPHA: &[&str] = &[
    "header-profile-handler",
    "soft-reflective-ceiling-policy",
    "sheddable-eviction-filter",
    "priority-then-time-eviction-order-policy",
];
const DEPRECATED: &[(&str, &str)] =
    &[("by-label", "label-selector-filter"), ("by-label-selector", "label-selector-filter")];

impl Catalog for Types {
    fn lookup(&self, plugin_type: &str) -> Option<TypeInfo<'_>> {
        let later = LATER.iter().find(|(name, _)| *name == plugin_type);
        let roles = AVAILABLE.iter().find(|(name, _)| *name == plugin_type);
        let replacement = DEPRECATED.iter().find(|(name, _)| *name == plugin_type);
        if later.is_none() && roles.is_none() {
            return None;
        }
        Some(TypeInfo {
            availability: match later {
                Some((_, feature)) => Availability::Later { feature },
                None => Availability::Available,
            },
            stability: if ALPHA.contains(&plugin_type) {
                Stability::Alpha
            } else {
                Stability::Beta
            },
            deprecation: replacement.map(|(_, replacement)| Deprecation { replacement }),
            roles: roles.map_or(&[], |(_, roles)| *roles),
            parameters: parameters(plugin_type),
            references: if plugin_type == "test-chain" { &["next", "stages[].after"] } else { &[] },
            alone: (plugin_type == "test-lone-scorer").then_some("it counts in seconds"),
            description: "A type.",
        })
    }

    fn types(&self) -> Vec<&str> {
        let available = AVAILABLE.iter().map(|(name, _)| *name);
        available.chain(LATER.iter().map(|(name, _)| *name)).collect()
    }
}

fn parameters(plugin_type: &str) -> Option<fn() -> Schema> {
    Some(match plugin_type {
        "load-aware-scorer" => || schema_for!(LoadAware),
        "utilization-detector" => || schema_for!(Utilization),
        "metrics-data-source" => || schema_for!(MetricsSource),
        "file-discovery" => || schema_for!(FileDiscovery),
        "test-selector" => || schema_for!(Selector),
        "test-chain" => || schema_for!(Chain),
        "probabilistic-admitter"
        | "no-hit-lru-scorer"
        | "prefix-cache-scorer"
        | "approx-prefix-cache-producer"
        | "token-producer"
        | "header-profile-handler" => || schema_for!(BTreeMap<String, serde_json::Value>),
        _ => return None,
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct LoadAware {
    /// Queue length at which the score is 0.
    #[schemars(range(min = 1))]
    pub(super) threshold: u32,
}

impl Default for LoadAware {
    fn default() -> Self {
        Self { threshold: 128 }
    }
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
#[expect(clippy::struct_field_names, reason = "the Go implementation's names")]
struct Utilization {
    queue_depth_threshold: f64,
    #[schemars(range(max = 1.0))]
    kv_cache_util_threshold: f64,
    metrics_staleness_threshold: Option<GoDuration>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct MetricsSource {
    pub(super) scheme: Scheme,
    pub(super) path: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) interval: Option<GoDuration>,
    pub(super) limit: Option<Quantity>,
}

#[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scheme {
    #[default]
    Http,
    /// With TLS.
    Https,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileDiscovery {
    #[serde(rename = "path")]
    _path: String,
    #[serde(default, rename = "watchFile")]
    _watch_file: bool,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Selector {
    pub(super) match_labels: BTreeMap<String, String>,
    pub(super) match_expressions: Vec<Expression>,
    pub(super) algorithm: Option<Algorithm>,
}

#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Expression {
    pub(super) key: String,
    pub(super) operator: Operator,
    #[serde(default)]
    pub(super) values: Vec<String>,
}

#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
pub(super) enum Operator {
    In,
    NotIn,
    Exists,
}

#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum Algorithm {
    Threshold { value: f64 },
    Range { min: f64, max: f64 },
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Chain {
    #[serde(rename = "next")]
    _next: String,
    #[serde(rename = "stages")]
    _stages: Vec<BTreeMap<String, String>>,
}
