//! The first 2,000 requests of the Mooncake trace against eight simulated engines, in virtual time: the very
//! same pipeline, and the very same decisions for the same seed. And the command that does it.

mod walk;

use std::{
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use router_framework::Registry;
use router_sim::replay::{
    outcome::{Fate, Outcome},
    policy,
    pool::Pool,
    read,
    run::{self, Configuration, Options, Setup},
    summary::{Goals, Summary},
    workload,
};
use router_telemetry::metrics::Format;
use serde_json::Value;

use crate::testdata;

const N_SERVERS: usize = 8;
const TRACE: &str = "traces/mooncake-2000.jsonl";

/// The Go preset, with what this router itself has in flight. Arrivals of the trace come in bursts, in which
/// scraped signals say the same to all.
const WITH_IN_FLIGHT: &str = "
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
- type: active-request-scorer
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
  - {pluginRef: active-request-scorer, weight: 4}
";

fn configuration(name: &str) -> Configuration {
    let text = match policy::preset(name) {
        Some(preset) => preset.document,
        None => WITH_IN_FLIGHT,
    };
    Configuration { name: name.to_owned(), text: Some(text.to_owned()) }
}

/// Plays the trace as it was recorded; only ties differ between seeds.
fn play(seed: u64, configuration: Configuration) -> Outcome {
    let text = testdata::text(TRACE);
    let trace = read::read(TRACE, text.as_bytes(), None, usize::MAX).unwrap();
    assert_eq!(trace.requests.len(), 2_000);
    let plugins = router_plugins::PLUGINS.iter().chain(policy::PLUGINS).copied();
    let setup = Setup {
        trace: Arc::new(trace),
        pool: Arc::new(Pool::uniform(N_SERVERS)),
        configuration,
        registry: Registry::new(plugins),
        options: Options { jitter: Duration::ZERO, ..Options::default() },
    };
    let progress = run::Progress::default();
    let played = run::play_and_look(&setup, seed, &progress, |router, metrics| {
        assert_eq!(router.budget().held(), 0);
        let page = metrics.encode(Format::Text);
        let running = page.lines().find(|line| line.starts_with("llm_d_epp_request_running{"));
        assert!(running.is_some_and(|line| line.ends_with(" 0")), "{running:?}");
    });
    let (outcome, ()) = played.unwrap();
    assert_eq!(progress.n_ended(), 2_000);
    assert!(outcome.requests.iter().all(|request| request.fate == Fate::Served));
    outcome
}

fn servers(outcome: &Outcome) -> Vec<usize> {
    outcome.requests.iter().map(|request| request.server.unwrap() as usize).collect()
}

#[test]
fn one_seed_gives_one_course() {
    let built_in = || Configuration { name: "built-in".to_owned(), text: None };
    let first = play(1, built_in());
    assert_eq!(first, play(1, built_in()), "the same seed");
    assert_ne!(servers(&first), servers(&play(2, built_in())), "another seed");
}

#[test]
fn prefix_reuse_beats_round_robin() {
    let turns = play(1, configuration("round-robin"));
    let in_turn = servers(&turns);
    assert!(in_turn.windows(2).all(|pair| pair[1] == (pair[0] + 1) % N_SERVERS), "{in_turn:?}");
    let (preset, in_flight) =
        (play(1, configuration("go-default")), play(1, configuration("in-flight")));
    let [turns, preset, in_flight] =
        [turns, preset, in_flight].map(|outcome| Summary::of(&outcome, Goals::default()));
    let told = |summary: &Summary| {
        format!("{:.3} reused, first token after {:.3} s", summary.cached_ratio, summary.ttft.mean)
    };
    let told = format!(
        "preset: {}; with in-flight requests: {}; in turn: {}",
        told(&preset),
        told(&in_flight),
        told(&turns)
    );
    println!("{told}");
    assert!(preset.cached_ratio > 2.0 * turns.cached_ratio, "{told}");
    assert!(in_flight.cached_ratio > 2.0 * turns.cached_ratio, "{told}");
    assert!(in_flight.ttft.mean < turns.ttft.mean, "{told}");
}

fn replay(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_llm-d-router")).arg("replay").args(args).output().unwrap()
}

fn check_fails(args: &[&str], said: &str) {
    let output = replay(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
    assert!(stderr.contains(said), "{args:?}: {said:?} is missing in {stderr}");
}

/// Nothing but how far it is, where that took its time.
fn check_quiet(stderr: &str) {
    let is_progress = |line: &str| {
        ["runs done", "requests played", "looking at the record"]
            .iter()
            .any(|part| line.contains(part))
    };
    assert!(stderr.lines().all(is_progress) && !stderr.contains('\x1b'), "{stderr}");
}

#[test]
fn the_command_compares_configurations() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("results.json");
    // A comma in the name of a file that is there is no list.
    let config = folder.path().join("mine,1.yaml");
    std::fs::write(&config, WITH_IN_FLIGHT).unwrap();
    let trace = testdata::path(TRACE);
    let args = [
        "--trace",
        trace.to_str().unwrap(),
        "--limit=150",
        "--load=1,4",
        "--seeds=2",
        "--servers=4",
        "--config=round-robin",
        "--config",
        config.to_str().unwrap(),
        "--json",
        json.to_str().unwrap(),
    ];
    let output = replay(&args);
    let (stdout, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{stderr}");
    check_quiet(&stderr);
    let rows: Vec<_> = stdout.lines().filter(|line| line.contains('±')).collect();
    assert_eq!(rows.len(), 6, "four lines and two differences: {stdout}");
    let played = format!("150 requests of {} on 4 servers. Means of 2 seeds", trace.display());
    assert!(stdout.contains(&played), "{played:?} is missing in {stdout}");
    assert!(stdout.contains("Difference to round-robin, seed by seed:"), "{stdout}");

    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["requests"]["trace"]["n_requests"], 150);
    assert_eq!(report["seeds"], serde_json::json!([1, 2]));
    let cells = report["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 4);
    for cell in cells {
        assert_eq!(cell["runs"].as_array().unwrap().len(), 2);
        assert_eq!(cell["runs"][0]["fates"], serde_json::json!({"served": 150}));
        assert_ne!(cell["runs"][0]["decisions"], cell["runs"][1]["decisions"]);
        assert_eq!(cell["estimates"]["goodput"]["n"], 2);
        assert_eq!(cell["differences"].is_null(), cell["configuration"] == "round-robin");
    }

    // One after the other or at once: the same to the bit.
    let again = folder.path().join("again.json");
    let mut args = args;
    *args.last_mut().unwrap() = again.to_str().unwrap();
    let output = replay(&[&args[..], &["--jobs=1"]].concat());
    assert!(output.status.success());
    assert_eq!(std::fs::read(&json).unwrap(), std::fs::read(&again).unwrap());
}

#[test]
fn the_command_plays_workloads_on_pools() {
    let folder = tempfile::tempdir().unwrap();
    let pool = folder.path().join("pool.yaml");
    std::fs::write(
        &pool,
        "servers:\n- {name: fast, count: 2}\n- {name: slow, profile: {time-factor: 3}}\n\
         events: [{at: 10s, server: slow, do: restart}, {at: 1h, server: fast-1, do: leave}]\n",
    )
    .unwrap();
    let output = replay(&[
        "--workload=shared-prompts",
        "--duration=20s",
        "--load=0.3",
        "--seeds=1",
        "--no-metrics",
        "--pool",
        pool.to_str().unwrap(),
    ]);
    let (stdout, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{stderr}");
    assert!(stdout.lines().any(|line| line.starts_with("default ")), "{stdout}");
    let missed = format!("{}: the event of fast-1 at 60 min never happened: all", pool.display());
    assert!(stderr.contains(&missed) && !stderr.contains("slow-0"), "{stderr}");
    let played = format!("shared-prompts for 20 s on {}. One seed", pool.display());
    assert!(stdout.contains(&played), "{stdout}");

    let output = replay(&["--list"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains("go-default") && stdout.contains("shared-prompts"), "{stdout}");
    assert!(stdout.contains("serve and epp run estimated-ttft and go-default by --preset"));
}

#[test]
fn what_is_given_twice_is_played_once() {
    let folder = tempfile::tempdir().unwrap();
    let pool = folder.path().join("pool.yaml");
    std::fs::write(&pool, "servers:\n- {name: a, count: 2}\n").unwrap();
    let (trace, pool) = (testdata::path(TRACE), pool.to_str().unwrap());
    let mut args = vec!["--trace", trace.to_str().unwrap(), "--limit=20", "--seeds=1"];
    args.extend(["--config=random,go-default,random", "--load=1,1.0,2", "--pool", pool]);
    args.extend(["--pool", pool, "--config=default,estimated-ttft"]);
    let output = replay(&args);
    let said = String::from_utf8(output.stdout).unwrap();
    let warned = String::from_utf8(output.stderr).unwrap();
    for twice in ["--config random", "--load 1", &format!("--pool {pool}")] {
        let message = format!("{twice} is given more than once; it is played once");
        assert_eq!(warned.matches(&message).count(), 1, "{message:?} is missing in {warned}");
    }
    let same = "--config estimated-ttft is the same as default; it is played once";
    assert_eq!(warned.matches(same).count(), 1, "{same:?} is missing in {warned}");
    let rows = |name: &str| said.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!(rows("random "), 2, "once for each load: {said}");
    assert_eq!(rows("estimated-ttft "), 0, "{said}");
}

#[test]
fn servers_that_never_catch_up_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let pool = folder.path().join("pool.yaml");
    let slow =
        "scrape: {interval: never}\nservers:\n- {name: a, profile: {prefill-token-us: 1e9}}\n";
    std::fs::write(&pool, slow).unwrap();
    let trace = testdata::path(TRACE);
    let mut args = vec!["--trace", trace.to_str().unwrap(), "--limit=20", "--seeds=2"];
    args.extend(["--config=round-robin,random", "--pool", pool.to_str().unwrap()]);
    let output = replay(&args);
    let said = String::from_utf8(output.stdout).unwrap();
    let why = "round-robin at load 1: 40 of 40 requests were not served, because they had not ended a day after";
    assert!(said.contains(why), "{said}");
    let row: Vec<&str> = said.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..5], ["round-robin", "1", "0.0", "±0.0", "-"], "no times of nothing: {said}");
}

#[test]
fn the_command_says_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let trace = testdata::path(TRACE);
    let trace = trace.to_str().unwrap();
    check_fails(&[], "--trace <FILE>");
    check_fails(&["--trace=/nowhere"], "cannot read /nowhere");
    check_fails(&["--workload=agent"], "did you mean `agents`?");
    check_fails(&["--trace", trace, "--config=go-defualt"], "did you mean `go-default`?");
    for load in ["0", "-1", "1e-300", "1e9", "nan", "inf"] {
        let load = format!("--load={load}");
        check_fails(&["--trace", trace, &load], "must be from 0.000001 to 1000000");
    }
    check_fails(&["--trace", trace, "--scrape-interval=1us"], "at least 1ms apart");
    check_fails(&["--trace", trace, "--jitter=-1s"], "--jitter: must not be negative");
    check_fails(
        &["--trace", trace, "--load=1e-6"],
        "31 days is the most: play it at a higher --load",
    );
    for duration in ["0s", "745h"] {
        let said = "--duration: must be more than 0 and at most 744h";
        check_fails(&["--workload=rag", "--duration", duration], said);
    }
    let few = ["--workload=rag", "--duration=1s", "--load=1e-6"];
    check_fails(&few, "rag has no request within 1s at load 0.000001 and seed 1: raise --load");
    // Longer than any name of a file, and yet a list.
    let names = ["go-default"; 40].join(",") + ",go-defualt";
    check_fails(&["--trace", trace, "--config", &names], "did you mean `go-default`?");
    check_fails(
        &["--trace", trace, "--config", &"x".repeat(300)],
        "no such preset and no such file",
    );
    let broken = file("broken.jsonl", "{\"timestamp\": 0, \"hash_ids\": 3}\n");
    check_fails(&["--trace", &broken], "broken.jsonl:1: `hash_ids`: invalid type");
    let empty = [
        r#"{"llm-d-router-trace":2,"block_tokens":64,"recorded":{"version":"1","inputs":true}}"#,
        r#"{"end":{"why":"stopped","requests":0,"dropped":0,"under_way":0}}"#,
    ];
    let empty = file("empty.jsonl", &(empty.join("\n") + "\n"));
    check_fails(&["--reproduce", &empty], "there is no decision in ");
    assert_eq!(String::from_utf8(replay(&["--reproduce", &empty]).stdout).unwrap(), "");
    let config = file("config.yaml", "kind: EndpointPickerConfig\nplugin: []\n");
    check_fails(&["--trace", trace, "--config", &config], "config.yaml:2:1");
    let pool = file("pool.yaml", "servers:\n- {name: a, cuont: 3}\n");
    check_fails(&["--trace", trace, "--pool", &pool], "did you mean `count`?");
}

