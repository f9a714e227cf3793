//! What a request costs with the document that runs where none is given, beside the preset `go-default` in the
//! same run: the decision, and all leases from the pick over the first byte to the end.
//!
//! Every endpoint has answered before, so all that can be learned has been, and all signals are fresh. Prompts
//! have 1,000 and 30,000 tokens, of which nothing, or nine tenths, is cached on two endpoints or on all. The two
//! presets take turns of some requests each; a figure is the CPU time of the median turn, so that what else the
//! machine does counts little. Long prompts are hashed in place here; the router does it on another thread.
//!
//! The ratio to look at is the default over `go-default` at 1,000 endpoints: 1.6 with the short prompts, 1.35 with the
//! long ones, and 2.0 where only two have them and more should (160, 250 and 345 µs on one core, optimized without
//! LTO): some 65 ns for each endpoint, and as much again where what a copy saves is asked.

#![allow(clippy::unwrap_used, reason = "a bench stops where it cannot go on")]
#![allow(clippy::print_stdout, reason = "the table is for people")]

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use router_bench::payload::{Payloads, Shape};
use router_core::Stamp;
use router_engine::{ResponseHead, Routed};
use router_framework::{EndCause, RequestHead, SubsetHint, document::preset};
use router_testkit::router::{RouterBuilder, TestRouter, head, with_header};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;

/// Tokens of text are estimated by bytes.
const BYTES_PER_TOKEN: usize = 4;
const CHUNK_BYTES: usize = 16 * 1024;
/// Turns of each preset, and requests of a turn.
const N_TURNS: usize = 15;
const TURN: u64 = 40;
/// A prompt with which every endpoint is asked once. Tokens.
const FIRST_TOKENS: usize = 300;

const ANSWER: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n";
const LAST: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1000,\"completion_tokens\":20,\
                    \"prompt_tokens_details\":{\"cached_tokens\":0}}}\n\ndata: [DONE]\n\n";

/// Who has the first nine tenths of every prompt.
#[derive(Clone, Copy, Debug)]
enum Shared {
    Nobody,
    ByTwo,
    ByAll,
}

struct World {
    router: TestRouter,
    runtime: Runtime,
    payloads: Payloads,
    n_sent: u64,
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn payloads(n_tokens: usize, is_shared: bool) -> Payloads {
    let size = n_tokens * BYTES_PER_TOKEN;
    let shared = if is_shared { size / 10 * 9 } else { 0 };
    let model = "llama-3.1-8b".to_owned();
    Payloads::new(&Shape { model, size, shared, n_groups: 1, stream: true, run_tag: 7 })
}

impl World {
    fn new(document: &str, n_endpoints: usize, n_tokens: usize, shared: Shared) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let inside = runtime.enter();
        let router = RouterBuilder::new(document).endpoints(n_endpoints).build();
        drop(inside);
        for at in 0..n_endpoints {
            router.endpoint(at).signal_cell().update(|signals| {
                signals.waiting = (at % 3) as f64;
                signals.running = (at % 7) as f64;
                signals.kv_usage = (at % 101) as f64 / 101.0;
                signals.block_size = 16.0;
                signals.n_blocks = 1_000_000.0;
                // Never old.
                signals.scraped_at = Stamp::from_nanos(u64::MAX);
            });
        }
        let payloads = payloads(n_tokens, !matches!(shared, Shared::Nobody));
        let mut world = Self { router, runtime, payloads, n_sent: 0 };
        let first = self::payloads(FIRST_TOKENS, false);
        let n_holders = match shared {
            Shared::Nobody => 0,
            Shared::ByTwo => 2,
            Shared::ByAll => n_endpoints,
        };
        for at in 0..n_endpoints {
            world.answer_from(at, &first.body(at as u64));
        }
        for at in 0..n_holders {
            let body = world.next_body();
            world.answer_from(at, &body);
        }
        world
    }

    fn answer_from(&self, at: usize, body: &Bytes) {
        let only = SubsetHint::Only(vec![self.router.endpoint(at).authority().to_owned()]);
        answer(self.decide(RequestHead { subset: only, ..request() }, body));
    }

    fn next_body(&mut self) -> Bytes {
        self.n_sent += 1;
        self.payloads.body(self.n_sent)
    }

    fn decide(&self, head: RequestHead, body: &Bytes) -> Routed {
        let received = self.router.clock().now();
        let (mut feed, decision) = self.router.begin(RequestHead { received, ..head });
        body.chunks(CHUNK_BYTES).for_each(|chunk| feed.push(&body.slice_ref(chunk)));
        feed.end();
        self.runtime.block_on(decision).unwrap()
    }

    /// CPU time of one turn.
    fn turn(&mut self) -> Duration {
        let bodies: Vec<Bytes> = (0..TURN).map(|_| self.next_body()).collect();
        let started = cpu();
        for body in &bodies {
            answer(self.decide(request(), body));
        }
        cpu().saturating_sub(started)
    }
}

/// A request as Envoy sends it on.
fn request() -> RequestHead {
    let headers = [
        ("host", "llm.example.com"),
        ("content-type", "application/json"),
        ("authorization", "Bearer 0123456789abcdef0123456789abcdef"),
        ("x-request-id", "0b7b2f0e-2f0c-4f5e-9d4e-5d6a8c1f0e11"),
    ];
    let plain = head("/v1/chat/completions");
    headers.into_iter().fold(plain, |head, (name, value)| with_header(head, name, value))
}

/// The endpoint streams a short answer.
fn answer(mut routed: Routed) {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", http::HeaderValue::from_static("text/event-stream"));
    let status = StatusCode::OK;
    let head = ResponseHead { status, headers: &headers, served: None, from_proxy: false };
    routed.exchange.on_headers(&head);
    routed.exchange.on_chunk(Bytes::from_static(ANSWER.as_bytes()));
    routed.exchange.on_chunk(Bytes::from_static(LAST.as_bytes()));
    routed.exchange.end(EndCause::Natural);
}

/// Microseconds that a request of the median turn takes.
fn median(mut turns: Vec<Duration>) -> f64 {
    turns.sort_unstable();
    turns[turns.len() / 2].as_secs_f64() * 1e6 / TURN as f64
}

fn main() {
    // `cargo bench` says so; anything else only wants to know that it runs.
    let n_turns = if std::env::args().any(|arg| arg == "--bench") { N_TURNS } else { 1 };
    println!("endpoints  prompt  cached by  go-default us  default us  ratio");
    for n_endpoints in [10, 100, 1_000] {
        for n_tokens in [1_000, 30_000] {
            for shared in [Shared::Nobody, Shared::ByTwo, Shared::ByAll] {
                let of = |preset: preset::Preset| {
                    World::new(preset.document, n_endpoints, n_tokens, shared)
                };
                let mut worlds = [of(preset::GO_DEFAULT), of(preset::ESTIMATED_TTFT)];
                let mut turns = [Vec::new(), Vec::new()];
                for _ in 0..n_turns {
                    for (world, turns) in worlds.iter_mut().zip(&mut turns) {
                        turns.push(world.turn());
                    }
                }
                let [go, own] = turns.map(median);
                println!(
                    "{n_endpoints:9}  {n_tokens:6}  {:9}  {go:13.1}  {own:10.1}  {:5.2}",
                    format!("{shared:?}"),
                    own / go
                );
            }
        }
    }
}
