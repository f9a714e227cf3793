//! The format as JSON Schema: for editors, and for comparing documents with it.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::catalog::{Availability, Catalog};

static FORMAT: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("schema.json")).unwrap_or_else(|error| {
        // A test parses this very text.
        unreachable!("the schema of the format is not JSON: {error}")
    })
});

/// The schema of the format without any plugin's parameters.
pub(crate) fn format() -> &'static Value {
    &FORMAT
}

/// The schema of a whole document (JSON Schema, draft 2020-12) with the types of `catalog` and
/// their parameters.
pub fn of(catalog: &dyn Catalog) -> Value {
    let mut names = catalog.types();
    names.sort_unstable();
    let mut types = Vec::new();
    let mut conditions = Vec::new();
    let mut definitions = Map::new();
    for name in names {
        let Some(info) = catalog.lookup(name) else { continue };
        if info.availability != Availability::Available {
            continue;
        }
        let mut plugin_type = json!({ "const": name });
        if let Some(object) = plugin_type.as_object_mut() {
            if !info.description.is_empty() {
                object.insert("description".to_owned(), info.description.into());
            }
            if info.deprecation.is_some() {
                object.insert("deprecated".to_owned(), true.into());
            }
        }
        types.push(plugin_type);
        let parameters = match info.parameters {
            Some(schema) => embed(schema().to_value(), name, &mut definitions),
            None => json!({ "type": "object", "maxProperties": 0 }),
        };
        conditions.push(json!({
            "if": { "properties": { "type": { "const": name } }, "required": ["type"] },
            "then": { "properties": { "parameters": parameters } },
        }));
    }
    let mut schema = format().clone();
    if let Some(plugin) = schema.pointer_mut("/$defs/Plugin").and_then(Value::as_object_mut) {
        plugin.insert("allOf".to_owned(), conditions.into());
    }
    let plugin_type = schema.pointer_mut("/$defs/Plugin/properties/type");
    if let Some(plugin_type) = plugin_type.and_then(Value::as_object_mut) {
        plugin_type.insert("oneOf".to_owned(), types.into());
    }
    if let Some(all) = schema.pointer_mut("/$defs").and_then(Value::as_object_mut) {
        all.extend(definitions);
    }
    schema
}

/// Moves a schema's own definitions into `definitions`, under names that start with the type.
fn embed(mut schema: Value, plugin_type: &str, definitions: &mut Map<String, Value>) -> Value {
    let mut own = Map::new();
    if let Some(object) = schema.as_object_mut() {
        object.shift_remove("$schema");
        object.shift_remove("title");
        if let Some(Value::Object(moved)) = object.shift_remove("$defs") {
            own = moved;
        }
    }
    let root = format!("{plugin_type}.");
    let refers_to_itself = relocate(&mut schema, &root);
    for (name, mut definition) in own {
        relocate(&mut definition, &root);
        definitions.insert(format!("{root}{name}"), definition);
    }
    if refers_to_itself {
        definitions.insert(root.clone(), schema);
        return json!({ "$ref": format!("#/$defs/{root}") });
    }
    schema
}

/// Rewrites references; answers whether one is to the schema itself.
fn relocate(schema: &mut Value, root: &str) -> bool {
    match schema {
        Value::Object(object) => {
            let mut to_itself = false;
            if let Some(Value::String(reference)) = object.get_mut("$ref") {
                to_itself = reference == "#";
                let name = reference.strip_prefix("#/$defs/").unwrap_or_default();
                *reference = format!("#/$defs/{root}{name}");
            }
            for value in object.values_mut() {
                to_itself |= relocate(value, root);
            }
            to_itself
        }
        Value::Array(list) => {
            list.iter_mut().fold(false, |found, value| relocate(value, root) | found)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}
