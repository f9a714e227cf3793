//! `docs/reference/configuration.md`, from the schema of the document.

use std::fmt::Write;

use router_framework::{
    Registry,
    document::{self, Options, gates::FeatureGates, schema, write},
};
use serde_json::Value;

use super::{cell, code, table};
use crate::{
    config_command::plugin_env,
    configuration::{self, Source},
};

/// What documents may ask for and this version does not do.
const LATER: [&str; 3] = [
    "dataLayer: {peerDiscovery: {pluginRef: a}}",
    "dataLayer: {crossReplicaSyncerPluginRef: a}",
    "dataLayer: {crossReplicaSyncInterval: 1s}",
];

struct Keys<'s> {
    root: &'s Value,
    rows: Vec<[String; 4]>,
}

impl<'s> Keys<'s> {
    fn target(&self, schema: &'s Value) -> &'s Value {
        let reference = schema.get("$ref").and_then(Value::as_str);
        let target =
            reference.and_then(|reference| self.root.pointer(reference.strip_prefix('#')?));
        target.unwrap_or(schema)
    }

    /// One row for every key of an object, parents before children.
    fn object(&mut self, schema: &'s Value, prefix: &str) {
        let required = schema.get("required").and_then(Value::as_array);
        let is_required =
            |key: &str| required.is_some_and(|all| all.iter().any(|name| name == key));
        for (key, property) in
            schema.get("properties").and_then(Value::as_object).into_iter().flatten()
        {
            let target = self.target(property);
            let path = format!("{prefix}{key}");
            let description = |of: &Value| of.get("description")?.as_str().map(str::to_owned);
            let text = description(property).or_else(|| description(target)).unwrap_or_default();
            let (meaning, mut default) = without_default(&text);
            if is_required(key) {
                default = "required".to_owned();
            }
            self.rows.push([code(&path), self.kind(target), cell(&default), cell(&meaning)]);
            self.object(target, &format!("{path}."));
            if let Some(items) = target.get("items") {
                self.object(self.target(items), &format!("{path}[]."));
            }
        }
    }

    fn kind(&self, schema: &'s Value) -> String {
        if let Some(constant) = schema.get("const").and_then(Value::as_str) {
            return code(constant);
        }
        if let Some(names) = schema.get("enum").and_then(Value::as_array) {
            return names
                .iter()
                .filter_map(Value::as_str)
                .map(code)
                .collect::<Vec<_>>()
                .join(" or ");
        }
        match schema.get("format").and_then(Value::as_str) {
            Some("go-duration") => return "duration".to_owned(),
            Some("k8s-quantity") => return "quantity".to_owned(),
            _ => {}
        }
        match schema.get("type").and_then(Value::as_str) {
            Some("array") => match schema.get("items") {
                Some(items) => format!("list of {}", self.kind(self.target(items))),
                None => "list".to_owned(),
            },
            Some("object") => "map".to_owned(),
            Some(kind) => kind.to_owned(),
            None => "any".to_owned(),
        }
    }
}

/// Takes the sentence that begins with `Default:` out of a description.
fn without_default(text: &str) -> (String, String) {
    let Some((before, after)) = text.split_once("Default: ") else {
        return (text.to_owned(), String::new());
    };
    let (default, rest) = after.split_once(". ").unwrap_or((after.trim_end_matches('.'), ""));
    (format!("{before}{rest}"), default.to_owned())
}

fn assert_refused(registry: &Registry, asked: &str) {
    let text = format!("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n{asked}\n");
    let (document, found) =
        document::load("a", text.as_bytes(), registry, Options { allow_experimental: false });
    assert!(document.is_none());
    let found = found.render(document::Style::Plain);
    assert!(found.contains("not available in this version"), "{asked}: {found}");
}

/// The document that runs where none is given, as `config defaults` prints it.
fn built_in(registry: &Registry) -> String {
    let mut warn = |_: &_| {};
    let options = Options { allow_experimental: false };
    let mut document =
        configuration::read(&Source::built_in(), registry, options, &mut warn).unwrap();
    configuration::load(&mut document, registry, &plugin_env(0).unwrap(), &mut warn).unwrap();
    write::to_yaml(&document, &|plugin| {
        let def = registry.get(&plugin.plugin_type)?;
        let written = plugin.parameters.as_ref().map(|node| node.to_json());
        Some((def.effective)(&written.unwrap_or_else(|| serde_json::json!({}))))
    })
}

#[test]
fn reference_of_the_configuration_is_current() {
    let registry = Registry::new(router_plugins::PLUGINS.iter().copied());
    let format = schema::of(&registry);
    let mut keys = Keys { root: &format, rows: Vec::new() };
    keys.object(&format, "");
    assert!(keys.rows.iter().all(|[path, ..]| !path.is_empty()));
    let mut page = "# Configuration document\n\n".to_owned();
    page += "The keys of an `EndpointPickerConfig`, in YAML or JSON; `config schema` prints the same as JSON Schema.\n";
    page += "Parameters of plugins are on [their pages](plugins/README.md).\n";
    page += "A key that is not here is an error, with its place and the nearest valid name.\n";
    page += "Of what is here, a later version brings these; a document that asks for them is refused with a message that says so:\n\n";
    for asked in LATER {
        assert_refused(&registry, asked);
        writeln!(page, "- `{asked}`").unwrap();
    }
    page.push('\n');
    page += &table(["key", "type", "default", "meaning"], &keys.rows);
    page += "\nA duration is a text such as `50ms`, `1.5s` or `1h30m`; a quantity a number or a text such as `64Mi` or `2G`.\n";
    page += "\n## Feature gates\n\n";
    let gates = FeatureGates::default().all();
    let state = |on| if on { "on" } else { "off" }.to_owned();
    let rows: Vec<_> = gates.iter().map(|(name, gate)| [code(name), state(gate.on)]).collect();
    page += &table(["gate", "default"], &rows);
    page += "\n## What runs where no document is given\n\n";
    page += "`config defaults` prints it; with a file it prints that document as it will run.\n\n";
    write!(page, "```yaml\n{}\n```\n", built_in(&registry).trim_end()).unwrap();
    super::check("configuration.md", "the schema of the document", &page);
}

#[test]
fn defaults_are_taken_out_of_descriptions() {
    let check = |text: &str, meaning: &str, default: &str| {
        assert_eq!(without_default(text), (meaning.to_owned(), default.to_owned()));
    };
    check("How long.", "How long.", "");
    check("How long. Default: 60s; 0s means no limit.", "How long. ", "60s; 0s means no limit");
    check("A name. Default: its type. Unique.", "A name. Unique.", "its type");
}
