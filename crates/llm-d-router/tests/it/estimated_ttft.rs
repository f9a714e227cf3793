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

mod scarce;
mod unsteady;

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
            tenant: None,
            priority: 0,
            lora: None,
            streams: true,
            max_output_tokens: None,
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
    run_on(pool, document, trace, seed)
}

fn run_on(pool: Pool, document: &str, trace: Trace, seed: u64) -> Outcome {
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
fn spread(requests: &[RequestOutcome], n_servers: usize) -> Vec<usize> {
    let mut counts = vec![0; n_servers];
    for request in requests {
        counts[request.server.unwrap() as usize] += 1;
    }
    counts
}

#[test]
fn a_burst_of_cold_requests_spreads_over_idle_servers() {
    for (gap, metrics) in [(0, true), (1, true), (1, false), (20, true)] {
        for seed in 1..=3 {
            let burst = trace(200, Duration::from_millis(gap), 0, 32, 200);
            let counts = spread(&run(burst, 16, metrics, seed).requests, 16);
            let (max, mean) = (*counts.iter().max().unwrap() as f64, 200.0 / 16.0);
            assert!(max / mean <= 1.2, "{gap} ms, metrics {metrics}, seed {seed}: {counts:?}");
        }
    }
}

const N_SERVERS: usize = 24;
/// What a second of delay counts for a request whose answer is under way, as in the scorer's formula.
const DECODING_DELAY: f64 = 0.3;
/// Share of a server's time that may go to one prefix, as in the scorer's formula.
const BUSY: f64 = 0.5;
/// Requests from whose answers the router can learn before the prefix gets hot, and how far apart they are.
const N_BEFORE: u64 = 120;
const GAP_BEFORE: Duration = Duration::from_millis(500);

/// Requests that begin alike.
#[derive(Clone, Copy, Debug)]
struct HotPrefix {
    n_blocks: u64,
    output_tokens: u32,
    per_second: f64,
    seconds: f64,
    arrivals: Arrivals,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Arrivals {
    Even,
    /// At random, by this seed.
    Random(u64),
    /// They become so many in half a minute, instead of at once.
    Growing,
}

/// What becomes of requests on so many servers, each sent where the fewest are.
struct Balanced {
    /// Mean seconds from a request to the end of its answer.
    duration: f64,
    goodput: f64,
}

impl HotPrefix {
    const fn new(n_blocks: u64, output_tokens: u32, per_second: f64) -> Self {
        Self { n_blocks, output_tokens, per_second, seconds: 60.0, arrivals: Arrivals::Even }
    }

    fn starts(self) -> Vec<Stamp> {
        let mut rng = match self.arrivals {
            Arrivals::Random(seed) => Some(router_rt::Rng::seeded(seed)),
            Arrivals::Even | Arrivals::Growing => None,
        };
        let (mut starts, mut at) = (Vec::new(), 0.0);
        while at < self.seconds {
            starts.push(Stamp::ORIGIN + Duration::from_secs_f64(at));
            let is_growing = self.arrivals == Arrivals::Growing;
            let share = if is_growing { (at / 30.0_f64).min(1.0) } else { 1.0 };
            let gap = rng.as_mut().map_or(1.0, |rng| -(1.0 - rng.f64()).ln());
            at += gap / (self.per_second * share).max(1.0);
        }
        starts
    }

    fn trace(self) -> Trace {
        let starts = self.starts();
        let n_requests = starts.len() as u64;
        let mut trace = trace(n_requests, Duration::ZERO, self.n_blocks, 1, self.output_tokens);
        for (request, start) in trace.requests.iter_mut().zip(starts) {
            request.start = Start::At(start);
        }
        trace
    }

    /// The same after requests with answers as long and prompts of their own.
    fn trace_after_others(self) -> Trace {
        let mut others = trace(N_BEFORE, GAP_BEFORE, 0, 100, self.output_tokens);
        let later = GAP_BEFORE * N_BEFORE as u32 + Duration::from_mins(1);
        for mut request in self.trace().requests {
            let Start::At(start) = request.start else { unreachable!("all have times") };
            request.start = Start::At(start + later);
            request.chain = request.chain.iter().map(|block| block | 1 << 63).collect();
            others.requests.push(request);
        }
        others
    }

    /// Seconds that it takes to compute.
    fn prefill(self) -> f64 {
        let alone = run(trace(1, Duration::ZERO, self.n_blocks, 1, 1), 1, true, 1);
        alone.requests[0].ttft().unwrap().as_secs_f64()
    }

    /// Seconds that a request takes of a server that has the prefix, where many are under way.
    fn each(self) -> f64 {
        const N_AT_ONCE: u64 = 100;
        let first = trace(1, Duration::ZERO, self.n_blocks, 1, 1);
        let mut at_once = trace(N_AT_ONCE, Duration::ZERO, self.n_blocks, 1, self.output_tokens);
        let start = Duration::from_mins(1);
        for request in &mut at_once.requests {
            request.start = Start::At(Stamp::ORIGIN + start);
        }
        at_once.requests.extend(first.requests);
        let ended = run(at_once, 1, true, 1).requests.iter().map(|request| request.ended).max();
        let took = ended.unwrap().since(Stamp::ORIGIN + start);
        took.as_secs_f64() / N_AT_ONCE as f64
    }

    fn balanced(self, n_servers: usize) -> Balanced {
        let text = preset("least-requests").unwrap().document;
        let outcome = run_as(text, self.trace(), n_servers, true, 1);
        let durations = outcome.requests.iter().map(|request| request.ended.since(request.arrived));
        let duration = durations.sum::<Duration>().as_secs_f64() / outcome.requests.len() as f64;
        let second_half = &outcome.requests[outcome.requests.len() / 2..];
        Balanced { duration, goodput: goodput(second_half) }
    }

    /// The fewest servers such that in the end the usual goals are met, that none is busy with the prefix for more than
    /// half of its time, so that others find it free and a burst is done soon, and that a copy on another one would
    /// not pay. It pays, by convention, where one more request delays those that are under way on a server for longer
    /// than it takes to compute the prefix. Of `r` requests a second and server, which take `L(r)` each, these are
    /// `r × L'(r)` seconds.
    fn n_needed(self) -> usize {
        let prefill = self.prefill();
        let balanced: Vec<_> = (1..=N_SERVERS).map(|n_servers| self.balanced(n_servers)).collect();
        let is_short = |(nth, pair): (usize, &[Balanced])| {
            let delay = (nth + 2) as f64 * (pair[0].duration - pair[1].duration);
            pair[0].goodput < 0.99 || DECODING_DELAY * delay > prefill
        };
        let n_short = balanced.windows(2).enumerate().rposition(is_short).map_or(0, |nth| nth + 1);
        let busy = self.per_second * self.each() / BUSY;
        (n_short + 1).max(busy.ceil() as usize)
    }
}

/// Share of the requests whose first token comes within 5 s and the others within 100 ms each.
fn goodput(requests: &[RequestOutcome]) -> f64 {
    let is_good = |request: &&RequestOutcome| {
        request.ttft().is_some_and(|ttft| ttft <= Duration::from_secs(5))
            && request.tpot().is_none_or(|tpot| tpot <= Duration::from_millis(100))
    };
    requests.iter().filter(is_good).count() as f64 / requests.len() as f64
}

/// That so many servers are used for the prefix, by a third fewer or half as many more at most: how many are under way
/// when a copy is made, and what one takes, is an estimate, and when requests begin to come there are more than later.
/// Of those that come at random the first few seem to be more a second than they are, or fewer: one more server is right.
fn assert_spread(hot: HotPrefix, n_needed: usize, requests: &[RequestOutcome]) {
    let counts = spread(requests, N_SERVERS);
    let in_use = counts.iter().filter(|n| **n > 0).count();
    let told = format!("{hot:?} needs {n_needed}: {counts:?}");
    let n_by_chance = usize::from(matches!(hot.arrivals, Arrivals::Random(_)));
    let expected = (n_needed * 2).div_ceil(3)..=n_needed * 3 / 2 + n_by_chance;
    assert!(expected.contains(&in_use), "{in_use}; {told}");
    let cold = requests.iter().filter(|request| request.cached_tokens == 0).count();
    assert!(cold <= in_use * 4 / 3, "{cold} computed the prefix; {told}");
    // Who comes while the prefix is computed for the first time waits for it, wherever it goes.
    let is_computed = requests[0].arrived + requests[0].ttft().unwrap();
    let n_before = requests.partition_point(|request| request.arrived < is_computed);
    let goodput = goodput(&requests[n_before..]);
    assert!(goodput >= 0.99, "{goodput}; {told}");
}

const fn usual(per_second: f64) -> HotPrefix {
    HotPrefix::new(320, 192, per_second)
}

#[test]
fn a_hot_prefix_spreads_to_as_many_servers_as_it_needs_and_no_more() {
    let grown = HotPrefix { arrivals: Arrivals::Growing, ..usual(24.0) };
    let (short, lengthy) = (HotPrefix::new(64, 512, 20.0), HotPrefix::new(320, 1024, 3.0));
    let brief = HotPrefix::new(320, 32, 20.0);
    for hot in [
        usual(1.0),
        usual(4.0),
        usual(12.0),
        usual(24.0),
        grown,
        usual(40.0),
        short,
        brief,
        lengthy,
    ] {
        // In the end there are as many requests as if they had not grown.
        let n_needed = HotPrefix { arrivals: Arrivals::Even, ..hot }.n_needed();
        for seed in 1..=2 {
            let outcome = run(hot.trace_after_others(), N_SERVERS, true, seed);
            assert_spread(hot, n_needed, &outcome.requests[N_BEFORE as usize..]);
        }
    }
}

/// One that takes seconds to compute needs time to spread, and the server that has it first is overrun meanwhile: no
/// prefill rate must be learned from requests that wait for long decode steps there, or it stays alone.
#[test]
fn a_long_hot_prefix_spreads_in_the_end() {
    let random = Arrivals::Random(1);
    for (n_blocks, per_second, arrivals) in [
        (960, 6.0, Arrivals::Even),
        (960, 6.0, random),
        (960, 12.0, Arrivals::Even),
        (1_280, 4.0, random),
        (640, 9.0, Arrivals::Even),
    ] {
        let hot = HotPrefix::new(n_blocks, 64, per_second);
        let hot = HotPrefix { seconds: 180.0, arrivals, ..hot };
        let outcome = run(hot.trace_after_others(), N_SERVERS, true, 1);
        assert_spread(hot, hot.n_needed(), &outcome.requests[N_BEFORE as usize..]);
    }
}

#[test]
fn a_hot_prefix_at_random_times_spreads_alike() {
    for (per_second, seed) in [(4.0, 1), (12.0, 2), (24.0, 3), (40.0, 4)] {
        let hot = HotPrefix { arrivals: Arrivals::Random(seed), ..usual(per_second) };
        let outcome = run(hot.trace_after_others(), N_SERVERS, true, 1);
        assert_spread(hot, hot.n_needed(), &outcome.requests[N_BEFORE as usize..]);
    }
}

#[test]
fn a_hot_prefix_that_comes_first_spreads_alike() {
    for per_second in [1.0, 4.0, 12.0, 40.0] {
        let hot = usual(per_second);
        let n_needed = hot.n_needed();
        for metrics in [true, false] {
            let outcome = run(hot.trace(), N_SERVERS, metrics, 1);
            assert_spread(hot, n_needed, &outcome.requests);
        }
    }
}
