//! Each API does what its clients expect.

use http::Method;
use serde_json::{Value, json};

use crate::client::{instant, openai_chunks, sim};

#[tokio::test(start_paused = true)]
async fn an_echo_comes_back_through_every_api() {
    let sim = sim(json!({"time-factor": 0, "mode": "echo"})).await;
    let text = "The quick brown fox, twice.";
    let messages = json!([{"role": "system", "content": "no"}, {"role": "user", "content": text}]);
    let reply = sim.post("/v1/chat/completions", &json!({ "messages": messages })).await.json();
    assert_eq!(reply["choices"][0]["message"]["content"], text);
    assert_eq!(reply["choices"][0]["finish_reason"], "stop");
    let reply = sim.post("/v1/completions", &json!({ "prompt": text })).await.json();
    assert_eq!(reply["choices"][0]["text"], text);
    let reply = sim.post("/v1/responses", &json!({ "input": text })).await.json();
    assert_eq!(reply["output"][0]["content"][0]["text"], text);
    let items = json!([{"role": "user", "content": [{"type": "input_text", "text": text}]}]);
    let reply = sim.post("/v1/responses", &json!({ "input": items })).await.json();
    assert_eq!(reply["output"][0]["content"][0]["text"], text);
    let blocks = json!([{"role": "user", "content": [{"type": "text", "text": text}]}]);
    let reply =
        sim.post("/v1/messages", &json!({"messages": blocks, "max_tokens": 99})).await.json();
    assert_eq!(reply["content"][0]["text"], text);
    assert_eq!(
        (&reply["stop_reason"], &reply["stop_sequence"]),
        (&json!("end_turn"), &Value::Null)
    );
}

#[tokio::test(start_paused = true)]
async fn limits_and_stops_end_answers() {
    let sim = sim(json!({"time-factor": 0, "mode": "echo"})).await;
    let body = json!({"prompt": "one two three four", "max_tokens": 2});
    let choice = sim.post("/v1/completions", &body).await.json()["choices"][0].take();
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("one two "), &json!("length")));
    let body = json!({"prompt": "one two three four", "stop": "three"});
    let choice = sim.post("/v1/completions", &body).await.json()["choices"][0].take();
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("one two "), &json!("stop")));
    assert_eq!(choice["stop_reason"], "three");
    let body = json!({
        "messages": [{"role": "user", "content": "a b c"}], "max_tokens": 9, "stop_sequences": ["c"],
    });
    let reply = sim.post("/v1/messages", &body).await.json();
    assert_eq!(
        (&reply["stop_reason"], &reply["stop_sequence"]),
        (&json!("stop_sequence"), &json!("c"))
    );
}

#[tokio::test(start_paused = true)]
async fn several_prompts_give_several_choices() {
    let sim = sim(json!({"time-factor": 0, "mode": "echo"})).await;
    let body = json!({"prompt": ["one", "two"], "n": 2});
    let reply = sim.post("/v1/completions", &body).await.json();
    let texts: Vec<_> =
        reply["choices"].as_array().unwrap().iter().map(|choice| &choice["text"]).collect();
    assert_eq!(texts, ["one", "one", "two", "two"]);
    assert_eq!(
        (&reply["usage"]["prompt_tokens"], &reply["usage"]["completion_tokens"]),
        (&json!(2), &json!(4))
    );
    let reply = sim.post("/v1/completions", &json!({"prompt": [[7, 8], [9]]})).await.json();
    assert_eq!(
        (&reply["choices"][0]["text"], &reply["choices"][1]["text"]),
        (&json!("7 8 "), &json!("9 "))
    );
}

