//! The live run, small: the real Envoy, endpoint picker and simulated servers in real time, beside replay.

use std::path::PathBuf;

use router_bench::live::{self, LiveArgs, RANKED, Report, Verdict};
use router_testkit::tools;

/// Two seconds of requests: conversations over one system prompt.
const N_REQUESTS: u64 = 30;

fn trace() -> String {
    let row = |nth: u64| {
        format!(
            "{{\"timestamp\": {}, \"input_length\": {}, \"output_length\": {}, \"hash_ids\": [1, {}]}}\n",
            nth / 3 * 200,
            1030 + nth,
            2 + nth % 5,
            2 + nth % 4,
        )
    };
    (0..N_REQUESTS).map(row).collect()
}

fn args(folder: &std::path::Path) -> LiveArgs {
    let trace_file = folder.join("trace.jsonl");
    std::fs::write(&trace_file, trace()).unwrap();
    LiveArgs {
        router: PathBuf::from(env!("CARGO_BIN_EXE_llm-d-router")),
        envoy: tools::envoy().unwrap(),
        trace: trace_file,
        minutes: 1.0,
        from: 0.0,
        load: 1.0,
        jitter: 0.0,
        servers: 2,
        configs: vec!["go-default".to_owned(), "estimated-ttft".to_owned()],
        seeds: 2,
        one_by_one: false,
        out: Some(folder.join("results")),
        name: None,
    }
}

fn check(report: &Report) {
    assert_eq!(report.stretch.n_requests, N_REQUESTS as usize);
    assert_eq!(report.rankings.len(), RANKED.len());
    assert!(report.command.starts_with("cargo xtask live "), "{}", report.command);
    for (run, replay) in report.live.runs.iter().zip(&report.replays) {
        assert_eq!(run.configuration, replay.configuration);
        assert_eq!((replay.exact.len(), replay.jittered.len()), (2, 2));
        // Whole answers alone count, and they are whole only with the lengths of the trace.
        assert_eq!(run.summary.served_share(), 1.0, "{:?}", run.failures);
        assert_eq!(run.summary.servers.iter().map(|load| load.n_requests).sum::<usize>(), 30);
        // The shared block is found on whichever server has had it.
        assert!(run.summary.cached_ratio > 0.4, "{:?}", run.summary);
        assert!(run.lateness.max >= run.lateness.p99 && run.lateness.p99 >= run.lateness.p50);
        assert!(run.ttft_outside_servers > 0.0, "{run:?}");
        // It has scraped for seconds, in ticks of 10 ms.
        assert!(run.cpu_seconds.picker > 0.0, "{run:?}");
    }
}

#[test]
fn a_short_stretch_goes_through_envoy_and_replay() {
    let folder = tempfile::tempdir().unwrap();
    let args = args(folder.path());
    let report = live::results(&args).unwrap();
    check(&report);
    // Whether they agree is for a longer run on a quiet machine.
    let concluded = live::conclude(&args, &report);
    assert_eq!(concluded.is_ok(), report.verdict == Verdict::Agree, "{concluded:?}");
    let files = |extension: &str| {
        let name = format!("live-{}.{extension}", report.date);
        std::fs::read_to_string(folder.path().join("results").join(name)).unwrap()
    };
    let (page, json) = (files("md"), files("json"));
    assert!(page.starts_with("# Live and replay, "), "{page}");
    assert!(page.contains("| estimated-ttft | replay / live | "), "{page}");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["live"]["runs"][0]["summary"]["unserved"], 0.0, "{json}");
}

#[test]
fn what_cannot_be_played_is_said_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let args = args(folder.path());
    let unknown = LiveArgs { configs: vec!["nosuch".to_owned()], ..args.clone() };
    let error = live::results(&unknown).unwrap_err().to_string();
    assert!(error.contains("no preset nosuch"), "{error}");
    let empty = LiveArgs { from: 59.0, ..args.clone() };
    let error = live::results(&empty).unwrap_err().to_string();
    assert!(error.contains("no request"), "{error}");
    let missing = LiveArgs { router: "/nowhere/llm-d-router".into(), ..args };
    let error = format!("{:#}", live::results(&missing).unwrap_err());
    assert!(error.contains("starting llm-d-router"), "{error}");
}
