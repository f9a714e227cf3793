//! The suite's parts, with floors in the router's place.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use router_bench::soak::{self, SoakArgs};
use router_bench::suite::{self, Bench, Budgets, Contender, Scenarios, SuiteArgs, interleave};

use crate::args::parse;

fn args(flags: &str) -> SuiteArgs {
    let programs = Path::new(env!("CARGO_BIN_EXE_extproc-floor")).parent().unwrap();
    let router = env!("CARGO_BIN_EXE_extproc-floor");
    parse(&format!("--router {router} --programs {} --no-pin {flags}", programs.display()))
}

#[tokio::test]
async fn contenders_take_turns() {
    let bench = Bench::new(&args("--rounds 2 --seconds 0.3 --warmup 0.1")).unwrap();
    let mut contenders = [
        Contender::new("one", bench.picker_floor().await.unwrap()),
        Contender::new("other", bench.picker_floor().await.unwrap()),
    ];
    let load_args = ["--concurrency=4".to_owned(), "--body-size=2048".to_owned()];
    interleave(&bench, "extproc-load", &load_args, &mut contenders).await.unwrap();
    for contender in &contenders {
        assert_eq!(contender.turns.len(), 2);
        assert!(contender.turns.iter().all(|turn| turn.ok > 0 && turn.failed == 0));
        assert!(contender.turns.iter().all(|turn| turn.server.is_some()));
        assert!(contender.median(|turn| turn.per_second) > 0.0);
    }
}

#[tokio::test]
async fn failing_requests_are_an_error() {
    let bench = Bench::new(&args("--rounds 1 --seconds 0.3 --warmup 0")).unwrap();
    // A picker does not answer HTTP/1.1.
    let mut contenders = [Contender::new("wrong", bench.picker_floor().await.unwrap())];
    let error = interleave(&bench, "http-load", &[], &mut contenders).await.unwrap_err();
    assert!(format!("{error:#}").starts_with("wrong: "), "{error:#}");
}

