use std::{borrow::Cow, collections::BTreeMap};

use serde::Deserialize;

use super::*;
use crate::document::{
    tree,
    units::{FloatSeconds, GoDuration, Quantity},
};

#[derive(Debug, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct All {
    n: u8,
    signed: i64,
    float: f64,
    flag: bool,
    text: String,
    option: Option<u32>,
    interval: Option<GoDuration>,
    size: Option<Quantity>,
    timeout: Option<FloatSeconds>,
    mode: Mode,
    list: Vec<u16>,
    pair: (i32, String),
    labels: BTreeMap<String, String>,
    inner: Option<Box<All>>,
    nested: Vec<Nested>,
    anything: serde_json::Value,
    unit: (),
    wrapped: Wrapped,
    letter: Option<char>,
}

#[derive(Debug, PartialEq, Default, Deserialize)]
struct Wrapped(u32);

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nested {
    key: String,
}

#[derive(Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Mode {
    #[default]
    First,
    Second,
    Threshold {
        value: f64,
    },
    Pair(u8, u8),
    One(u8),
}

fn read_text<T: de::DeserializeOwned>(text: &str) -> (Option<T>, String) {
    let (node, mut diagnostics) = tree::parse("x", text.as_bytes());
    let node = node.expect("a document");
    let value = read(&node, &Path::Base("plugins[0].parameters"), &mut diagnostics);
    let shown: Vec<_> = diagnostics
        .sorted()
        .into_iter()
        .map(|d| {
            let help = d.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
            format!("{} {:?} {}: {}{help}", d.span, d.severity, d.path, d.message)
        })
        .collect();
    (value, shown.join("\n").replace("plugins[0].parameters", "P"))
}

#[test]
fn every_kind_of_value_is_read() {
    let text = "
n: 5
signed: -7.0
float: 2
flag: on
text: x
option: 3
interval: 1m30s
size: 1Ki
timeout: 0.5
mode: {threshold: {value: 1}}
list: [1, 2.0]
pair: [-1, x]
labels: {a: b}
inner: {n: 1, mode: {pair: [1, 2]}}
nested: [{key: k}]
anything: {a: [1, null]}
unit: ~
wrapped: 9
letter: z
";
    let (value, shown) = read_text::<All>(text);
    assert_eq!(shown, "");
    let inner = All { n: 1, mode: Mode::Pair(1, 2), ..All::default() };
    let expected = All {
        n: 5,
        signed: -7,
        float: 2.0,
        flag: true,
        text: "x".into(),
        option: Some(3),
        interval: Some(GoDuration::from_millis(90_000)),
        size: "1Ki".parse().ok(),
        timeout: Some(FloatSeconds(std::time::Duration::from_millis(500))),
        mode: Mode::Threshold { value: 1.0 },
        list: vec![1, 2],
        pair: (-1, "x".into()),
        labels: [("a".into(), "b".into())].into(),
        inner: Some(Box::new(inner)),
        nested: vec![Nested { key: "k".into() }],
        anything: serde_json::json!({"a": [1, null]}),
        unit: (),
        wrapped: Wrapped(9),
        letter: Some('z'),
    };
    assert_eq!(value, Some(expected));
}

#[test]
fn nulls_leave_the_default() {
    let (value, shown) = read_text::<All>("n: ~\nlist:\nlabels: null\n");
    assert_eq!((value, shown.as_str()), (Some(All::default()), ""));
}

