//! Document to text: what runs, with everything that was added.

use serde_json::{Map, Value, json};

use super::{
    model::{Document, FlowControl, FlowControlExpert, Origin, Plugin, PluginRef, PriorityBand},
    read::{API_VERSION, KIND},
    tree::{Plain, resolve},
    units::GoDuration,
};

impl Document {
    /// Takes out again what defaults have added of these types, so that what is written reads back where they may
    /// not be declared; reading adds them again. Gives their names.
    pub fn leave_out_added(&mut self, is_left_out: impl Fn(&Plugin) -> bool) -> Vec<String> {
        let is_left_out =
            |plugin: &Plugin| matches!(plugin.origin, Origin::Added(_)) && is_left_out(plugin);
        let (left_out, kept) = std::mem::take(&mut self.plugins).into_iter().partition(is_left_out);
        self.plugins = kept;
        let names: Vec<String> =
            <Vec<Plugin>>::into_iter(left_out).map(|plugin| plugin.name).collect();
        let FlowControl { eviction_filter, eviction_order, .. } = &mut self.flow_control;
        for reference in [eviction_filter, eviction_order] {
            reference.take_if(|reference| names.contains(&reference.name));
        }
        names
    }
}

/// The document as YAML that reads back as the same document. `parameters` gives what a plugin
/// runs with, defaults filled in; where it gives nothing, what was written stands.
pub fn to_yaml(document: &Document, parameters: &dyn Fn(&Plugin) -> Option<Value>) -> String {
    let mut out = String::new();
    let mut entry = |key: &str, value: Value| map_entry(&mut out, 0, key, &value);
    entry("apiVersion", API_VERSION.into());
    entry("kind", KIND.into());
    let gates = document.gates.all();
    let gates: Vec<_> = gates.iter().map(|(name, gate)| format!("{name}={}", gate.on)).collect();
    entry("featureGates", gates.into());
    if !document.plugins.is_empty() {
        out.push_str("plugins:\n");
    }
    for plugin in &document.plugins {
        if let Origin::Added(reason) = plugin.origin {
            out.extend(["# added: ", reason, "\n"]);
        }
        list_entry(&mut out, 0, &plugin_value(plugin, parameters));
    }
    for (key, value) in [
        ("schedulingProfiles", profiles(document)),
        ("dataLayer", data_layer(document)),
        ("flowControl", flow_control(&document.flow_control)),
        ("requestHandler", request_handler(document)),
    ] {
        let is_empty = value.as_object().is_some_and(Map::is_empty)
            || value.as_array().is_some_and(Vec::is_empty);
        if !is_empty {
            map_entry(&mut out, 0, key, &value);
        }
    }
    out
}

fn plugin_value(plugin: &Plugin, parameters: &dyn Fn(&Plugin) -> Option<Value>) -> Value {
    let mut fields = Fields::default();
    if plugin.name != plugin.plugin_type {
        fields.put("name", Some(plugin.name.as_str()));
    }
    fields.put("type", Some(plugin.plugin_type.as_str()));
    let written = || plugin.parameters.as_ref().map(|node| node.to_json());
    let given = parameters(plugin).or_else(written);
    fields
        .put("parameters", given.filter(|value| value.as_object().is_some_and(|m| !m.is_empty())));
    fields.done()
}

fn profiles(document: &Document) -> Value {
    let profile = |profile: &super::model::Profile| {
        let plugins = profile.plugins.iter().map(|entry| {
            let mut fields = Fields::default();
            fields.put("pluginRef", Some(entry.plugin.name.as_str()));
            fields.put("weight", entry.weight.map(short));
            fields.done()
        });
        json!({ "name": profile.name, "plugins": plugins.collect::<Vec<_>>() })
    };
    document.profiles.iter().map(profile).collect()
}

fn data_layer(document: &Document) -> Value {
    let layer = &document.data_layer;
    let source = |source: &super::model::DataSource| {
        let mut fields = Fields::default();
        fields.put("pluginRef", Some(source.plugin.name.as_str()));
        fields.put("extractors", references(&source.extractors));
        fields.done()
    };
    let mut fields = Fields::default();
    fields.put("injectDefaults", layer.inject_defaults);
    let sources: Vec<_> = layer.sources.iter().map(source).collect();
    fields.put("sources", Some(sources).filter(|sources| !sources.is_empty()));
    fields.put("discovery", layer.discovery.as_ref().map(reference));
    fields.put("peerDiscovery", layer.peer_discovery.as_ref().map(reference));
    let syncer = layer.cross_replica_syncer.as_ref();
    fields.put("crossReplicaSyncerPluginRef", syncer.map(|plugin| plugin.name.as_str()));
    let interval = layer.cross_replica_sync_interval;
    fields.put("crossReplicaSyncInterval", interval.map(|interval| interval.to_string()));
    fields.done()
}

