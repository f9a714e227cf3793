use router_rt::Rng;

use super::*;

const OBJECTIVES: &str = "\
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata: {name: critical}
spec: {priority: 100, poolRef: {name: pool}}
---
apiVersion: v1
kind: ConfigMap
---
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata: {name: batch}
spec: {priority: -10, poolRef: {name: pool}}
";

const POOL: &str = "\
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata:
  name: pool
spec:
  selector:
    matchLabels: {app: vllm, tier: gold}
  targetPorts: [{number: 8000}, {number: 8001}]
  endpointPickerRef: {name: epp, port: {number: 9002}}
";

/// A rewrite with these lines as its rules.
fn rewrite(name: &str, rules: &str) -> String {
    let rules = rules.replace('\n', "\n  ");
    format!(
        "apiVersion: llm-d.ai/v1alpha2\nkind: InferenceModelRewrite\nmetadata:\n  name: {name}\n\
         spec:\n  poolRef: {{name: pool}}\n  rules: {rules}\n"
    )
}

fn parse_for(text: &str, choice: &PoolChoice) -> Result<(Resources, Vec<Warning>), ResourcesError> {
    Resources::parse([("r.yaml", text.as_bytes())], choice)
}

fn parse(text: &str) -> Result<(Resources, Vec<Warning>), ResourcesError> {
    parse_for(text, &PoolChoice::default())
}

fn choice(name: &str, namespace: &str) -> PoolChoice {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    PoolChoice { name: some(name), namespace: some(namespace), ..PoolChoice::default() }
}

/// Reads manifests without a warning.
fn clean(text: &str) -> Resources {
    let (resources, warnings) = parse(text).unwrap_or_else(|error| panic!("{error}"));
    assert!(warnings.is_empty(), "{warnings:?} for {text}");
    resources
}

/// Checks what manifests are refused with: all parts, and so many errors.
fn refused(text: &str, parts: &[&str]) {
    let error = parse(text).expect_err(text).to_string();
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in\n{error}");
    }
    let n_errors = error.lines().filter(|line| line.contains(" error: ")).count();
    assert_eq!(n_errors, parts.iter().filter(|part| part.contains(" error: ")).count(), "{error}");
}

fn warned(text: &str, choice: &PoolChoice, expected: &[&str]) -> Resources {
    let (resources, warnings) = parse_for(text, choice).unwrap_or_else(|error| panic!("{error}"));
    let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), expected.len(), "{warnings:#?}");
    for (warning, expected) in warnings.iter().zip(expected) {
        assert!(warning.contains(expected), "{expected:?} is not in {warning:?}");
    }
    resources
}

fn served(resources: &Resources, model: &str) -> String {
    let served = resources.rewrites.serve(model, || Rng::seeded(1));
    served.map_or_else(String::new, |served| format!("{}>{}", served.rewrite, served.target))
}

