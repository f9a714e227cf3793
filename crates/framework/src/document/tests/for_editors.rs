//! The schema for editors.

use serde_json::Value;

use super::{catalog::Types, *};

#[test]
fn the_schema_has_every_type_with_its_parameters() {
    let schema = schema::of(&Types);
    let rendered = serde_json::to_string_pretty(&schema).expect("JSON");
    assert!(rendered.contains("\"const\": \"queue-scorer\""));
    assert!(!rendered.contains("disagg-profile-handler"), "types of later versions stay out");
    let condition = schema
        .pointer("/$defs/Plugin/allOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find(|c| c.pointer("/if/properties/type/const") == Some(&"load-aware-scorer".into()))
        .expect("a condition per type");
    let threshold = condition.pointer("/then/properties/parameters/properties/threshold");
    let description = threshold.and_then(|threshold| threshold.get("description"));
    assert_eq!(description, Some(&"Queue length at which the score is 0.".into()));
    let by_label = schema
        .pointer("/$defs/Plugin/properties/type/oneOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find(|t| t.get("const") == Some(&"by-label".into()));
    assert_eq!(by_label.and_then(|t| t.get("deprecated")), Some(&Value::Bool(true)));
}

#[test]
fn every_reference_in_the_schema_leads_somewhere() {
    fn check(root: &Value, value: &Value, n: &mut usize) {
        match value {
            Value::Object(object) => {
                if let Some(Value::String(reference)) = object.get("$ref") {
                    let target = reference.strip_prefix('#').and_then(|path| root.pointer(path));
                    assert!(target.is_some(), "{reference}");
                    *n += 1;
                }
                object.values().for_each(|value| check(root, value, n));
            }
            Value::Array(list) => list.iter().for_each(|value| check(root, value, n)),
            _ => {}
        }
    }
    let schema = schema::of(&Types);
    let mut n = 0;
    check(&schema, &schema, &mut n);
    assert!(n > 20, "{n}");
}

#[test]
fn the_formats_schema_describes_every_key_that_is_written() {
    // Whatever the writer writes, the schema has a description for.
    fn check(properties: &Value, root: &Value, at: &str) {
        let Some(properties) = properties.as_object() else { return };
        for (key, property) in properties {
            let target = property.get("$ref").and_then(Value::as_str);
            let target = target.and_then(|path| root.pointer(path.trim_start_matches('#')));
            let has = |value: &Value| value.get("description").is_some();
            let ok = has(property) || target.is_some_and(has) || property.get("const").is_some();
            assert!(ok, "{at}.{key} has no description");
        }
    }
    let format = schema::format();
    check(format.get("properties").expect("an object"), format, "");
    let definitions = format.get("$defs").and_then(Value::as_object).expect("definitions");
    for (name, definition) in definitions {
        check(definition.get("properties").expect("an object"), format, name);
    }
}
