use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::document::tree;

fn read_back(yaml: &str) -> Value {
    let (node, diagnostics) = tree::parse("x", yaml.as_bytes());
    assert!(diagnostics.is_empty(), "{diagnostics}\n{yaml}");
    node.expect("a document").to_json()
}

#[test]
fn values_are_written_as_a_person_would() {
    let value = json!({
        "a": "text", "b": "5", "c": "yes", "d": ["x", {"e": 1, "f": []}, [1, [2]], {}],
        "g": {"h": {"i": null}}, "llm-d.ai/role": "decode", "on": 1.0, "": "", "j": "a: b",
        "k": "two\nlines", "l": "10.0.0.1:80", "m": "50ms", "n": -1, "o": "-", "p": "1e3",
    });
    let written = value_to_yaml(&value);
    assert_eq!(
        written,
        "a: text\nb: \"5\"\nc: \"yes\"\nd:\n- x\n- e: 1\n  f: []\n- - 1\n  - - 2\n- {}\n\
         g:\n  h:\n    i: null\nllm-d.ai/role: decode\n\"on\": 1.0\n\"\": \"\"\nj: \"a: b\"\n\
         k: \"two\\nlines\"\nl: \"10.0.0.1:80\"\nm: 50ms\n\"n\": -1\no: \"-\"\np: \"1e3\"\n"
    );
    assert_eq!(read_back(&written), value);
}

fn any_value() -> impl Strategy<Value = Value> {
    let number = any::<f64>()
        .prop_filter_map("finite", |f| serde_json::Number::from_f64(f).map(Value::Number));
    let text = prop_oneof![
        "[ -~]{0,12}",
        any::<String>(),
        prop::sample::select(vec!["yes", "~", "0x1F", "1_0", ".5", "<<", "- a", "#", "? x", "|"])
            .prop_map(str::to_owned),
    ]
    // The reader refuses control characters, so no document has any.
    .prop_map(|text| text.replace(|c: char| c.is_control() && !"\n\t\r".contains(c), ""));
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        number,
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, move |inner| {
        let entries = prop::collection::btree_map(text.clone(), inner.clone(), 0..5);
        prop_oneof![
            prop::collection::vec(inner, 0..5).prop_map(Value::from),
            entries.prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn written_values_read_back(value in any_value()) {
        // A document is never null, so it goes into a list.
        let value = Value::Array(vec![value]);
        let back = read_back(&value_to_yaml(&value));
        prop_assert_eq!(back.to_string(), value.to_string());
    }
}
