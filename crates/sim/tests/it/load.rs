//! Times, queues and counts follow from the load.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use router_rt::Tasks;
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::Instant};

use crate::client::{Sim, sim};

/// Round numbers: a step takes 10 ms, a prompt token 1 ms more, a decoding sequence 2 ms more.
fn plain(extra: &Value) -> Value {
    let mut document = json!({
        "step-base-us": 10_000, "decode-seq-us": 2_000, "decode-context-token-us": 0,
        "prefill-token-us": 1_000, "prefill-context-token-us": 0, "lora-load-us": 0,
    });
    document.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    document
}

/// A prompt of so many tokens that nobody else has.
fn prompt(nth: u32, n_tokens: u32) -> Vec<u32> {
    (0..n_tokens).map(|token| nth * 100_000 + token).collect()
}

fn completion(nth: u32, n_tokens: u32, max_tokens: u32, stream: bool) -> Value {
    json!({
        "prompt": prompt(nth, n_tokens), "max_tokens": max_tokens, "ignore_eos": true, "stream": stream,
    })
}

fn millis(since: Instant) -> u128 {
    since.elapsed().as_millis()
}

#[tokio::test(start_paused = true)]
async fn tokens_come_when_the_engine_says() {
    let sim = sim(plain(&json!({}))).await;
    let started = Instant::now();
    let mut stream = sim.stream("/v1/completions", &completion(1, 20, 4, true)).await;
    assert_eq!(millis(started), 0, "the head comes at once");
    let mut times = Vec::new();
    while let Some(event) = stream.next().await {
        let n_events = std::str::from_utf8(&event.unwrap()).unwrap().matches("\n\n").count();
        times.extend(vec![millis(started); n_events]);
    }
    // 10 + 20 ms to the first token, 12 ms to each other one; the end comes with the last.
    assert_eq!(times, [30, 42, 54, 66, 66]);
    let started = Instant::now();
    sim.post("/v1/completions", &completion(2, 20, 4, false)).await;
    assert_eq!(millis(started), 66);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_waits_and_is_counted() {
    let sim = sim(plain(&json!({"max-num-seqs": 2, "max-waiting-queue-length": 3}))).await;
    let started = Instant::now();
    let bodies: Vec<_> = (1..=6).map(|nth| completion(nth, 10, 10, false)).collect();
    let all = join_all(bodies.iter().map(|body| sim.post("/v1/completions", body)));
    let watch = async {
        sim.until("two run", |server| server.signals().running == 2).await;
        sim.server().signals()
    };
    let (replies, seen) = tokio::join!(all, watch);
    let statuses: Vec<_> = replies.iter().map(|reply| reply.status.as_u16()).collect();
    let refused = statuses.iter().filter(|&&status| status == 429).count();
    // All six arrive before the first step begins, so three wait and three are refused.
    assert_eq!((refused, seen.running + seen.waiting), (3, 3), "{statuses:?}");
    let error = replies.iter().find(|reply| reply.status == 429).unwrap().json();
    assert_eq!(error["error"]["type"], "RateLimitError");
    assert_eq!(error["error"]["code"], 429);
    // Two at a time: 30 + 9 * 14 ms, then one: 20 + 9 * 12.
    assert_eq!(millis(started), 156 + 128);
    let stats = sim.server().stats();
    assert_eq!((stats.received, stats.finished, stats.in_progress), (6, 6, 0));
}

/// Waits for nothing else than that the client's departure has arrived.
async fn check_cancelled(sim: &Sim) {
    sim.until("the engine is empty", |server| {
        let signals = server.signals();
        signals.running + signals.waiting == 0 && signals.kv_used_blocks == 0
    })
    .await;
    sim.until("the departure is counted", |server| server.stats().cancelled == 1).await;
    let stats = sim.server().stats();
    assert_eq!((stats.engine_requests, stats.in_progress, stats.finished), (0, 0, 0));
    assert_eq!(sim.server().signals().counters.cancelled, 1);
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_frees_the_engine() {
    let sim = sim(json!({})).await;
    let mut stream = sim.stream("/v1/completions", &completion(1, 20, 100_000, true)).await;
    stream.next().await.unwrap().unwrap();
    assert_eq!(sim.server().signals().running, 1);
    stream.leave().await;
    check_cancelled(&sim).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_frees_the_engine() {
    // A prefill of minutes.
    let sim = sim(json!({"prefill-token-us": 1_000_000})).await;
    let body = completion(1, 1000, 5, false);
    {
        let request = sim.post("/v1/completions", &body);
        tokio::pin!(request);
        tokio::select! {
            biased;
            _ = &mut request => panic!("the answer takes minutes"),
            () = sim.until("it runs", |server| server.signals().running == 1) => {}
        }
    }
    sim.close_clients().await;
    check_cancelled(&sim).await;
}

#[tokio::test]
async fn an_http2_stream_that_is_reset_frees_the_engine() {
    let sim = sim(json!({})).await;
    let socket = TcpStream::connect(sim.address()).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    let clients = Tasks::new();
    let connection = clients.spawn("client", connection);
    let body = completion(1, 20, 100_000, true).to_string();
    let request = Request::post("http://sim/v1/completions").body(Full::new(Bytes::from(body)));
    let mut response = sender.send_request(request.unwrap()).await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2);
    response.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(sim.server().signals().running, 1);
    drop(response);
    check_cancelled(&sim).await;
    assert!(!connection.is_finished(), "only the stream ended");
}

#[tokio::test(start_paused = true)]
async fn the_metrics_page_follows_the_load() {
    let sim = sim(plain(&json!({"max-num-seqs": 1, "max-loras": 2, "lora-modules": [{"name": "ada", "path": "/a"}]}))).await;
    let mut body = completion(1, 32, 50, false);
    body["model"] = json!("ada");
    let bodies = [body.clone(), completion(2, 32, 5, false)];
    let all = join_all(bodies.iter().map(|body| sim.post("/v1/completions", body)));
    let look = async {
        sim.until("one runs", |server| server.signals().running == 1).await;
        sim.get("/metrics").await.text()
    };
    let (_, busy) = tokio::join!(all, look);
    let labels = "{engine=\"0\",model_name=\"sim-model\"}";
    for line in [
        format!("vllm:num_requests_running{labels} 1.0"),
        format!("vllm:num_requests_waiting{labels} 1.0"),
        format!("vllm:kv_cache_usage_perc{labels} 8e-5"),
        "vllm:lora_requests_info{max_lora=\"2\",running_lora_adapters=\"ada\",waiting_lora_adapters=\"\"}".into(),
    ] {
        assert!(busy.contains(&line), "{line} is not in\n{busy}");
    }
    let idle = sim.get("/metrics").await;
    assert_eq!(idle.header("content-type"), "text/plain; version=1.0.0; charset=utf-8");
    let idle = idle.text();
    for line in [
        format!("vllm:num_requests_running{labels} 0.0"),
        format!("vllm:generation_tokens_total{labels} 55.0"),
        format!("vllm:time_to_first_token_seconds_count{labels} 2.0"),
        format!("vllm:inter_token_latency_seconds_count{labels} 53.0"),
        "vllm:lora_requests_info{max_lora=\"2\",running_lora_adapters=\"ada\"".into(),
    ] {
        assert!(idle.contains(&line), "{line} is not in\n{idle}");
    }
    assert_eq!(idle.matches("vllm:lora_requests_info{").count(), 2, "old sets of adapters stay");
    assert_eq!(sim.server().stats().scrapes, 2);
}

#[tokio::test(start_paused = true)]
async fn one_seed_gives_one_run() {
    let run = || async {
        let sim = sim(plain(&json!({"step-noise": 0.2, "seed": 9}))).await;
        let bodies: Vec<_> =
            (0..20).map(|nth| completion(nth, 10 + nth, 5 + nth, nth % 2 == 0)).collect();
        let replies = join_all(bodies.iter().map(|body| sim.post("/v1/completions", body))).await;
        let elapsed = Instant::now();
        (
            replies.iter().map(|reply| reply.text().len()).collect::<Vec<_>>(),
            sim.server().signals(),
            elapsed,
        )
    };
    let started = Instant::now();
    let (first, first_signals, first_end) = run().await;
    let (second, second_signals, second_end) = run().await;
    assert_eq!((first, first_signals), (second, second_signals));
    let lengths = (first_end - started, second_end - first_end);
    assert!(lengths.0.abs_diff(lengths.1) < Duration::from_millis(2), "{lengths:?}");
}
