//! Whole documents: the Go implementation's own, broken ones with exactly what is said about
//! them, defaults, and what is written back.

use std::{fmt::Write as _, fs, path::PathBuf};

use super::*;

mod additions;
mod catalog;
mod for_editors;
mod hostile;

use catalog::Types;

fn testdata() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/config"))
}

/// Every document in a folder of `testdata/config`, by name.
fn documents(folder: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(testdata().join(folder)).expect("testdata is part of the checkout");
    let mut documents: Vec<_> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "yaml" || ext == "json"))
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, fs::read(path).expect("a readable file"))
        })
        .collect();
    documents.sort();
    documents
}

/// Compares with a file beside the documents; with `UPDATE_EXPECT` set, writes it.
fn expect_file(path: &str, actual: &str) {
    let path = testdata().join(path);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, actual).expect("a writable checkout");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(actual, expected, "{}; UPDATE_EXPECT=1 writes it", path.display());
}

fn load_text(text: &str) -> (Option<Document>, Diagnostics) {
    load("config.yaml", text.as_bytes(), &Types, Options::default())
}

/// `text` after the two lines that every document has.
fn with_head(text: &str) -> String {
    format!("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n{text}")
}

#[test]
fn broken_documents_get_all_their_errors_at_once() {
    let documents = documents("broken");
    assert!(documents.len() >= 30, "{}", documents.len());
    for (name, text) in documents {
        let (document, diagnostics) = load(&name, &text, &Types, Options::default());
        assert_eq!(document.is_none(), diagnostics.has_errors(), "{name}");
        assert!(!diagnostics.is_empty(), "{name} is not broken");
        let (stem, _) = name.rsplit_once('.').expect("an extension");
        expect_file(&format!("broken/{stem}.txt"), &diagnostics.to_string());
    }
}

#[test]
fn go_documents_get_the_verdict_in_the_table() {
    let documents = documents("go");
    assert_eq!(documents.len(), 22);
    let mut table = String::from("document\tverdict\tbecause of\n");
    for (name, text) in documents {
        let (tree, diagnostics) = tree::parse(&name, &text);
        assert!(tree.is_some() && diagnostics.is_empty(), "{diagnostics}");
        let (verdict, because) = verdict(&name, &text);
        writeln!(table, "{name}\t{verdict}\t{because}").expect("a string");
    }
    expect_file("go/verdicts.tsv", &table);
}

/// What the table says about a document: `loads`, `experimental` (with the flag), `later`, or
/// `invalid` (upstream too), and the names that are the cause.
fn verdict(name: &str, text: &[u8]) -> (&'static str, String) {
    let (_, diagnostics) = load(name, text, &Types, Options::default());
    let errors: Vec<_> =
        diagnostics.sorted().into_iter().filter(|d| d.severity == Severity::Error).collect();
    let is_later = |d: &&Diagnostic| d.message.starts_with("not available in this version");
    let names = |errors: &[&Diagnostic]| {
        let mut names: Vec<_> = errors
            .iter()
            .map(|d| d.message.split('`').nth(1).unwrap_or(&d.message).to_owned())
            .collect();
        names.sort();
        names.dedup();
        names.join(", ")
    };
    let (later, other): (Vec<_>, Vec<_>) = errors.into_iter().partition(is_later);
    let experimental = other.iter().all(|d| d.message.ends_with("is experimental"));
    match (later.as_slice(), other.as_slice()) {
        ([], []) => ("loads", String::new()),
        ([], other) if experimental => ("experimental", names(other)),
        (later, []) => ("later", names(later)),
        (_, other) => ("invalid", names(other)),
    }
}

#[test]
fn values_that_scripts_fill_in_stay_text() {
    let path = testdata().join("go/sim-epp-tokenizer-vllm-http-config.yaml");
    let (tree, _) = tree::parse("x", &fs::read(path).expect("a readable file"));
    let tree = tree.expect("a document");
    let plugin = tree.get("plugins").and_then(tree::Node::as_list).and_then(<[_]>::first);
    let model = plugin.and_then(|plugin| plugin.get("parameters")?.get("modelName")?.as_str());
    assert_eq!(model, Some("${MODEL_NAME}"));
}

#[test]
fn a_document_keeps_the_places_of_its_parts() {
    let text = with_head(
        "plugins:\n- type: load-aware-scorer\n  name: load\n  parameters: {threshold: 7}\n\
         schedulingProfiles:\n- name: p\n  plugins:\n  - pluginRef: load\n    weight: 2\n",
    );
    let (document, diagnostics) = load_text(&text);
    assert!(diagnostics.is_empty(), "{diagnostics}");
    let document = document.expect("a document");
    let plugin = document.plugin("load").expect("declared");
    assert_eq!(
        (plugin.span.to_string(), plugin.type_span.to_string()),
        ("4:3".into(), "4:9".into())
    );
    let entry = document.profiles.first().and_then(|p| p.plugins.first()).expect("written");
    assert_eq!(entry.plugin.span.to_string(), "10:16");
    assert_eq!(entry.plugin.path, "schedulingProfiles[0].plugins[0].pluginRef");
    assert_eq!((entry.weight, entry.weight_span.to_string()), (Some(2.0), "11:13".into()));

    let mut found = document.diagnostics();
    let parameters: catalog::LoadAware = plugin.read_parameters(&mut found).expect("checked");
    assert_eq!(parameters.threshold, 7);
    let nothing: Option<catalog::Selector> = plugin.read_parameters(&mut found);
    assert!(nothing.is_none());
    assert_eq!(
        found.to_string(),
        "config.yaml:6:16: error: plugins[0].parameters.threshold: unknown key `threshold`\n  \
         6 |   parameters: {threshold: 7}\n    |                ^^^^^^^^^\n"
    );
}