#[tokio::test(start_paused = true)]
async fn usage_shows_what_was_cached() {
    let sim = sim(instant()).await;
    let prompt: Vec<u32> = (0..100).collect();
    let body =
        json!({"prompt": prompt, "max_tokens": 4, "ignore_eos": true, "return_token_ids": true});
    let first = sim.post("/v1/completions", &body).await.json();
    let cached = |reply: &Value| reply["usage"]["prompt_tokens_details"]["cached_tokens"].clone();
    assert_eq!(cached(&first), 0);
    assert_eq!(cached(&sim.post("/v1/completions", &body).await.json()), 96);
    let salted = |salt: &str| json!({"prompt": prompt, "max_tokens": 1, "cache_salt": salt});
    assert_eq!(cached(&sim.post("/v1/completions", &salted("a")).await.json()), 0);
    assert_eq!(cached(&sim.post("/v1/completions", &salted("a")).await.json()), 96);
    // What was generated is cached too: 100 prompt tokens and 28 generated ones fill eight blocks, of which the
    // last needs the last token, which is never fed back.
    let long =
        json!({"prompt": prompt, "max_tokens": 40, "ignore_eos": true, "return_token_ids": true});
    let reply = sim.post("/v1/completions", &long).await.json();
    let answer = reply["choices"][0]["token_ids"].as_array().unwrap().clone();
    let turn: Vec<Value> = prompt.iter().map(|&token| json!(token)).chain(answer).collect();
    let next = sim.post("/v1/completions", &json!({"prompt": turn, "max_tokens": 1})).await.json();
    assert_eq!(cached(&next), 128);
    assert_eq!(sim.post("/reset_prefix_cache", &json!({})).await.json(), json!({"success": true}));
    assert_eq!(cached(&sim.post("/v1/completions", &body).await.json()), 0);
}

