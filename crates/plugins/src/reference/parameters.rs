//! The parameters of a plugin as rows of a table, from the JSON schema that `schemars` writes.

use router_framework::PluginDef;
use serde_json::{Map, Value};

/// Nesting of parameters that is shown; deeper ones would be a schema that refers to itself.
const MAX_DEPTH: usize = 8;

/// One row.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parameter {
    /// Dotted path, with `[]` after a list and `.*` after a map.
    pub(super) path: String,
    pub(super) kind: String,
    pub(super) default: String,
    pub(super) meaning: String,
}

/// All parameters of a plugin, parents before children.
pub(super) fn of(def: &PluginDef) -> Vec<Parameter> {
    rows((def.schema)().as_value(), &(def.defaults)())
}

fn rows(schema: &Value, defaults: &Value) -> Vec<Parameter> {
    let mut table = Table { root: schema, rows: Vec::new() };
    table.object(schema, Some(defaults), "", 0);
    table.rows
}

struct Table<'s> {
    root: &'s Value,
    rows: Vec<Parameter>,
}

impl<'s> Table<'s> {
    /// Adds a row for every property of an object schema.
    fn object(&mut self, schema: &'s Value, defaults: Option<&Value>, path: &str, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        let required = list(schema, "required");
        for (name, property) in
            schema.get("properties").and_then(Value::as_object).into_iter().flatten()
        {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let target = self.target(property);
            let given = defaults.and_then(|d| d.get(name)).or_else(|| property.get("default"));
            let is_required = required.iter().any(|required| required == name);
            let default = match given.filter(|value| !value.is_null()) {
                // The rows of the children say it.
                Some(Value::Object(_)) if self.has_properties(target) => String::new(),
                Some(value) => format!("`{value}`"),
                None if is_required => "required".to_owned(),
                None => String::new(),
            };
            self.rows.push(Parameter {
                path: path.clone(),
                kind: self.kind(property, 0),
                default,
                meaning: self.meaning(property),
            });
            self.children(target, given, &path, depth + 1);
        }
    }

    /// Adds the rows of what is inside a parameter.
    fn children(&mut self, schema: &'s Value, default: Option<&Value>, path: &str, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        self.object(schema, default, path, depth);
        if let Some(items) = schema.get("items") {
            self.children(self.target(items), None, &format!("{path}[]"), depth + 1);
        }
        if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object())
        {
            self.children(self.target(values), None, &format!("{path}.*"), depth + 1);
        }
        for key in ["anyOf", "oneOf"] {
            for alternative in list(schema, key) {
                self.children(self.target(alternative), default, path, depth + 1);
            }
        }
    }

    /// The schema behind references, single `allOf`s and "or null".
    fn target(&self, mut schema: &'s Value) -> &'s Value {
        for _ in 0..MAX_DEPTH {
            let next = schema
                .get("$ref")
                .and_then(Value::as_str)
                .and_then(|reference| self.root.pointer(reference.strip_prefix('#')?))
                .or_else(|| list(schema, "allOf").first())
                .or_else(|| match list(schema, "anyOf") {
                    [one, null] if is_null(null) => Some(one),
                    _ => None,
                });
            match next {
                Some(next) => schema = next,
                None => break,
            }
        }
        schema
    }

    fn has_properties(&self, schema: &Value) -> bool {
        schema.get("properties").and_then(Value::as_object).is_some_and(|all| !all.is_empty())
    }

    fn kind(&self, schema: &'s Value, depth: usize) -> String {
        let schema = self.target(schema);
        if depth > MAX_DEPTH {
            return "any".to_owned();
        }
        let alternatives = [list(schema, "anyOf"), list(schema, "oneOf")].concat();
        if !alternatives.is_empty() {
            let mut kinds: Vec<String> = Vec::new();
            for alternative in self.refer(schema) {
                let kind = self.kind(alternative, depth + 1);
                if !is_null(alternative) && !kinds.contains(&kind) {
                    kinds.push(kind);
                }
            }
            return kinds.join(" or ");
        }
        if let Some(constant) = schema.get("const") {
            return format!("`{}`", plain(constant));
        }
        if let [first, rest @ ..] = list(schema, "enum") {
            let names = rest.iter().filter(|name| !name.is_null());
            return names.fold(format!("`{}`", plain(first)), |all, name| {
                format!("{all} or `{}`", plain(name))
            });
        }
        match kinds_of(schema).as_slice() {
            ["string"] if schema.get("format").and_then(Value::as_str) == Some("go-duration") => {
                "duration".to_owned()
            }
            ["array"] => match schema.get("items") {
                Some(items) => format!("list of {}", self.kind(items, depth + 1)),
                None => "list".to_owned(),
            },
            ["object"] => match schema.get("additionalProperties").filter(|v| v.is_object()) {
                Some(values) => format!("map of {}", self.kind(values, depth + 1)),
                None => "map".to_owned(),
            },
            [] => "any".to_owned(),
            kinds => kinds.join(" or "),
        }
    }

    fn refer(&self, schema: &'s Value) -> impl Iterator<Item = &'s Value> {
        list(schema, "anyOf").iter().chain(list(schema, "oneOf"))
    }

    /// The description of a property, else of its type, as one line that can stand in a table.
    fn meaning(&self, property: &'s Value) -> String {
        let of = |schema: &'s Value| schema.get("description").and_then(Value::as_str);
        let text = of(property).or_else(|| of(self.target(property))).unwrap_or_default();
        text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
    }
}

fn list<'s>(schema: &'s Value, key: &str) -> &'s [Value] {
    schema.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("null")
}

/// The types that a schema allows, without null.
fn kinds_of(schema: &Value) -> Vec<&str> {
    let kinds = match schema.get("type") {
        Some(Value::String(kind)) => vec![kind.as_str()],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => vec![],
    };
    kinds.into_iter().filter(|kind| *kind != "null").collect()
}

/// A text without quotes, anything else as JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[test]
fn nested_parameters_become_dotted_rows() {
    let schema = serde_json::json!({
        "properties": {
            "mode": { "$ref": "#/$defs/Mode", "description": "How." },
            "image": { "anyOf": [{ "$ref": "#/$defs/Image" }, { "type": "null" }] },
            "sources": { "type": "array", "items": { "$ref": "#/$defs/Image" }, "description": "Where | from." },
            "every": { "type": ["string", "null"], "format": "go-duration", "description": "When." },
        },
        "required": ["mode"],
        "$defs": {
            "Mode": { "oneOf": [{ "const": "a" }, { "const": "b" }] },
            "Image": {
                "type": "object",
                "description": "A picture.",
                "properties": { "width": { "type": "integer", "description": "In\npixels.", "default": 640 } },
            },
        },
    });
    let mut defaults = Map::new();
    defaults.insert("image".to_owned(), serde_json::json!({ "width": 320 }));
    let found = rows(&schema, &Value::Object(defaults));
    let row = |path: &str, kind: &str, default: &str, meaning: &str| Parameter {
        path: path.to_owned(),
        kind: kind.to_owned(),
        default: default.to_owned(),
        meaning: meaning.to_owned(),
    };
    let expected = [
        row("mode", "`a` or `b`", "required", "How."),
        row("image", "map", "", "A picture."),
        row("image.width", "integer", "`320`", "In pixels."),
        row("sources", "list of map", "", "Where \\| from."),
        row("sources[].width", "integer", "`640`", "In pixels."),
        row("every", "duration", "", "When."),
    ];
    assert_eq!(found, expected);
}
