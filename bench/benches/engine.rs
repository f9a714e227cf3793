//! What a whole decision costs: from the head of a request to where it goes, body included, with the Go
//! default preset (queue 2, KV utilization 2, prefix 3).
//!
//! `decision` has small bodies on pools of many sizes, `queued` the same with flow control: when there is room,
//! beside the same document without the gate, and when the pool is full and one goes when another ends. `long-prompt` has a prompt at the cap of the prefix
//! index, of which every endpoint knows another part; beside the mean it prints percentiles, since its budget
//! is one. Long prompts are hashed in place here; the router does it on another thread.

#![allow(clippy::unwrap_used, reason = "a bench stops where it cannot go on")]
#![allow(clippy::print_stdout, reason = "percentiles are for people")]

use std::{collections::VecDeque, hint::black_box, pin::pin, time::Duration};

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use hdrhistogram::Histogram;
use http::{HeaderMap, StatusCode};
use router_bench::payload::{Payloads, Shape};
use router_core::Stamp;
use router_engine::{Decision, ResponseHead, Routed};
use router_framework::{EndCause, RequestHead, SubsetHint};
use router_rt::Clock;
use router_testkit::router::{RouterBuilder, TestRouter, head, with_header};
use tokio::runtime::Runtime;

const KIB: usize = 1024;
const CHUNK_BYTES: usize = 16 * KIB;
/// Tokens of an index block, and bytes of a token.
const BLOCK_BYTES: usize = 64 * 4;
const PERCENTILE_ROUNDS: usize = 2_000;

/// The Go default preset; `MATCHED` is how many tokens of a prompt are matched.
const CONFIG: &str = "
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: approx-prefix-cache-producer
  parameters: {maxPrefixTokensToMatch: MATCHED}
- type: prefix-cache-scorer
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
";

/// A router and the runtime that it lives in.
struct World {
    router: TestRouter,
    runtime: Runtime,
}

impl World {
    /// Endpoints with signals that never become stale.
    fn new(n_endpoints: usize, matched_tokens: usize) -> Self {
        Self::with(&CONFIG.replace("MATCHED", &matched_tokens.to_string()), n_endpoints)
    }

    fn with(config: &str, n_endpoints: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let inside = runtime.enter();
        let router = RouterBuilder::new(config)
            .settings(|settings| settings.staleness_threshold = Duration::from_hours(24))
            .endpoints(n_endpoints)
            .build();
        for at in 0..n_endpoints {
            router.publish(at, |signals| {
                signals.waiting = (at % 17) as f64;
                signals.running = (at % 31) as f64;
                signals.kv_usage = (at % 101) as f64 / 101.0;
                signals.block_size = 16.0;
                // Room for all that a bench sends.
                signals.n_blocks = 4_000_000.0;
            });
        }
        drop(inside);
        Self { router, runtime }
    }

    fn decide(&self, head: RequestHead, chunks: &[Bytes]) -> Routed {
        let decision = self.begin(head, chunks);
        self.runtime.block_on(decision).unwrap()
    }

    fn begin(&self, head: RequestHead, chunks: &[Bytes]) -> Decision {
        let received = self.router.clock().now();
        let (mut feed, decision) = self.router.begin(RequestHead { received, ..head });
        chunks.iter().for_each(|chunk| feed.push(chunk));
        feed.end();
        decision
    }

    /// Sends the request to one endpoint, which takes it up and answers it.
    fn serve(&self, at: usize, chunks: &[Bytes]) {
        let only = SubsetHint::Only(vec![self.router.endpoint(at).authority().to_owned()]);
        let mut routed = self.decide(RequestHead { subset: only, ..request() }, chunks);
        let headers = HeaderMap::new();
        let status = StatusCode::OK;
        routed.exchange.on_headers(&ResponseHead {
            status,
            headers: &headers,
            served: None,
            from_proxy: false,
        });
        routed.exchange.end(EndCause::Natural);
    }
}

/// A request as Envoy sends it on.
fn request() -> RequestHead {
    let headers = [
        ("host", "llm.example.com"),
        ("content-type", "application/json"),
        ("user-agent", "openai-python/1.99"),
        ("accept", "application/json"),
        ("authorization", "Bearer 0123456789abcdef0123456789abcdef"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "0b7b2f0e-2f0c-4f5e-9d4e-5d6a8c1f0e11"),
    ];
    let plain = RequestHead { received: Stamp::ORIGIN, ..head("/v1/chat/completions") };
    headers.into_iter().fold(plain, |head, (name, value)| with_header(head, name, value))
}

fn chunks(body: &Bytes) -> Vec<Bytes> {
    body.chunks(CHUNK_BYTES).map(|chunk| body.slice_ref(chunk)).collect()
}

fn payloads(size: usize, shared: usize) -> Payloads {
    let model = "llama-3.1-8b".to_owned();
    Payloads::new(&Shape { model, size, shared, n_groups: 1, stream: true, run_tag: 7 })
}

