//! `config check`, `defaults`, `schema` and `explain`.

use anyhow::ensure;
use router_framework::document::preset::{ESTIMATED_TTFT, GO_DEFAULT};
use router_sim::replay::policy::PRESETS;
use router_testkit::process::Finished;
use serde_json::Value;

use super::{Folder, Outcome, Program, SERVE, ends_with, finished};

const FAULTY: &str = "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorrer
- type: max-score-picker
  parameters:
    maxNumOfEndpoint: 2
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: max-score-pickr
    weight: abc
featureGate: []
";

#[tokio::test]
async fn a_document_is_checked_as_a_whole() -> Outcome {
    let folder = Folder::new()?;
    let file = folder.write("faulty.yaml", FAULTY)?;
    let (stdout, stderr) = ends_with(2, &["config", "check", &file]).await?;
    ensure!(stdout.is_empty(), "{stdout}");
    for said in [
        "faulty.yaml:4:9: error: plugins[0].type: unknown plugin type `queue-scorrer`",
        "did you mean `queue-scorer`?",
        "faulty.yaml:7:5: error: plugins[1].parameters.maxNumOfEndpoint: unknown key",
        "faulty.yaml:11:16: error: schedulingProfiles[0].plugins[0].pluginRef: there is no plugin",
        "faulty.yaml:12:13: error: schedulingProfiles[0].plugins[0].weight: expected a number",
        "faulty.yaml:13:1: error: featureGate: unknown key `featureGate`",
    ] {
        ensure!(stderr.contains(said), "{said:?} is missing in\n{stderr}");
    }
    let valid = folder.write("valid.yaml", super::document(&folder.path("e"), "queue-scorer"))?;
    let (stdout, stderr) = ends_with(0, &["config", "check", &valid]).await?;
    ensure!(stdout.contains("valid.yaml: valid; "), "{stdout}");
    ensure!(stdout.contains("profiles: default") && stderr.is_empty(), "{stdout}{stderr}");
    Ok(())
}

#[tokio::test]
async fn what_is_no_document_is_said_in_one_line() -> Outcome {
    let folder = Folder::new()?;
    let check = async |file: &str, said: &str| {
        let (stdout, stderr) = ends_with(2, &["config", "check", file]).await?;
        ensure!(stdout.is_empty() && stderr.contains(said), "{file}: {stdout}{stderr}");
        anyhow::Ok(stderr.lines().count())
    };
    let place = folder.path("").display().to_string();
    ensure!(check(&place, "Is a directory").await? == 1);
    ensure!(check(&format!("{place}none.yaml"), "none.yaml does not exist").await? == 1);
    check(&folder.write("empty.yaml", "")?, "empty.yaml: error: the document is empty").await?;
    check(&folder.write("bytes.yaml", b"a: \xff\xfe\n")?, "bytes.yaml:1:4: error: ").await?;
    check(&folder.write("cut.yaml", "a: [\n")?, "cut.yaml:2:1: error: ").await?;
    check(&folder.write("large.yaml", vec![b'#'; (1 << 20) + 1])?, "larger than the limit").await?;
    Ok(())
}

#[tokio::test]
async fn warnings_do_not_make_a_document_invalid() -> Outcome {
    let folder = Folder::new()?;
    let old = super::document(&folder.path("e"), "queue-scorer")
        .replace("llm-d.ai/v1alpha1", "inference.networking.x-k8s.io/v1alpha1");
    let file = folder.write("old.yaml", old)?;
    let (stdout, stderr) = ends_with(0, &["config", "check", &file]).await?;
    ensure!(stdout.contains("valid"), "{stdout}");
    ensure!(stderr.contains("old.yaml:1:13: warning: apiVersion: "), "{stderr}");
    Ok(())
}

/// A document without its comments, which say what was added.
fn lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).collect()
}

