//! The first 2,000 requests of the Mooncake trace against eight simulated engines, in virtual time: the very
//! same pipeline, and the very same decisions for the same seed.
//!
//! Trace, engines and scrapes are one sequence of events in nanoseconds. The runtime's timers are rounded up
//! to milliseconds, so there is one sleeper, and whatever is due when it wakes happens in the order of its
//! stamps.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE};
use router_core::{Position, Stamp};
use router_engine::{Exchange, ResponseHead};
use router_framework::{
    EndCause, Instance, MAX_TARGETS, NoParams, ParsedRequest, Picker, PluginDef, PromptInput,
    RequestCx, RequestHead, Role, keys::PromptBlocks,
};
use router_rt::Rng;
use router_sim::model::{BlockHash, Engine, EngineRequest, Event, EventKind, Profile, RequestId};
use router_testkit::router::{RouterBuilder, TestRouter, head};
use serde::Deserialize;
use smallvec::SmallVec;

use crate::testdata;

const N_SERVERS: usize = 8;
/// Tokens of one block of the trace.
const BLOCK_TOKENS: u32 = 512;
/// What an engine holds of them: 400,000 tokens, as in the default profile.
const N_BLOCKS: u32 = 781;
const SCRAPE_INTERVAL: Duration = Duration::from_millis(50);

/// The Go preset, with what this router itself has in flight. Arrivals of the trace come in bursts, in which
/// scraped signals say the same to all.
const WITH_IN_FLIGHT: &str = "
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
- type: active-request-scorer
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
  - {pluginRef: active-request-scorer, weight: 4}
";

#[derive(Deserialize)]
struct TraceRow {
    /// Milliseconds.
    timestamp: u64,
    input_length: u32,
    output_length: u32,
    hash_ids: Vec<u64>,
}

fn trace() -> Vec<TraceRow> {
    let text = testdata::text("traces/mooncake-2000.jsonl");
    let rows: Vec<TraceRow> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 2_000);
    rows
}

/// Takes one endpoint after the other and looks at nothing.
#[derive(Default)]
struct RoundRobin(AtomicUsize);

const ROUND_ROBIN: PluginDef =
    PluginDef::new::<NoParams>("max-score-picker", &[Role::Picker], file!(), |_| {
        Ok(Instance::new().picker(Arc::new(RoundRobin::default())))
    });

impl Picker for RoundRobin {
    fn n_shown(&self) -> usize {
        1
    }

    fn pick(
        &self,
        _: &RequestCx<'_>,
        scored: &[(Position, f64)],
        _: &mut Rng,
        _: usize,
        ranked: &mut SmallVec<[Position; MAX_TARGETS]>,
    ) {
        let at = self.0.fetch_add(1, Ordering::Relaxed) % scored.len().max(1);
        ranked.extend(scored.get(at).map(|(position, _)| *position));
    }
}

/// One simulated server and the requests that it has.
struct Server {
    engine: Engine,
    exchanges: BTreeMap<RequestId, Exchange>,
}

/// What a run came to.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    /// The endpoint of every request, in the order of the trace.
    decisions: Vec<usize>,
    prompt_tokens: u64,
    cached_tokens: u64,
    /// From arrival to the first token, over all requests.
    total_ttft: Duration,
    /// When the last request ended.
    ended: Stamp,
}

impl Outcome {
    /// Share of prompt tokens that an engine had cached.
    fn reuse(&self) -> f64 {
        self.cached_tokens as f64 / self.prompt_tokens as f64
    }

    fn mean_ttft(&self) -> Duration {
        self.total_ttft / self.decisions.len() as u32
    }
}

struct Replay {
    router: TestRouter,
    servers: Vec<Server>,
    outcome: Outcome,
}

impl Replay {
    fn new(seed: u64, config: &str, picker: Option<&PluginDef>) -> Self {
        let mut builder = RouterBuilder::new(config)
            .endpoints(N_SERVERS)
            .settings(|settings| settings.seed = seed);
        if let Some(picker) = picker {
            builder = builder.plugin(picker);
        }
        let profile =
            Profile { block_size: BLOCK_TOKENS, kv_cache_size: N_BLOCKS, ..Profile::default() };
        let server = |_| Server {
            engine: Engine::new(profile.clone(), seed).unwrap(),
            exchanges: BTreeMap::new(),
        };
        let servers = (0..N_SERVERS).map(server).collect();
        Self { router: builder.build(), servers, outcome: Outcome::default() }
    }

    async fn run(mut self, trace: &[TraceRow]) -> Outcome {
        let mut arrivals = trace.iter().peekable();
        let mut scrape = Stamp::ORIGIN;
        loop {
            let arrival = arrivals.peek().map_or(Stamp::NEVER, |row| arrival(row));
            let engine = self.next_event();
            if arrival == Stamp::NEVER && engine == Stamp::NEVER {
                return self.outcome;
            }
            let next = arrival.min(engine).min(scrape);
            self.router.clock().sleep_until(next).await;
            // What engines do at a stamp comes before what is seen of it, and both before what arrives.
            if engine == next {
                self.advance(next);
            } else if scrape == next {
                self.scrape();
                scrape = scrape + SCRAPE_INTERVAL;
            } else if let Some(row) = arrivals.next() {
                self.arrive(row, next).await;
            }
        }
    }

    fn next_event(&self) -> Stamp {
        let next = self.servers.iter().filter_map(|server| server.engine.next_event());
        next.min().unwrap_or(Stamp::NEVER)
    }

