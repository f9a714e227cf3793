//! Configuration documents over file discovery, and the files beside them.

use std::{fs, net::SocketAddr, path::Path};

use serde_json::{Value, json};

/// A plugin of a document's only profile.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) plugin_type: &'static str,
    pub(crate) weight: Option<u32>,
    pub(crate) parameters: Value,
}

/// The scorers of the built-in configuration.
pub(crate) fn default_scorers() -> Vec<Entry> {
    vec![
        scorer("queue-scorer", 2),
        scorer("kv-cache-utilization-scorer", 2),
        scorer("prefix-cache-scorer", 3),
    ]
}

pub(crate) fn scorer(plugin_type: &'static str, weight: u32) -> Entry {
    Entry { plugin_type, weight: Some(weight), parameters: json!({}) }
}

/// Keeps the endpoint of this number only; endpoints carry theirs as a label.
pub(crate) fn only_endpoint(number: usize) -> Entry {
    let parameters = json!({ "matchLabels": { "number": number.to_string() } });
    Entry { plugin_type: "label-selector-filter", weight: None, parameters }
}

/// The whole document. JSON is YAML.
pub(crate) fn document(endpoints_file: &Path, entries: &[Entry], more: &Value) -> String {
    let mut plugins = vec![json!({
        "type": "file-discovery",
        "parameters": { "path": endpoints_file, "watchFile": true },
    })];
    let mut references = Vec::new();
    for entry in entries {
        let mut plugin = json!({ "type": entry.plugin_type });
        if entry.parameters.as_object().is_some_and(|parameters| !parameters.is_empty()) {
            plugin["parameters"] = entry.parameters.clone();
        }
        plugins.push(plugin);
        let mut reference = json!({ "pluginRef": entry.plugin_type });
        if let Some(weight) = entry.weight {
            reference["weight"] = json!(weight);
        }
        references.push(reference);
    }
    let mut document = json!({
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": plugins,
        "schedulingProfiles": [{ "name": "default", "plugins": references }],
        "dataLayer": { "discovery": { "pluginRef": "file-discovery" } },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        document[key] = value.clone();
    }
    document.to_string()
}

/// An endpoints file; each endpoint has its number in its name and as a label.
pub(crate) fn endpoints<'a>(numbered: impl IntoIterator<Item = (usize, &'a SocketAddr)>) -> String {
    let entry = |(number, address): (usize, &SocketAddr)| {
        json!({
            "name": format!("server-{number}"),
            "address": address.ip().to_string(),
            "port": address.port().to_string(),
            "labels": { "number": number.to_string() },
        })
    };
    let endpoints: Vec<Value> = numbered.into_iter().map(entry).collect();
    json!({ "endpoints": endpoints }).to_string()
}

/// An objective of this priority.
pub(crate) fn objective(name: &str, priority: i32) -> String {
    json!({
        "apiVersion": "inference.networking.x-k8s.io/v1alpha2",
        "kind": "InferenceObjective",
        "metadata": { "name": name },
        "spec": { "priority": priority, "poolRef": { "name": "pool" } },
    })
    .to_string()
}

/// Replaces a file as Kubernetes and careful editors do: a reader sees the old one or the new one.
pub(crate) fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let fresh = path.with_extension("fresh");
    fs::write(&fresh, text)?;
    fs::rename(fresh, path)
}
