//! Heads on their way in and out.

use anyhow::{Context, ensure};
use http::{HeaderMap, HeaderValue, Method};
use router_core::header::{CONTROL, DESTINATION, MODEL_REWRITE, MODEL_REWRITE_ALIAS};
use serde_json::json;

use crate::system::{
    Front, Outcome, Plan,
    client::{Call, hash},
    world::header,
};

const FORGED: &str = "127.0.0.1:9";

fn chat(content: &str) -> Call {
    let body = json!({
        "model": "sim-model", "max_tokens": 3, "messages": [{ "role": "user", "content": content }],
    });
    Call::json("/v1/chat/completions", &body)
}

pub(crate) async fn forged(front: Front) -> Outcome {
    Plan::new(front, 3)
        .run(async |world| {
            for number in 0..12 {
                let id = format!("forged-{number}");
                let mut call = chat(&format!("{number} of its own")).id(&id);
                for name in &CONTROL {
                    // Another model name is followed, not forwarded: its own test.
                    if *name != MODEL_REWRITE && *name != MODEL_REWRITE_ALIAS {
                        call = call.header(name.as_str(), FORGED).header(name.as_str(), "forged");
                    }
                }
                let answer = world.client().send(call).await?;
                ensure!(answer.status == 200, "{id}: {}", answer.text());
                let (number, record) = world.record(&id).await?;
                for (name, value) in &record.headers {
                    let is_forged = value.contains(FORGED) || value.contains("forged");
                    ensure!(!is_forged || value == &id, "{name}: {value} reached the server");
                    let is_control = CONTROL.iter().any(|control| control.as_str() == name);
                    // Envoy is told by this header where to send the request.
                    let is_ours = *name == DESTINATION.as_str()
                        && *value == world.server(number).address().to_string();
                    ensure!(!is_control || is_ours, "{name}: {value} reached the server");
                }
            }
            let received = world.received();
            ensure!(received.iter().sum::<u64>() == 12, "{received:?}");
            Ok(())
        })
        .await
}

pub(crate) async fn request_id(front: Front) -> Outcome {
    Plan::new(front, 1)
        .run(async |world| {
            let answer = world.client().send(chat("x").id("without")).await?;
            let (_, record) = world.record("without").await?;
            let id = header(&record, "x-request-id").context("the server saw no request id")?;
            ensure!(id.len() == 36, "{id} is no UUID");
            if world.front == Front::Serve {
                ensure!(answer.header("x-request-id") == Some(id), "the client saw another id");
            }
            let own = "4f1c7a9e-0000-4000-8000-1234567890ab";
            world.client().send(chat("x").id("with").header("x-request-id", own)).await?;
            let (_, record) = world.record("with").await?;
            let ids: Vec<_> =
                record.headers.iter().filter(|(name, _)| name == "x-request-id").collect();
            ensure!(ids.len() == 1, "{ids:?}");
            // Envoy replaces ids of clients that it does not trust, as configured here it trusts all.
            ensure!(ids[0].1 == own, "the client's id became {ids:?}");
            Ok(())
        })
        .await
}

pub(crate) async fn bodyless(front: Front) -> Outcome {
    Plan::new(front, 2)
        .run(async |world| {
            for client in [world.client(), world.client().http2()] {
                let answer = client.send(Call::get("/version")).await?;
                ensure!(
                    answer.status == 200 && answer.json()?["version"].is_string(),
                    "{answer:?}"
                );
                let answer = client.send(Call::get("/no/such/path?x=y")).await?;
                ensure!(answer.status == 404 && answer.port().is_some(), "{answer:?}");
                // A head that announces a body which does not follow.
                let answer = client.send(Call::method(Method::HEAD, "/version")).await?;
                ensure!(answer.body.is_empty() && answer.port().is_some(), "{answer:?}");
                let answer = client.send(Call::method(Method::DELETE, "/sim/stats")).await?;
                ensure!(answer.status == 204 && answer.body.is_empty(), "{answer:?}");
                let answer = client.send(Call::method(Method::POST, "/reset_prefix_cache")).await?;
                ensure!(answer.status == 200, "{answer:?}");
            }
            // HTTP/2 alone can end a body with trailers through Envoy.
            let trailers = HeaderMap::from_iter([(
                http::HeaderName::from_static("x-checksum"),
                HeaderValue::from_static("1"),
            )]);
            let call = chat("x").pieces(10).trailers(trailers).id("trailers");
            let sent = call.body.concat();
            let answer = world.client().http2().send(call).await?;
            ensure!(answer.status == 200, "{}", answer.text());
            let (_, record) = world.record("trailers").await?;
            ensure!(record.body_xxh64 == hash(&sent), "the body before trailers is another");
            Ok(())
        })
        .await
}
