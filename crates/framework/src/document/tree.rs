//! A document as a tree whose every value and key knows its place.

use serde_json::Number;

use super::{
    diagnostics::{Diagnostic, Diagnostics},
    source::{Source, Span},
};

mod json;
mod scalar;
mod yaml;

pub(crate) use scalar::{Plain, resolve};

/// Lists and maps may be nested this deep.
pub const MAX_DEPTH: usize = 64;
/// A document may have at most this many values, aliases written out.
pub const MAX_NODES: usize = 100_000;
/// The text that aliases repeat may add up to this many bytes.
pub const MAX_ALIASED_BYTES: usize = 4 << 20;

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it stands. What an alias repeats keeps the place of its anchor's text.
    pub span: Span,
    /// What it is.
    pub value: Value,
}

/// A value of JSON's kinds.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing; as in Go, the same as if its key were absent.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// Always finite.
    Number(Number),
    /// Text.
    String(String),
    /// A list.
    List(Vec<Node>),
    /// A map.
    Map(Map),
}

/// A map in the order written, without duplicate keys.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Map {
    entries: Vec<Entry>,
}

/// One key of a [`Map`] with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub key_span: Span,
    /// The value.
    pub value: Node,
}

/// Reads a YAML or JSON document. Syntax errors end it at the first; duplicate keys and the like
/// are reported and left out, so that what follows is still checked.
pub fn parse(name: &str, bytes: &[u8]) -> (Option<Node>, Diagnostics) {
    parse_part(name, bytes, 1)
}

/// Reads one document of a file that holds several: the part that begins on line `first_line` of the
/// file, counted from 1.
pub fn parse_part(name: &str, bytes: &[u8], first_line: u32) -> (Option<Node>, Diagnostics) {
    let (source, fault) = Source::decode_part(name, bytes, first_line);
    let mut diagnostics = Diagnostics::new(source.clone());
    if let Some(fault) = fault {
        diagnostics.push(fault);
        return (None, diagnostics);
    }
    let text = source.text();
    // YAML knows neither JSON's surrogate pairs nor its tabs, so what looks like JSON is read as
    // JSON. If it is not, it may still be YAML in flow style.
    let json = text.trim_start().starts_with(['{', '[']).then(|| json::parse(text, &source));
    if let Some(Ok((node, found))) = json {
        diagnostics.extend(found);
        return (Some(node), diagnostics);
    }
    match (yaml::parse(text, &mut diagnostics), json) {
        (Ok(node), _) => (Some(node), diagnostics),
        // The reader that got further understood more of what was meant.
        (Err(yaml), Some(Err(json))) if json.span.start >= yaml.span.start => {
            diagnostics.push(Diagnostic::error(json.span, "", json.message));
            (None, diagnostics)
        }
        (Err(yaml), _) => {
            diagnostics.push(Diagnostic::error(yaml.span, "", yaml.message));
            (None, diagnostics)
        }
    }
}

/// A syntax error: what ends the reading.
#[derive(Debug)]
struct Fault {
    span: Span,
    message: String,
}

fn fault(span: Span, message: impl Into<String>) -> Fault {
    Fault { span, message: message.into() }
}

// === impl Node ===

impl Node {
    /// A map without keys that is said to stand at `span`.
    pub(crate) fn empty_map(span: Span) -> Self {
        Self { span, value: Value::Map(Map::default()) }
    }

    /// The kind of the value with its article, for messages.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// Whether this is `null`.
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The text, if it is text.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::String(text) = &self.value { Some(text) } else { None }
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(value) = self.value { Some(value) } else { None }
    }

    /// The number, if it is one.
    pub fn as_f64(&self) -> Option<f64> {
        if let Value::Number(number) = &self.value { number.as_f64() } else { None }
    }

    /// The whole number, if it is one; `2.0` is.
    pub fn as_i64(&self) -> Option<i64> {
        let Value::Number(number) = &self.value else { return None };
        number.as_i64().or_else(|| whole(number.as_f64()?))
    }

    /// The entries, if it is a list.
    pub fn as_list(&self) -> Option<&[Node]> {
        if let Value::List(list) = &self.value { Some(list) } else { None }
    }

    /// The map, if it is one.
    pub fn as_map(&self) -> Option<&Map> {
        if let Value::Map(map) = &self.value { Some(map) } else { None }
    }

    /// The value under `key`, if this is a map that has it and it is not null.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.as_map()?.get(key)
    }

    /// The same without places.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(number) => serde_json::Value::Number(number.clone()),
            Value::String(text) => text.as_str().into(),
            Value::List(list) => list.iter().map(Self::to_json).collect(),
            Value::Map(map) => {
                map.entries().map(|entry| (entry.key.clone(), entry.value.to_json())).collect()
            }
        }
    }

    /// How many values this is, how many bytes of text they have, and how deep they are nested.
    fn measure(&self) -> Measure {
        let mut sum = Measure { n_nodes: 1, n_bytes: 0, height: 0 };
        match &self.value {
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
            Value::String(text) => sum.n_bytes = text.len(),
            Value::List(list) => list.iter().for_each(|item| sum.add(item.measure())),
            Value::Map(map) => {
                for entry in map.entries() {
                    sum.n_bytes += entry.key.len();
                    sum.add(entry.value.measure());
                }
            }
        }
        sum
    }
}

#[derive(Debug, Clone, Copy)]
struct Measure {
    n_nodes: usize,
    n_bytes: usize,
    height: usize,
}

impl Measure {
    fn add(&mut self, child: Self) {
        self.n_nodes += child.n_nodes;
        self.n_bytes += child.n_bytes;
        self.height = self.height.max(child.height + 1);
    }
}

/// A float as the whole number it is.
pub(crate) fn whole(value: f64) -> Option<i64> {
    // 2^63 is the first float that does not fit.
    (value.fract() == 0.0 && value.abs() < 9_223_372_036_854_775_808.0).then_some(value as i64)
}

// === impl Map ===

impl Map {
    /// The value under `key`, if it is there and not null.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value).filter(|value| !value.is_null())
    }

    /// The entry under `key`, null or not.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// All entries in the order written.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.iter()
    }

    pub(crate) fn entries_mut(&mut self) -> impl ExactSizeIterator<Item = &mut Entry> {
        self.entries.iter_mut()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Collects a map's entries; finds duplicates in time that does not grow with the map's square.
#[derive(Default)]
struct MapBuilder {
    map: Map,
    lines: std::collections::BTreeMap<String, u32>,
}

impl MapBuilder {
    /// Notes a key; reports it if it is there already, and then answers false.
    fn claim(&mut self, key: &str, span: Span, diagnostics: &mut Diagnostics) -> bool {
        if let Some(line) = self.lines.get(key) {
            let message = format!("duplicate key {}", super::diagnostics::quote(key));
            diagnostics.error(span, "", message, || Some(format!("it is first on line {line}")));
            return false;
        }
        self.lines.insert(key.to_owned(), span.line);
        true
    }

    fn insert(&mut self, key: String, key_span: Span, value: Node) {
        self.map.entries.push(Entry { key, key_span, value });
    }

    /// Adds an entry of a merged map unless its key is there.
    fn merge(&mut self, entry: Entry) {
        if !self.lines.contains_key(&entry.key) {
            self.lines.insert(entry.key.clone(), entry.key_span.line);
            self.map.entries.push(entry);
        }
    }
}

#[cfg(test)]
mod tests;
