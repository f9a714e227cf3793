//! Holds `docs/flow-control.md` to what there is: its document, keys and series.

use std::collections::BTreeSet;

use router_framework::{
    Registry,
    document::{self, Options, schema},
};
use router_telemetry::{metrics::Registry as Metrics, router::FlowMetrics};
use serde_json::{Value, json};

const PAGE: &str = include_str!("../../../../docs/flow-control.md");
const PREFIX: &str = "llm_d_epp_flow_control_";

/// What stands between backticks, outside of blocks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.starts_with("```"))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Names of the section's settings, with those of plugins.
fn keys(registry: &Registry) -> BTreeSet<String> {
    let format = schema::of(registry);
    let mut keys = BTreeSet::new();
    for section in ["FlowControl", "PriorityBand", "FlowControlExpert"] {
        let known = format.pointer(&format!("/$defs/{section}/properties"));
        let known = known.and_then(Value::as_object).unwrap_or_else(|| panic!("no {section}"));
        keys.extend(known.keys().cloned());
    }
    for policy in ["concurrency-detector", "utilization-detector"] {
        let def = registry.get(policy).unwrap();
        let params = (def.effective)(&json!({}));
        keys.extend(params.as_object().unwrap().keys().cloned());
    }
    keys
}

fn check_documents(registry: &Registry) {
    let blocks = PAGE.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let documents: Vec<_> = blocks.filter(|block| block.starts_with("apiVersion")).collect();
    assert!(!documents.is_empty());
    for text in documents {
        let options = Options { allow_experimental: false };
        let (document, said) = document::load("page", text.as_bytes(), registry, options);
        assert_eq!(said.to_string(), "", "{text}");
        assert!(document.unwrap().gates.flow_control.on);
    }
}

fn check_keys(registry: &Registry) {
    let keys = keys(registry);
    let is_key = |name: &&str| {
        let name = name.strip_prefix("expert.").unwrap_or(name);
        name.starts_with(char::is_lowercase)
            && name.contains(char::is_uppercase)
            && name.chars().all(char::is_alphanumeric)
    };
    let named: Vec<_> = quoted(PAGE).filter(is_key).collect();
    assert!(named.len() > 10, "{named:?}");
    for name in named {
        let key = name.strip_prefix("expert.").unwrap_or(name);
        assert!(keys.contains(key) || key == "flowControl", "there is no {name}");
    }
}

fn check_series() {
    let registry = Metrics::default();
    FlowMetrics::new(&registry).unwrap();
    let families = registry.describe();
    let family = |name: &str| families.iter().find(|family| family.name == name);
    let (_, table) = PAGE.split_once("| question | series").expect("a table of series");
    let table = table.split("\n\n").next().unwrap_or_default();
    let answers =
        table.lines().skip(2).filter_map(|row| row.trim_end_matches(" |").rsplit_once("| "));
    let mut n_named = 0;
    for (_, answer) in answers {
        for piece in answer.split(", ") {
            let mut names = quoted(piece);
            let Some(name) = names.next().filter(|name| *name != "global_") else { continue };
            let full = format!("{PREFIX}{name}");
            let Some(found) = family(&full) else { panic!("there is no {full}") };
            for label in names {
                assert!(found.labels.contains(&label), "{full} has no label {label}");
            }
            n_named += 1;
        }
    }
    assert!(n_named > 15, "{n_named}");
    for global in ["global_capacity_utilization_requests", "global_capacity_utilization_bytes"] {
        assert!(family(&format!("{PREFIX}{global}")).is_some());
    }
}

#[test]
fn a4_42_the_page_of_flow_control_says_what_is_there() {
    let registry = Registry::new(router_plugins::PLUGINS.iter().copied());
    check_documents(&registry);
    check_keys(&registry);
    check_series();
    // Go's page describes that a full band drops what waits in lower ones, which it never does.
    assert!(!PAGE.to_lowercase().contains("displac"));
    for plugin in quoted(PAGE).filter(|name| name.ends_with("-policy") || name.ends_with("-filter"))
    {
        let plugin = plugin.trim_start_matches('[');
        assert!(registry.get(plugin).is_some(), "there is no {plugin}");
    }
}
