//! What a server gets and what a client gets are the bytes that the other side sent.

use anyhow::ensure;
use router_sim::server::Outcome as Served;
use router_testkit::process::poll_until;
use serde_json::json;

use crate::system::{
    Front, Outcome, Plan, World,
    client::{Call, hash},
    world::{LIMIT, header},
};

/// JSON that a parser would not write back as it is.
const ODD: &str = "\r\n{ \"messages\" : [{\"role\":\"user\",\"content\":\"\\u00e4\\/ \u{e4} \\ud83d\\ude80\"}],\
    \"temperature\":1.0e0,\"unknown\":{\"b\":12345678901234567890123,\"a\":-0.0},\
    \"x\":1,\"x\":2 , \"model\":\"sim-model\",\t\"max_tokens\":7}\n\n";

pub(crate) async fn unchanged(front: Front) -> Outcome {
    // Steps of 150 us, so that streams come in pieces.
    let plan = Plan::new(front, 2).sim(json!({ "time-factor": 0.02 }));
    plan.run(async |world| {
        let prompt = "lorem ipsum dolor sit amet ".repeat(400);
        let calls = [
            Call::post("/v1/chat/completions", ODD),
            Call::post("/v1/chat/completions", ODD).pieces(1),
            Call::json("/v1/chat/completions", &chat(&prompt, true, 500)),
            Call::json("/v1/chat/completions", &chat(&prompt, false, 50)).pieces(1000),
            Call::json("/v1/completions", &json!({
                "model": "sim-model", "prompt": prompt, "max_tokens": 300, "ignore_eos": true, "stream": true,
            })),
            Call::json("/v1/responses", &json!({
                "model": "sim-model", "input": "x", "max_output_tokens": 50, "stream": true,
            })),
            Call::json("/v1/messages", &json!({
                "model": "sim-model", "max_tokens": 50, "stream": true,
                "messages": [{ "role": "user", "content": "x" }],
            })),
            Call::json("/v1/embeddings", &json!({
                "model": "sim-model", "input": vec!["x"; 20], "dimensions": 4096,
            })),
            // A server's own error is an answer like any other.
            Call::json("/v1/completions", &json!({ "model": "no-such-model", "prompt": "x" })),
        ];
        for (nth, call) in calls.into_iter().enumerate() {
            same(world, format!("h1-{nth}"), call.clone(), false).await?;
            same(world, format!("h2-{nth}"), call, true).await?;
        }
        Ok(())
    })
    .await
}

/// Sends a request and compares what both sides saw of it.
async fn same(world: &World, id: String, call: Call, is_http2: bool) -> Outcome {
    let client = if is_http2 { world.client().http2() } else { world.client() };
    let sent = call.body.concat();
    let answer = client.send(call.id(&id)).await?;
    let (_, record) = world.record(&id).await?;
    ensure!(record.body_bytes == sent.len() as u64, "{id}: {} bytes arrived", record.body_bytes);
    ensure!(record.body_xxh64 == hash(&sent), "{id}: the server got other bytes");
    let length = header(&record, "content-length");
    // Envoy removes it in full-duplex mode, whatever the picker sets.
    let is_right = match length {
        None => world.front != Front::Serve,
        Some(length) => length == sent.len().to_string(),
    };
    ensure!(is_right, "{id}: the server saw another length in {:?}", record.headers);
    ensure!(Some(answer.status) == record.status, "{id}: {} is not {record:?}", answer.status);
    ensure!(
        record.sent_bytes == answer.body.len() as u64,
        "{id}: {} bytes came",
        answer.body.len()
    );
    ensure!(record.sent_xxh64 == answer.hash(), "{id}: the client got other bytes");
    Ok(())
}

fn chat(prompt: &str, stream: bool, n_tokens: u32) -> serde_json::Value {
    json!({
        "model": "sim-model", "messages": [{ "role": "user", "content": prompt }],
        "max_tokens": n_tokens, "ignore_eos": true, "stream": stream,
    })
}

pub(crate) async fn left(front: Front) -> Outcome {
    // Steps of 10 ms: the answers would take far longer than this test may.
    let plan = Plan::new(front, 1).sim(json!({ "time-factor": 1, "step-base-us": 10_000 }));
    plan.run(async |world| {
        let streamed = Call::json("/v1/chat/completions", &chat("x", true, 100_000)).id("streamed");
        let mut opened = world.client().open(streamed).await?;
        ensure!(opened.status == 200 && opened.piece().await?.is_some(), "nothing came");
        drop(opened);
        cancelled(world, "streamed").await?;
        let whole = Call::json("/v1/chat/completions", &chat("x", false, 100_000)).id("whole");
        let client = world.client();
        tokio::select! {
            answer = client.send(whole) => anyhow::bail!("there is an answer already: {answer:?}"),
            arrived = arrived(world, "whole") => arrived?,
        }
        // A connection outlives the request that was dropped on it, unless the client closes it.
        drop(client);
        cancelled(world, "whole").await
    })
    .await
}

async fn arrived(world: &World, id: &str) -> Outcome {
    let seen = || async { world.records(id).first().map(drop) };
    anyhow::Context::context(poll_until(LIMIT, seen).await, "the request does not arrive")
}

async fn cancelled(world: &World, id: &str) -> Outcome {
    let ended = || async {
        let (_, record) = world.records(id).pop()?;
        (record.outcome == Served::Cancelled).then_some(())
    };
    ensure!(poll_until(LIMIT, ended).await.is_some(), "{:?}", world.records(id));
    let signals = world.server(0).signals();
    ensure!(signals.running == 0, "the engine goes on with a request that nobody waits for");
    Ok(())
}
