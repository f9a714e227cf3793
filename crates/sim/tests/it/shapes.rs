//! Answers have the shape of vLLM's.

use serde_json::{Value, json};

use crate::client::{Sim, instant, openai_chunks, sim};

const SAMPLES: &str = include_str!("../../testdata/vllm-http.json");

fn sample(step: &str) -> Value {
    serde_json::from_str::<Value>(SAMPLES).unwrap()[step].take()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Every key that vLLM gives a value is there with a value of that type.
fn check_shape(path: &str, theirs: &Value, ours: &Value, skip: &[&str]) {
    match (theirs, ours) {
        (Value::Null, _) => {}
        (Value::Object(theirs), Value::Object(ours)) => {
            for (key, value) in theirs {
                let path = format!("{path}.{key}");
                if !value.is_null() && !skip.contains(&key.as_str()) {
                    let ours =
                        ours.get(key).unwrap_or_else(|| panic!("{path} is missing in {ours:?}"));
                    check_shape(&path, value, ours, skip);
                }
            }
        }
        (Value::Array(theirs), Value::Array(ours)) => {
            if let Some(first) = theirs.first() {
                check_shape(&format!("{path}[0]"), first, &ours[0], skip);
            }
        }
        _ => assert_eq!(kind(theirs), kind(ours), "{path}: {theirs} and {ours}"),
    }
}

async fn check(sim: &Sim, step: &str, path: &str, body: &Value, skip: &[&str]) {
    let sample = sample(step);
    let reply = if body.is_null() { sim.get(path).await } else { sim.post(path, body).await };
    assert_eq!(reply.status.as_u16(), sample["status"], "{step}: {}", reply.text());
    assert_eq!(reply.header("content-type"), sample["content_type"], "{step}");
    check_shape(step, &sample["body"], &reply.json(), skip);
}

fn chat(extra: &Value) -> Value {
    let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 8});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

async fn tiny() -> Sim {
    sim(json!({"time-factor": 0, "model": "tiny", "max-model-len": 1024})).await
}

#[tokio::test(start_paused = true)]
async fn whole_answers() {
    let sim = tiny().await;
    check(&sim, "models", "/v1/models", &Value::Null, &[]).await;
    check(&sim, "chat", "/v1/chat/completions", &chat(&json!({})), &["created_cache_tokens"]).await;
    let ids =
        json!({"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 2, "return_token_ids": true});
    check(&sim, "completion-ids-A-again", "/v1/completions", &ids, &[]).await;
    let responses = json!({"model": "tiny", "input": "Hello there", "max_output_tokens": 6});
    let vllm_only = [
        "cache_write_tokens",
        "input_tokens_per_turn",
        "cached_tokens_per_turn",
        "tool_output_tokens",
        "output_tokens_per_turn",
        "tool_output_tokens_per_turn",
        "presence_penalty",
        "frequency_penalty",
        "incomplete_details",
    ];
    check(&sim, "responses", "/v1/responses", &responses, &vllm_only).await;
    let messages = json!({"model": "tiny", "max_tokens": 6, "messages": [{"role": "user", "content": "Hello"}]});
    check(&sim, "anthropic-messages", "/v1/messages", &messages, &[]).await;
    let tokenize =
        json!({"model": "tiny", "messages": [{"role": "user", "content": "Hello there"}]});
    check(&sim, "tokenize", "/tokenize", &tokenize, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn errors() {
    let sim = tiny().await;
    let unknown = chat(&json!({"model": "nope"}));
    let reply = sim.post("/v1/chat/completions", &unknown).await;
    assert_eq!(reply.json(), sample("err-unknown-model")["body"]);
    assert_eq!(reply.status, 404);
    let long = json!({"model": "tiny", "prompt": vec![5; 1500]});
    let reply = sim.post("/v1/completions", &long).await;
    assert_eq!(reply.json(), sample("err-too-long")["body"]);
    assert_eq!(reply.status, 400);
}

async fn check_stream(step: &str, path: &str, body: &Value, skip: &[&str]) {
    let sim = tiny().await;
    let sample = sample(step);
    let stream = sim.stream(path, body).await;
    assert_eq!(stream.headers["content-type"], sample["content_type"].as_str().unwrap());
    let ours = openai_chunks(&stream.events().await);
    let theirs: Vec<Value> = sample["body"]
        .as_str()
        .unwrap()
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "))
        .filter(|data| *data != "[DONE]")
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    assert_eq!(ours.len(), theirs.len());
    for (nth, (theirs, ours)) in theirs.iter().zip(&ours).enumerate() {
        check_shape(&format!("{step}[{nth}]"), theirs, ours, skip);
    }
    let reason = |chunk: &Value| chunk["choices"][0]["finish_reason"].clone();
    assert_eq!(
        ours.iter().map(reason).collect::<Vec<_>>(),
        theirs.iter().map(reason).collect::<Vec<_>>()
    );
}

#[tokio::test(start_paused = true)]
async fn streams() {
    // One of vLLM's eight tokens shares its event with another.
    let options = json!({
        "stream": true, "stream_options": {"include_usage": true}, "ignore_eos": true, "max_tokens": 7,
    });
    check_stream("chat-stream", "/v1/chat/completions", &chat(&options), &["created_cache_tokens"])
        .await;
    let completion = json!({
        "model": "tiny", "prompt": "Hello there", "max_tokens": 5, "ignore_eos": true, "stream": true,
        "stream_options": {"include_usage": true, "continuous_usage_stats": true},
    });
    check_stream("completion-stream", "/v1/completions", &completion, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_says_what_the_whole_answer_says() {
    let sim = sim(instant()).await;
    let body = |stream: bool| {
        json!({
            "messages": [{"role": "user", "content": "Say something"}], "max_tokens": 50, "stream": stream, "n": 3,
        })
    };
    let whole = sim.post("/v1/chat/completions", &body(false)).await.json();
    let chunks =
        openai_chunks(&sim.stream("/v1/chat/completions", &body(true)).await.events().await);
    for choice in whole["choices"].as_array().unwrap() {
        let index = &choice["index"];
        let mut text = String::new();
        let mut reason = Value::Null;
        for part in chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()) {
            if part["index"] == *index {
                assert!(reason.is_null(), "nothing comes after the end of a choice");
                text.push_str(part["delta"]["content"].as_str().unwrap());
                reason = part["finish_reason"].clone();
            }
        }
        assert_eq!(choice["message"]["content"], text);
        assert_eq!(choice["finish_reason"], reason);
    }
    let texts: std::collections::BTreeSet<_> = whole["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| choice["message"]["content"].to_string())
        .collect();
    assert_eq!(texts.len(), 3, "choices differ");
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()), "usage only when asked for");
}
