use std::sync::atomic::AtomicUsize;

use parking_lot::Mutex;

use super::*;

/// Requests that take a given time; every tenth is refused, every eleventh fails.
#[derive(Default)]
struct Scripted {
    takes: Duration,
    n_in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
    starts: Mutex<Vec<(u64, Instant)>>,
}

impl Exchange for Scripted {
    type Slot = usize;

    const PHASES: &'static [&'static str] = &["whole"];

    fn slot(&self, worker_idx: usize) -> usize {
        worker_idx
    }

    async fn run(&self, slot: &mut usize, n: u64, started: Instant) -> Result<Outcome> {
        self.starts.lock().push((n, started));
        let n_now = self.n_in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_in_flight.fetch_max(n_now, Ordering::Relaxed);
        tokio::time::sleep(self.takes).await;
        self.n_in_flight.fetch_sub(1, Ordering::Relaxed);
        ensure!(n % 11 != 10, "eleventh");
        if n % 10 == 9 {
            return Ok(Outcome::Rejected("tenth".into()));
        }
        Ok(Outcome::Done { phases: vec![started.elapsed()], pick: slot.to_string() })
    }
}

fn args() -> LoadArgs {
    LoadArgs {
        concurrency: 4,
        duration: 2.0,
        warmup: 1.0,
        pid: Some(std::process::id()),
        ..LoadArgs::default()
    }
}

fn scripted(takes_ms: u64) -> Arc<Scripted> {
    Arc::new(Scripted { takes: Duration::from_millis(takes_ms), ..Default::default() })
}

#[tokio::test(start_paused = true)]
async fn a_counted_run_ends_with_exactly_that_many() {
    let exchange = scripted(10);
    let summary = run(&LoadArgs { requests: 110, ..args() }, Arc::clone(&exchange)).await.unwrap();
    // Of 110, the tenths are 11, the elevenths 10, and number 109 is both: the failure wins.
    assert_eq!((summary.ok, summary.failed, summary.rejected), (90, 10, 10));
    assert_eq!(summary.errors["eleventh"], 10);
    assert_eq!(summary.errors["tenth"], 10);
    assert_eq!(exchange.most_in_flight.load(Ordering::Relaxed), 4);
    assert_eq!(summary.endpoints_picked, 4);
    assert!(summary.server.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_timed_run_counts_only_its_window() {
    let exchange = scripted(10);
    let summary = run(&args(), Arc::clone(&exchange)).await.unwrap();
    assert_eq!(summary.seconds, 2.0);
    let n_counted = summary.ok + summary.failed + summary.rejected;
    assert!((796..=804).contains(&n_counted), "{n_counted}");
    assert!(exchange.starts.lock().len() > 1196);
}

#[tokio::test]
async fn latency_at_a_rate_counts_from_the_intended_start() {
    let exchange = scripted(5);
    // One at a time with 5 ms each cannot keep up with 2,000 per second: the queue must show.
    let args = LoadArgs { concurrency: 1, rate: 2000.0, requests: 20, ..args() };
    let summary = run(&args, Arc::clone(&exchange)).await.unwrap();
    let starts = exchange.starts.lock();
    for pair in starts.windows(2) {
        assert_eq!(pair[1].1 - pair[0].1, Duration::from_micros(500));
    }
    assert!(summary.latency_us["whole"].max > 50_000);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_never_ends_times_out() {
    let exchange = scripted(10_000_000);
    let args = LoadArgs { requests: 3, timeout: 1.0, ..args() };
    let summary = run(&args, exchange).await.unwrap();
    assert_eq!((summary.ok, summary.failed), (0, 3));
    assert_eq!(summary.errors["timeout"], 3);
}

#[tokio::test]
async fn senseless_flags_are_errors() {
    for bad in [
        LoadArgs { concurrency: 0, ..args() },
        LoadArgs { rate: f64::NAN, ..args() },
        LoadArgs { duration: -1.0, ..args() },
    ] {
        run(&bad, scripted(1)).await.unwrap_err();
    }
}

#[test]
fn a_report_reads_back() {
    let summary = summarize(&["a"], Tally::new(1), &Mark::now(None), &Mark::now(None));
    let report = Report { label: "x".into(), settings: serde_json::json!({"body": 1}), summary };
    let text = serde_json::to_string(&report).unwrap();
    let back: Report<serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(back.label, "x");
    assert!(back.summary.latency_us.contains_key("a"));
}
