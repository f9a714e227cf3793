//! The decisions of the Go endpoint picker, taken again by the whole pipeline: the total score of every
//! endpoint must be equal, bit for bit, and absent where a filter dropped the endpoint.
//!
//! Picks among equal scores were random, so a picker of the test follows what was picked.

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, StatusCode};
use router_core::{LoraSignals, Position};
use router_engine::{ResponseHead, Routed};
use router_framework::{
    EndCause, Instance, MAX_TARGETS, NoParams, Picker, PluginDef, RequestCx, Role,
};
use router_rt::Rng;
use router_testkit::router::{RouterBuilder, TestRouter, head, with_header};
use serde::Deserialize;
use serde_json::value::RawValue;
use smallvec::SmallVec;

use crate::testdata;

/// Header in which the test says which endpoint was picked.
const PICKED: &str = "x-test-picked";
const N_ENDPOINTS: usize = 4;

#[derive(Deserialize)]
struct Decision {
    case: String,
    config: String,
    servers: Vec<Server>,
    model: String,
    prompt: String,
    /// As text: the numbers must be read exactly.
    scores: Vec<Option<Box<RawValue>>>,
    picked: usize,
}

#[derive(Deserialize)]
struct Server {
    waiting: f64,
    running: f64,
    kv: Box<RawValue>,
    loras: String,
}

/// Picks the endpoint that the request's header names, instead of the highest score.
struct Scripted;

const SCRIPTED: PluginDef =
    PluginDef::new::<NoParams>("max-score-picker", &[Role::Picker], file!(), |_| {
        Ok(Instance::new().picker(Arc::new(Scripted)))
    });

impl Picker for Scripted {
    fn n_shown(&self) -> usize {
        1
    }

    fn pick(
        &self,
        cx: &RequestCx<'_>,
        scored: &[(Position, f64)],
        _: &mut Rng,
        _: usize,
        ranked: &mut SmallVec<[Position; MAX_TARGETS]>,
    ) {
        let picked = cx.request.head.headers.get(PICKED).and_then(|value| value.to_str().ok());
        let is_it = |position: &Position| {
            cx.endpoint(*position).is_some_and(|endpoint| Some(endpoint.name()) == picked)
        };
        let positions = || scored.iter().map(|(position, _)| *position);
        ranked.extend(positions().filter(is_it));
        ranked.extend(positions().filter(|position| !is_it(position)));
    }
}

fn cases() -> BTreeMap<String, Vec<Decision>> {
    let mut cases: BTreeMap<String, Vec<Decision>> = BTreeMap::new();
    for line in testdata::text("go/decisions.jsonl").lines() {
        let decision: Decision = serde_json::from_str(line).unwrap();
        cases.entry(decision.case.clone()).or_default().push(decision);
    }
    cases
}

fn set_signals(world: &TestRouter, servers: &[Server]) {
    for (at, server) in servers.iter().enumerate() {
        world.publish(at, |signals| {
            signals.waiting = server.waiting;
            signals.running = server.running;
            signals.kv_usage = server.kv.get().parse().unwrap();
            signals.block_size = 16.0;
            signals.n_blocks = 4096.0;
        });
        let loras = server.loras.split(',').filter(|name| !name.is_empty()).map(str::to_owned);
        let active = loras.collect();
        world.endpoint(at).set_lora(LoraSignals { active, waiting: Vec::new(), max_active: 4 });
    }
}

/// The scores by endpoint, as the proxy would get them and as the decision record has them.
fn scores(world: &TestRouter, routed: &Routed) -> Vec<Option<f64>> {
    let emitted = routed.scores.as_ref().unwrap();
    let record = world.decisions().records()[0].clone();
    let rows = &record.profiles[0].candidates;
    let of = |at| {
        let endpoint = world.endpoint(at);
        let emitted = emitted.iter().find(|(address, _)| **address == *endpoint.authority());
        let row = rows.iter().find(|row| row.endpoint == **endpoint.id());
        assert_eq!(row.map(|row| row.total), emitted.map(|(_, score)| *score));
        emitted.map(|(_, score)| *score)
    };
    (0..N_ENDPOINTS).map(of).collect()
}

async fn replay(case: &str, decisions: &[Decision]) {
    let world = RouterBuilder::new(&decisions[0].config.replace("%s", "endpoints.yaml"))
        .plugin(&SCRIPTED)
        .endpoints(N_ENDPOINTS)
        .settings(|settings| {
            settings.emit_endpoint_scores = true;
            settings.decisions.sampling = 1.0;
        })
        .build();
    for (row, decision) in decisions.iter().enumerate() {
        set_signals(&world, &decision.servers);
        let body = serde_json::json!({
            "model": decision.model,
            "messages": [{"role": "user", "content": decision.prompt}],
        });
        let picked = world.endpoint(decision.picked);
        let head = with_header(head("/v1/chat/completions"), PICKED, picked.name());
        let mut routed = world.decide(head, body.to_string()).await.unwrap();
        let recorded = decision.scores.iter();
        let recorded: Vec<Option<f64>> =
            recorded.map(|score| score.as_ref().map(|s| s.get().parse().unwrap())).collect();
        let ours = scores(&world, &routed);
        assert_eq!(ours, recorded, "{case}, row {row}");
        let best = ours.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
        assert_eq!(ours[decision.picked], Some(best), "{case}, row {row}: Go picked the best");
        assert_eq!(routed.targets[0].name(), picked.name());
        let (status, headers) = (StatusCode::OK, HeaderMap::new());
        let response = ResponseHead { status, headers: &headers, served: None, from_proxy: false };
        routed.exchange.on_headers(&response);
        routed.exchange.on_chunk("{}".into());
        routed.exchange.end(EndCause::Natural);
    }
}

#[tokio::test(start_paused = true)]
async fn every_score_of_every_recorded_decision_comes_out_equal() {
    let cases = cases();
    let n_decisions: usize = cases.values().map(Vec::len).sum();
    assert_eq!((cases.len(), n_decisions), (9, 126));
    for (case, decisions) in &cases {
        replay(case, decisions).await;
    }
}