#[test]
fn missing_programs_are_named() {
    let mut args = args("");
    args.router = "/nowhere/llm-d-router".into();
    let error = Bench::new(&args).unwrap_err().to_string();
    assert!(error.contains("/nowhere/llm-d-router"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    args.router = env!("CARGO_BIN_EXE_extproc-floor").into();
    args.programs = Some(folder.path().to_owned());
    let error = Bench::new(&args).unwrap_err().to_string();
    assert!(error.contains("cargo build --release --package router-bench --bins"), "{error}");
}

/// A program with the router's flags that runs the floors: it serves and is ready, and never scrapes.
fn stand_in(folder: &Path) -> PathBuf {
    let script = format!(
        r#"#!/bin/sh
for arg; do
  case $arg in
    --grpc-port=*) grpc=${{arg#*=}} ;;
    --grpc-health-port=*) health=${{arg#*=}} ;;
    --listen=*) listen=${{arg#*=}} ;;
    --config-file=*) endpoints=$(dirname "${{arg#*=}}")/endpoints.yaml ;;
  esac
done
case $1 in
  epp) exec {epp} 127.0.0.1:$grpc 127.0.0.1:$health ;;
  serve)
    address=$(sed -n 's/.*address: "\(.*\)"/\1/p' "$endpoints" | head -n 1)
    port=$(sed -n 's/.*port: "\(.*\)"/\1/p' "$endpoints" | head -n 1)
    exec {serve} --listen $listen --endpoints $address:$port ;;
esac
"#,
        epp = env!("CARGO_BIN_EXE_extproc-floor"),
        serve = env!("CARGO_BIN_EXE_http-floor"),
    );
    let path = folder.join("llm-d-router");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

const SCENARIOS: &str = r#"
[[scenario]]
kind = "picker"
name = "picker"
endpoints = 2
body = 1024

[[scenario]]
kind = "memory"
name = "memory"
endpoints = 2
prompts = 500
body = 4096

[[scenario]]
kind = "held"
name = "held"
endpoints = 2
streams = 4
body = 1048576

[[scenario]]
kind = "proxy"
name = "proxy"
endpoints = 2
body = 1024
connections = 2
stream = true

[[scenario]]
kind = "proxy-latency"
name = "latency"
endpoints = 2
body = 1024
rate = 100.0

[[scenario]]
kind = "scrape"
name = "scrape"
endpoints = 2
page = "minimal"
"#;

const BUDGETS: &str = r#"
[[budget]]
scenario = "picker"
figure = "floor_ratio"
at_most = 0.000001

[[budget]]
scenario = "proxy"
figure = "requests_per_s"
at_least = 1.0
"#;

/// Runs the scenarios whose names contain `only`; the error, if any, and the table.
async fn run(folder: &Path, only: &str, flags: &str) -> (Option<String>, String) {
    let mut args = args(&format!("--rounds 1 --seconds 0.2 --warmup 0.1 {flags}"));
    args.router = stand_in(folder);
    args.only = only.split_whitespace().map(str::to_owned).collect();
    let (scenarios, budgets) =
        (Scenarios::parse(SCENARIOS).unwrap(), Budgets::parse(BUDGETS).unwrap());
    let mut table = Vec::new();
    let end = suite::run_these(&args, &scenarios, &budgets, &mut table).await;
    (end.err().map(|error| error.to_string()), String::from_utf8(table).unwrap())
}

#[tokio::test]
async fn a_run_measures_and_leaves_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let flags = format!("--out {}", out.display());
    let only = "picker memory held proxy latency";
    let (error, table) = run(folder.path(), only, &flags).await;
    assert_eq!(error, None, "{table}");
    assert!(table.ends_with("1 within budget, 1 over\n"), "{table}");
    let files: Vec<PathBuf> =
        fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    let row: serde_json::Value =
        serde_json::from_str(fs::read_to_string(&files[0]).unwrap().trim()).unwrap();
    let figures = row["figures"].as_array().unwrap();
    for (scenario, figure, verdict) in [
        ("picker", "floor_ratio", "over"),
        ("picker", "decision_p99_ms", "no_budget"),
        ("memory", "rss_mib", "no_budget"),
        ("held", "kib_over_body", "no_budget"),
        ("proxy", "requests_per_s", "within"),
        ("proxy", "hyper_ratio", "no_budget"),
        ("latency", "added_p50_us", "no_budget"),
    ] {
        let is_it = |f: &&serde_json::Value| f["scenario"] == scenario && f["name"] == figure;
        let found = figures.iter().find(is_it).unwrap();
        assert!(found["value"].is_f64() && found["verdict"] == verdict, "{found}");
    }
}

#[tokio::test]
async fn a_figure_over_budget_fails_a_strict_run() {
    let folder = tempfile::tempdir().unwrap();
    let (error, table) = run(folder.path(), "picker", "--strict").await;
    assert_eq!(error.as_deref(), Some("1 figures over budget"), "{table}");
}

#[tokio::test]
async fn a_scenario_that_cannot_be_measured_fails_the_run() {
    let folder = tempfile::tempdir().unwrap();
    // The stand-in never scrapes.
    let (error, table) = run(folder.path(), "scrape", "").await;
    assert_eq!(error.as_deref(), Some("not measured: scrape"), "{table}");
    assert!(table.contains("nothing was scraped"), "{table}");
}

#[tokio::test]
async fn a_picker_that_routes_cut_json_fails_the_soak() {
    let folder = tempfile::tempdir().unwrap();
    let router = stand_in(folder.path());
    let soak: SoakArgs = parse(&format!("--router {} --requests 200 -c 8", router.display()));
    // The stand-in reads no JSON; everything else goes as it should.
    let error = soak::run(&soak).await.unwrap_err().to_string();
    assert!(error.contains("{\"CutJson was routed\": 2, \"LeaveAfterHeaders\": 3"), "{error}");
}