#[test]
fn experimental_types_load_with_the_flag() {
    let text = with_head("plugins:\n- type: header-profile-handler\n- type: queue-scorer\n");
    let options = Options { allow_experimental: true };
    let (document, diagnostics) = load("x", text.as_bytes(), &Types, options);
    assert!(document.is_some() && diagnostics.is_empty(), "{diagnostics}");
    assert!(load_text(&text).0.is_none());
}

#[test]
fn a_document_that_scores_nothing_is_warned_of() {
    let check = |text: &str, help: Option<&str>| {
        let (document, diagnostics) = load_text(&with_head(text));
        assert!(document.is_some(), "{diagnostics}");
        let mut found = diagnostics.sorted().into_iter();
        let found = found.find(|finding| finding.message.starts_with("no profile has a scorer"));
        let said = found.map(|finding| finding.help.clone().unwrap_or_default());
        match help {
            None => assert_eq!(said, None, "{text}"),
            Some(help) => assert!(said.is_some_and(|said| said.contains(help)), "{text}"),
        }
    };
    let added = Some("add scorers to `plugins`, such as `- type: queue-scorer`");
    check("", added);
    check("plugins: [{type: file-discovery, parameters: {path: x}}]\n", added);
    check("plugins: [{type: decode-filter}, {type: max-score-picker}]\n", added);
    check("plugins: [{type: queue-scorer}]\n", None);
    check("plugins: [{type: random-picker}]\n", None);
    let profile = "schedulingProfiles: [{name: p, plugins: [{pluginRef: decode-filter}]}]\n";
    let plugins = |more: &str| format!("plugins: [{{type: decode-filter}}{more}]\n{profile}");
    check(&plugins(""), Some("`- pluginRef: queue-scorer` to a profile"));
    check(&plugins(", {type: queue-scorer, name: q}"), Some("add `- pluginRef: q` to a profile"));
    check(&plugins(", {type: random-picker}"), None);
    let scored = profile.replace("decode-filter", "queue-scorer");
    check(&format!("plugins: [{{type: queue-scorer}}]\n{scored}"), None);
}

#[test]
fn a_scorer_that_belongs_alone_is_warned_of_beside_others() {
    let places = |text: &str| {
        let (document, diagnostics) = load_text(&with_head(text));
        assert!(document.is_some(), "{diagnostics}");
        let found = diagnostics.sorted().into_iter();
        let found = found.filter(|finding| finding.message.contains("the only scorer"));
        found
            .map(|finding| {
                assert!(finding.message.ends_with("it counts in seconds"), "{}", finding.message);
                (finding.path.clone(), finding.help.clone().unwrap_or_default())
            })
            .collect::<Vec<_>>()
    };
    let plugins = "plugins: [{type: queue-scorer}, {type: test-lone-scorer, name: t}]\n";
    let without = "leave out `queue-scorer`, or this one";
    assert_eq!(places(plugins), [("plugins[1]".to_owned(), without.to_owned())]);
    let profile = |plugins_of: &str| {
        format!("{plugins}schedulingProfiles: [{{name: p, plugins: [{plugins_of}]}}]\n")
    };
    let both = profile("{pluginRef: t, weight: 2}, {pluginRef: queue-scorer}");
    let path = "schedulingProfiles[0].plugins[0].pluginRef".to_owned();
    assert_eq!(places(&both), [(path, without.to_owned())]);
    assert_eq!(places(&profile("{pluginRef: t}")), []);
    assert_eq!(places(&profile("{pluginRef: t}, {pluginRef: t}")), []);
    assert_eq!(places(&profile("{pluginRef: queue-scorer}")), []);
}

#[test]
fn parameters_in_another_case_are_renamed() {
    let text = with_head("plugins:\n- type: load-aware-scorer\n  parameters: {Threshold: 7}\n");
    let (document, diagnostics) = load_text(&text);
    assert_eq!((diagnostics.n_errors(), diagnostics.n_warnings()), (0, 1), "{diagnostics}");
    let document = document.expect("a document");
    let mut found = document.diagnostics();
    let plugin = document.plugins.first().expect("declared");
    let parameters: catalog::LoadAware = plugin.read_parameters(&mut found).expect("checked");
    assert_eq!((parameters.threshold, found.is_empty()), (7, true));
}

#[test]
fn json_documents_are_read_like_yaml() {
    let text = br#"{"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig",
	"plugins": [{"type": "queue-scorer", "name": "\ud83d\ude00\/q"}]}"#;
    let (document, diagnostics) = load("x.json", text, &Types, Options::default());
    assert!(diagnostics.is_empty(), "{diagnostics}");
    let names: Vec<_> = document.into_iter().flat_map(|d| d.plugins).map(|p| p.name).collect();
    assert_eq!(names, ["😀/q"]);
}

#[test]
fn colour_marks_severity_and_place() {
    let (_, diagnostics) = load_text("kind: 5\n");
    let shown = diagnostics.render(Style::Colour);
    let first = shown.lines().next().unwrap_or_default();
    assert_eq!(
        first,
        "\x1b[1mconfig.yaml:\x1b[0m\x1b[1m1:7:\x1b[0m \x1b[1;31merror:\x1b[0m kind: expected a \
         string, found the number 5"
    );
}