fn flow_control(flow_control: &FlowControl) -> Value {
    let name = |plugin: &PluginRef| plugin.name.clone();
    let mut fields = Fields::default();
    fields.put("maxBytes", flow_control.max_bytes.as_ref().map(ToString::to_string));
    fields.put("maxRequests", flow_control.max_requests.as_ref().map(ToString::to_string));
    let ttl = flow_control.default_request_ttl;
    fields.put("defaultRequestTTL", ttl.map(|ttl| ttl.to_string()));
    let ttl = flow_control.no_endpoint_request_ttl;
    fields.put("noEndpointRequestTTL", ttl.map(|ttl| ttl.to_string()));
    fields.put("defaultPriorityBand", flow_control.default_priority_band.as_ref().map(band));
    let negative = flow_control.default_negative_priority_band.as_ref();
    fields.put("defaultNegativePriorityBand", negative.map(band));
    let bands: Vec<_> = flow_control.priority_bands.iter().map(band).collect();
    fields.put("priorityBands", Some(bands).filter(|bands| !bands.is_empty()));
    fields.put("usageLimitPolicyPluginRef", flow_control.usage_limit_policy.as_ref().map(name));
    fields.put("saturationDetector", flow_control.saturation_detector.as_ref().map(reference));
    fields.put("enableEviction", flow_control.enable_eviction);
    fields.put("evictionFilterPluginRef", flow_control.eviction_filter.as_ref().map(name));
    fields.put("evictionOrderPluginRef", flow_control.eviction_order.as_ref().map(name));
    fields.put("expert", expert(&flow_control.expert));
    fields.done()
}

fn expert(expert: &FlowControlExpert) -> Option<Value> {
    let time = |time: Option<GoDuration>| time.map(|time| time.to_string());
    let mut fields = Fields::default();
    fields.put("maxPriorityBands", expert.max_priority_bands);
    fields.put("maxIdleFlows", expert.max_idle_flows);
    fields.put("flowIdleTimeout", time(expert.flow_idle_timeout));
    fields.put("priorityBandIdleTimeout", time(expert.priority_band_idle_timeout));
    fields.put("minRetryAfter", time(expert.min_retry_after));
    fields.put("maxRetryAfter", time(expert.max_retry_after));
    fields.put("trickleShare", expert.trickle_share.map(short));
    fields.put("trickleInterval", time(expert.trickle_interval));
    fields.put("maxEvictionsAtOnce", expert.max_evictions_at_once);
    fields.put("evictionConfirmationTimeout", time(expert.eviction_confirmation_timeout));
    fields.put("evictionConfirmationGrace", time(expert.eviction_confirmation_grace));
    (!fields.0.is_empty()).then(|| fields.done())
}

fn band(band: &PriorityBand) -> Value {
    let mut fields = Fields::default();
    fields.put("priority", band.priority);
    fields.put("maxBytes", band.max_bytes.as_ref().map(ToString::to_string));
    fields.put("maxRequests", band.max_requests.as_ref().map(ToString::to_string));
    fields.put("fairnessPolicyRef", band.fairness_policy.as_ref().map(|p| p.name.as_str()));
    fields.put("orderingPolicyRef", band.ordering_policy.as_ref().map(|p| p.name.as_str()));
    fields.done()
}

fn request_handler(document: &Document) -> Value {
    let mut fields = Fields::default();
    fields.put("parsers", references(&document.parsers));
    fields.done()
}

fn reference(plugin: &PluginRef) -> Value {
    json!({ "pluginRef": plugin.name })
}

fn references(plugins: &[PluginRef]) -> Option<Value> {
    (!plugins.is_empty()).then(|| plugins.iter().map(reference).collect())
}

/// A whole number without its `.0`.
fn short(value: f64) -> Value {
    super::tree::whole(value).map_or_else(|| value.into(), Value::from)
}

/// A map of the keys that have a value.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.0.insert(key.to_owned(), value.into());
        }
    }

    fn done(self) -> Value {
        Value::Object(self.0)
    }
}

// === YAML ===

/// Any value as a YAML document.
pub fn value_to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                map_entry(&mut out, 0, key, value);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for value in list {
                list_entry(&mut out, 0, value);
            }
        }
        _ => {
            out.push_str(&scalar(value));
            out.push('\n');
        }
    }
    out
}

/// `key: value`, or the key and its value in the lines below. The line has been indented.
fn map_entry(out: &mut String, indent: usize, key: &str, value: &Value) {
    out.push_str(&text(key));
    out.push(':');
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            for (key, value) in map {
                blanks(out, indent + 2);
                map_entry(out, indent + 2, key, value);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            out.push('\n');
            for value in list {
                blanks(out, indent);
                list_entry(out, indent, value);
            }
        }
        _ => {
            out.push(' ');
            out.push_str(&scalar(value));
            out.push('\n');
        }
    }
}

/// `- value`, the first key of a map on the same line. The line has been indented.
fn list_entry(out: &mut String, indent: usize, value: &Value) {
    out.push_str("- ");
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (index, (key, value)) in map.iter().enumerate() {
                if index > 0 {
                    blanks(out, indent + 2);
                }
                map_entry(out, indent + 2, key, value);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for (index, value) in list.iter().enumerate() {
                if index > 0 {
                    blanks(out, indent + 2);
                }
                list_entry(out, indent + 2, value);
            }
        }
        _ => {
            out.push_str(&scalar(value));
            out.push('\n');
        }
    }
}

fn blanks(out: &mut String, n: usize) {
    out.extend(std::iter::repeat_n(' ', n));
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(string) => text(string),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// Text without quotes where nothing could take it for anything else.
fn text(string: &str) -> String {
    let inside = |c: char| c.is_ascii_alphanumeric() || "-_./=".contains(c);
    let starts = string.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
    let plain = starts && string.chars().all(inside) && resolve(string) == Plain::String;
    if plain { string.to_owned() } else { quoted(string) }
}

/// Text in double quotes, with YAML's escapes for what does not print.
fn quoted(string: &str) -> String {
    let mut out = String::with_capacity(string.len() + 2);
    out.push('"');
    for c in string.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                let escape = format!("\\u{:04x}", c as u32);
                out.push_str(&escape);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests;