#[test]
fn errors_carry_place_path_and_help() {
    for (text, expected) in [
        ("n: 300", "1:4 Error P.n: expected u8, found the number 300"),
        ("n: 1.5", "1:4 Error P.n: expected u8, found the number 1.5"),
        (
            "text: 5",
            "1:7 Error P.text: expected a string, found the number 5 (put it in quotes to make it \
             a string)",
        ),
        ("flag: 'x'", "1:7 Error P.flag: expected a boolean, found the string `x`"),
        ("list: [1, x]", "1:11 Error P.list[1]: expected u16, found the string `x`"),
        ("list: {a: 1}", "1:7 Error P.list: expected a sequence, found a map"),
        ("lists: []", "1:1 Error P.lists: unknown key `lists` (did you mean `list`?)"),
        ("nested: [{}]", "1:10 Error P.nested[0]: missing key `key`"),
        (
            "nested: [{key: a}, {kay: b}]",
            "1:21 Error P.nested[1].kay: unknown key `kay` (did you mean `key`?)",
        ),
        (
            "interval: 5",
            "1:11 Error P.interval: expected a string, found the number 5 (put it in quotes to \
             make it a string)",
        ),
        ("interval: 5m5", "1:11 Error P.interval: `5m5` is not a duration: a unit is missing"),
        ("size: 1GB", "1:7 Error P.size: `1GB` is not a quantity: unknown suffix `GB`"),
        ("timeout: -1", "1:10 Error P.timeout: -1 is not a number of seconds"),
        (
            "mode: frist",
            "1:7 Error P.mode: `frist` is not one of `first`, `second`, `threshold`, `pair`, \
             `one` (did you mean `first`?)",
        ),
        (
            "mode: {thresholds: 1}",
            "1:8 Error P.mode: `thresholds` is not one of `first`, `second`, `threshold`, `pair`, \
             `one` (did you mean `threshold`?)",
        ),
        (
            "mode: {threshold: {value: x}}",
            "1:27 Error P.mode.threshold.value: expected f64, found the string `x`",
        ),
        ("mode: threshold", "1:7 Error P.mode: variant `threshold` needs a value"),
        ("mode: {first: 1}", "1:7 Error P.mode: expected a plain name, found a map"),
        (
            "mode: 5",
            "1:7 Error P.mode: expected one of `first`, `second`, `threshold`, `pair`, `one`, \
             found a number",
        ),
        (
            "mode: {pair: [1]}",
            "1:14 Error P.mode.pair: expected tuple variant Mode::Pair with 2 elements, found 1",
        ),
        ("inner: {inner: {n: -1}}", "1:20 Error P.inner.inner.n: expected u8, found the number -1"),
        (
            "labels: {a.b: 1}",
            "1:15 Error P.labels[\"a.b\"]: expected a string, found the number 1 \
          (put it in quotes to make it a string)",
        ),
        ("[1]", "1:1 Error P: expected struct All, found a list"),
    ] {
        let (value, shown) = read_text::<All>(text);
        assert_eq!((value, shown.as_str()), (None, expected), "{text}");
    }
}

#[test]
fn keys_of_structs_may_be_in_another_case() {
    let (value, shown) = read_text::<All>("Signed: 5\nLABELS: {A: b}\ninner: {N: 1}\n");
    let value = value.expect("read");
    assert_eq!((value.signed, value.inner.map(|inner| inner.n)), (5, Some(1)));
    assert_eq!(value.labels.keys().collect::<Vec<_>>(), ["A"]);
    assert_eq!(
        shown,
        "1:1 Warning P.Signed: key `Signed` is spelled `signed`\n\
         2:1 Warning P.LABELS: key `LABELS` is spelled `labels`\n\
         3:9 Warning P.inner.N: key `N` is spelled `n`"
    );
    let (value, shown) = read_text::<All>("n: 5\nN: 6\n");
    assert_eq!(value, None);
    assert_eq!(shown, "2:1 Error P.N: unknown key `N` (did you mean `n`?)");
}

#[test]
fn types_that_allow_unknown_keys_ignore_them() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Lenient<'n> {
        a: u8,
        #[serde(borrow)]
        b: Cow<'n, str>,
    }
    let (node, mut diagnostics) = tree::parse("x", b"a: 1\nb: text\nc: {d: [1]}\n");
    let node = node.expect("a document");
    let value: Option<Lenient<'_>> = read(&node, &Path::ROOT, &mut diagnostics);
    assert_eq!(value, Some(Lenient { a: 1, b: "text".into() }));
    assert!(diagnostics.is_empty());
}