#[test]
fn objects_of_all_kinds_are_read_from_several_files() {
    let canary = rewrite("canary", "[{targets: [{modelRewrite: v1}]}]");
    let files = [("a.yaml", OBJECTIVES), ("b.yaml", POOL), ("c.yaml", canary.as_str())];
    let files = files.map(|(name, text)| (name, text.as_bytes()));
    let (resources, warnings) = Resources::parse(files, &PoolChoice::default()).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(resources.objectives.len(), 2);
    assert_eq!(resources.objectives.priority("critical"), 100);
    assert_eq!(resources.objectives.priorities(), [-10, 100]);
    assert_eq!(served(&resources, "m"), "canary>v1");
    let labels = |all: &[(&str, &str)]| -> Labels {
        all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let expected = Pool {
        name: "pool".to_owned(),
        namespace: None,
        selector: labels(&[("app", "vllm"), ("tier", "gold")]),
        target_ports: vec![8000, 8001],
        is_h2c: false,
        place: "b.yaml:4:9".to_owned(),
    };
    let pool = resources.pool.unwrap();
    assert_eq!(*pool, expected);
    assert!(pool.selects(&labels(&[("app", "vllm"), ("tier", "gold"), ("x", "y")])));
    for other in [&[("app", "vllm")][..], &[("app", "vllm"), ("tier", "silver")], &[]] {
        assert!(!pool.selects(&labels(other)), "{other:?}");
    }
}

#[test]
fn lists_json_and_separators_are_read() {
    let nothing = Resources::default();
    for empty in [
        "",
        "# only a comment\n---\n\n---\n# another\n",
        "---\n---",
        "kind: List\napiVersion: v1\nitems: []\n",
    ] {
        assert_eq!(clean(empty), nothing, "{empty:?}");
    }
    let json = r#"{"apiVersion":"llm-d.ai/v1alpha2","kind":"InferenceObjective","metadata":{"name":"x","creationTimestamp":null,
        "uid":"1","managedFields":[{"any":1}]},"spec":{"poolRef":{"name":"pool"}},"status":{"conditions":[]}}"#;
    for text in [
        json.to_owned(),
        format!("# licence\n---\n{json}\n"),
        format!("--- # first\n{json}\n--- \n# nothing\n---\n"),
        format!("---\r\n{}\r\n", json.replace('\n', "\r\n")),
        format!("--- {}\n", json.replace('\n', "")),
        format!("{{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[{json}]}}"),
        format!("apiVersion: llm-d.ai/v1alpha2\nkind: InferenceObjectiveList\nitems:\n- {json}\n"),
    ] {
        let resources = clean(&text);
        assert_eq!(resources.objectives.len(), 1, "{text}");
        assert!(resources.objectives.priorities().is_empty(), "{text}");
    }
}

