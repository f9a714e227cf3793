//! Decisions that depend on earlier ones: the producers, with the picks that were recorded, must give the
//! scores of the Go implementation bit for bit.

use bytes::Bytes;
use http::Method;
use router_core::{Endpoint, LoraSignals, Stamp};
use router_framework::{Instance, PluginDef, RequestHead, SubsetHint, Workbench};
use router_plugins::{parser, producer, scorer};
use router_testkit::pipeline::{PipelineBuilder, endpoints, request};

use crate::go_decisions::{Decision, Server, decisions, parameters};

fn report(server: &Server, endpoint: &Endpoint, now: Stamp) {
    endpoint.signal_cell().update(|signals| {
        (signals.waiting, signals.running) = (server.waiting, server.running);
        signals.kv_usage = server.kv.get().parse().unwrap();
        (signals.block_size, signals.n_blocks) = (16.0, 4096.0);
        signals.scraped_at = now;
    });
    endpoint.set_lora(LoraSignals::default());
}

/// The request as it came: a chat with one message of the user.
fn parsed(decision: &Decision) -> router_framework::ParsedRequest {
    let body = serde_json::json!({
        "model": decision.model,
        "messages": [{ "role": "user", "content": decision.prompt }],
    });
    let parser = Workbench::new().unwrap().plugin(&parser::openai::PLUGIN, "p", "").unwrap();
    let head = RequestHead {
        method: Method::POST,
        path_and_query: "/v1/chat/completions".into(),
        headers: http::HeaderMap::new(),
        subset: SubsetHint::All,
        end_of_stream: false,
        received: Stamp::ORIGIN,
    };
    let mut body_parser = parser.parser.unwrap().begin(&head).unwrap();
    body_parser.push(&Bytes::from(body.to_string())).unwrap();
    body_parser.finish().unwrap()
}

async fn check(case: &str, producers: &[&PluginDef], scorers: &[(&PluginDef, f64)]) {
    let decisions = decisions(case);
    let config = decisions[0].config.clone();
    let params = |def: &PluginDef| {
        if config.contains(def.plugin_type) {
            parameters(&config, def.plugin_type)
        } else {
            String::new()
        }
    };
    let mut builder = PipelineBuilder::new();
    for def in producers {
        builder.plugin(def, &params(def));
    }
    let scorers: Vec<(Instance, f64)> =
        scorers.iter().map(|(def, weight)| (builder.plugin(def, &params(def)), *weight)).collect();
    let mut pipeline = builder.build();
    pipeline.replace(endpoints(4));
    for (row, decision) in decisions.iter().enumerate() {
        for (at, server) in decision.servers.iter().enumerate() {
            report(server, &pipeline.endpoint(at), pipeline.now);
        }
        let turn = pipeline.begin(request(&decision.model, parsed(decision))).await;
        let mut totals = vec![0.0; decision.servers.len()];
        for (scorer, weight) in &scorers {
            for (total, score) in totals.iter_mut().zip(turn.scores(scorer)) {
                *total += score.clamp(0.0, 1.0) * weight;
            }
        }
        let recorded: Vec<f64> = decision
            .scores
            .iter()
            .map(|score| score.as_ref().unwrap().get().parse().unwrap())
            .collect();
        assert_eq!(totals, recorded, "{case}, row {row}");
        turn.pick(&[("default", &[decision.picked as u32])]).served();
    }
}

const PREFIX: [&PluginDef; 2] = [&producer::token::PLUGIN, &producer::approx_prefix_cache::PLUGIN];

#[tokio::test]
async fn prefix() {
    check("prefix", &PREFIX, &[(&scorer::prefix_cache::PLUGIN, 1.0)]).await;
}

#[tokio::test]
async fn default() {
    let scorers: [(&PluginDef, f64); 3] = [
        (&scorer::queue::PLUGIN, 2.0),
        (&scorer::kv_cache_utilization::PLUGIN, 2.0),
        (&scorer::prefix_cache::PLUGIN, 3.0),
    ];
    check("default", &PREFIX, &scorers).await;
}

#[tokio::test]
async fn token_load() {
    let producers: [&PluginDef; 2] = [&producer::token::PLUGIN, &producer::inflight_load::PLUGIN];
    check("token-load", &producers, &[(&scorer::token_load::PLUGIN, 1.0)]).await;
}