/// A recorded trace of two servers of which one is half as fast, with what they took.
fn recorded(folder: &std::path::Path) -> String {
    let spec = workload::Spec {
        duration: Duration::from_secs(100),
        volume: workload::Volume::Rate(3.0),
        ..workload::Spec::default()
    };
    let trace = workload::generate("shared-prompts", &spec).unwrap();
    let mut pool = Pool::uniform(2);
    pool.servers[1].profile.time_factor = 2.0;
    let setup = Setup {
        trace: Arc::new(trace),
        pool: Arc::new(pool),
        configuration: configuration("round-robin"),
        registry: Registry::new(router_plugins::PLUGINS.iter().chain(policy::PLUGINS).copied()),
        options: Options { jitter: Duration::ZERO, ..Options::default() },
    };
    let outcome = run::play(&setup, 1, &run::Progress::default()).unwrap();
    let mut rows: Vec<(u64, Value)> = setup
        .trace
        .requests
        .iter()
        .zip(&outcome.requests)
        .map(|(request, seen)| {
            let seconds = |time: Duration| time.as_secs_f64();
            let row = serde_json::json!({
                "at": seen.arrived.as_secs_f64(),
                "prompt_tokens": request.prompt_tokens,
                "output_tokens": request.output_tokens,
                "blocks": request.chain,
                "observed": {
                    "endpoint": format!("default/server-{}", seen.server.unwrap()),
                    "ttft": seen.ttft().map(seconds),
                    "e2e": seconds(seen.ended.since(seen.arrived)),
                    "cached_tokens": seen.cached_tokens,
                    "status": 200,
                },
            });
            (seen.arrived.as_nanos(), row)
        })
        .collect();
    rows.sort_by_key(|(at, _)| *at);
    let block_tokens = setup.trace.block_tokens;
    let mut text =
        serde_json::json!({"llm-d-router-trace": 1, "block_tokens": block_tokens}).to_string();
    for (_, row) in rows {
        text.extend(["\n", &row.to_string()]);
    }
    let path = folder.join("recorded.jsonl");
    std::fs::write(&path, text + "\n").unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn servers_are_fitted_to_a_recording_and_play() {
    let folder = tempfile::tempdir().unwrap();
    let trace = recorded(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (out, json) = (path("pool.yaml"), path("fit.json"));
    let output = replay(&["fit", "--trace", &trace, "--out", &out, "--json", &json]);
    let (stdout, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{stderr}");
    check_quiet(&stderr);
    assert!(stdout.contains("2 endpoints in 2 kinds"), "{stdout}");
    assert!(stdout.contains("Good enough to compare policies."), "{stdout}");
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["good_enough"], true);
    let step = |nth: usize| report["kinds"][nth]["profile"]["step-base-us"].as_f64().unwrap();
    assert!((step(0) / 7_500.0 - 1.0).abs() < 0.1, "{report:#}");
    assert!((step(1) / 15_000.0 - 1.0).abs() < 0.1, "{report:#}");

    let played = replay(&["--trace", &trace, "--pool", &out, "--seeds=1", "--limit=50"]);
    let stderr = String::from_utf8(played.stderr).unwrap();
    assert!(played.status.success(), "{stderr}");
    let played = String::from_utf8(played.stdout).unwrap();
    assert!(played.lines().any(|line| line.starts_with("default ")), "{played}");
}

/// The recording with every `nth` line changed; none is the first.
fn with_every(path: &str, nth: usize, change: impl Fn(&mut Value)) {
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines[0]["recorded"] = serde_json::json!({"version": "1"});
    lines.iter_mut().skip(1).step_by(nth).for_each(change);
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    std::fs::write(path, lines.join("\n") + "\n").unwrap();
}

#[test]
fn requests_that_say_less_than_others_are_left_out_of_what_they_would_spoil() {
    let folder = tempfile::tempdir().unwrap();
    let trace = recorded(folder.path());
    let out = folder.path().join("pool.yaml");
    let fit = |code: i32| {
        let output = replay(&["fit", "--trace", &trace, "--out", out.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    with_every(&trace, 40, |row| {
        row["answers"] = 4.into();
        row["output_tokens"] = (4 * row["output_tokens"].as_u64().unwrap()).into();
    });
    with_every(&trace, 3, |row| row["observed"]["ttft"] = Value::Null);
    let said = fit(0);
    assert!(said.contains("Left out: 7 with several prompts or answers."), "{said}");
    assert!(
        said.contains(" answers came all at once, as those that are not streamed do"),
        "{said}"
    );
    assert!(said.contains("2 endpoints in 2 kinds"), "{said}");
    assert!(said.contains("\nGood enough to compare policies."), "{said}");

    let played = replay(&["--trace", &trace, "--seeds=1", "--config=random"]);
    let warned = String::from_utf8(played.stderr).unwrap();
    assert!(
        warned.contains(" requests have several prompts or answers and were left out"),
        "{warned}"
    );

    with_every(&trace, 5, |row| row["answers"] = 4.into());
    let said = fit(3);
    assert!(
        said.contains("Not good enough to compare policies:\n- requests with several"),
        "{said}"
    );
    with_every(&trace, 1, |row| row["prompts"] = 2.into());
    check_fails(&["--trace", &trace], "several prompts or answers and were left out");
}

#[test]
fn requests_that_failed_when_they_were_recorded_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let trace = recorded(folder.path());
    let n_requests = std::fs::read_to_string(&trace).unwrap().lines().count() - 1;
    let warned = || {
        let output = replay(&["--trace", &trace, "--seeds=1", "--config=random"]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(!warned().contains("when they were recorded"));
    with_every(&trace, 5, |row| row["observed"]["status"] = 502.into());
    let n_failed = n_requests.div_ceil(5);
    let said = format!(": {n_failed} of {n_requests} requests got no whole answer when they were");
    let warned = warned();
    assert_eq!(warned.matches(&said).count(), 1, "{said:?} is missing in {warned}");
}

#[test]
fn a_fit_that_cannot_be_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("pool.yaml");
    let out = out.to_str().unwrap();
    let trace = testdata::path(TRACE);
    let trace = trace.to_str().unwrap();
    check_fails(&["fit", "--trace", trace, "--out", out], "serve --record FILE");
    check_fails(&["fit", "--trace", "missing.jsonl", "--out", out], "cannot read missing.jsonl");
    check_fails(&["fit", "--trace", trace], "--out");
    check_fails(&["--trace", trace, "fit", "--out", out], "fit");
    let few = folder.path().join("few.jsonl");
    std::fs::write(
        &few,
        "{\"llm-d-router-trace\": 1, \"block_tokens\": 16}\n\
         {\"at\": 0, \"prompt_tokens\": 9, \"output_tokens\": 2, \
         \"observed\": {\"endpoint\": \"a\", \"ttft\": 0.1, \"e2e\": 0.2, \"status\": 200}}\n",
    )
    .unwrap();
    check_fails(&["fit", "--trace", few.to_str().unwrap(), "--out", out], "100 are needed");
    assert!(!std::path::Path::new(out).try_exists().unwrap());
}
