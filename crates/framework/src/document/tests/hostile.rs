//! Documents that mean harm: refused or read quickly, without a panic.

use proptest::prelude::*;

use super::*;
use crate::document::fuzz::fuzz_document;

/// Refused with one message, whatever the size.
fn refused(text: &str, message: &str) {
    let (document, diagnostics) = load_text(text);
    assert!(document.is_none());
    let shown = diagnostics.to_string();
    assert!(shown.contains(message), "{message:?} is not in {:.2000}", shown);
    assert!(shown.len() < 64 << 10, "{} bytes", shown.len());
}

#[test]
fn size_depth_and_number_are_bounded() {
    refused(&"#".repeat(source::MAX_TEXT_BYTES + 1), "bytes, more than 1048576");
    for open in ["[", "{a: ", "- ", "? ", "[{", "{\"a\":", "[\n", "- [ "] {
        refused(&open.repeat(200_000 / open.len()), "error:");
    }
    refused(&"[".repeat(1000), "nested deeper than 64");
    refused(&"- ".repeat(1000), "nested deeper than 64");
    refused(&"{\"a\":".repeat(1000), "nested deeper than 64");
    refused(&format!("a: [{}]", "1,".repeat(200_000)), "more than 100000 values");
    refused(&format!("[{}1]", "1,".repeat(200_000)), "more than 100000 values");
    refused(&"- 1\n".repeat(200_000), "more than 100000 values");
}

#[test]
fn alias_bombs_are_refused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let last = format!("*a{}, ", n - 1).repeat(10);
        bomb.extend([format!("a{n}: &a{n} [{last}]\n")]);
    }
    refused(&bomb, "aliases repeat too much");
    let long = "x".repeat(100_000);
    let repeats = "- *a\n".repeat(1000);
    refused(&format!("a: &a {long}\nb:\n{repeats}"), "aliases repeat too much");
    refused("a: &a [*a]\n", "an alias inside what it stands for");
    let mut nested = String::from("a0: &a0 [x]\n");
    for n in 1..100 {
        nested.extend([format!("a{n}: &a{n} [*a{}]\n", n - 1)]);
    }
    refused(&nested, "nested deeper than 64");
    let merges = "<<: *a\n".repeat(20_000);
    refused(&format!("a: &a {{k: v, l: w, m: x, n: y, o: z}}\n{merges}"), "repeat too much");
}

#[test]
fn many_errors_are_counted_not_kept() {
    let (_, diagnostics) = load_text(&with_head(&"plugins: 1\n".repeat(20_000)));
    assert_eq!(diagnostics.n_errors(), 20_000);
    let shown = diagnostics.to_string();
    assert_eq!(shown.matches("error:").count(), 100);
    assert!(shown.ends_with("… and 19900 more errors\n"), "{shown}");
    let plugins = "- type: queue-scorr-with-a-long-name-that-is-compared\n".repeat(10_000);
    let (_, diagnostics) = load_text(&with_head(&format!("plugins:\n{plugins}")));
    assert!(diagnostics.has_errors());
}

#[test]
fn long_lines_and_names_are_cut() {
    let name = "x".repeat(500_000);
    let (_, diagnostics) =
        load_text(&with_head(&format!("plugins: [{{type: {name}}}]\n{name}: 1\n")));
    let shown = diagnostics.to_string();
    assert!(shown.len() < 2000, "{}", shown.len());
}

#[test]
fn nothing_that_is_no_text_gets_through() {
    for bytes in [&b"a: \0"[..], b"a: \x1b[2J", b"\xff\xfea", b"a: \xc3\x28", b"a: \x7f"] {
        let (document, diagnostics) = load("x", bytes, &catalog::Types, Options::default());
        assert!(document.is_none());
        let shown = diagnostics.to_string();
        assert!(shown.starts_with("x:1:"), "{shown}");
        assert!(!shown.contains(['\0', '\x1b', '\x7f']), "{shown}");
    }
}

#[test]
fn committed_documents_survive_the_fuzz_target() {
    for (_, text) in documents("go").into_iter().chain(documents("broken")) {
        fuzz_document(&text);
        for cut in (0..text.len()).step_by(7) {
            fuzz_document(text.get(..cut).unwrap_or_default());
        }
    }
}

/// Pieces that documents of all kinds are made of.
const PIECES: &[&str] = &[
    "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n",
    "plugins:\n",
    "- type: sample-scorer\n",
    "  name: a\n",
    "  parameters:\n",
    "    ",
    "threshold: 0.5\n",
    "Count: 3\n",
    "interval: 5ms\n",
    "size: 1Gi\n",
    "mode: second\n",
    "labels: {a: b}\n",
    "children: [{other: a}]\n",
    "other: a\n",
    "schedulingProfiles:\n",
    "- name: p\n",
    "  plugins:\n",
    "  - pluginRef: a\n",
    "    weight: 2\n",
    "- type: max-score-picker\n",
    "flowControl:\n",
    "  maxBytes: -1\n",
    "  saturationDetector: {pluginRef: utilization-detector}\n",
    "featureGates: [flowControl]\n",
    "dataLayer: {injectDefaults: no}\n",
    "&x ",
    "*x",
    "<<: ",
    "!!str ",
    "\"",
    "'",
    "|\n",
    ">-\n",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "- ",
    "? ",
    "\n",
    "  ",
    "\t",
    "#",
    "---\n",
    "é",
    "😀",
    "\u{85}",
    "\\ud83d",
    "null",
    "~",
    "yes",
    "1e999",
    ".inf",
    "0x1F",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn assembled_documents_survive(pieces in prop::collection::vec(0..PIECES.len(), 0..40)) {
        let mut text = String::new();
        for piece in pieces {
            text.push_str(PIECES.get(piece).copied().unwrap_or_default());
        }
        fuzz_document(text.as_bytes());
    }

    #[test]
    fn any_bytes_survive(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzz_document(&bytes);
    }
}
