//! Compares a tree with a JSON schema and reports everything that does not fit, with its place.
//!
//! Knows the part of JSON Schema that `schemars` writes for plugin parameters and that the
//! document's own schema and the resource definitions of Kubernetes use. It is stricter in one point: a key that an object schema does not
//! list is an error unless the schema says what other keys may hold. As in Go, a null stands for
//! an absent key.

use std::collections::BTreeMap;

use serde_json::{Map as JsonMap, Value as Json};

use super::{
    de,
    diagnostics::{Diagnostics, quote},
    source::{Path, Span},
    suggest,
    tree::{Entry, Map, Node, Value, whole},
    units::{DURATION_FORMAT, GoDuration, QUANTITY_FORMAT, Quantity},
};

mod patterns;
mod scalars;

pub use patterns::knows as knows_pattern;

/// Whether keys may be written in another case than the schema has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyCase {
    /// A key in another case is an unknown key.
    Exact,
    /// A key in another case is a warning, and is renamed.
    Any,
}

/// Chains of references in a schema end here.
const MAX_HOPS: usize = 16;
/// Comparisons of one tree, so that a schema of nested alternatives cannot take long. What is
/// left unchecked is still checked when the tree is read into its type.
const MAX_STEPS: usize = 200_000;
/// How many known keys the help for an unknown one lists.
const MAX_LISTED_KEYS: usize = 16;

/// Reports all that does not fit and renames keys to the schema's case where that is allowed.
pub(crate) fn check(
    node: &mut Node,
    schema: &Json,
    path: &Path<'_>,
    case: KeyCase,
    diagnostics: &mut Diagnostics,
) {
    let mut checker = Checker { root: schema, case, n_steps: 0, renames: Vec::new() };
    checker.node(node, schema, path, diagnostics);
    if !checker.renames.is_empty() {
        rename(node, &checker.renames.into_iter().collect());
    }
}

struct Checker<'s> {
    root: &'s Json,
    case: KeyCase,
    n_steps: usize,
    /// Keys by their place, with the name the schema has for them.
    renames: Vec<(Span, &'s str)>,
}

