//! Requests that are answered by the router itself, and say why.

use anyhow::{Context, ensure};
use http::HeaderName;
use router_core::header::{DROPPED_REASON, OBJECTIVE, OBJECTIVE_ALIAS};
use router_sim::server::{FakeMetrics, Runtime};
use serde_json::json;

use crate::system::{
    Front, Outcome, Plan, World,
    client::{Answer, Call},
    document,
};

const CHAT: &str = "/v1/chat/completions";

fn chat() -> Call {
    let messages = json!([{ "role": "user", "content": "x" }]);
    Call::json(CHAT, &json!({ "model": "sim-model", "messages": messages, "max_tokens": 2 }))
}

pub(crate) async fn bad_requests(front: Front) -> Outcome {
    Plan::new(front, 1)
        .flag("--max-body-bytes=1Mi")
        .run(async |world| {
            let deep = format!(
                "{{\"model\":\"m\",\"messages\":{}{}}}",
                "[".repeat(5000),
                "]".repeat(5000)
            );
            let encoded = |coding: &str| chat().header("content-encoding", coding);
            let cases: [(&str, Call, u16); 12] = [
                ("no JSON", Call::post(CHAT, "x"), 400),
                ("cut JSON", Call::post(CHAT, r#"{"model":"sim-model","messages":[{"#), 400),
                ("a second document", Call::post(CHAT, r#"{"model":"m","messages":[]} {}"#), 400),
                ("an array", Call::post(CHAT, r#"[{"model":"m"}]"#), 400),
                (
                    "invalid UTF-8",
                    Call::post(CHAT, b"{\"model\":\"\xff\xfe\",\"messages\":[]}".to_vec()),
                    400,
                ),
                ("no prompt", Call::json(CHAT, &json!({ "model": "m" })), 400),
                ("no model", Call::json(CHAT, &json!({ "messages": [] })), 400),
                (
                    "a model of another type",
                    Call::json(CHAT, &json!({ "model": 5, "messages": [] })),
                    400,
                ),
                ("deep nesting", Call::post(CHAT, deep), 400),
                ("an unknown coding", encoded("zstd-of-the-future"), 415),
                ("a long body", Call::post(CHAT, vec![b' '; (1 << 20) + 1]), 413),
                (
                    "a long body in pieces",
                    Call::post(CHAT, vec![b' '; 3 << 20]).pieces(1 << 16),
                    413,
                ),
            ];
            for (what, call, status) in cases {
                // Over HTTP/1 Envoy cuts the connection of a client that still sends; it may miss the answer.
                let is_long = status == 413 && world.front != Front::Serve;
                let client = if is_long { world.client().http2() } else { world.client() };
                let answer = client.send(call).await.context(what)?;
                ensure!(answer.status == status, "{what}: {} {}", answer.status, answer.text());
                ensure!(answer.port().is_none(), "{what}: it went to a server");
                if status == 400 {
                    ensure!(answer.text().contains("BadRequest"), "{what}: {}", answer.text());
                }
            }
            let received: u64 = world.received().iter().sum();
            ensure!(received == 0, "{received} bad requests reached a server");
            let answer = world.client().send(chat()).await?;
            ensure!(answer.status == 200, "a good request is answered {}", answer.text());
            Ok(())
        })
        .await
}

pub(crate) async fn saturated(front: Front) -> Outcome {
    let objectives = [("batch", -10), ("critical", 10)]
        .map(|(name, priority)| document::objective(name, priority))
        .join("\n---\n");
    Plan::new(front, 2)
        .resources(objectives)
        .run(async |world| {
            let ask = async |name: &HeaderName, objective: &str| {
                let named = |call: Call| call.header(name.as_str(), objective);
                let call = if objective.is_empty() { chat() } else { named(chat()) };
                world.client().send(call).await
            };
            for name in &[OBJECTIVE, OBJECTIVE_ALIAS] {
                let answer = ask(name, "batch").await?;
                ensure!(answer.status == 200, "an idle pool answers {}", answer.text());
            }
            fill(world, Some(100.0)).await?;
            for name in &[OBJECTIVE, OBJECTIVE_ALIAS] {
                dropped(&ask(name, "batch").await?, 429, "rejected-saturated")?;
            }
            for objective in ["", "critical", "unknown"] {
                let answer = ask(&OBJECTIVE, objective).await?;
                ensure!(answer.status == 200, "{objective:?} is answered {}", answer.text());
            }
            fill(world, None).await?;
            let answer = ask(&OBJECTIVE, "batch").await?;
            ensure!(answer.status == 200, "the pool is idle again: {}", answer.text());
            // No endpoint is another thing than no room.
            world.list(&[])?;
            world.until_answered("an empty pool", chat, |answer| answer.status == 503).await?;
            dropped(&ask(&OBJECTIVE, "batch").await?, 503, "rejected-no-endpoints")?;
            dropped(&ask(&OBJECTIVE, "").await?, 503, "rejected-no-endpoints")
        })
        .await
}

/// Lets all servers show so many waiting requests, or the truth.
async fn fill(world: &World, waiting_requests: Option<f64>) -> Outcome {
    for server in world.sim.servers() {
        let fake_metrics =
            waiting_requests.map(|n| FakeMetrics { waiting_requests: n, ..FakeMetrics::default() });
        server.set_runtime(Runtime { fake_metrics, ..Runtime::default() })?;
    }
    for server in world.sim.servers() {
        world.scraped(server).await?;
    }
    Ok(())
}

/// The answer is the router's own, with this status and reason, and says when to come again.
pub(crate) fn dropped(answer: &Answer, status: u16, reason: &str) -> Outcome {
    let said = answer.header(DROPPED_REASON.as_str());
    ensure!(answer.status == status, "{} instead of {status}: {}", answer.status, answer.text());
    ensure!(said == Some(reason), "{said:?} instead of {reason}");
    let after = answer.header("retry-after").and_then(|after| after.parse::<u32>().ok());
    ensure!(after.is_some_and(|seconds| seconds >= 1), "retry-after in {:?}", answer.headers);
    Ok(())
}
