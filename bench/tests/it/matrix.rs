//! The smallest part of the matrix, played as the command plays it.

use std::fs;
use std::path::Path;

use router_bench::matrix::{self, MatrixArgs};
use serde_json::{Value, json};

use crate::args::parse;

fn args(state: &Path, flags: &str) -> MatrixArgs {
    let traces = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/traces");
    let state = state.display();
    parse(&format!("--part smoke --jobs 2 --traces {traces} --state {state} {flags}"))
}

fn rows(state: &Path) -> Vec<Value> {
    let text = fs::read_to_string(state).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn n_of_policy(rows: &[Value], policy: &str) -> usize {
    rows.iter().filter(|row| row["policy"] == policy).count()
}

#[tokio::test]
async fn the_default_is_near_the_best_and_kept_runs_are_not_played_again() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("runs.jsonl");
    let results = matrix::results(&args(&state, "")).await.unwrap();
    let names: Vec<&str> = results.cells.iter().map(|cell| cell.name.as_str()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(!results.is_whole && results.n_known == 0);
    for cell in &results.cells {
        assert!(cell.n_requests > 50 && cell.offered > 0.1, "{cell:?}");
        assert!(cell.policies.iter().all(|means| means.unserved == 0.0), "{cell:?}");
        // Wider than the bounds of the whole matrix: half a minute is mostly cold caches.
        assert!(cell.goodput.regret.mean < 6.0, "{cell:?}");
        assert!(cell.ttft_p90.regret.mean < 30.0, "{cell:?}");
        // The chosen baseline is the best of them where it was chosen.
        let baselines = || cell.policies.iter().filter(|means| means.policy != results.ours);
        let best = baselines().map(|means| means.ttft_p90).fold(f64::INFINITY, f64::min);
        let chosen = baselines().find(|means| means.policy == cell.ttft_p90.baseline).unwrap();
        assert_eq!(chosen.ttft_p90, best);
    }

    // One that was interrupted in the middle of a line goes on with what is missing.
    let played = rows(&state);
    assert_eq!(played.len(), results.n_played);
    let text = fs::read_to_string(&state).unwrap();
    fs::write(&state, &text[..text.len() - 10]).unwrap();
    let again = matrix::results(&args(&state, "")).await.unwrap();
    assert_eq!((again.n_played, again.n_known), (1, results.n_played - 1));
    let cells = |of: &matrix::Results| serde_json::to_value(&of.cells).unwrap();
    assert_eq!(cells(&again), cells(&results));

    // A policy that is forgotten plays again, where it is asked for, and all that is played leaves a report.
    let report = folder.path().join("new/report.md");
    let flags = format!("--forget lmetric --cells past --report {}", report.display());
    matrix::run(&args(&state, &flags)).await.unwrap();
    let left = rows(&state);
    let (before, after) = (n_of_policy(&played, "lmetric"), n_of_policy(&left, "lmetric"));
    assert!((2..before).contains(&after), "{after} of {before}");
    assert_eq!(left.len() - after, played.len() - before, "the others are still there");
    let text = fs::read_to_string(&report).unwrap();
    for part in
        ["This is a part of the matrix.", "\n| mooncake/past/homogeneous | ", "\n| lmetric | "]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let written = fs::read_to_string(report.with_extension("json")).unwrap();
    let written: Value = serde_json::from_str(&written).unwrap();
    assert_eq!(written["part"], "smoke");
    let cell = &written["cells"][0];
    assert_eq!(cell["name"], "mooncake/past/homogeneous");
    assert_eq!(cell["n_requests"], json!(results.cells[2].n_requests));
    let [goodput, ttft] = [&cell["goodput"]["regret"], &cell["ttft_p90"]["regret"]];
    assert!(goodput["upper"].is_f64() && ttft["verdict"].is_string(), "{cell}");
}

#[tokio::test]
async fn what_does_not_hold_plays_on_more_seeds_and_is_kept_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let (state, plan) = (folder.path().join("runs.jsonl"), folder.path().join("plan.toml"));
    let text = include_str!("../../matrix.toml");
    // So TTFT p90 cannot hold, goodput does, and there is a third stage.
    let (bound, changed) = ("ttft_p90_percent = 10.0", "ttft_p90_percent = -99.0");
    let mut text = text.to_owned();
    for (from, to) in [
        (bound, changed),
        ("goodput_points = 3.0", "goodput_points = 100.0"),
        ("judge_in_all = [5]", "judge_in_all = [5, 6]"),
    ] {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    fs::write(&plan, &text).unwrap();
    let flags = format!("--cells mooncake/near/homogeneous --plan {}", plan.display());
    let results = matrix::results(&args(&state, &flags)).await.unwrap();
    let cell = &results.cells[0];
    let goodput = &cell.goodput;
    assert!(goodput.first.is_none() && goodput.regret.n_seeds == 3, "{goodput:?}");
    let ttft = &cell.ttft_p90;
    assert_eq!((ttft.first.unwrap().n_seeds, ttft.regret.n_seeds), (3, 5));
    assert_eq!(ttft.regret.verdict, matrix::Verdict::Loses);

    // Only the two sides play them, and after a clear loss nobody plays on.
    let played = rows(&state);
    assert_eq!(played.len(), results.n_played);
    let is_more = |row: &&Value| {
        let run = row["run"].as_str().unwrap();
        ["seed=6", "seed=7", "seed=8"].iter().any(|seed| run.ends_with(seed))
    };
    let more: Vec<Value> = played.iter().filter(is_more).cloned().collect();
    assert_eq!(more.len(), 4, "{more:?}");
    assert_eq!(n_of_policy(&more, &results.ours), 2);
    assert_eq!(n_of_policy(&more, &ttft.baseline), 2);

    // One that was interrupted in the second stage goes on there.
    let lines = fs::read_to_string(&state).unwrap();
    fs::write(&state, &lines[..lines.len() - 10]).unwrap();
    let report = folder.path().join("report.md");
    let again = format!("{flags} --report {}", report.display());
    matrix::run(&args(&state, &again)).await.unwrap();
    let written = fs::read_to_string(report.with_extension("json")).unwrap();
    let written: Value = serde_json::from_str(&written).unwrap();
    assert_eq!(written["n_played"], 1);
    assert_eq!(written["n_known"], json!(results.n_played - 1));
    // Through text as well: a number may be read back with another last bit.
    let cells = serde_json::to_string(&results.cells).unwrap();
    assert_eq!(written["cells"], serde_json::from_str::<Value>(&cells).unwrap());
    let said = fs::read_to_string(&report).unwrap();
    for part in [
        "is that of all together: 5 seeds, 3 to 7.\n",
        "so are more: 6 seeds, 3 to 8.\n",
        "| 3 | holds |",
        "| 5 | **loses** |",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }

    // With a bound in the interval of both stages the third is all that is left to play.
    let upper = ttft.regret.upper.min(ttft.first.unwrap().upper);
    let inside = f64::midpoint(ttft.regret.lower, upper);
    assert!(ttft.regret.lower < inside && inside < upper, "{ttft:?}");
    fs::write(&plan, text.replace(changed, &format!("ttft_p90_percent = {inside:?}"))).unwrap();
    let on = matrix::results(&args(&state, &flags)).await.unwrap();
    let ttft = &on.cells[0].ttft_p90;
    assert_eq!((on.n_played, on.n_known), (2, results.n_played));
    assert_eq!((ttft.first.unwrap().n_seeds, ttft.regret.n_seeds), (3, 6));
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
    check("--traces nowhere", "reading nowhere/mooncake-conversation.jsonl").await;
    fs::write(&state, "{}\n").unwrap();
    check("--cells past", "runs.jsonl:1: no row of this program").await;
}