fn rename(node: &mut Node, renames: &BTreeMap<Span, &str>) {
    match &mut node.value {
        Value::List(list) => list.iter_mut().for_each(|item| rename(item, renames)),
        Value::Map(map) => {
            for entry in map.entries_mut() {
                if let Some(name) = renames.get(&entry.key_span) {
                    (*name).clone_into(&mut entry.key);
                }
                rename(&mut entry.value, renames);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

impl<'s> Checker<'s> {
    fn node(&mut self, node: &Node, schema: &'s Json, path: &Path<'_>, out: &mut Diagnostics) {
        self.n_steps += 1;
        if self.n_steps > MAX_STEPS {
            return;
        }
        let Some(schema) = self.resolve(schema) else { return };
        for part in list(schema, "allOf") {
            self.node(node, part, path, out);
        }
        let alternatives =
            [list(schema, "anyOf"), list(schema, "oneOf")].into_iter().find(|all| !all.is_empty());
        if let Some(alternatives) = alternatives {
            self.alternatives(node, alternatives, path, out);
        }
        if !self.has_type(node, schema, path, out) {
            return;
        }
        match &node.value {
            Value::Map(map) => self.map(node, map, schema, path, out),
            Value::List(items) => self.list(node, items, schema, path, out),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                scalars::check(node, schema, path, out);
            }
        }
    }

    /// The schema that `schema` refers to, if it says anything at all.
    fn resolve(&self, mut schema: &'s Json) -> Option<&'s JsonMap<String, Json>> {
        for _ in 0..MAX_HOPS {
            let object = schema.as_object()?;
            let Some(reference) = object.get("$ref").and_then(Json::as_str) else {
                return Some(object);
            };
            schema = self.root.pointer(reference.strip_prefix('#')?)?;
        }
        None
    }

    /// Fits if one alternative does; otherwise the nearest one says why.
    fn alternatives(
        &mut self,
        node: &Node,
        alternatives: &'s [Json],
        path: &Path<'_>,
        out: &mut Diagnostics,
    ) {
        if let Some(names) = self.names(alternatives) {
            scalars::one_of(node, &names, path, out);
            return;
        }
        let mut nearest: Option<(usize, Diagnostics, Vec<(Span, &'s str)>)> = None;
        for alternative in alternatives {
            let mut findings = Diagnostics::new(out.source().clone());
            let n_renames = self.renames.len();
            self.node(node, alternative, path, &mut findings);
            let renames = self.renames.split_off(n_renames);
            // One of another type is further away than any of the same type.
            let other_type = self.resolve(alternative).is_some_and(|alternative| {
                !types(alternative).is_empty() && !fits_type(node, &types(alternative))
            });
            let distance = findings.n_errors() + if other_type { MAX_STEPS } else { 0 };
            if nearest.as_ref().is_none_or(|(nearest, ..)| distance < *nearest) {
                nearest = Some((distance, findings, renames));
            }
        }
        if let Some((_, findings, renames)) = nearest {
            out.extend(findings);
            self.renames.extend(renames);
        }
    }

    /// The texts that may stand, where all alternatives are texts; null aside.
    fn names(&self, alternatives: &'s [Json]) -> Option<Vec<&'s str>> {
        let mut names = Vec::new();
        for alternative in alternatives {
            let alternative = self.resolve(alternative)?;
            if types(alternative) == ["null"] {
                continue;
            }
            match (alternative.get("const"), alternative.get("enum")) {
                (Some(name), _) => names.push(name.as_str()?),
                (None, Some(Json::Array(all))) => {
                    for name in all {
                        names.push(name.as_str()?);
                    }
                }
                _ => return None,
            }
        }
        (!names.is_empty()).then_some(names)
    }

    fn has_type(
        &self,
        node: &Node,
        schema: &JsonMap<String, Json>,
        path: &Path<'_>,
        out: &mut Diagnostics,
    ) -> bool {
        let types = types(schema);
        if types.is_empty() || fits_type(node, &types) {
            return true;
        }
        let format = schema.get("format").and_then(Json::as_str);
        let expected = scalars::expected(&types, format);
        let message = format!("expected {expected}, found {}", scalars::found(node));
        out.error(node.span, path, message, || scalars::type_help(node, &types, format));
        false
    }

    fn map(
        &mut self,
        node: &Node,
        map: &Map,
        schema: &'s JsonMap<String, Json>,
        path: &Path<'_>,
        out: &mut Diagnostics,
    ) {
        let properties = schema.get("properties").and_then(Json::as_object);
        let others =
            schema.get("additionalProperties").or_else(|| schema.get("unevaluatedProperties"));
        let combined = ["allOf", "anyOf", "oneOf"].iter().any(|key| schema.contains_key(*key));
        let bound = |key| schema.get(key).and_then(Json::as_u64).map(|n| n as usize);
        if let Some(most) = bound("maxProperties").filter(|most| map.len() > *most) {
            let message = format!("{} keys are more than the {most} allowed", map.len());
            out.error(node.span, path, message, || None);
        }
        if let Some(least) = bound("minProperties").filter(|least| map.len() < *least) {
            let message = format!("{} keys are fewer than the {least} needed", map.len());
            out.error(node.span, path, message, || None);
        }
        let mut seen: Vec<&str> = Vec::new();
        for entry in map.entries() {
            let at = path.key(&entry.key);
            let known = properties.and_then(|properties| properties.get_key_value(&entry.key));
            if let Some((name, property)) = known {
                seen.push(name);
                self.value(entry, property, &at, out);
            } else if let Some((name, property)) = self.other_case(map, entry, properties) {
                out.push(de::other_case(entry, &at, name));
                self.renames.push((entry.key_span, name));
                seen.push(name);
                self.value(entry, property, &at, out);
            } else if let Some(others) = others.filter(|others| others.is_object()) {
                self.value(entry, others, &at, out);
            } else if others != Some(&Json::Bool(true)) && !combined && properties.is_some() {
                unknown_key(entry, properties, &at, out);
            }
        }
        for name in list(schema, "required").iter().filter_map(Json::as_str) {
            let is_null = map.entry(name).is_some_and(|entry| entry.value.is_null());
            if is_null || !seen.contains(&name) {
                out.error(node.span, path, format!("missing key `{name}`"), || None);
            }
        }
    }

    fn value(&mut self, entry: &Entry, schema: &'s Json, path: &Path<'_>, out: &mut Diagnostics) {
        if !entry.value.is_null() {
            self.node(&entry.value, schema, path, out);
        }
    }

    /// The property that a key means which is not spelled like any.
    fn other_case(
        &self,
        map: &Map,
        entry: &Entry,
        properties: Option<&'s JsonMap<String, Json>>,
    ) -> Option<(&'s str, &'s Json)> {
        if self.case == KeyCase::Exact {
            return None;
        }
        let (name, property) =
            properties?.iter().find(|(name, _)| name.eq_ignore_ascii_case(&entry.key))?;
        // Of two keys that mean one, the exact one or else the first counts.
        let first = map.entries().find(|other| other.key.eq_ignore_ascii_case(name))?;
        let counts = map.entry(name).is_none() && first.key_span == entry.key_span;
        counts.then_some((name, property))
    }

    fn list(
        &mut self,
        node: &Node,
        items: &[Node],
        schema: &'s JsonMap<String, Json>,
        path: &Path<'_>,
        out: &mut Diagnostics,
    ) {
        let bound = |key| schema.get(key).and_then(Json::as_u64).map(|n| n as usize);
        let most = bound("maxItems").unwrap_or(usize::MAX);
        let least = bound("minItems").unwrap_or(0);
        if items.len() > most {
            let message = format!("{} entries are more than the {most} allowed", items.len());
            out.error(node.span, path, message, || None);
        }
        if items.len() < least {
            let message = format!("{} entries are fewer than the {least} needed", items.len());
            out.error(node.span, path, message, || None);
        }
        let Some(schema) = schema.get("items") else { return };
        for (index, item) in items.iter().take(most).enumerate() {
            self.node(item, schema, &path.index(index), out);
        }
    }
}

fn unknown_key(
    entry: &Entry,
    properties: Option<&JsonMap<String, Json>>,
    path: &Path<'_>,
    out: &mut Diagnostics,
) {
    out.error(entry.key_span, path, format!("unknown key {}", quote(&entry.key)), || {
        let names = || properties.into_iter().flat_map(JsonMap::keys).map(String::as_str);
        suggest::did_you_mean(&entry.key, names()).or_else(|| {
            let mut listed: Vec<_> = names().take(MAX_LISTED_KEYS).map(quote).collect();
            if names().count() > MAX_LISTED_KEYS {
                listed.push("…".to_owned());
            }
            (!listed.is_empty()).then(|| format!("known keys: {}", listed.join(", ")))
        })
    });
}

fn list<'s>(schema: &'s JsonMap<String, Json>, key: &str) -> &'s [Json] {
    schema.get(key).and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn types(schema: &JsonMap<String, Json>) -> Vec<&str> {
    match schema.get("type") {
        Some(Json::String(name)) => vec![name],
        Some(Json::Array(names)) => names.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    }
}

fn fits_type(node: &Node, types: &[&str]) -> bool {
    types.iter().any(|name| match (*name, &node.value) {
        ("null", Value::Null)
        | ("boolean", Value::Bool(_))
        | ("number", Value::Number(_))
        | ("string", Value::String(_))
        | ("array", Value::List(_))
        | ("object", Value::Map(_)) => true,
        ("integer", Value::Number(number)) => {
            !number.is_f64() || number.as_f64().and_then(whole).is_some()
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests;
