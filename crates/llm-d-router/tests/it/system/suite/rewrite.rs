//! Another model name towards the server, the client's own name back.

use anyhow::ensure;
use router_core::header::{MODEL_REWRITE, MODEL_REWRITE_ALIAS};
use router_testkit::canary::{self, CANARY, STABLE};
use serde_json::{Value, json};

use crate::system::{
    Front, Outcome, Plan, World,
    client::{Call, hash},
};

const ASKED: &str = "public";
const TARGET: &str = "target-model";

pub(crate) async fn restored(front: Front) -> Outcome {
    // Steps of 150 us, so that streams come in pieces; the text names the model as a field would.
    let plan = Plan::new(front, 2).sim(json!({
        "model": TARGET, "time-factor": 0.02, "mode": "echo",
    }));
    plan.run(async |world| {
        let text = r#"a text with "model":"public" and "model":"target" in it, and "public" too"#;
        let messages = json!([{ "role": "user", "content": text }]);
        let chat = json!({ "messages": messages, "max_tokens": 60, "model": ASKED, "n": 2 });
        let completion = json!({ "model": ASKED, "prompt": text, "max_tokens": 60 });
        let message = json!({ "model": ASKED, "messages": messages, "max_tokens": 60 });
        let response = json!({ "model": ASKED, "input": text, "max_output_tokens": 60 });
        let cases = [
            ("/v1/chat/completions", chat),
            ("/v1/completions", completion),
            ("/v1/messages", message),
            ("/v1/responses", response),
        ];
        for (path, body) in cases {
            for stream in [false, true] {
                let mut body = body.clone();
                body["stream"] = json!(stream);
                check(world, path, &body).await?;
            }
        }
        Ok(())
    })
    .await
}

async fn check(world: &World, path: &str, body: &Value) -> Outcome {
    for name in [&MODEL_REWRITE, &MODEL_REWRITE_ALIAS] {
        let id = format!("{path} {} {name}", body["stream"]);
        let call = Call::json(path, body).id(&id).header(name.as_str(), TARGET);
        let sent = body.to_string();
        let answer = world.client().send(call).await?;
        ensure!(answer.status == 200, "{id}: {}", answer.text());
        let (_, record) = world.record(&id).await?;
        let field = |model: &str| format!(r#""model":"{model}""#);
        let expected = sent.replacen(&field(ASKED), &field(TARGET), 1);
        ensure!(expected != sent, "{id}: the body has no model");
        ensure!(record.body_xxh64 == hash(expected.as_bytes()), "{id}: the server got other bytes");
        // The only differences are the restored fields: undone, these are the server's bytes.
        let got = answer.text();
        ensure!(got.contains(&field(ASKED)), "{id}: the asked name is not in {got}");
        let undone = got.replace(&field(ASKED), &field(TARGET));
        ensure!(record.sent_xxh64 == hash(undone.as_bytes()), "{id}: other bytes came: {got}");
    }
    Ok(())
}

/// One in ten requests is for an adapter.
pub(crate) async fn canary(front: Front) -> Outcome {
    const N_REQUESTS: usize = 400;
    let plan = Plan::new(front, 2).resources(canary::MANIFEST.to_owned()).flag("--seed=1");
    let adapter = json!({ "name": CANARY, "path": "/canary" });
    let plan = plan.sim(json!({ "model": STABLE, "lora-modules": [adapter] }));
    plan.run(async |world| {
        for n in 0..N_REQUESTS {
            let body = json!({
                "model": canary::ASKED, "max_tokens": 2, "stream": n.is_multiple_of(2),
                "messages": [{ "role": "user", "content": "hello" }],
            });
            let answer = world.client().send(Call::json("/v1/chat/completions", &body)).await?;
            let text = answer.text();
            ensure!(answer.status == 200, "{}: {text}", answer.status);
            ensure!(text.contains(r#""model":"m""#), "{text}");
            ensure!(!text.contains(STABLE) && !text.contains(CANARY), "{text}");
        }
        let page = world.page("/metrics").await?;
        let [n_stable, n_canary] = [STABLE, CANARY].map(|target| canary::decided(&page, target));
        ensure!(n_stable + n_canary == N_REQUESTS as f64, "{n_stable} and {n_canary}\n{page}");
        ensure!(canary::is_its_share(n_canary, N_REQUESTS), "{n_canary} of {N_REQUESTS}");
        Ok(())
    })
    .await
}
