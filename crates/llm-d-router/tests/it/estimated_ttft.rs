//! `estimated-ttft-scorer` in the real router against simulated servers, in virtual time: how it spreads what
//! has nothing in common, and what has all in common.

use std::{sync::Arc, time::Duration};

use router_core::Stamp;
use router_framework::Registry;
use router_sim::replay::{
    outcome::{Fate, Outcome},
    pool::Pool,
    run::{Configuration, Options, Progress, Setup, play},
    trace::{Start, Trace, TraceRequest},
};

const ESTIMATED_TTFT: &str = "
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: estimated-ttft-scorer
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: estimated-ttft-scorer
";
const BLOCK_TOKENS: u32 = 64;

/// Requests with a prefix of so many blocks in common and the rest their own, so far apart.
fn trace(n_requests: u64, gap: Duration, n_shared: u64, n_own: u64, output_tokens: u32) -> Trace {
    let request = |nth: u64| {
        let own =
            (0..n_own + u64::from(output_tokens / BLOCK_TOKENS)).map(|at| (nth + 1) << 32 | at);
        TraceRequest {
            start: Start::At(Stamp::ORIGIN + gap * nth as u32),
            chain: (0..n_shared).chain(own).collect(),
            prompt_tokens: (n_shared + n_own) as u32 * BLOCK_TOKENS,
            output_tokens,
            session: nth as u32,
            tenant: None,
            priority: 0,
            lora: None,
            n_sequences: 1,
            observed: None,
        }
    };
    Trace { block_tokens: BLOCK_TOKENS, requests: (0..n_requests).map(request).collect() }
}

fn run(trace: Trace, n_servers: usize, metrics: bool, seed: u64) -> Outcome {
    let mut pool = Pool::uniform(n_servers);
    if !metrics {
        pool.scrape.interval = None;
    }
    let text = Some(ESTIMATED_TTFT.to_owned());
    let setup = Setup {
        trace: Arc::new(trace),
        pool: Arc::new(pool),
        configuration: Configuration { name: "estimated-ttft".to_owned(), text },
        registry: Registry::new(router_plugins::PLUGINS.iter().copied()),
        options: Options { jitter: Duration::ZERO, allow_experimental: true, ..Options::default() },
    };
    let outcome = play(&setup, seed, &Progress::default()).unwrap();
    assert!(outcome.requests.iter().all(|request| request.fate == Fate::Served));
    outcome
}

/// Requests by server.
fn spread(outcome: &Outcome) -> Vec<usize> {
    let mut counts = vec![0; outcome.servers.len()];
    for request in &outcome.requests {
        counts[request.server.unwrap() as usize] += 1;
    }
    counts
}

#[test]
fn a_burst_of_cold_requests_spreads_over_idle_servers() {
    for (gap, metrics) in [(0, true), (1, true), (1, false), (20, true)] {
        for seed in 1..=3 {
            let burst = trace(200, Duration::from_millis(gap), 0, 32, 200);
            let counts = spread(&run(burst, 16, metrics, seed));
            let (max, mean) = (*counts.iter().max().unwrap() as f64, 200.0 / 16.0);
            assert!(max / mean <= 1.2, "{gap} ms, metrics {metrics}, seed {seed}: {counts:?}");
        }
    }
}

#[test]
fn a_hot_prefix_spreads_to_as_many_servers_as_it_needs_and_no_more() {
    // One server serves four requests a second well, eight share forty. A prompt of 20,480 tokens takes so long
    // to compute that another server is only worth it where the first has much to do.
    const PREFILL: Duration = Duration::from_millis(1600);
    let check = |per_second: f64, n_used: std::ops::RangeInclusive<usize>| {
        let n_requests = (per_second * 60.0) as u64;
        let gap = Duration::from_secs_f64(1.0 / per_second);
        let outcome = run(trace(n_requests, gap, 320, 1, 192), 8, true, 1);
        let counts = spread(&outcome);
        let in_use = counts.iter().filter(|n| **n > 0).count();
        let told = format!("{per_second} a second: {counts:?}");
        assert!(n_used.contains(&in_use), "{told}");
        let cold = outcome.requests.iter().filter(|request| request.cached_tokens == 0).count();
        assert!(cold <= 2 * in_use, "{cold} computed the prefix; {told}");
        let mut firsts: Vec<_> =
            outcome.requests.iter().map(|request| request.ttft().unwrap()).collect();
        firsts.sort();
        let p95 = firsts[firsts.len() * 95 / 100];
        assert!(p95 < PREFILL, "{p95:?}; {told}");
    };
    check(1.0, 1..=1);
    check(4.0, 1..=3);
    check(20.0, 4..=8);
    check(32.0, 6..=8);
}