#[test]
fn faults_have_their_place_in_the_file() {
    let after = |text: &str| format!("{OBJECTIVES}---\n{text}");
    refused(
        &after(
            "apiVersion: llm-d.ai/v1alpha2\nkind: InferenceObjective\nmetadata: {name: x}\nspec:\n  poolRef: {name: pool}\n  priority: high\n",
        ),
        &["r.yaml:19:13: error: spec.priority: expected a whole number, found the string `high`"],
    );
    refused(
        "kind: InferenceObjective",
        &["r.yaml:1:1: error: a manifest needs `apiVersion` and `kind`"],
    );
    refused(
        "apiVersion: llm-d.ai/v1\nkind: InferenceObjective",
        &[
            "r.yaml:1:13: error: apiVersion: expected `llm-d.ai/v1alpha2`",
            "did you mean `llm-d.ai/v1alpha2`?",
        ],
    );
    refused(
        "apiVersion: inference.networking.x-k8s.io/v1alpha2\nkind: InferencePool\nspec: {selector: {a: b}}",
        &["r.yaml:1:13: error: apiVersion: expected `inference.networking.k8s.io/v1`"],
    );
    refused(
        &after(&rewrite("x", "[]").replace("InferenceModelRewrite", "InferenceModelRewite")),
        &[
            "r.yaml:15:7: error: kind: unknown kind `InferenceModelRewite`",
            "did you mean `InferenceModelRewrite`?",
        ],
    );
    refused(
        &OBJECTIVES.replace("{name: batch}", "{nmae: batch}"),
        &[
            "r.yaml:11:12: error: metadata.nmae: unknown key `nmae`",
            "did you mean `name`?",
            " error: metadata: missing key `name`",
        ],
    );
    refused("a: [", &["r.yaml:2:1: error: "]);
    refused(
        "kind: List\napiVersion: v1\nitems:\n- apiVersion: llm-d.ai/v1alpha2\n  kind: InferenceObjective\n  metadata: {name: x}\n  spec: {}\n",
        &["r.yaml:7:9: error: items[0].spec: missing key `poolRef`"],
    );
    // All files are looked at, and all documents.
    let files = [("a.yaml", &b"\xff"[..]), ("b.yaml", b"kind: X\n---\nkind: Y")];
    let error = Resources::parse(files, &PoolChoice::default()).unwrap_err().to_string();
    for part in [
        "a.yaml:1:1: error: the document is not valid UTF-8",
        "b.yaml:1:1: error",
        "b.yaml:3:1: error",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn objects_of_other_kinds_are_skipped() {
    for (version, kind) in [
        ("v1", "Service"),
        ("inference.networking.x-k8s.io/v1alpha1", "InferencePoolImport"),
        ("llm-d.ai/v1alpha1", "EndpointPickerConfig"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
        ("example.com/v1", "InferencePools"),
    ] {
        let text = format!("apiVersion: {version}\nkind: {kind}\nanything: [1, {{x: y}}]\n");
        assert_eq!(clean(&text), Resources::default());
    }
}

#[test]
fn priorities_are_32_bits() {
    let with = |priority: &str| OBJECTIVES.replace("100", priority);
    for (text, priority) in
        [("2147483647", i32::MAX), ("-2147483648", i32::MIN), ("null", 0), ("0", 0)]
    {
        assert_eq!(clean(&with(text)).objectives.priority("critical"), priority);
    }
    for wrong in ["2147483648", "-2147483649"] {
        refused(
            &with(wrong),
            &["r.yaml:4:18: error: spec.priority: expected a 32-bit whole number"],
        );
    }
    refused(&with("1.5"), &["r.yaml:4:18: error: spec.priority: expected a whole number"]);
}

#[test]
fn a_rewrite_is_what_its_definition_and_its_weights_allow() {
    let check = |rules: &str, model: &str, expected: &str| {
        assert_eq!(served(&clean(&rewrite("r", rules)), model), expected, "{rules}");
    };
    check("[]", "m", "");
    check("[{}]", "m", "");
    check("[{matches: []}]", "m", "");
    check("[{matches: [{model: {value: m}}], targets: [{modelRewrite: x}]}]", "m", "r>x");
    check(
        "[{matches: [{model: {type: Exact, value: m}}], targets: [{modelRewrite: x}]}]",
        "other",
        "",
    );
    check(
        "[{matches: [{model: {value: m}}, {model: {value: other}}], targets: [{modelRewrite: x}]}]",
        "other",
        "r>x",
    );
    check("[{matches: null, targets: [{modelRewrite: x, weight: 1000000}]}]", "n", "r>x");
    let refuse = |rules: &str, parts: &[&str]| refused(&rewrite("r", rules), parts);
    refuse("{}", &["r.yaml:7:10: error: spec.rules: expected a list, found a map"]);
    refuse(
        "[{targets: []}]",
        &[" error: spec.rules[0].targets: 0 entries are fewer than the 1 needed"],
    );
    refuse(
        "[{targets: [{modelRewrite: 7}]}]",
        &[" error: spec.rules[0].targets[0].modelRewrite: expected a string"],
    );
    refuse(
        "[{targets: [{model: x}]}]",
        &[
            "r.yaml:7:23: error: spec.rules[0].targets[0].model: unknown key `model`",
            "did you mean `modelRewrite`?",
            "r.yaml:7:22: error: spec.rules[0].targets[0]: missing key `modelRewrite`",
        ],
    );
    refuse(
        "[{targets: [{modelRewrite: x, weight: 0}]}]",
        &[" error: spec.rules[0].targets[0].weight: 0 is not at least 1"],
    );
    refuse(
        "[{targets: [{modelRewrite: x, weight: 1000001}]}]",
        &[" error: spec.rules[0].targets[0].weight: 1000001 is not at most 1000000"],
    );
    refuse(
        "[{targets: [{modelRewrite: x, weight: 0.5}]}]",
        &[" error: spec.rules[0].targets[0].weight: expected a whole number"],
    );
    refuse("[{matches: [{}]}]", &[" error: spec.rules[0].matches[0]: missing key `model`"]);
    refuse(
        "[{matches: [{model: {value: \"\"}}]}]",
        &[" error: spec.rules[0].matches[0].model.value: must not be empty"],
    );
    refuse(
        "[{matches: [{model: {type: Prefix, value: m}}]}]",
        &[" error: spec.rules[0].matches[0].model.type: ", "`Exact`"],
    );
    refuse(
        "[{targets: [{modelRewrite: \"\"}]}]",
        &[" error: spec.rules[0].targets[0].modelRewrite: must not be empty"],
    );
    refused(
        &rewrite("r", "[]").replace("poolRef", "poolref"),
        &[
            " error: spec.poolref: unknown key",
            "did you mean `poolRef`?",
            " error: spec: missing key `poolRef`",
        ],
    );
    refused(
        &rewrite("No_Name", "[]"),
        &["r.yaml:4:9: error: metadata.name: `No_Name` is not a name of small letters"],
    );
    refused(
        &rewrite(&"x".repeat(254), "[]"),
        &[" error: metadata.name: 254 characters are more than the 253 allowed"],
    );
}

/// Defect K-3 of the Go implementation: those without a weight are never chosen.
#[test]
fn k03_weights_for_some_targets_only_are_refused() {
    refused(
        &rewrite("r", "\n- targets:\n  - modelRewrite: a\n    weight: 90\n  - modelRewrite: b"),
        &[
            "r.yaml:11:7: error: spec.rules[0].targets[1]: `weight` must be set for all targets of a rule or for none",
        ],
    );
}

/// Defect K-2 of the Go implementation: every such request is answered 400.
#[test]
fn k02_a_rule_without_targets_is_read() {
    let text =
        rewrite("keep", "\n- matches: [{model: {value: m}}]\n- targets: [{modelRewrite: x}]");
    let resources = clean(&text);
    assert_eq!(
        (served(&resources, "m"), served(&resources, "n")),
        (String::new(), "keep>x".to_owned())
    );
}

#[test]
fn the_oldest_object_goes_first_and_what_never_applies_is_warned_of() {
    let of = |name: &str, created: &str| {
        let rules = format!(
            "\n- matches: [{{model: {{value: m}}}}]\n  targets: [{{modelRewrite: {name}}}]"
        );
        rewrite(name, &rules).replace("spec:", &format!("  {created}\nspec:"))
    };
    let young = of("a", "creationTimestamp: 2026-02-01T00:00:00Z");
    let old = of("b", "creationTimestamp: \"2026-01-31T23:59:59Z\"");
    let timeless = of("c", "labels: {x: z}");
    let text = [young, timeless, old].join("---\n");
    let resources = warned(
        &text,
        &PoolChoice::default(),
        &[
            "r.yaml:9:31: warning: spec.rules[0]: requests for `m` are taken by a rule of `b` that goes first",
            "r.yaml:20:31: warning: spec.rules[0]: requests for `m` are taken by a rule of `b`",
        ],
    );
    assert_eq!(served(&resources, "m"), "b>b");
    refused(
        &of("a", "creationTimestamp: last week"),
        &["r.yaml:5:22: error: metadata.creationTimestamp: expected a time such as"],
    );
}

#[test]
fn of_objects_with_one_name_the_last_counts() {
    let one = rewrite("r", "[{targets: [{modelRewrite: one}]}]");
    let other = rewrite("r", "[{targets: [{modelRewrite: other}]}]");
    let text = [one.as_str(), &other, &other.replace("r\nspec", "r\n  namespace: elsewhere\nspec")]
        .join("---\n");
    let resources = warned(
        &text,
        &choice("", "here"),
        &[
            "r.yaml:4:9: warning: metadata.name: another InferenceModelRewrite of this name comes later",
            "for the pool of namespace `elsewhere`, while `here` is served",
        ],
    );
    assert_eq!(served(&resources, "m"), "r>other");
}

#[test]
fn of_two_groups_only_the_present_one_counts() {
    let current = rewrite("current", "[{targets: [{modelRewrite: x}]}]");
    let old = rewrite("a", "[{targets: [{modelRewrite: why}]}]")
        .replace("llm-d.ai/", "inference.networking.x-k8s.io/");
    let objective = OBJECTIVES.replace("llm-d.ai/", "inference.networking.x-k8s.io/");
    assert_eq!(served(&clean(&[&*old, &objective].join("---\n")), "m"), "a>why");
    let resources = warned(
        &[&*old, &current, &objective].join("---\n"),
        &PoolChoice::default(),
        &[
            "r.yaml:4:9: warning: metadata.name: of group and version inference.networking.x-k8s.io/v1alpha2",
        ],
    );
    assert_eq!(served(&resources, "m"), "current>x");
    assert_eq!(resources.objectives.len(), 2, "each kind by itself");
}

#[test]
fn a_pool_is_what_its_definition_allows() {
    let with = |from: &str, to: &str| POOL.replace(from, to);
    let ports = "targetPorts: [{number: 8000}, {number: 8001}]";
    let picker = "endpointPickerRef: {name: epp, port: {number: 9002}}";
    for (from, to) in [
        (picker, ""),
        (picker, "endpointPickerRef: {name: epp, kind: Thing}"),
        (
            picker,
            "endpointPickerRef: {name: epp, group: a.b, port: {number: 1}, failureMode: FailClose}",
        ),
        (picker, "appProtocol: http"),
        ("tier: gold", "example.com/tier: \"\""),
        (ports, "targetPorts: [{number: 1}, {number: 2}, {number: 3}, {number: 65535}]"),
    ] {
        clean(&with(from, to));
    }
    assert!(clean(&with(picker, "appProtocol: kubernetes.io/h2c")).pool.unwrap().is_h2c);
    let many: String =
        (0..65).flat_map(|n| ["k".to_owned(), n.to_string(), ": v,".to_owned()]).collect();
    let long = "x".repeat(64);
    for (from, to, part) in [
        (
            picker,
            "endpointPickerRef: {name: epp}",
            "9:22: error: spec.endpointPickerRef: port is required when kind is 'Service'",
        ),
        (
            picker,
            "endpointPickerRef: {name: epp, kind: Service}",
            " error: spec.endpointPickerRef: port is required",
        ),
        (
            picker,
            "endpointPickerRef: {port: {number: 1}}",
            " error: spec.endpointPickerRef: missing key `name`",
        ),
        (
            picker,
            "endpointPickerRef: {name: epp, port: {number: 1}, failureMode: FailClosed}",
            " error: spec.endpointPickerRef.failureMode: ",
        ),
        (
            picker,
            "endpointPickerRef: {name: epp, port: {number: 1}, group: A}",
            " error: spec.endpointPickerRef.group: `A` is not an API group",
        ),
        (picker, "appProtocol: h2c", " error: spec.appProtocol: "),
        (picker, "targetPortNumber: 8000", " error: spec.targetPortNumber: unknown key"),
        (
            ports,
            "targetPorts: [{number: 8000}, {number: 8000}]",
            "8:42: error: spec.targetPorts[1].number: port number must be unique",
        ),
        (
            ports,
            "targetPorts: []",
            " error: spec.targetPorts: 0 entries are fewer than the 1 needed",
        ),
        (
            ports,
            "targetPorts: [{number: 1}, {number: 2}, {number: 3}, {number: 4}, {number: 5}, {number: 6}, {number: 7}, {number: 8}, {number: 9}]",
            " error: spec.targetPorts: 9 entries are more than the 8 allowed",
        ),
        (
            ports,
            "targetPorts: [{number: 0}]",
            " error: spec.targetPorts[0].number: 0 is not at least 1",
        ),
        (
            ports,
            "targetPorts: [{number: 65536}]",
            " error: spec.targetPorts[0].number: 65536 is not at most 65535",
        ),
        (ports, "", " error: spec: missing key `targetPorts`"),
        (
            "{app: vllm, tier: gold}",
            "{}",
            " error: spec.selector.matchLabels: 0 keys are fewer than the 1 needed",
        ),
        (
            "{app: vllm, tier: gold}",
            &format!("{{{many}}}"),
            " error: spec.selector.matchLabels: 65 keys are more than the 64 allowed",
        ),
        ("gold", "-gold", " error: spec.selector.matchLabels.tier: `-gold` is not a label's value"),
        (
            "gold",
            &long,
            " error: spec.selector.matchLabels.tier: 64 characters are more than the 63 allowed",
        ),
        ("gold", "7", " error: spec.selector.matchLabels.tier: expected a string"),
        ("matchLabels", "matchExpressions", " error: spec.selector.matchExpressions: unknown key"),
    ] {
        let error = parse(&with(from, to)).expect_err(to).to_string();
        assert!(error.contains(part), "{part:?} is not in\n{error}");
    }
}

/// Defect K-5 of the Go implementation: the limits of label keys are nowhere enforced.
#[test]
fn k05_label_keys_are_checked() {
    for key in [
        "-x",
        "a b",
        "a/b/c",
        "/x",
        "x/",
        "Ex.com/x",
        &"x".repeat(64),
        &format!("{}/x", "a".repeat(254)),
        "é",
    ] {
        let text = POOL.replace("tier", &format!("\"{key}\""));
        refused(&text, &["r.yaml:7:30: error: spec.selector.matchLabels: ", "is no label's key"]);
    }
    clean(&POOL.replace("tier", "\"llm-d.ai/Role_1.x\""));
}

/// Defect K-10 of the Go implementation: its documentation has `FailClosed`, which no API server takes.
#[test]
fn k10_the_nearest_failure_mode_is_named() {
    let text = POOL.replace("{name: epp,", "{name: epp, failureMode: FailClosed,");
    refused(
        &text,
        &["r.yaml:9:47: error: spec.endpointPickerRef.failureMode: ", "did you mean `FailClose`?"],
    );
}

#[test]
fn what_needs_a_gateway_is_warned_of() {
    let text = POOL.replace("{name: epp,", "{name: epp, failureMode: FailOpen,");
    let expected =
        "r.yaml:9:47: warning: spec.endpointPickerRef.failureMode: has no effect without a gateway";
    warned(&text, &PoolChoice::default(), &[expected]);
    let text =
        POOL.replace("name: pool\n", "name: pool\n  deletionTimestamp: 2026-01-01T00:00:00Z\n");
    let expected = "r.yaml:5:22: warning: the object was being deleted";
    assert_eq!(warned(&text, &PoolChoice::default(), &[expected]).pool, None);
}

#[test]
fn objects_for_another_pool_have_no_effect() {
    let canary = rewrite("canary", "[{targets: [{modelRewrite: v1}]}]");
    let both = [&*canary, OBJECTIVES].join("---\n");
    let n_used = |resources: &Resources| (resources.rewrites.len(), resources.objectives.len());
    // Nothing says which pool is served: all are for the same.
    assert_eq!(n_used(&clean(&both)), (1, 2));
    // The manifest of a pool says it, or the command line.
    let other = POOL.replace("name: pool", "name: pools");
    let by_manifest = [&*both, &other].join("---\n");
    let for_pool = "poolRef.name: for pool `pool`, while `pools` is served; it has no effect (did you mean `pools`?)";
    let resources = warned(&by_manifest, &PoolChoice::default(), &[for_pool, for_pool, for_pool]);
    assert_eq!(n_used(&resources), (0, 0));
    assert_eq!(resources.pool.map(|pool| pool.name.clone()), Some("pools".to_owned()));
    let resources = warned(&both, &choice("pools", ""), &[for_pool, for_pool, for_pool]);
    assert_eq!(n_used(&resources), (0, 0));
    // Group, kind and namespace count too.
    let foreign = "for the InferencePool of group example.com, while the InferencePool of group inference.networking.k8s.io is served";
    warned(
        &canary.replace("{name: pool}", "{name: pool, group: example.com}"),
        &choice("pool", ""),
        &[foreign],
    );
    let thing = "for the Thing of group inference.networking.k8s.io, while";
    warned(
        &canary.replace("{name: pool}", "{name: pool, kind: Thing}"),
        &choice("pool", ""),
        &[thing],
    );
    let elsewhere = canary.replace("canary\n", "canary\n  namespace: b\n");
    let namespaced = [&POOL.replace("name: pool\n", "name: pool\n  namespace: a\n"), &elsewhere]
        .map(String::as_str)
        .join("---\n");
    let resources = warned(
        &namespaced,
        &PoolChoice::default(),
        &["for the pool of namespace `b`, while `a` is served"],
    );
    assert_eq!(n_used(&resources), (0, 0));
    // An object without a namespace is where its pool is.
    assert_eq!(n_used(&clean(&namespaced.replace("  namespace: b\n", ""))), (1, 0));
}

/// Defect R-44 of the Go implementation: they stay missing until each of them changes.
#[test]
fn a44_objects_are_there_again_with_their_pool() {
    let with_pool = [OBJECTIVES, POOL].join("---\n");
    for text in [&*with_pool, OBJECTIVES, &with_pool] {
        let (resources, _) = parse_for(text, &choice("pool", "")).unwrap();
        assert_eq!(resources.objectives.priority("critical"), 100);
    }
}

#[test]
fn the_documented_manifests_are_right() {
    let sample = clean(include_str!("../../../../deploy/resources.yaml"));
    assert_eq!((sample.objectives.len(), sample.rewrites.len()), (2, 1));
    assert!(sample.pool.is_some_and(|pool| pool.name == "llama"));
    let page = include_str!("../../../../docs/resources.md");
    let blocks = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let manifests: Vec<_> = blocks.filter(|block| block.starts_with("apiVersion")).collect();
    assert_eq!(manifests.len(), 3);
    let all = clean(&manifests.join("---\n"));
    assert_eq!((all.objectives.len(), all.rewrites.len(), all.pool.is_some()), (1, 1, true));
}

#[test]
fn which_pool_is_served_must_be_clear() {
    let canary = rewrite("canary", "[]");
    let other = OBJECTIVES.replace("{name: pool}", "{name: other}");
    refused(
        &[&*canary, &other].join("---\n"),
        &[
            "r.yaml:12:39: error: spec.poolRef.name: for pool `other`, while others are for `pool`",
            "--pool-name",
        ],
    );
    let second = POOL.replace("name: pool", "name: second");
    let two = [POOL, &second].join("---\n");
    refused(
        &two,
        &[
            "r.yaml:14:9: error: metadata.name: more than one InferencePool: `pool` and `second`",
            "--pool-name",
        ],
    );
    let (resources, _) = parse_for(&two, &choice("second", "")).unwrap();
    assert_eq!(resources.pool.unwrap().name, "second");
    let error = parse_for(POOL, &choice("pol", "")).unwrap_err().to_string();
    assert!(error.contains("no InferencePool here is the one that is served, `pol`"), "{error}");
    assert!(error.contains("did you mean `pool`?"), "{error}");
    let named = |namespace: &str| {
        POOL.replace("name: pool\n", &format!("name: pool\n  namespace: {namespace}\n"))
    };
    let two = [named("a"), named("b")].join("---\n");
    refused(&two, &[" error: metadata.name: more than one InferencePool", "--pool-namespace"]);
    let (resources, _) = parse_for(&two, &choice("", "b")).unwrap();
    assert_eq!(resources.pool.unwrap().namespace.as_deref(), Some("b"));
    parse_for(&two, &choice("pool", "c")).unwrap_err();
}

#[test]
fn manifests_are_bounded() {
    let many = "---\napiVersion: v1\nkind: X\n".repeat(20_000);
    assert_eq!(clean(&many), Resources::default());
    let objective = "---\n".to_owned() + OBJECTIVES.split("---").next().unwrap();
    let many = objective.repeat(MAX_OBJECTS + 2);
    let error = parse(&many).unwrap_err().to_string();
    assert!(error.contains("more than 10000 objects"), "{error}");
    let targets = "{modelRewrite: x},".repeat(MAX_REWRITE_MODELS + 1);
    refused(
        &rewrite("r", &format!("[{{targets: [{targets}]}}]")),
        &[" error: spec.rules: rewrites name more than 10000 models"],
    );
    let error = parse(&"---\nkind: X\n".repeat(150)).unwrap_err().to_string();
    assert!(error.ends_with("… and 50 more documents with errors"), "{error}");
}
