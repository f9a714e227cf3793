//! The client of the live run against simulated servers in this process, in real time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use router_bench::live::{self, MODEL, Progress, Stretch};
use router_rt::Tasks;
use router_sim::server::{RunningSim, SimConfig};
use tokio::time::Instant;

/// Conversations that share their first block, and one request that stands alone.
const ROWS: &str = r#"
{"timestamp": 0, "input_length": 700, "output_length": 3, "hash_ids": [1, 2]}
{"timestamp": 0, "input_length": 40, "output_length": 20, "hash_ids": [9]}
{"timestamp": 1000, "input_length": 1300, "output_length": 2, "hash_ids": [1, 3, 4]}
{"timestamp": 1000, "input_length": 600, "output_length": 1, "hash_ids": [1, 5]}
"#;

fn stretch(folder: &std::path::Path) -> Stretch {
    let path = folder.join("trace.jsonl");
    std::fs::write(&path, ROWS.trim_start()).unwrap();
    Stretch::read(&path, 0.0, 1.0, 2.0).unwrap()
}

async fn servers(tasks: &Tasks, keys: serde_json::Value) -> RunningSim {
    let serde_json::Value::Object(mut keys) = keys else { unreachable!("keys with values") };
    keys.insert("port".to_owned(), 0.into());
    keys.insert("model".to_owned(), MODEL.into());
    router_sim::server::run(SimConfig::from_document(keys).unwrap(), tasks).await.unwrap()
}

#[tokio::test]
async fn servers_count_the_tokens_of_the_trace_and_find_its_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let stretch = stretch(folder.path());
    let tasks = Tasks::new();
    let sim = servers(&tasks, serde_json::json!({"servers": 1})).await;
    let target = sim.addresses()[0].to_string();
    let progress = Arc::new(Progress::default());
    let start = Instant::now();
    let courses = live::play(&stretch, &target, start, Arc::clone(&progress)).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(500));
    assert_eq!(progress.n_ended.load(Ordering::Relaxed), 4);
    // An answer is whole only if both lengths are those of the trace.
    let answers: Vec<_> = courses.iter().map(|course| course.answer.clone().unwrap()).collect();
    let cached: Vec<_> = answers.iter().map(|answer| answer.cached_tokens).collect();
    assert_eq!(cached, [0, 0, 512, 512]);
    for (answer, due) in answers.iter().zip([0, 0, 500, 500]) {
        assert_eq!(answer.server, Some(0));
        assert!(answer.first_token >= Duration::from_millis(due), "{answers:?}");
        assert!(answer.ended >= answer.first_token, "{answers:?}");
    }
    // The prompt's step and nineteen decode steps, of at least 7.5 ms each. What the client sees of the time between
    // two tokens is no measure on a busy machine: a late reader gets several at once.
    assert!(answers[1].ended >= Duration::from_millis(150), "{answers:?}");
}

#[tokio::test]
async fn failures_are_told_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let stretch = stretch(folder.path());
    let tasks = Tasks::new();
    for (keys, expected) in [
        (
            serde_json::json!({"failure-injection-rate": 100, "failure-types": ["server_error"]}),
            "status 503",
        ),
        (
            serde_json::json!({"cut-stream-rate": 100, "cut-stream-after": 0}),
            "error reading a body",
        ),
    ] {
        let sim = servers(&tasks, keys).await;
        let target = sim.addresses()[0].to_string();
        let progress = Arc::new(Progress::default());
        let start = Instant::now();
        let courses = live::play(&stretch, &target, start, Arc::clone(&progress)).await.unwrap();
        assert_eq!(progress.n_failed.load(Ordering::Relaxed), 4);
        for course in &courses {
            let error = course.answer.as_ref().unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
