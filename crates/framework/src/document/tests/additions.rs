//! What is added to documents.

use super::{catalog::Types, *};
use crate::document::write::to_yaml;

fn effective(text: &str) -> String {
    let (document, diagnostics) = load_text(text);
    let document = document.unwrap_or_else(|| panic!("{diagnostics}"));
    let written = to_yaml(&document.with_defaults(&Types), &|_| None);
    // What is written means the same when it is read, and nothing more is added to it.
    let (again, diagnostics) = load_text(&written);
    assert!(!diagnostics.has_errors(), "{diagnostics}\n{written}");
    let again = again.expect("no errors").with_defaults(&Types);
    assert!(again.plugins.iter().all(|plugin| plugin.origin == Origin::Written), "{written}");
    let again = to_yaml(&again, &|_| None);
    let plain: Vec<_> = written.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(again.lines().collect::<Vec<_>>(), plain);
    written
}

#[test]
fn the_built_in_document_is_filled_in() {
    let (document, diagnostics) = load_built_in(&Types, Options::default());
    assert!(diagnostics.is_empty(), "{diagnostics}");
    let document = document.expect("a document").with_defaults(&Types);
    expect_file("defaults/built-in.yaml", &to_yaml(&document, &|_| None));
}

#[test]
fn what_go_runs_without_a_document_is_filled_in() {
    expect_file("defaults/go-default.yaml", &effective(preset::GO_DEFAULT.document));
}

#[test]
fn an_empty_document_becomes_one_with_a_picker() {
    expect_file("defaults/empty.yaml", &effective(&with_head("")));
}

#[test]
fn go_documents_that_load_are_filled_in() {
    for name in ["epp-config", "probabilistic-admitter-epp-config", "sim-epp-config"] {
        let text = fs::read_to_string(testdata().join(format!("go/{name}.yaml"))).expect("a file");
        expect_file(&format!("defaults/{name}.yaml"), &effective(&text));
    }
}

#[test]
fn defect_a5_a_metrics_source_of_another_name_is_not_doubled() {
    let sources = |text: &str| {
        let (document, diagnostics) = load_text(&with_head(text));
        let document = document.unwrap_or_else(|| panic!("{diagnostics}"));
        let document = document.with_defaults(&Types);
        let sources = document.data_layer.sources.iter().map(|source| {
            let extractors = source.extractors.iter().map(|e| e.name.clone()).collect::<Vec<_>>();
            format!("{}→{}", source.plugin.name, extractors.join(","))
        });
        let n_of_type = document.plugins.iter().filter(|p| p.plugin_type == "metrics-data-source");
        (sources.collect::<Vec<_>>().join(" "), n_of_type.count())
    };
    let declared = "plugins:\n- {type: metrics-data-source, name: slow}\n\
                    - {type: core-metrics-extractor, name: core}\n";
    for (text, expected, n_plugins) in [
        ("", "metrics-data-source→core-metrics-extractor", 1),
        (declared, "slow→core", 1),
        (
            &format!(
                "{declared}dataLayer: {{sources: [{{pluginRef: slow, \
                 extractors: [{{pluginRef: core}}]}}]}}\n"
            ),
            "slow→core",
            1,
        ),
        (&format!("{declared}dataLayer: {{sources: [{{pluginRef: slow}}]}}\n"), "slow→", 1),
        ("dataLayer: {injectDefaults: false}\n", "", 0),
    ] {
        assert_eq!(sources(text), (expected.to_owned(), n_plugins), "{text}");
    }
}

#[test]
fn defect_a7_the_default_profile_and_picker_follow_the_order_declared() {
    let text = "plugins: [{type: queue-scorer}, {type: random-picker}, {type: decode-filter}, \
                {type: probabilistic-admitter}]\n";
    let (document, _) = load_text(&with_head(text));
    let document = document.expect("a document").with_defaults(&Types);
    let profile = document.profiles.first().expect("added");
    let names: Vec<_> = profile.plugins.iter().map(|entry| entry.plugin.name.as_str()).collect();
    assert_eq!(names, ["queue-scorer", "random-picker", "decode-filter"]);

    let text = "plugins: [{type: weighted-random-picker}, {type: random-picker}]\n\
                schedulingProfiles: [{name: a}]\n";
    let (document, _) = load_text(&with_head(text));
    let document = document.expect("a document").with_defaults(&Types);
    let profile = document.profiles.first().expect("written");
    let names: Vec<_> = profile.plugins.iter().map(|entry| entry.plugin.name.as_str()).collect();
    assert_eq!(names, ["weighted-random-picker"]);
}

