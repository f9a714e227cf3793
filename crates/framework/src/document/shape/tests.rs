use schemars::{JsonSchema, schema_for};
use serde::Deserialize;
use serde_json::json;

use super::*;
use crate::document::tree;

fn findings(schema: &Json, text: &str) -> (Vec<String>, Json) {
    let (node, mut diagnostics) = tree::parse("x", text.as_bytes());
    let mut node = node.expect("a document");
    check(&mut node, schema, &Path::ROOT, KeyCase::Any, &mut diagnostics);
    let found = diagnostics.sorted().into_iter().map(|d| {
        let help = d.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
        format!("{}: {}{help}", d.path, d.message)
    });
    (found.collect(), node.to_json())
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Limit {
    Count(u32),
    Range { min: f64, max: f64 },
}

#[derive(Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
enum Backend {
    Memory { size: u64 },
    Remote { address: String },
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
struct Params {
    limit: Option<Limit>,
    backend: Option<Backend>,
    #[schemars(length(min = 1, max = 2))]
    names: Vec<String>,
    child: Option<Box<Params>>,
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    share: Option<f32>,
}

#[test]
fn alternatives_report_the_nearest() {
    let schema = schema_for!(Params).to_value();
    for (text, expected) in [
        ("names: [a]\nlimit: 5", &[][..]),
        ("names: [a]\nlimit: {min: 1, max: 2}", &[]),
        ("names: [a]\nlimit: {min: 1}", &["limit: missing key `max`"]),
        ("names: [a]\nlimit: -1", &["limit: -1 is not at least 0"]),
        ("names: [a]\nbackend: {type: memory, size: 5}", &[]),
        (
            "names: [a]\nbackend: {type: remote, address: 5}",
            &[
                "backend.address: expected a string, found the number 5 (put it in quotes to make it \
             a string)",
            ],
        ),
        (
            "names: [a]\nchild: {names: [], limit: ~}",
            &["child.names: 0 entries are fewer than the 1 needed"],
        ),
        ("names: [a, b, c]", &["names: 3 entries are more than the 2 allowed"]),
        ("names: [a]\nchild: {}", &["child: missing key `names`"]),
        ("names: [a]\nshare: 1", &["share: 1 is not less than 1"]),
        ("names: [a]\nshare: 0", &["share: 0 is not greater than 0"]),
        ("names: ~", &[": missing key `names`"]),
        (
            "names: x",
            &["names: expected a list, found the string `x` (start every entry of the list with \
             `- `)"],
        ),
    ] {
        assert_eq!(findings(&schema, text).0, expected, "{text}");
    }
}

#[test]
fn keys_are_renamed_to_the_case_of_the_schema() {
    let schema = schema_for!(Params).to_value();
    let (found, value) = findings(&schema, "Names: [a]\nCHILD: {nameS: [b]}\n");
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(value, json!({"names": ["a"], "child": {"names": ["b"]}}));
}

#[test]
fn other_keys_are_allowed_only_where_the_schema_says_so() {
    let open = json!({"type": "object", "properties": {"a": {}}, "additionalProperties": true});
    assert!(findings(&open, "b: 1").0.is_empty());
    let typed = json!({"type": "object", "additionalProperties": {"type": "string"}});
    assert_eq!(findings(&typed, "b: []").0, ["b: expected a string, found a list"]);
    let strict = json!({"type": "object", "properties": {"a": {}}});
    assert_eq!(findings(&strict, "b: 1").0, ["b: unknown key `b` (known keys: `a`)"]);
    let anything = json!({"type": "object"});
    assert!(findings(&anything, "b: 1").0.is_empty());
}

#[test]
fn a_schema_that_turns_in_circles_ends() {
    let circle = json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}});
    assert!(findings(&circle, "b: 1").0.is_empty());
    let two = json!({"anyOf": [
        {"type": "array", "items": {"$ref": "#"}},
        {"type": "array", "items": {"$ref": "#"}},
        {"type": "array", "items": {"$ref": "#"}},
    ]});
    let deep = format!("{}{}", "[".repeat(60), "]".repeat(60));
    assert!(findings(&two, &deep).0.is_empty());
}