#[tokio::test]
async fn the_complete_document_means_the_same() -> Outcome {
    let folder = Folder::new()?;
    let (built_in, _) = ends_with(0, &["config", "defaults"]).await?;
    ensure!(built_in.contains("# added: ") && built_in.contains("autoTune: true"), "{built_in}");
    let short = folder.write("short.yaml", super::document(&folder.path("e"), "queue-scorer"))?;
    let (complete, _) = ends_with(0, &["config", "defaults", &short]).await?;
    // Eviction adds plugins that nobody may declare without a flag.
    let evicting = super::document(&folder.path("e"), "queue-scorer")
        + "featureGates: [flowControl]\nflowControl: {enableEviction: true}\n";
    let evicting = folder.write("evicting.yaml", evicting)?;
    let (without, _) = ends_with(0, &["config", "defaults", &evicting]).await?;
    ensure!(without.contains("experimental: sheddable-eviction-filter, priority-"), "{without}");
    for text in [built_in, complete, without] {
        let file = folder.write("complete.yaml", &text)?;
        let (again, stderr) = ends_with(0, &["config", "defaults", &file]).await?;
        ensure!(lines(&again) == lines(&text), "{text}\nbecomes\n{again}");
        ensure!(stderr.is_empty(), "{stderr}");
    }
    Ok(())
}

#[tokio::test]
async fn presets_are_printed_and_serve_as_they_are() -> Outcome {
    let folder = Folder::new()?;
    let (list, _) = ends_with(0, &["config", "preset"]).await?;
    let names = list.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let names: Vec<&str> = names.collect();
    ensure!(names.len() == PRESETS.len() + 1 && names.contains(&"default"), "{list}");
    let mut n_of_replay = 0;
    for name in names {
        let (document, stderr) = ends_with(0, &["config", "preset", name]).await?;
        ensure!(stderr.is_empty(), "{stderr}");
        if let Some(preset) = PRESETS.iter().find(|preset| preset.name == name) {
            ensure!(document.trim_end().ends_with(preset.document.trim_end()), "{document}");
        }
        let file = folder.write("preset.yaml", &document)?;
        if document.contains("# For replay alone: serve and epp do not know baseline-") {
            n_of_replay += 1;
            let (_, stderr) = ends_with(2, &["config", "check", &file]).await?;
            ensure!(stderr.contains("unknown plugin type `baseline-"), "{name}: {stderr}");
            ensure!(
                stderr.contains("help: only `llm-d-router replay --config` knows it"),
                "{stderr}"
            );
        } else {
            let endpoint = ["--config-file", &file, "--endpoint=http://127.0.0.1:9"];
            let router = Program::start(&[&SERVE[..], &endpoint].concat()).await?;
            ensure!(router.end().await? == Some(0), "{name}");
        }
    }
    ensure!((1..PRESETS.len()).contains(&n_of_replay), "{n_of_replay} of all");
    let (default, _) = ends_with(0, &["config", "preset", "default"]).await?;
    ensure!(default.trim_end().ends_with(ESTIMATED_TTFT.document.trim_end()), "{default}");
    let (_, stderr) = ends_with(2, &["config", "preset", "go-defualt"]).await?;
    ensure!(stderr.contains("did you mean `go-default`?"), "{stderr}");
    Ok(())
}

#[tokio::test]
async fn what_runs_without_a_document_has_a_name() -> Outcome {
    let router = Program::start(&[&SERVE[..], &["--preset=default", "--demo=1"]].concat()).await?;
    ensure!(router.end().await? == Some(0));
    Ok(())
}

