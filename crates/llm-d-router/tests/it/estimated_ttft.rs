//! `estimated-ttft-scorer` in the real router against simulated servers, in virtual time: how it spreads what
//! has nothing in common, and what has all in common.

use std::{sync::Arc, time::Duration};

use router_core::Stamp;
use router_framework::Registry;
use router_sim::replay::{
    outcome::{Fate, Outcome, RequestOutcome},
    policy::preset,
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
    let outcome = run_as(ESTIMATED_TTFT, trace, n_servers, metrics, seed);
    assert!(outcome.requests.iter().all(|request| request.fate == Fate::Served));
    outcome
}

fn run_as(document: &str, trace: Trace, n_servers: usize, metrics: bool, seed: u64) -> Outcome {
    let mut pool = Pool::uniform(n_servers);
    if !metrics {
        pool.scrape.interval = None;
    }
    let text = Some(document.to_owned());
    let setup = Setup {
        trace: Arc::new(trace),
        pool: Arc::new(pool),
        configuration: Configuration { name: "test".to_owned(), text },
        registry: Registry::new(router_plugins::PLUGINS.iter().copied()),
        options: Options { jitter: Duration::ZERO, allow_experimental: true, ..Options::default() },
    };
    play(&setup, seed, &Progress::default()).unwrap()
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

/// Prompt tokens of a hot prefix take this long to compute: another server is only worth it where those that have it
/// have much to do.
const PREFILL: Duration = Duration::from_millis(1600);
const N_SERVERS: usize = 24;

/// Requests with 20,480 tokens in common and 64 of their own: so many a second for a minute, or half a minute in
/// which they become so many and another in which they are.
fn hot_prefix(per_second: f64, grows: bool) -> Trace {
    let (mut starts, mut at) = (Vec::new(), 0.0);
    while at < 60.0 {
        starts.push(Stamp::ORIGIN + Duration::from_secs_f64(at));
        let share = if grows { (at / 30.0_f64).min(1.0) } else { 1.0 };
        at += 1.0 / (per_second * share).max(1.0);
    }
    let mut trace = trace(starts.len() as u64, Duration::ZERO, 320, 1, 192);
    for (request, start) in trace.requests.iter_mut().zip(starts) {
        request.start = Start::At(start);
    }
    trace
}

/// Share of the requests whose first token comes within 5 s and the others within 100 ms each.
fn goodput(outcome: &Outcome) -> f64 {
    let is_good = |request: &&RequestOutcome| {
        request.ttft().is_some_and(|ttft| ttft <= Duration::from_secs(5))
            && request.tpot().is_none_or(|tpot| tpot <= Duration::from_millis(100))
    };
    outcome.requests.iter().filter(is_good).count() as f64 / outcome.requests.len() as f64
}

/// The fewest servers on which 99 % of the requests are good, each sent where the fewest are.
fn n_needed(trace: &Trace) -> usize {
    let text = preset("least-requests").unwrap().document;
    let is_enough =
        |n_servers: &usize| goodput(&run_as(text, trace.clone(), *n_servers, true, 1)) >= 0.99;
    (1..N_SERVERS).find(is_enough).unwrap_or(N_SERVERS)
}

#[test]
fn a_hot_prefix_spreads_to_as_many_servers_as_it_needs_and_no_more() {
    for (per_second, grows) in
        [(1.0, false), (4.0, false), (12.0, false), (24.0, true), (40.0, false)]
    {
        let trace = hot_prefix(per_second, grows);
        let n_needed = n_needed(&trace);
        for seed in 1..=2 {
            let outcome = run(trace.clone(), N_SERVERS, true, seed);
            let counts = spread(&outcome);
            let in_use = counts.iter().filter(|n| **n > 0).count();
            let told = format!("{per_second} a second, needs {n_needed}, seed {seed}: {counts:?}");
            // The fewest that do are as slow as the goal lets them, near 100 ms a token. A copy of the prefix is made
            // sooner than that: once those under way lose more time to one more request than computing it takes.
            assert!(in_use <= n_needed * 9 / 4, "{told}");
            assert!(goodput(&outcome) >= 0.99, "{told}");
            let cold = outcome.requests.iter().filter(|request| request.cached_tokens == 0).count();
            assert!(cold <= 2 * in_use, "{cold} computed the prefix; {told}");
            let mut firsts: Vec<_> =
                outcome.requests.iter().map(|request| request.ttft().unwrap()).collect();
            firsts.sort();
            let p95 = firsts[firsts.len() * 95 / 100];
            assert!(p95 < PREFILL, "{p95:?}; {told}");
        }
    }
}