    /// Lets every engine do what is due.
    fn advance(&mut self, now: Stamp) {
        for server in &mut self.servers {
            if server.engine.next_event().is_some_and(|at| at <= now) {
                let mut events = Vec::new();
                server.engine.advance(now, &mut |event| events.push(event));
                server.take(events, &mut self.outcome);
            }
        }
    }

    fn scrape(&self) {
        for (at, server) in self.servers.iter().enumerate() {
            let seen = server.engine.signals();
            self.router.publish(at, |signals| {
                signals.waiting = f64::from(seen.waiting);
                signals.running = f64::from(seen.running);
                signals.kv_usage = seen.kv_usage();
                signals.block_size = f64::from(BLOCK_TOKENS);
                signals.n_blocks = f64::from(N_BLOCKS);
            });
        }
    }

    async fn arrive(&mut self, row: &TraceRow, now: Stamp) {
        let n_tokens = row.input_length as usize;
        let blocks = PromptBlocks::from_block_ids(&row.hash_ids, BLOCK_TOKENS, n_tokens);
        let parsed = ParsedRequest {
            model: Some("m".into()),
            stream: true,
            prompts: PromptInput::Blocks(blocks),
            ..ParsedRequest::default()
        };
        let head = RequestHead { received: now, ..head("/v1/chat/completions") };
        let routed = self.router.begin_parsed(head, parsed).await.unwrap();
        let target = routed.targets[0].authority().to_owned();
        let at =
            (0..N_SERVERS).find(|at| *self.router.endpoint(*at).authority() == target).unwrap();
        self.outcome.decisions.push(at);
        let n_full = (row.input_length / BLOCK_TOKENS) as usize;
        let full = row.hash_ids.iter().take(n_full);
        let request = EngineRequest {
            chain: full.map(|id| BlockHash(*id)).collect(),
            ..EngineRequest::new(row.input_length, row.output_length)
        };
        let server = &mut self.servers[at];
        let mut events = Vec::new();
        let id = server.engine.submit(now, request, &mut |event| events.push(event)).unwrap();
        server.exchanges.insert(id, routed.exchange);
        server.take(events, &mut self.outcome);
    }
}

impl Server {
    fn take(&mut self, events: Vec<Event>, outcome: &mut Outcome) {
        for event in events {
            let Some(exchange) = self.exchanges.get_mut(&event.id) else { panic!("{event:?}") };
            match event.kind {
                EventKind::FirstToken { .. } => {
                    let content_type = HeaderValue::from_static("text/event-stream");
                    let headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type)]);
                    let status = StatusCode::OK;
                    let head =
                        ResponseHead { status, headers: &headers, served: None, from_proxy: false };
                    exchange.on_headers(&head);
                    exchange.on_chunk("data: {}\n\n".into());
                }
                EventKind::Finished(end) => {
                    exchange.end(EndCause::Natural);
                    self.exchanges.remove(&event.id);
                    outcome.prompt_tokens += u64::from(end.prompt_tokens);
                    outcome.cached_tokens += u64::from(end.cached_tokens);
                    outcome.total_ttft += end.timings.first_token.since(end.timings.arrived);
                    outcome.ended = outcome.ended.max(event.at);
                }
                kind => panic!("{kind:?} was not asked for"),
            }
        }
    }
}

fn arrival(row: &TraceRow) -> Stamp {
    Stamp::ORIGIN + Duration::from_millis(row.timestamp)
}

/// Plays the trace in a runtime of its own, whose clock jumps from event to event.
fn play(seed: u64, config: &str, picker: Option<&PluginDef>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let outcome = runtime.block_on(async {
        let replay = Replay::new(seed, config, picker);
        let router = Arc::clone(&replay.router.router);
        let metrics = replay.router.metrics.clone();
        let outcome = replay.run(&trace()).await;
        assert_eq!(router.budget().held(), 0);
        drop(router);
        let page = metrics.encode(router_telemetry::metrics::Format::Text);
        let running = page.lines().find(|line| line.starts_with("llm_d_epp_request_running{"));
        assert!(running.is_some_and(|line| line.ends_with(" 0")), "{running:?}");
        outcome
    });
    assert_eq!(outcome.decisions.len(), 2_000);
    outcome
}

#[test]
fn one_seed_gives_one_course() {
    let first = play(1, "", None);
    assert_eq!(first, play(1, "", None), "the same seed");
    assert_ne!(first.decisions, play(2, "", None).decisions, "another seed");
}

#[test]
fn prefix_reuse_beats_round_robin() {
    let turns = play(1, "", Some(&ROUND_ROBIN));
    let in_turn = |(at, decision): (usize, &usize)| at % N_SERVERS == *decision;
    assert!(turns.decisions.iter().enumerate().all(in_turn));
    let (preset, in_flight) = (play(1, "", None), play(1, WITH_IN_FLIGHT, None));
    let told = |outcome: &Outcome| {
        format!("{:.3} reused, first token after {:?}", outcome.reuse(), outcome.mean_ttft())
    };
    let told = format!(
        "preset: {}; with in-flight requests: {}; in turn: {}",
        told(&preset),
        told(&in_flight),
        told(&turns)
    );
    println!("{told}");
    assert!(preset.reuse() > 2.0 * turns.reuse(), "{told}");
    assert!(in_flight.reuse() > 2.0 * turns.reuse(), "{told}");
    assert!(in_flight.mean_ttft() < turns.mean_ttft(), "{told}");
}
