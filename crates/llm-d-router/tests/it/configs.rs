//! The documents that the Go implementation ships, loaded in full with the plugins of this executable.
//!
//! `testdata/config/go/verdicts.tsv` says what becomes of each: it loads; it loads with
//! `--allow-experimental-plugins`; it names what a later version brings; upstream does not load it either.

use std::{collections::BTreeSet, sync::Arc};

use router_framework::{
    PluginEnv, Registry,
    document::{
        self, Diagnostic, Diagnostics, Document, Options, Plugin, Severity, write::to_yaml,
    },
};
use router_rt::{Clock, Offload, Seeds};
use router_telemetry::{BUILD, RouterMetrics};

use crate::testdata;

/// A plugin type of Go's unit tests, in two documents that its binary refuses as well.
const GO_TEST_ONLY: &str = "mock-metrics-source";

struct Row {
    document: String,
    verdict: String,
    causes: BTreeSet<String>,
}

fn rows() -> Vec<Row> {
    let table = testdata::text("config/go/verdicts.tsv");
    let rows = table.lines().skip(1).map(|line| {
        let columns: Vec<&str> = line.split('\t').collect();
        let [document, verdict, causes] = columns[..] else { panic!("{line:?}") };
        let causes = causes.split(", ").filter(|cause| !cause.is_empty());
        Row {
            document: document.to_owned(),
            verdict: verdict.to_owned(),
            causes: causes.map(str::to_owned).collect(),
        }
    });
    rows.collect()
}

fn registry() -> Registry {
    Registry::new(router_plugins::PLUGINS.iter().copied())
}

/// Loads as far as an executable does before it listens.
fn load(name: &str, text: &[u8], allow_experimental: bool) -> Result<Document, Diagnostics> {
    let registry = registry();
    let (document, diagnostics) =
        document::load(name, text, &registry, Options { allow_experimental });
    let Some(document) = document else { return Err(diagnostics) };
    let mut document = document.with_defaults(&registry);
    let metrics = router_telemetry::Registry::default();
    let env = PluginEnv {
        clock: Clock::new(),
        seeds: Arc::new(Seeds::new(0)),
        offload: Offload::inline(),
        metrics: Arc::new(RouterMetrics::new(&metrics, &BUILD).unwrap()),
        registry: Arc::new(metrics),
    };
    let mut diagnostics = document.diagnostics();
    match router_framework::load(&mut document, &registry, &env, &mut diagnostics) {
        Some(_) => Ok(document),
        None => Err(diagnostics),
    }
}

/// The document as it runs, parameters with every default filled in.
fn written(document: &Document) -> String {
    let registry = registry();
    let parameters = |plugin: &Plugin| {
        let def = registry.get(&plugin.plugin_type)?;
        let written = plugin.parameters.as_ref().map(|node| node.to_json()).unwrap_or_default();
        let written = if written.is_null() { serde_json::json!({}) } else { written };
        def.takes_params.then(|| (def.effective)(&written))
    };
    let yaml = to_yaml(document, &parameters);
    // Comments say what was added and why, which a written document does not need any more.
    yaml.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n")
}

fn errors(diagnostics: &Diagnostics) -> Vec<&Diagnostic> {
    diagnostics.sorted().into_iter().filter(|d| d.severity == Severity::Error).collect()
}

/// Whether it names, at its place, the feature that brings what is asked for.
fn is_later(diagnostic: &Diagnostic) -> bool {
    let message = &diagnostic.message;
    let is_known = message.starts_with("not available in this version: ");
    is_known && message.ends_with(')') && diagnostic.span.line > 0
}

/// What the messages name.
fn causes(errors: &[&Diagnostic]) -> BTreeSet<String> {
    let name = |d: &&Diagnostic| d.message.split('`').nth(1).unwrap_or(&d.message).to_owned();
    errors.iter().map(name).collect()
}

#[test]
fn every_document_of_go_gets_the_verdict_in_the_table() {
    let rows = rows();
    assert_eq!(rows.len(), 22);
    for row in rows {
        let name = format!("config/go/{}", row.document);
        let text = testdata::text(&name);
        let strict = load(&name, text.as_bytes(), false);
        match (row.verdict.as_str(), strict) {
            ("loads", Ok(document)) => assert!(!document.profiles.is_empty(), "{name}"),
            ("experimental", Err(_)) => {
                load(&name, text.as_bytes(), true).unwrap_or_else(|d| panic!("{d}"));
            }
            ("later", Err(diagnostics)) => {
                let errors = errors(&diagnostics);
                let others: Vec<_> = errors.iter().filter(|d| !is_later(d)).collect();
                assert!(others.is_empty(), "{name}: {others:#?}");
                assert_eq!(causes(&errors), row.causes, "{name}");
            }
            ("invalid", Err(diagnostics)) => {
                let errors = errors(&diagnostics);
                let faults: Vec<_> = errors.into_iter().filter(|d| !is_later(d)).collect();
                assert_eq!(causes(&faults), row.causes, "{name}");
                assert!(row.causes.contains(GO_TEST_ONLY), "{name}: say why upstream refuses it");
            }
            (verdict, Ok(_)) => panic!("{name} loads, the table says {verdict}"),
            (verdict, Err(diagnostics)) => panic!("{name}, {verdict}:\n{diagnostics}"),
        }
    }
}

#[test]
fn every_preset_loads_and_says_the_same_when_written_out() {
    for preset in document::preset::PRESETS {
        let text = preset.document.as_bytes();
        let first = load(preset.name, text, false).unwrap_or_else(|d| panic!("{d}"));
        let written = written(&first);
        let again =
            load("written.yaml", written.as_bytes(), false).unwrap_or_else(|d| panic!("{d}"));
        assert_eq!(self::written(&again), written);
    }
}

#[test]
fn what_loads_loads_again_after_it_was_written_with_all_defaults() {
    for row in rows().iter().filter(|row| row.verdict == "loads") {
        let name = format!("config/go/{}", row.document);
        let first = load(&name, testdata::text(&name).as_bytes(), false).unwrap();
        let written = self::written(&first);
        let again =
            load(&name, written.as_bytes(), false).unwrap_or_else(|d| panic!("{name}: {d}"));
        assert_eq!(self::written(&again), written, "{name}");
    }
}