#[test]
fn a35_what_nothing_would_read_is_refused() {
    for section in [
        "peerDiscovery: {pluginRef: file-discovery}",
        "crossReplicaSyncerPluginRef: file-discovery",
        "crossReplicaSyncInterval: 1s",
    ] {
        let (document, found) = load_text(&with_head(&format!("dataLayer: {{{section}}}\n")));
        assert!(document.is_none(), "{section}");
        let found = found.to_string();
        assert!(found.contains("not available in this version: `dataLayer."), "{found}");
    }
}

#[test]
fn a_parser_named_by_its_type_is_added() {
    let text = "plugins: [{type: queue-scorer}]\n\
                requestHandler: {parsers: [{pluginRef: vllmhttp-parser}]}\n";
    let (document, diagnostics) = load_text(&with_head(text));
    assert!(diagnostics.is_empty(), "{diagnostics}");
    let document = document.expect("a document").with_defaults(&Types);
    let plugin = document.plugin("vllmhttp-parser").expect("added");
    assert_eq!(plugin.origin, Origin::Added("a parser"));
    assert_eq!(document.parsers.len(), 1);
}

#[test]
fn deprecated_keys_move_unless_the_new_one_is_set() {
    let refs = |text: &str| {
        let (document, diagnostics) = load_text(&with_head(text));
        let document = document.unwrap_or_else(|| panic!("{diagnostics}"));
        let detector = document.flow_control.saturation_detector.map(|d| d.name);
        let parsers: Vec<_> = document.parsers.into_iter().map(|p| p.name).collect();
        (detector.unwrap_or_default(), parsers.join(","), diagnostics.n_warnings())
    };
    let plugins = "plugins: [{type: concurrency-detector}, {type: queue-scorer}]\n";
    let old = "saturationDetector: {pluginRef: concurrency-detector}\n\
               parser: {pluginRef: anthropic-parser}\n";
    let new = "flowControl: {saturationDetector: {pluginRef: utilization-detector}}\n\
               requestHandler: {parsers: [{pluginRef: openai-parser}]}\n";
    let s = str::to_owned;
    assert_eq!(
        refs(&format!("{plugins}{old}")),
        (s("concurrency-detector"), s("anthropic-parser"), 2)
    );
    assert_eq!(
        refs(&format!("{plugins}{old}{new}")),
        (s("utilization-detector"), s("openai-parser"), 2)
    );
}

#[test]
fn a4_36_every_setting_that_has_no_effect_without_the_gate_is_named() {
    let said = |gate: &str, settings: &str| {
        let text = with_head(&format!("{gate}flowControl: {{{settings}}}\n"));
        load_text(&text).1.to_string()
    };
    let unused = "no effect while feature gate `flowControl` is off: ";
    let keys =
        schema::format().pointer("/$defs/FlowControl/properties").and_then(|k| k.as_object());
    let keys: Vec<_> = keys.expect("the keys of the section").keys().collect();
    assert!(keys.iter().any(|key| *key == "enableEviction"), "{keys:?}");
    for key in keys {
        // Some of these values are wrong too, which is said besides.
        let said = said("", &format!("{key}: 1"));
        let names_it = said.contains(&format!("{unused}`{key}`"));
        assert_eq!(names_it, key != "saturationDetector", "{key}: {said}");
    }
    let several = "maxRequests: 7, enableEviction: false";
    assert!(said("", several).contains(&format!("{unused}`maxRequests`, `enableEviction`")));
    assert!(!said("featureGates: [flowControl]\n", several).contains("no effect"));
}

#[test]
fn parameters_can_be_written_as_they_run() {
    let (document, _) = load_text(&with_head("plugins: [{type: load-aware-scorer}]\n"));
    let document = document.expect("a document");
    let filled = to_yaml(&document, &|plugin| {
        (plugin.plugin_type == "load-aware-scorer").then(|| serde_json::json!({"threshold": 128}))
    });
    assert!(
        filled.contains("- type: load-aware-scorer\n  parameters:\n    threshold: 128\n"),
        "{filled}"
    );
}

