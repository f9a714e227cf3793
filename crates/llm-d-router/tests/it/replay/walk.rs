//! What an operator runs into on the way from a trace to a policy that serves.

use std::{
    fs::OpenOptions,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::{TRACE, check_fails, testdata};

/// The command with a short trace.
fn short(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llm-d-router"));
    let trace = testdata::path(TRACE);
    command.args(["replay", "--limit=20", "--seeds=1", "--trace"]).arg(trace).args(args);
    command
}

fn results(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn results_that_cannot_be_written_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("results.json");
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = short(&["--json", json.to_str().unwrap()]).stdout(full()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let said = "error: cannot write the results to standard output: No space left on device";
    assert!(stderr.contains(said), "{stderr}");
    assert_eq!(results(&json)["seeds"], serde_json::json!([1]), "the rest is written all the same");

    let output = short(&["--json=/dev/full"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{stderr}");
    assert!(stderr.contains("error: cannot write /dev/full: No space left on device"), "{stderr}");
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("configuration "));

    for args in [
        &["replay", "--list"][..],
        &["replay", "--help"],
        &["--version"],
        &["config", "defaults"],
        &["config", "schema"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llm-d-router"));
        let status = command.args(args).stdout(full()).stderr(Stdio::null()).status().unwrap();
        assert_eq!(status.code(), Some(1), "{args:?}");
    }
}

#[test]
fn a_full_disk_leaves_the_files_that_were_there() {
    let folder = tempfile::tempdir().unwrap();
    let (json, html) = (folder.path().join("results.json"), folder.path().join("page.html"));
    std::fs::write(&json, "earlier results").unwrap();
    let inner = short(&["--json", json.to_str().unwrap(), "--html", html.to_str().unwrap()]);
    // No file may become longer than nothing, which is an error of writing once the signal is ignored. An earlier
    // process of the same number, as every one has it in a container, was killed while it wrote.
    let left = ".llm-d-router-$$.new";
    let script = format!("ulimit -f 0; trap '' XFSZ; : > \"$0/{left}\"; exec \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &script])
        .arg(folder.path())
        .arg(inner.get_program())
        .args(inner.get_args())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for path in [&json, &html] {
        let said = format!("error: cannot write {}: File too large", path.display());
        assert!(stderr.contains(&said), "{said:?} is missing in {stderr}");
    }
    assert_eq!(std::fs::read_to_string(&json).unwrap(), "earlier results");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no empty file is left");
}

#[test]
fn who_closes_the_pipe_has_read_enough() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("results.json");
    let mut command = short(&["--json", json.to_str().unwrap()]);
    let mut running =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    drop(running.stdout.take());
    let output = running.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""));
    assert_eq!(results(&json)["requests"]["trace"]["n_requests"], 20);
}

#[test]
fn flags_that_would_change_nothing_are_refused() {
    let trace = testdata::path(TRACE);
    let trace = ["--trace", trace.to_str().unwrap()];
    let check = |args: &[&str], said: &str| check_fails(&[&trace[..], args].concat(), said);
    check(&["--duration=1m"], "--duration is for a --workload; of a trace, --limit N plays");
    check_fails(&["--workload=rag", "--jitter=1s"], "--jitter is for a --trace; leave it out");
    check_fails(&["--workload=rag", "--format=azure"], "--format is for a --trace; leave it out");
    for flag in [
        "--duration=1m",
        "--limit=3",
        "--format=jsonl",
        "--load=2",
        "--jitter=1s",
        "--servers=3",
        "--pool=pool.yaml",
        "--scrape-interval=1s",
        "--scrape-delay=1s",
        "--no-metrics",
        "--seeds=3",
        "--seed=3",
        "--jobs=1",
        "--goal-ttft=1s",
        "--goal-tpot=1s",
        "--html=page.html",
        "--json=results.json",
    ] {
        check_fails(&["--reproduce=none.jsonl", flag], "cannot be used with");
    }
    let several = ["--reproduce=none.jsonl", "--config=random,sticky", "--config=go-default"];
    let said = "--reproduce: takes one configuration, not random and sticky and go-default";
    check_fails(&several, said);
    for flag in ["--seeds=4", "--workload=rag", "--config=random"] {
        check_fails(&["--list", flag], "cannot be used with");
    }
    let folder = tempfile::tempdir().unwrap();
    let pool = folder.path().join("pool.yaml");
    std::fs::write(&pool, "scrape: {interval: never}\nservers: [{name: a}]\n").unwrap();
    let never = ["--pool", pool.to_str().unwrap(), "--scrape-delay=1s"];
    check(&never, "pool.yaml never are; add --scrape-interval");
    check(&["--scrape-interval=never"], "--no-metrics is for servers that are never scraped");
    check(&["--goal-ttft=0s"], "--goal-ttft: must be more than 0");
    check(&["--config="], "--config \"\": there is no such preset and no such file");
    check_fails(&[], "<--trace <FILE>|--workload <NAME>|--reproduce <FILE>|--list>");
    check_fails(&["trace.jsonl"], "a trace is given by its flag: --trace trace.jsonl");
}

#[test]
fn what_is_not_served_has_its_reason_in_table_and_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (pool, json) = (path("pool.yaml"), path("results.json"));
    let text = "servers:\n- {name: tiny, profile: {kv-cache-size: 1}}\n\
                - {name: short, profile: {max-model-len: 64}}\n";
    std::fs::write(&pool, text).unwrap();
    let args = ["--config=round-robin", "--pool", &pool, "--json", &json];
    let output = short(&args).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let line = said.lines().find(|line| line.starts_with("round-robin at load 1: "));
    let line = line.unwrap_or_else(|| panic!("no reason in {said}"));
    for part in [
        "20 of 20 requests were not served, 10 because a `",
        "a `tiny` has 512 tokens of KV cache (kv-cache-size in the pool file, in blocks), and prompt and answer need ",
        "a `short` takes 64 tokens with the answer (max-model-len in the pool file), and the prompts have ",
    ] {
        assert!(line.contains(part), "{part:?} is missing in {line}");
    }
    let reasons = &results(Path::new(&json))["cells"][0]["runs"][0]["not_served"];
    let tiny = reasons.as_array().unwrap().iter().find(|reason| reason["kind"] == "tiny").unwrap();
    assert_eq!((&tiny["cause"], &tiny["n_requests"]), (&"cache_too_small".into(), &10.into()));
    assert_eq!(tiny["available_tokens"], 512);
    assert!(tiny["needed_tokens"].as_u64().is_some_and(|needed| needed > 512), "{tiny}");
}

#[test]
fn examples_can_be_copied() {
    for args in ["replay", "replay fit", "config", "serve", "epp", "sim"] {
        let args = args.split(' ').chain(["--help"]);
        let output = Command::new(env!("CARGO_BIN_EXE_llm-d-router")).args(args).output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        let examples = help.split_once("\nExamples:\n").expect("it has examples").1;
        for line in examples.lines() {
            let is_whole = line.starts_with("  llm-d-router ") || line.starts_with("    --");
            assert!(is_whole, "broken off at {line:?}: {examples}");
        }
    }
}
