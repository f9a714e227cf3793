//! Injected failures look from outside as they should.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::client::{Sim, sim};

const COMPLETION: &[u8] =
    br#"{"prompt": "x", "max_tokens": 10, "ignore_eos": true, "stream": true}"#;

async fn failing(settings: Value) -> Sim {
    let sim = sim(json!({"time-factor": 0})).await;
    let reply = sim.post("/admin/config", &settings).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    sim
}

/// Posts a completion over a bare socket and reads what comes until the end.
async fn raw(sim: &Sim) -> (Vec<u8>, std::io::Result<()>) {
    let mut socket = TcpStream::connect(sim.address()).await.unwrap();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        COMPLETION.len()
    );
    socket.write_all(&[head.as_bytes(), COMPLETION].concat()).await.unwrap();
    let mut all = Vec::new();
    let outcome = socket.read_to_end(&mut all).await.map(|_| ());
    (all, outcome)
}

#[tokio::test(start_paused = true)]
async fn errors_are_injected_and_asked_for() {
    let sim =
        failing(json!({"failure-injection-rate": 100, "failure-types": ["rate_limit"]})).await;
    let reply = sim.post("/v1/completions", &json!({"prompt": "x"})).await;
    assert_eq!(
        (reply.status.as_u16(), reply.json()["error"]["type"].as_str()),
        (429, Some("RateLimitError"))
    );
    let reply = sim.post("/v1/messages", &json!({"max_tokens": 1, "messages": []})).await;
    assert_eq!(reply.json()["error"]["type"], "rate_limit_error");
    assert_eq!(reply.json()["type"], "error");
    assert_eq!(sim.get("/v1/models").await.status, 200, "only inference fails");
    sim.post("/admin/config", &json!({"failure-injection-rate": 0})).await;
    assert_eq!(sim.post("/v1/completions", &json!({"prompt": "x"})).await.status, 200);
    let ask =
        |status| sim.send(Method::POST, "/v1/completions", status, br#"{"prompt": "x"}"#.to_vec());
    assert_eq!(ask(&[("x-return-error", "503")]).await.status, 503);
    assert_eq!(ask(&[("x-return-error", "200")]).await.status, 400);
}

#[tokio::test]
async fn a_reset_comes_before_any_byte() {
    let sim = failing(json!({"reset-rate": 100})).await;
    let (bytes, outcome) = raw(&sim).await;
    assert_eq!(bytes, b"");
    assert_eq!(outcome.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    sim.until("it is counted", |server| server.stats().broken == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_hanging_server_accepts_and_never_answers() {
    let sim = failing(json!({"hang-rate": 100})).await;
    let hour = Duration::from_hours(1);
    assert!(tokio::time::timeout(hour, raw(&sim)).await.is_err());
    sim.until("it is counted", |server| server.stats().broken == 1).await;
    assert_eq!(sim.server().stats().in_progress, 0);
}

#[tokio::test]
async fn a_stream_is_cut_after_so_many_events() {
    let sim = failing(json!({"cut-stream-rate": 100, "cut-stream-after": 4})).await;
    let (bytes, outcome) = raw(&sim).await;
    outcome.unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK"));
    assert_eq!(text.matches("data: ").count(), 4);
    assert!(!text.contains("0\r\n\r\n"), "the body does not end in order");
    sim.until("the engine is empty", |server| server.signals().running == 0).await;
    assert_eq!(sim.server().stats().requests[0].outcome, router_sim::server::Outcome::Broken);
}

#[tokio::test(start_paused = true)]
async fn a_server_starts_slowly() {
    let sim = sim(json!({"startup-duration": "5s"})).await;
    assert_eq!(sim.get("/health").await.status, 200);
    assert_eq!(sim.get("/health/ready").await.status, 503);
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(sim.get("/health/ready").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_server_can_refuse_until_it_has_started() {
    let sim = sim(json!({"startup-duration": "5s", "startup-refuse": true})).await;
    let refused = TcpStream::connect(sim.address()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(sim.get("/health/ready").await.status, 200);
}

#[tokio::test]
async fn a_killed_server_resets_and_refuses_until_it_is_revived() {
    let sim = sim(json!({})).await;
    let body = json!({"prompt": "x", "max_tokens": 10_000, "ignore_eos": true, "stream": true});
    let mut stream = sim.stream("/v1/completions", &body).await;
    stream.next().await.unwrap().unwrap();
    sim.server().kill().await;
    while let Some(event) = stream.next().await {
        if event.is_err() {
            break;
        }
    }
    let refused = TcpStream::connect(sim.address()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!((sim.server().signals().running, sim.server().stats().in_progress), (0, 0));
    sim.server().revive().await.unwrap();
    assert_eq!(sim.get("/health").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_server_says_so() {
    let sim = failing(json!({"unhealthy": true})).await;
    assert_eq!(sim.get("/health").await.status, 503);
}

#[tokio::test(start_paused = true)]
async fn metrics_pages_break_in_many_ways() {
    let page = |fault: &'static str| async move {
        let sim = failing(json!({ "metrics-fault": fault })).await;
        sim.get("/metrics").await
    };
    assert_eq!(page("error").await.status, 500);
    assert!(std::str::from_utf8(&page("garbage").await.body).is_err());
    assert!(
        page("nan")
            .await
            .text()
            .contains("vllm:num_requests_running{engine=\"0\",model_name=\"sim-model\"} NaN")
    );
    assert!(
        page("negative")
            .await
            .text()
            .contains("vllm:num_requests_running{engine=\"0\",model_name=\"sim-model\"} -1.0")
    );
    let huge = page("huge").await.body;
    assert!(huge.len() > 50 << 20);
    assert!(String::from_utf8_lossy(&huge[huge.len() - 20_000..]).contains("vllm:"));
}

#[tokio::test(start_paused = true)]
async fn a_stale_page_stays_as_it_was() {
    let sim = failing(json!({"metrics-fault": "stale"})).await;
    let before = sim.get("/metrics").await.text();
    sim.post("/v1/completions", &json!({"prompt": "x"})).await;
    assert_eq!(sim.get("/metrics").await.text(), before);
    sim.post("/admin/config", &json!({"metrics-fault": "none"})).await;
    assert_ne!(sim.get("/metrics").await.text(), before);
}

#[tokio::test]
async fn an_endless_page_ends_when_the_client_leaves() {
    let sim = failing(json!({"metrics-fault": "endless"})).await;
    let mut page = sim.open(sim.address(), Method::GET, "/metrics", &[], Vec::new()).await.unwrap();
    let mut n_bytes = 0;
    while n_bytes < 8 << 20 {
        n_bytes += page.next().await.unwrap().unwrap().len();
    }
    page.leave().await;
}

#[tokio::test(start_paused = true)]
async fn a_hanging_page_never_comes() {
    let sim = failing(json!({"metrics-fault": "hang"})).await;
    assert!(tokio::time::timeout(Duration::from_mins(10), sim.get("/metrics")).await.is_err());
}