#[tokio::test]
async fn the_schema_knows_every_key() -> Outcome {
    let (stdout, _) = ends_with(0, &["config", "schema"]).await?;
    let schema: Value = serde_json::from_str(&stdout)?;
    ensure!(schema["$schema"] == "https://json-schema.org/draft/2020-12/schema");
    ensure!(schema["additionalProperties"] == false);
    for key in ["plugins", "schedulingProfiles", "dataLayer", "flowControl", "requestHandler"] {
        ensure!(schema["properties"][key].is_object(), "{key}");
    }
    // Every reference leads somewhere.
    for reference in stdout.split("\"#/").skip(1).filter_map(|rest| rest.split('"').next()) {
        ensure!(schema.pointer(&format!("/{reference}")).is_some(), "{reference}");
    }
    Ok(())
}

const ENDPOINTS: &str = "\
endpoints:
- {name: busy, address: 10.0.0.1, port: 8000, signals: {waiting: 3, running: 2, kvUsage: 0.5}}
- {name: idle, address: 10.0.0.2, port: 8000, signals: {waiting: 0, running: 1, kvUsage: 0.1}}
- {name: unknown, address: 10.0.0.3, port: \"8000\"}
";
const REQUEST: &str = r#"{"model": "m", "messages": [{"role": "user", "content": "hello there"}]}"#;
const OBJECTIVE: &str = "\
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata: {name: premium}
spec: {priority: 7, poolRef: {name: pool}}
";

#[tokio::test]
async fn a_decision_is_explained() -> Outcome {
    let folder = Folder::new()?;
    let endpoints = folder.write("endpoints.yaml", ENDPOINTS)?;
    let request = folder.write("request.json", REQUEST)?;
    let resources = folder.write("premium.yaml", OBJECTIVE)?;
    let config = folder.write("config.yaml", GO_DEFAULT.document)?;
    let base = ["config", "explain", "--config", &config, "--endpoints", &endpoints];
    let base = [&base[..], &["--request", &request]].concat();
    let (text, _) = ends_with(0, &base).await?;
    for said in [
        "3 in the pool, 3 candidates, 3 after screening",
        "default/idle (10.0.0.2:8000) total 3.8000",
        "queue-scorer                     no opinion  counts 1.0000",
        "max-score-picker ranks: default/idle, default/unknown, default/busy",
        "goes to default/idle: default/idle leads",
    ] {
        ensure!(text.contains(said), "{said:?} is missing in\n{text}");
    }
    let more = ["--json", "--resources", &resources];
    let headers = [
        "--header=x-llm-d-inference-objective: premium",
        "--header=x-llm-d-model-name-rewrite: other",
    ];
    let (json, _) = ends_with(0, &[&base[..], &more, &headers].concat()).await?;
    let record: Value = serde_json::from_str(&json)?;
    ensure!(record["priority"] == 7 && record["targetModel"] == "other", "{json}");
    ensure!(record["targets"][0] == "default/idle" && record["nEndpoints"] == 3, "{json}");
    ensure!(record["nPromptTokens"].as_u64().is_some_and(|n_tokens| n_tokens > 0), "{json}");
    ensure!(record["profiles"][0]["candidates"][1]["scores"][0]["raw"].is_null(), "{json}");
    Ok(())
}

const RESOURCES: &str = "\
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata: {name: alias}
spec:
  poolRef: {name: gold}
  rules: [{matches: [{model: {value: m}}], targets: [{modelRewrite: m-v1}]}]
---
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: gold}
spec:
  selector: {matchLabels: {tier: gold}}
  targetPorts: [{number: 8000}]
---
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata: {name: premium}
spec: {priority: 7, poolRef: {name: silver}}
";