#[test]
fn add_plugin_refuses_a_name_that_is_taken() {
    let (document, _) =
        load_text(&with_head("plugins: [{type: queue-scorer, name: token-producer}]\n"));
    let mut document = document.expect("a document");
    assert!(!document.add_plugin("token-producer", "a test"));
    assert!(document.add_plugin("inflight-load-producer", "a test"));
    let added = document.plugin("inflight-load-producer").expect("added");
    assert_eq!((added.path.as_str(), added.span.is_none()), ("plugins[1]", true));
}

#[test]
fn flow_control_is_written_as_it_was_read_and_filled() {
    let text = "featureGates: [flowControl]\nplugins: [{type: queue-scorer}]\n\
                flowControl:\n  maxRequests: 1k\n  defaultRequestTTL: 30s\n  enableEviction: true\n\
                \x20 priorityBands: [{priority: -1, maxBytes: 5Mi}]\n\
                \x20 expert: {maxPriorityBands: 7, trickleShare: 0.5, maxRetryAfter: 2m}\n";
    let (document, diagnostics) = load_text(&with_head(text));
    assert!(!diagnostics.has_errors(), "{diagnostics}");
    let document = document.expect("a document").with_defaults(&Types);
    for plugin in ["sheddable-eviction-filter", "priority-then-time-eviction-order-policy"] {
        let origin = document.plugin(plugin).map(|plugin| plugin.origin);
        assert_eq!(origin, Some(Origin::Added("eviction is enabled")), "{plugin}");
    }
    let flow_control = &document.flow_control;
    assert_eq!(flow_control.no_endpoint_request_ttl, flow_control.default_request_ttl);
    let written = to_yaml(&document, &|_| None);
    let options = Options { allow_experimental: true };
    let (again, diagnostics) = load("again", written.as_bytes(), &Types, options);
    assert!(!diagnostics.has_errors(), "{diagnostics}");
    let again = to_yaml(&again.expect("a document"), &|_| None);
    let written = written.lines().filter(|line| !line.starts_with("# added"));
    assert!(again.lines().eq(written), "{again}");
}

#[test]
fn a_declared_eviction_policy_is_the_one_that_is_used() {
    let text = "featureGates: [flowControl]\n\
                plugins: [{type: queue-scorer}, {type: sheddable-eviction-filter, name: mine}]\n\
                flowControl: {enableEviction: true}\n";
    let options = Options { allow_experimental: true };
    let (document, diagnostics) = load("x", with_head(text).as_bytes(), &Types, options);
    let document = document.unwrap_or_else(|| panic!("{diagnostics}")).with_defaults(&Types);
    let filter = document.flow_control.eviction_filter.expect("filled in");
    assert_eq!(filter.name, "mine");
}

#[test]
fn of_two_declared_eviction_policies_one_has_to_be_named() {
    let load = |flow_control: &str| {
        let policies = ["sheddable-eviction-filter", "priority-then-time-eviction-order-policy"];
        let declared = policies.map(|policy| {
            format!("  - {{type: {policy}, name: {policy}-a}}\n  - {{type: {policy}, name: {policy}-b}}\n")
        });
        let text = format!(
            "featureGates: [flowControl]\nplugins:\n  - {{type: queue-scorer}}\n{}\
             flowControl: {flow_control}\n",
            declared.concat()
        );
        let options = Options { allow_experimental: true };
        load("x", with_head(&text).as_bytes(), &Types, options).1.to_string()
    };
    let said = load("{enableEviction: true}");
    for (what, key) in [
        (
            "a second eviction filter, beside `sheddable-eviction-filter-a`",
            "evictionFilterPluginRef",
        ),
        (
            "a second eviction order, beside `priority-then-time-eviction-order-policy-a`",
            "evictionOrderPluginRef",
        ),
    ] {
        assert!(said.contains(what) && said.contains(key), "{said}");
    }
    let named = "{enableEviction: true, evictionFilterPluginRef: sheddable-eviction-filter-b, \
                 evictionOrderPluginRef: priority-then-time-eviction-order-policy-b}";
    assert_eq!(load(named), "");
    assert_eq!(load("{enableEviction: false}"), "");
}