fn decision(c: &mut Criterion) {
    let mut group = c.benchmark_group("decision-1KiB");
    let payloads = payloads(KIB, 0);
    for n_endpoints in [8, 64, 512, 4096] {
        let world = World::new(n_endpoints, 131_072);
        for n in 0..64 {
            world.serve(n % n_endpoints, &chunks(&payloads.body(n as u64)));
        }
        let mut n = 0;
        group.bench_function(BenchmarkId::new("endpoints", n_endpoints), |b| {
            b.iter_batched(
                || {
                    n += 1;
                    (request(), chunks(&payloads.body(n)))
                },
                |(head, chunks)| world.decide(head, &chunks),
                BatchSize::SmallInput,
            );
        });
    }
}

/// Flow control of a pool in which so many requests may run on each endpoint.
fn queued_config(max_concurrency: usize) -> String {
    let preset = CONFIG.replace("MATCHED", "131072");
    format!(
        "{preset}featureGates: [flowControl]\nflowControl:\n  saturationDetector: {{pluginRef: full}}\n"
    )
    .replace(
        "plugins:\n- type: queue-scorer\n",
        &format!(
            "plugins:\n- type: queue-scorer\n- type: concurrency-detector\n  name: full\n  parameters: \
             {{maxConcurrency: {max_concurrency}}}\n"
        ),
    )
}

fn queued(c: &mut Criterion) {
    const N_ENDPOINTS: usize = 8;
    const PER_ENDPOINT: usize = 16;
    let mut group = c.benchmark_group("queued-1KiB");
    let payloads = payloads(KIB, 0);
    let mut n = 0;
    let mut next = || {
        n += 1;
        (request(), chunks(&payloads.body(n)))
    };
    let with_room = queued_config(1_000_000);
    let without_gate = with_room.replace("featureGates: [flowControl]\n", "");
    for (name, config) in [("without-gate", &without_gate), ("with-room", &with_room)] {
        let world = World::with(config, N_ENDPOINTS);
        group.bench_function(name, |b| {
            b.iter_batched(
                &mut next,
                |(head, chunks)| world.decide(head, &chunks),
                BatchSize::SmallInput,
            );
        });
    }
    for n_waiting in [1, 1_000] {
        let world = World::with(&queued_config(PER_ENDPOINT), N_ENDPOINTS);
        let mut running: VecDeque<Routed> = (0..N_ENDPOINTS * PER_ENDPOINT)
            .map(|_| {
                let (head, chunks) = next();
                world.decide(head, &chunks)
            })
            .collect();
        let wait = |(head, chunks): (RequestHead, Vec<Bytes>)| {
            let mut decision = world.begin(head, &chunks);
            let told = world.runtime.block_on(std::future::poll_fn(|cx| {
                std::task::Poll::Ready(pin!(&mut decision).poll(cx).is_ready())
            }));
            assert!(!told, "the pool is full");
            decision
        };
        let mut waiting: VecDeque<Decision> = (0..n_waiting).map(|_| wait(next())).collect();
        group.bench_function(BenchmarkId::new("full-pool", n_waiting), |b| {
            b.iter_batched(
                &mut next,
                |ask| {
                    // One ends, the next goes, and another comes.
                    drop(running.pop_front());
                    let goes = waiting.pop_front().unwrap();
                    running.push_back(world.runtime.block_on(goes).unwrap());
                    waiting.push_back(wait(ask));
                },
                BatchSize::SmallInput,
            );
        });
    }
}

/// A pool of 1,000 endpoints, each of which has served another part of the one prompt.
fn long_world(n_blocks: usize) -> (World, Vec<Bytes>) {
    const N_ENDPOINTS: usize = 1_000;
    const N_PLACES: usize = 16;
    let world = World::new(N_ENDPOINTS, n_blocks * BLOCK_BYTES / 4);
    let whole = n_blocks * BLOCK_BYTES;
    for place in 0..N_PLACES {
        // All begin alike and go on alone, at so many places.
        let payloads = payloads(whole, whole * (place + 1) / N_PLACES);
        for at in (place..N_ENDPOINTS).step_by(N_PLACES) {
            world.serve(at, &chunks(&payloads.body(at as u64)));
        }
    }
    (world, chunks(&payloads(whole, whole).body(1 << 20)))
}

fn long_prompt(c: &mut Criterion) {
    let mut group = c.benchmark_group("long-prompt-1000-endpoints");
    for n_blocks in [2_048, 6_000] {
        let (world, chunks) = long_world(n_blocks);
        group.bench_function(BenchmarkId::new("blocks", n_blocks), |b| {
            b.iter_batched(request, |head| world.decide(head, &chunks), BatchSize::SmallInput);
        });
        percentiles(n_blocks, &world, &chunks);
    }
}

fn percentiles(n_blocks: usize, world: &World, chunks: &[Bytes]) {
    let _inside = world.runtime.enter();
    let clock = Clock::new();
    let mut times = Histogram::<u64>::new(3).unwrap();
    for _ in 0..PERCENTILE_ROUNDS {
        let head = request();
        let started = clock.now();
        let routed = black_box(world.decide(head, chunks));
        times.record(clock.now().since(started).as_nanos() as u64).unwrap();
        drop(routed);
    }
    let us = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "long-prompt {n_blocks} blocks: p50 {:.0} us, p99 {:.0} us, p99.9 {:.0} us",
        us(0.5),
        us(0.99),
        us(0.999)
    );
}

/// Short: figures are compared by eye, within one run.
fn settings() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(700))
}

criterion_group! {
    name = benches;
    config = settings();
    targets = decision, queued, long_prompt
}
criterion_main!(benches);