#[tokio::test]
async fn resources_are_explained_and_checked() -> Outcome {
    let folder = Folder::new()?;
    let endpoints = "\
endpoints:
- {name: one, address: 10.0.0.1, port: 8000, labels: {tier: gold}}
- {name: two, address: 10.0.0.2, port: 8000, labels: {tier: silver}}
";
    let endpoints = folder.write("endpoints.yaml", endpoints)?;
    let request = folder.write("request.json", REQUEST)?;
    let explain = async |code, resources: &str, more: &[&str]| {
        let resources = folder.write("resources.yaml", resources)?;
        let base = ["config", "explain", "--endpoints", &endpoints, "--request", &request];
        let base = [&base[..], &["--resources", &resources]].concat();
        let headers = ["--header=x-llm-d-inference-objective: premium"];
        ends_with(code, &[&base[..], &headers, more].concat()).await
    };
    let (text, warnings) = explain(0, RESOURCES, &[]).await?;
    for said in ["model m, sent as m-v1", "priority 0", "1 in the pool", "goes to default/one"] {
        ensure!(text.contains(said), "{said:?} is missing in\n{text}");
    }
    let said = "resources.yaml:18:37: warning: spec.poolRef.name: for pool `silver`, while `gold` is served";
    ensure!(warnings.contains(said), "{warnings}");
    let (_, refused) = explain(2, RESOURCES, &["--pool-name=gould"]).await?;
    let said = "resources.yaml:10:18: error: metadata.name: no InferencePool here is the one";
    ensure!(refused.contains(said) && refused.contains("did you mean `gold`?"), "{refused}");
    let (_, refused) = explain(2, &RESOURCES.replace("modelRewrite", "modelRewrit"), &[]).await?;
    let said = "resources.yaml:6:55: error: spec.rules[0].targets[0].modelRewrit: unknown key";
    ensure!(refused.contains(said), "{refused}");
    ensure!(refused.contains("did you mean `modelRewrite`?"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_request_that_goes_nowhere_is_explained_too() -> Outcome {
    let folder = Folder::new()?;
    let request = folder.write("request.json", REQUEST)?;
    let endpoints = folder.write("endpoints.yaml", ENDPOINTS)?;
    let nobody = folder.write("nobody.yaml", "endpoints: []\n")?;
    let explain = async |endpoints: &str, request: &str, more: &[&str]| {
        let base = ["config", "explain", "--endpoints", endpoints, "--request", request];
        finished(&[&base[..], more].concat()).await
    };
    let refused = explain(&nobody, &request, &[]).await?;
    ensure!(
        refused.status.code() == Some(0) && refused.stdout.contains("refused: "),
        "{refused:?}"
    );
    let check = async |request: &str, more: &[&str], said: &str| {
        let Finished { status, stdout, stderr } = explain(&endpoints, request, more).await?;
        ensure!(status.code() == Some(2) && stdout.is_empty(), "{status}{stdout}{stderr}");
        ensure!(stderr.lines().count() == 1 && stderr.contains(said), "{said:?}: {stderr}");
        anyhow::Ok(())
    };
    let cut = folder.write("cut.json", "{\"model\": \"m\", ")?;
    check(&cut, &[], "refused before any decision").await?;
    check("/nowhere/request.json", &[], "/nowhere/request.json does not exist").await?;
    check(&request, &["--header=none"], "expected `name: value`").await?;
    check(&request, &["--path=v1"], "a path begins with a slash").await?;
    check(&request, &["--resources=/nowhere"], "--resources: /nowhere does not exist").await?;
    Ok(())
}

#[tokio::test]
async fn a_request_that_would_wait_is_explained_too() -> Outcome {
    let folder = Folder::new()?;
    let endpoints =
        "endpoints: [{name: a, address: 10.0.0.1, port: 8000, signals: {waiting: 9}}]\n";
    let endpoints = folder.write("endpoints.yaml", endpoints)?;
    let request = folder.write("request.json", REQUEST)?;
    let gated = format!("{}featureGates: [flowControl]\n", GO_DEFAULT.document);
    let config = folder.write("config.yaml", &gated)?;
    let base = ["config", "explain", "--config", &config, "--endpoints", &endpoints];
    let (_, said) = ends_with(1, &[&base[..], &["--request", &request]].concat()).await?;
    let why = "waits in flow control: the pool's saturation 1.800 has reached the band's ceiling";
    ensure!(said.contains(why), "{said}");
    Ok(())
}
