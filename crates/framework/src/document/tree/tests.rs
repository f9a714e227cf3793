use serde_json::json;

use super::*;

fn tree(text: &str) -> Node {
    let (node, diagnostics) = parse("x", text.as_bytes());
    assert!(diagnostics.is_empty(), "{diagnostics}");
    node.expect("a document")
}

#[test]
fn yaml_means_what_go_takes_it_for() {
    for (text, expected) in [
        ("a: yes\nb: off\nc: ~\nd:\n", json!({"a": true, "b": false, "c": null, "d": null})),
        ("on: 1\nyes: 2\n5: 3\nnull: 4\n", json!({"on": 1, "yes": 2, "5": 3, "null": 4})),
        ("a: 'yes'\nb: \"5\"\nc: |\n  5\n", json!({"a": "yes", "b": "5", "c": "5\n"})),
        ("a: >-\n  one\n  two\n", json!({"a": "one two"})),
        ("a: !!str 5\nb: !!int \"5\"\nc: ! 5\n", json!({"a": "5", "b": 5, "c": "5"})),
        ("- 1\n- [2, {a: b}]\n-\n  - 3\n", json!([1, [2, {"a": "b"}], [3]])),
        ("a: &x {b: 1}\nc: *x\n", json!({"a": {"b": 1}, "c": {"b": 1}})),
        (
            "a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\n",
            json!({"a": {"b": 1, "c": 2}, "d": {"c": 3, "b": 1}}),
        ),
        (
            "a: [&x {b: 1}, &y {b: 2, c: 3}]\nd: {<<: [*x, *y]}\n",
            json!({"a": [{"b": 1}, {"b": 2, "c": 3}], "d": {"b": 1, "c": 3}}),
        ),
        ("\u{feff}a: é\n", json!({"a": "é"})),
        ("%YAML 1.2\n---\na: 1\n...\n", json!({"a": 1})),
        ("a: 1\r\nb: 2\r\n", json!({"a": 1, "b": 2})),
        ("{a: b, c: [d,]}", json!({"a": "b", "c": ["d"]})),
        ("a: http://host:80/x\nb: a#b\n", json!({"a": "http://host:80/x", "b": "a#b"})),
    ] {
        assert_eq!(tree(text).to_json(), expected, "{text}");
    }
}

#[test]
fn json_is_read_as_json() {
    for text in [
        r#"{"a": [1, -2.5, 1e3, true, false, null, "x"], "b": {}, "c": []}"#,
        "{\n\t\"a\":\t1\r\n}",
        r#"{"a": "\ud83d\ude00 \/ \u00e9 \" \\ \n"}"#,
        " [ ] ",
    ] {
        let expected: serde_json::Value = serde_json::from_str(text).expect("valid JSON");
        assert_eq!(tree(text).to_json(), expected, "{text}");
    }
}

#[test]
fn what_json_refuses_is_refused() {
    for (text, message) in [
        (r#"{"a": 01}"#, "1:7: error: not a number"),
        (r#"{"a": "\ud83d"}"#, "1:7: error: a string with a wrong escape"),
        (r#"{"a": 1e999}"#, "1:7: error: not a number"),
        ("{\"a\": \"b\n\"}", "1:7: error: a string that does not end on its line"),
        (r#"{"a": tru"#, "1:"),
        (r#"{"a": 1} x"#, "1:10: error: "),
    ] {
        let source = Source::decode("x", text.as_bytes()).0;
        let fault = json::parse(text, &source).expect_err(text);
        let shown = format!("{}: error: {}", fault.span, fault.message);
        assert!(shown.starts_with(message), "{shown}");
    }
}

#[test]
fn a_part_of_a_file_has_the_files_lines() {
    let check = |text: &[u8], place: &str, shown: &str| {
        let (node, diagnostics) = parse_part("x.yaml", text, 41);
        if let Some(a) = node.as_ref().and_then(|node| node.get("a")) {
            assert_eq!(a.span.to_string(), place);
        }
        let message = diagnostics.to_string();
        assert!(message.starts_with(shown), "{message}");
    };
    check(b"x: 0\na: 1\n", "42:4", "");
    check(b"{\"x\": 0,\n \"a\": 1}", "42:7", "");
    check(b"a: 1\na: 2\n", "41:4", "x.yaml:42:1: error: duplicate key `a`");
    check(b"a: [\n", "", "x.yaml:4");
    check(b"{\"a\":\n tru]", "", "x.yaml:42:");
    check(b"x: 0\na: \x07\n", "", "x.yaml:42:4: error: control character U+0007");
    check(b"x: 0\na: \xff\n", "", "x.yaml:42:4: error: the document is not valid UTF-8");
}

#[test]
fn values_and_keys_know_their_place() {
    for text in [
        "é: 1\nlist:\n  - a: \"é\"\n    b: c\n  - [1, {d: e}]\nlast: x\n",
        "{\"é\": 1,\n \"list\": [{\"a\": \"é\", \"b\": \"c\"},\n [1, {\"d\": \"e\"}]], \"last\": \"x\"}",
    ] {
        let node = tree(text);
        let shown = |span: Span| text.get(span.start as usize..span.end as usize).unwrap_or("?");
        let at = |span: Span| {
            let before = text.get(..span.start as usize).expect("a boundary");
            let line = before.matches('\n').count() + 1;
            let col = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            (line as u32, col as u32)
        };
        fn visit(node: &Node, check: &mut dyn FnMut(Span, Option<&str>)) {
            check(node.span, node.as_str());
            match &node.value {
                Value::List(list) => list.iter().for_each(|item| visit(item, check)),
                Value::Map(map) => map.entries().for_each(|entry| {
                    check(entry.key_span, Some(&entry.key));
                    visit(&entry.value, check);
                }),
                _ => {}
            }
        }
        let mut n = 0;
        visit(&node, &mut |span, expected| {
            assert_eq!((span.line, span.col), at(span), "{text}");
            if let Some(expected) = expected {
                assert_eq!(shown(span).trim_matches('"'), expected);
            }
            n += 1;
        });
        assert_eq!(n, 17);
        let list = node.get("list").expect("a list");
        assert!(shown(list.span).trim_start_matches("- ").starts_with(['a', '[', '-']), "{list:?}");
        assert!(shown(list.span).ends_with(['}', ']']), "{:?}", shown(list.span));
    }
}

#[test]
fn nulls_are_absent_and_duplicates_dropped() {
    let (node, diagnostics) = parse("x", b"a: 1\nb:\na: 2\n");
    let node = node.expect("a document");
    assert_eq!((node.get("a").and_then(Node::as_i64), node.get("b")), (Some(1), None));
    assert_eq!(diagnostics.n_errors(), 1);
    assert!(node.as_map().and_then(|map| map.entry("b")).is_some());
}

#[test]
fn whole_numbers_may_be_floats() {
    let node = tree("[2.0, 2.5, 1e3, -7, 1e300]");
    let list: Vec<_> = node.as_list().unwrap_or_default().iter().map(Node::as_i64).collect();
    assert_eq!(list, [Some(2), None, Some(1000), Some(-7), None]);
}