#[tokio::test(start_paused = true)]
async fn embeddings_come_as_floats_or_base64() {
    let sim = sim(instant()).await;
    let ask =
        |format: &str| json!({"input": ["a b c", "d"], "encoding_format": format, "dimensions": 5});
    let floats = sim.post("/v1/embeddings", &ask("float")).await.json();
    let encoded = sim.post("/v1/embeddings", &ask("base64")).await.json();
    assert_eq!(floats["usage"]["prompt_tokens"], 4);
    for nth in 0..2 {
        let vector: Vec<f32> =
            serde_json::from_value(floats["data"][nth]["embedding"].clone()).unwrap();
        assert_eq!(vector.len(), 5);
        assert!((vector.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
        let text = encoded["data"][nth]["embedding"].as_str().unwrap();
        assert_eq!(unbase64(text), vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
    }
    assert_ne!(floats["data"][0]["embedding"], floats["data"][1]["embedding"]);
    let plain = sim.post("/v1/embeddings", &json!({"input": [1, 2, 3]})).await.json();
    assert_eq!(plain["data"][0]["embedding"].as_array().unwrap().len(), 384);
}

fn unbase64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let n_padding = text.bytes().rev().take_while(|&byte| byte == b'=').count();
    let mut bytes: Vec<u8> = text
        .trim_end_matches('=')
        .as_bytes()
        .chunks(4)
        .flat_map(|group| {
            let bits = (0..4).fold(0, |bits, nth| {
                bits << 6 | u32::from(group.get(nth).map_or(0, |&b| digit(b)))
            });
            bits.to_be_bytes()[1..].to_vec()
        })
        .collect();
    bytes.truncate(bytes.len() - n_padding);
    bytes
}

const TOOL: &str =
    r#"{"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}"#;

#[tokio::test(start_paused = true)]
async fn required_tools_are_called() {
    let sim = sim(instant()).await;
    let parameters: Value = serde_json::from_str(TOOL).unwrap();
    let chat = |stream: bool| {
        json!({
            "messages": [{"role": "user", "content": "weather?"}], "stream": stream, "tool_choice": "required",
            "tools": [{"type": "function", "function": {"name": "weather", "parameters": parameters}}],
        })
    };
    let reply = sim.post("/v1/chat/completions", &chat(false)).await.json();
    let choice = &reply["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &Value::Null)
    );
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"]["name"], "weather");
    let arguments = call["function"]["arguments"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(arguments).unwrap()["city"].is_string());

    let chunks =
        openai_chunks(&sim.stream("/v1/chat/completions", &chat(true)).await.events().await);
    let deltas: Vec<_> = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0])
        .filter(|call| !call.is_null())
        .collect();
    assert_eq!(deltas[0]["function"]["name"], "weather");
    assert_eq!(deltas[0]["id"], call["id"]);
    let streamed: String =
        deltas.iter().filter_map(|delta| delta["function"]["arguments"].as_str()).collect();
    assert_eq!(streamed, arguments);

    let body = json!({
        "messages": [{"role": "user", "content": "weather?"}], "max_tokens": 99, "tool_choice": {"type": "any"},
        "tools": [{"name": "weather", "input_schema": parameters}],
    });
    let reply = sim.post("/v1/messages", &body).await.json();
    assert_eq!(
        (&reply["stop_reason"], &reply["content"][0]["type"]),
        (&json!("tool_use"), &json!("tool_use"))
    );
    assert!(reply["content"][0]["input"]["city"].is_string());

    let body = json!({
        "input": "weather?", "tool_choice": {"type": "function", "name": "weather"},
        "tools": [{"type": "function", "name": "weather", "parameters": parameters}],
    });
    let reply = sim.post("/v1/responses", &body).await.json();
    assert_eq!(
        (&reply["output"][0]["type"], &reply["status"]),
        (&json!("function_call"), &json!("completed"))
    );

    let missing =
        json!({"messages": [{"role": "user", "content": "?"}], "tool_choice": "required"});
    assert_eq!(sim.post("/v1/chat/completions", &missing).await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_messages_has_anthropic_s_events() {
    let sim = sim(instant()).await;
    let body =
        json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "stream": true});
    let events = sim.stream("/v1/messages", &body).await.events().await;
    let data: Vec<Value> =
        events.iter().map(|(_, data)| serde_json::from_str(data).unwrap()).collect();
    for ((name, _), data) in events.iter().zip(&data) {
        assert_eq!(data["type"], name.as_deref().unwrap());
    }
    let names: Vec<_> = events.iter().map(|(name, _)| name.as_deref().unwrap()).collect();
    assert_eq!(names[..2], ["message_start", "content_block_start"]);
    assert_eq!(names[names.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    assert!(names[2..names.len() - 3].iter().all(|name| *name == "content_block_delta"));
    let start = &data[0]["message"];
    assert_eq!((&start["role"], &start["content"]), (&json!("assistant"), &json!([])));
    let usage = &data[data.len() - 2]["usage"];
    assert_eq!(usage["output_tokens"], names.len() - 5);
    let counted = sim
        .post(
            "/v1/messages/count_tokens",
            &json!({"messages": [{"role": "user", "content": "Hi"}]}),
        )
        .await;
    assert_eq!(counted.json()["input_tokens"], start["usage"]["input_tokens"]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_a_response_has_its_events_in_order() {
    let sim = sim(json!({"time-factor": 0, "mode": "echo"})).await;
    let events = sim
        .stream("/v1/responses", &json!({"input": "one two", "stream": true}))
        .await
        .events()
        .await;
    let names: Vec<_> = events.iter().map(|(name, _)| name.as_deref().unwrap()).collect();
    assert_eq!(
        names,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let data: Vec<Value> =
        events.iter().map(|(_, data)| serde_json::from_str(data).unwrap()).collect();
    assert!(data.iter().enumerate().all(|(nth, event)| event["sequence_number"] == nth));
    let whole = sim.post("/v1/responses", &json!({"input": "one two"})).await.json();
    let streamed = &data[9]["response"];
    assert_eq!(streamed["output"][0]["content"], whole["output"][0]["content"]);
    assert_eq!(
        (&streamed["status"], &streamed["usage"]["output_tokens"]),
        (&json!("completed"), &json!(2))
    );
}

#[tokio::test(start_paused = true)]
async fn tokens_are_the_same_wherever_they_are_counted() {
    let sim = sim(instant()).await;
    let chat =
        json!({"messages": [{"role": "user", "content": "Count me, please."}], "max_tokens": 1});
    let rendered = sim.post("/v1/chat/completions/render", &chat).await.json();
    let tokenized = sim.post("/tokenize", &chat).await.json();
    let answered = sim.post("/v1/chat/completions", &chat).await.json();
    assert_eq!(rendered["token_ids"], tokenized["tokens"]);
    assert_eq!(answered["usage"]["prompt_tokens"], tokenized["count"]);
    let texts = json!({"prompt": ["a b", "c"]});
    let rendered = sim.post("/v1/completions/render", &texts).await.json();
    let tokenized =
        sim.post("/tokenize", &json!({"prompt": "a b", "return_token_strs": true})).await.json();
    assert_eq!(
        (&rendered[0]["token_ids"], rendered.as_array().unwrap().len()),
        (&tokenized["tokens"], 2)
    );
    assert_eq!(tokenized["token_strs"], json!(["a ", "b"]));
}

#[tokio::test(start_paused = true)]
async fn generate_takes_and_gives_tokens() {
    let sim = sim(instant()).await;
    let body = |stream: bool| {
        json!({
            "token_ids": [1, 2, 3], "sampling_params": {"max_tokens": 4, "ignore_eos": true}, "stream": stream,
            "request_id": "r-1",
        })
    };
    let whole = sim.post("/inference/v1/generate", &body(false)).await.json();
    assert_eq!(whole["request_id"], "r-1");
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    let chunks =
        openai_chunks(&sim.stream("/inference/v1/generate", &body(true)).await.events().await);
    let streamed: Vec<_> =
        chunks.iter().map(|chunk| chunk["choices"][0]["token_ids"][0].clone()).collect();
    assert_eq!(whole["choices"][0]["token_ids"], json!(streamed));
    assert_eq!(whole["usage"]["prompt_tokens"], 3);
}

#[tokio::test(start_paused = true)]
async fn adapters_come_and_go() {
    let sim =
        sim(json!({"time-factor": 0, "lora-modules": [{"name": "first", "path": "/first"}]})).await;
    let models = || async {
        let models = sim.get("/v1/models").await.json();
        models["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|model| model["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(models().await, ["sim-model", "first"]);
    let load = json!({"lora_name": "second", "lora_path": "/second"});
    let reply = sim.post("/v1/load_lora_adapter", &load).await;
    assert_eq!(reply.text(), "Success: LoRA adapter 'second' added successfully.");
    assert_eq!(sim.post("/v1/load_lora_adapter", &load).await.status, 400);
    assert_eq!(models().await, ["sim-model", "first", "second"]);
    let ask = json!({"model": "second", "prompt": "x"});
    assert_eq!(sim.post("/v1/completions", &ask).await.json()["model"], "second");
    let reply = sim.post("/v1/unload_lora_adapter", &json!({"lora_name": "second"})).await;
    assert_eq!(reply.text(), "Success: LoRA adapter 'second' removed successfully.");
    assert_eq!(
        sim.post("/v1/unload_lora_adapter", &json!({"lora_name": "second"})).await.status,
        404
    );
    assert_eq!(sim.post("/v1/completions", &ask).await.status, 404);
    assert_eq!(sim.post("/v1/load_lora_adapter", &json!({"lora_name": "x"})).await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn ids_come_from_the_client_s_request_id() {
    let sim =
        sim(json!({"time-factor": 0, "enable-request-id-headers": true, "pod-name": "p7"})).await;
    let body = br#"{"prompt": "x"}"#.to_vec();
    let headers = [("x-request-id", "abc-1")];
    let reply = sim.send(Method::POST, "/v1/completions", &headers, body.clone()).await;
    assert_eq!(reply.json()["id"], "cmpl-abc-1");
    assert_eq!(reply.header("x-request-id"), "abc-1");
    assert_eq!(reply.header("x-inference-pod"), "p7");
    assert_eq!(reply.header("x-inference-port"), sim.address().port().to_string());
    let (a, b) = (
        sim.send(Method::POST, "/v1/completions", &[], body.clone()).await,
        sim.post("/v1/completions", &json!({"prompt": "x"})).await,
    );
    assert_ne!(a.json()["id"], b.json()["id"]);
    assert_eq!(a.json()["choices"], b.json()["choices"], "equal prompts get equal answers");
}
