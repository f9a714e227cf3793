//! The smallest part of the matrix, played as the command plays it.

use std::fs;
use std::path::Path;

use router_bench::matrix::{self, MatrixArgs, Results};

use crate::args::parse;

fn args(state: &Path, flags: &str) -> MatrixArgs {
    let traces = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/traces");
    let state = state.display();
    parse(&format!("--part smoke --jobs 2 --traces {traces} --state {state} {flags}"))
}

async fn play(state: &Path, flags: &str) -> Results {
    matrix::results(&args(state, flags)).await.unwrap()
}

#[tokio::test]
async fn the_default_is_near_the_best_and_kept_runs_are_not_played_again() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("runs.jsonl");
    let results = play(&state, "").await;
    let names: Vec<&str> = results.cells.iter().map(|cell| cell.name.as_str()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(!results.is_whole && results.n_known == 0);
    for cell in &results.cells {
        assert!(cell.n_requests > 50 && cell.offered > 0.1, "{cell:?}");
        assert!(cell.policies.iter().all(|means| means.unserved == 0.0), "{cell:?}");
        // Wider than the bounds of the whole matrix: a minute is mostly cold caches.
        assert!(cell.goodput.regret.mean < 6.0, "{cell:?}");
        assert!(cell.ttft_p90.regret.mean < 30.0, "{cell:?}");
        // The chosen baseline is the best of them where it was chosen.
        let baselines = || cell.policies.iter().filter(|means| means.policy != results.ours);
        let best = baselines().map(|means| means.ttft_p90).fold(f64::INFINITY, f64::min);
        let chosen = baselines().find(|means| means.policy == cell.ttft_p90.baseline).unwrap();
        assert_eq!(chosen.ttft_p90, best);
    }

    // One that was interrupted in the middle of a line goes on with what is missing.
    let rows = fs::read_to_string(&state).unwrap();
    assert_eq!(rows.lines().count(), results.n_played);
    fs::write(&state, &rows[..rows.len() - 10]).unwrap();
    let again = play(&state, "").await;
    assert_eq!((again.n_played, again.n_known), (1, results.n_played - 1));
    let json = |results: &Results| serde_json::to_value(&results.cells).unwrap();
    assert_eq!(json(&again), json(&results));

    let n_of_policy = rows.lines().filter(|row| row.contains("\"policy\":\"lmetric\"")).count();
    let forgotten = play(&state, "--forget lmetric --cells agents").await;
    assert_eq!(forgotten.cells.len(), 1);
    assert!((1..n_of_policy).contains(&forgotten.n_played), "{}", forgotten.n_played);
    assert_eq!(
        json(&forgotten),
        json(&Results { cells: vec![results.cells[2].clone()], ..results })
    );
}

#[tokio::test]
async fn what_is_played_leaves_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("new/report.md");
    let flags = format!("--cells mooncake/near/homogeneous --report {}", report.display());
    matrix::run(&args(&folder.path().join("runs.jsonl"), &flags)).await.unwrap();
    let text = fs::read_to_string(&report).unwrap();
    for part in
        ["This is a part of the matrix.", "\n| mooncake/near/homogeneous | ", "\n| lmetric | "]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let json = fs::read_to_string(report.with_extension("json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let cell = &json["cells"][0];
    assert_eq!(cell["name"], "mooncake/near/homogeneous");
    assert!(cell["goodput"]["upper"].is_f64() && cell["ttft_p90"]["verdict"].is_string(), "{cell}");
}

#[tokio::test]
async fn what_cannot_be_played_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("runs.jsonl");
    let check = |flags: &'static str, expected: &'static str| {
        let args = args(&state, flags);
        async move {
            let error = format!("{:#}", matrix::results(&args).await.unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    };
    check("--cells nowhere", "no cell is called so").await;
    check("--plan nowhere.toml", "reading nowhere.toml").await;
    fs::write(&state, "{}\n").unwrap();
    check("--cells agents", "runs.jsonl:1: no row of this program").await;
}
