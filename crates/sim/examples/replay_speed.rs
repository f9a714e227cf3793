//! How fast the engine model replays a trace: `replay_speed TRACE.jsonl [SERVERS]`, with one JSON object per line
//! (`timestamp` in ms, `input_length`, `output_length`, `hash_ids` of 512-token blocks), round robin.

#![allow(clippy::print_stdout, clippy::expect_used)]

use std::env;

use router_core::time::Stamp;
use router_sim::model::{BlockHash, Engine, EngineRequest, EventKind, Finished, Fleet, Profile};
use serde::Deserialize;
use tokio::time::Instant;

const TRACE_BLOCK: u64 = 512;

#[derive(Deserialize)]
struct Row {
    timestamp: u64,
    input_length: u32,
    output_length: u32,
    hash_ids: Vec<u64>,
}

fn main() {
    let mut args = env::args().skip(1);
    let path = args.next().expect("the path of a trace");
    let n_servers = args.next().map_or(8, |n| n.parse().expect("a number of servers"));
    let text = std::fs::read_to_string(path).expect("a readable trace");
    let rows: Vec<Row> =
        text.lines().map(|line| serde_json::from_str(line).expect("a row of the trace")).collect();

    let engine = |seed| Engine::new(Profile::default(), seed).expect("the default profile");
    let mut fleet = Fleet::new((0..n_servers).map(engine).collect());
    let per_block = TRACE_BLOCK / u64::from(Profile::default().block_size);
    let (mut ends, mut refused) = (Vec::new(), 0);
    let started = Instant::now();
    for (nth, row) in rows.iter().enumerate() {
        let now = Stamp::from_nanos(row.timestamp * 1_000_000);
        while let Some(at) = fleet.next_event().filter(|&at| at < now) {
            fleet.advance(at, &mut |_, event| keep(&mut ends, event.kind));
        }
        let chain = row
            .hash_ids
            .iter()
            .flat_map(|id| (0..per_block).map(move |nth| BlockHash(id * per_block + nth)));
        let full = row.input_length / Profile::default().block_size;
        let request = EngineRequest {
            chain: chain.take(full as usize).collect(),
            ..EngineRequest::new(row.input_length, row.output_length)
        };
        let engine = fleet.engine_mut(nth % n_servers as usize).expect("an engine");
        let outcome = engine.submit(now, request, &mut |event| keep(&mut ends, event.kind));
        refused += usize::from(outcome.is_err());
    }
    while let Some(at) = fleet.next_event() {
        fleet.advance(at, &mut |_, event| keep(&mut ends, event.kind));
    }
    let wall = started.elapsed();

    let counters: Vec<_> = fleet.engines().iter().map(|engine| engine.signals().counters).collect();
    let steps: u64 = counters.iter().map(|counters| counters.steps).sum();
    let hits: u64 = counters.iter().map(|counters| counters.prefix_cache_hits).sum();
    let queries: u64 = counters.iter().map(|counters| counters.prefix_cache_queries).sum();
    let mut ttft: Vec<f64> = ends
        .iter()
        .map(|end| end.timings.first_token.since(end.timings.arrived).as_secs_f64())
        .collect();
    ttft.sort_by(f64::total_cmp);
    let at =
        |share: f64| ttft.get((ttft.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    println!(
        "{} requests on {n_servers} servers in {wall:.2?}: {steps} steps, {refused} refused, \
         {:.1} % of prompt tokens cached, TTFT p50 {:.3} s p99 {:.3} s",
        rows.len(),
        100.0 * hits as f64 / queries as f64,
        at(0.5),
        at(0.99),
    );
}

fn keep(ends: &mut Vec<Finished>, kind: EventKind) {
    if let EventKind::Finished(end) = kind {
        ends.push(end);
    }
}
