//! Documents from anywhere: must be read or refused in bounded time and memory, never with a
//! panic, and what was read must survive being written.

use schemars::{JsonSchema, Schema, schema_for};
use serde::Deserialize;

use super::{
    Availability, Catalog, GoDuration, Options, Quantity, Role, Stability, Style, TypeInfo, load,
    write::to_yaml,
};

/// Longer documents are not written and read again: what was added might not fit any more.
const MAX_ROUND_TRIP_BYTES: usize = 16 << 10;

/// Reads `data` as a document and, where it is one, fills in defaults, writes it and reads it
/// again.
///
/// # Panics
/// If what was written is not read as the same document.
pub fn fuzz_document(data: &[u8]) {
    let options = Options { allow_experimental: data.len().is_multiple_of(2) };
    let (document, diagnostics) = load("fuzz", data, &Sample, options);
    let shown = diagnostics.render(Style::Colour);
    assert_eq!(shown.is_empty(), diagnostics.is_empty());
    let Some(document) = document else {
        assert!(diagnostics.has_errors());
        return;
    };
    for plugin in &document.plugins {
        let mut diagnostics = document.diagnostics();
        if plugin.plugin_type == "sample-scorer" {
            let read: Option<Params> = plugin.read_parameters(&mut diagnostics);
            assert_eq!(read.is_none(), diagnostics.has_errors());
        }
    }
    let written = to_yaml(&document.with_defaults(&Sample), &|_| None);
    if written.len() > MAX_ROUND_TRIP_BYTES {
        return;
    }
    let (again, diagnostics) = load("written", written.as_bytes(), &Sample, options);
    let again = again.map(|document| to_yaml(&document.with_defaults(&Sample), &|_| None));
    let without_comments = |text: &str| {
        text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
    };
    let again = again.map(|again| without_comments(&again));
    assert_eq!(again, Some(without_comments(&written)), "{diagnostics}");
}

/// A few types of every shape.
struct Sample;

/// Parameters of every shape that schemas have.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Params {
    threshold: Option<f64>,
    count: u16,
    interval: Option<GoDuration>,
    size: Option<Quantity>,
    mode: Mode,
    labels: std::collections::BTreeMap<String, String>,
    children: Vec<Self>,
    other: String,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    #[default]
    First,
    /// A documented variant has another schema.
    Second,
}

impl Catalog for Sample {
    fn lookup(&self, plugin_type: &str) -> Option<TypeInfo<'_>> {
        let roles: &[Role] = match plugin_type {
            "sample-scorer" => &[Role::Scorer, Role::Filter],
            "max-score-picker" => &[Role::Picker],
            "single-profile-handler" => &[Role::ProfileHandler],
            "utilization-detector" => &[Role::SaturationDetector],
            "fcfs-ordering-policy" => &[Role::OrderingPolicy],
            "global-strict-fairness-policy" => &[Role::FairnessPolicy],
            "static-usage-limit-policy" => &[Role::UsageLimitPolicy],
            "metrics-data-source" => &[Role::DataSource],
            "core-metrics-extractor" => &[Role::Extractor],
            "openai-parser" | "anthropic-parser" | "vllmhttp-parser" | "passthrough-parser" => {
                &[Role::Parser]
            }
            _ => return None,
        };
        let schema: fn() -> Schema = || schema_for!(Params);
        let has_parameters = plugin_type == "sample-scorer";
        Some(TypeInfo {
            availability: Availability::Available,
            stability: if has_parameters { Stability::Alpha } else { Stability::Beta },
            deprecation: None,
            roles,
            parameters: has_parameters.then_some(schema),
            references: if has_parameters { &["other", "children[].other"] } else { &[] },
            alone: has_parameters.then_some("it is a sample"),
            description: "",
        })
    }

    fn types(&self) -> Vec<&str> {
        vec!["sample-scorer", "max-score-picker", "openai-parser"]
    }
}
