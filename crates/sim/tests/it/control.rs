//! Settings, sleep, statistics, many servers.

use http::Method;
use serde_json::{Value, json};

use crate::client::{Sim, instant, sim};

#[tokio::test(start_paused = true)]
async fn settings_change_at_once_or_not_at_all() {
    let sim = sim(instant()).await;
    let before = sim.get("/admin/config").await.json();
    assert_eq!((&before["hang-rate"], &before["time-factor"]), (&json!(0.0), &json!(0.0)));
    let wrong = json!({"unhealthy": true, "hang-rat": 5});
    let reply = sim.post("/admin/config", &wrong).await;
    assert_eq!(reply.status, 400);
    assert!(
        reply.text().contains("unknown key `hang-rat`; the nearest is `hang-rate`"),
        "{}",
        reply.text()
    );
    for wrong in [
        json!({"hang-rate": 200}),
        json!({"unhealthy": true, "time-factor": -1}),
        json!({"block-size": 4}),
        json!([]),
    ] {
        assert_eq!(sim.post("/admin/config", &wrong).await.status, 400, "{wrong}");
    }
    assert_eq!(sim.get("/admin/config").await.json(), before);
    let after =
        sim.post("/admin/config", &json!({"unhealthy": true, "step-base-us": 5})).await.json();
    assert_eq!((&after["unhealthy"], &after["step-base-us"]), (&json!(true), &json!(5.0)));
}

#[tokio::test(start_paused = true)]
async fn fake_metrics_are_shown_as_they_are() {
    let fake = json!({"running-requests": 3, "waiting-requests": 4, "kv-cache-usage": 0.5,
        "loras": [{"running": "a", "waiting": "b", "timestamp": 7}]});
    let sim = sim(json!({"max-loras": 4, "fake-metrics": fake})).await;
    let page = sim.get("/metrics").await.text();
    for line in [
        "vllm:num_requests_running{engine=\"0\",model_name=\"sim-model\"} 3.0",
        "vllm:num_requests_waiting{engine=\"0\",model_name=\"sim-model\"} 4.0",
        "vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"sim-model\"} 0.5",
        "vllm:lora_requests_info{max_lora=\"4\",running_lora_adapters=\"a\",waiting_lora_adapters=\"b\"} 7.0",
    ] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
    sim.post("/admin/config", &json!({"fake-metrics": null})).await;
    assert!(
        sim.get("/metrics")
            .await
            .text()
            .contains("vllm:num_requests_running{engine=\"0\",model_name=\"sim-model\"} 0.0")
    );
}

#[tokio::test(start_paused = true)]
async fn a_sleeping_server_answers_and_forgets() {
    let sim = sim(instant()).await;
    let body = json!({"prompt": vec![1; 64], "max_tokens": 1});
    let cached = || async {
        let reply = sim.post("/v1/completions", &body).await.json();
        reply["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    cached().await;
    assert_eq!(cached().await, 48);
    assert_eq!(sim.post("/sleep", &Value::Null).await.status, 200);
    assert_eq!(sim.get("/is_sleeping").await.json(), json!({"is_sleeping": true}));
    assert_eq!((cached().await, cached().await), (0, 0));
    sim.post("/wake_up?tags=weights", &Value::Null).await;
    assert_eq!(sim.get("/is_sleeping").await.json(), json!({"is_sleeping": true}));
    sim.post("/wake_up?tags=weights&tags=kv_cache", &Value::Null).await;
    assert_eq!((cached().await, cached().await), (0, 48));
    assert_eq!(sim.get("/is_sleeping").await.json(), json!({"is_sleeping": false}));
}

fn hash(bytes: &[u8]) -> String {
    format!("{:016x}", xxhash_rust::xxh64::xxh64(bytes, 0))
}

#[tokio::test(start_paused = true)]
async fn statistics_show_what_arrived_and_what_was_sent() {
    let sim = sim(instant()).await;
    let body = br#"{ "prompt":"x",  "max_tokens": 3, "stream":true }"#;
    let headers = [("x-request-id", "r-9"), ("x-seen", "yes"), ("authorization", "Bearer k")];
    let reply = sim.send(Method::POST, "/v1/completions", &headers, body.to_vec()).await;
    let stats = sim.get("/sim/stats").await.json();
    let request = &stats["requests"][0];
    assert_eq!(request["request_id"], "r-9");
    assert!(request["headers"].as_array().unwrap().contains(&json!(["x-seen", "yes"])));
    assert_eq!(
        (&request["body_xxh64"], &request["body_bytes"]),
        (&json!(hash(body)), &json!(body.len()))
    );
    assert_eq!(
        (&request["sent_xxh64"], &request["sent_bytes"]),
        (&json!(hash(&reply.body)), &json!(reply.body.len()))
    );
    assert_eq!((&request["status"], &request["outcome"]), (&json!(200), &json!("finished")));
    assert_eq!((&request["model"], &request["prompt_tokens"]), (&json!("sim-model"), &json!(1)));
    assert_eq!(
        (&stats["received"], &stats["finished"], &stats["in_progress"]),
        (&json!(1), &json!(1), &json!(0))
    );
    assert_eq!(sim.send(Method::DELETE, "/sim/stats", &[], Vec::new()).await.status, 204);
    assert_eq!(sim.get("/sim/stats").await.json()["received"], 0);
}

async fn ask(sim: &Sim, nth: usize) -> Value {
    let address = sim.running.addresses()[nth];
    let body = br#"{"prompt": "hello", "max_tokens": 20}"#.to_vec();
    let mut stream = sim.open(address, Method::POST, "/v1/completions", &[], body).await.unwrap();
    let mut all = Vec::new();
    while let Some(piece) = stream.next().await {
        all.extend(piece.unwrap());
    }
    serde_json::from_slice(&all).unwrap()
}

#[tokio::test(start_paused = true)]
async fn many_servers_say_the_same_and_count_for_themselves() {
    let sim =
        sim(json!({"time-factor": 0, "servers": 3, "overrides": {"2": {"model": "other"}}})).await;
    let (a, b) = (ask(&sim, 0).await, ask(&sim, 1).await);
    assert_eq!(a["choices"], b["choices"]);
    assert_ne!(a["id"], b["id"]);
    assert_eq!(ask(&sim, 2).await["model"], "other");
    let received: Vec<_> =
        sim.running.servers().iter().map(|server| server.stats().received).collect();
    assert_eq!(received, [1, 1, 1]);
    // Any server can be asked about, and can change, any other.
    assert_eq!(sim.get("/sim/stats?server=2").await.json()["requests"][0]["model"], "other");
    sim.post("/admin/config?server=1", &json!({"hang-rate": 7})).await;
    assert_eq!(sim.running.servers()[1].runtime().faults.hang_rate, 7.0);
    assert_eq!(sim.running.servers()[0].runtime().faults.hang_rate, 0.0);
    assert_eq!(sim.get("/sim/stats?server=3").await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn servers_spread_over_loopback_addresses() {
    // The port is the first server's, chosen by the system, so the others cannot be told theirs beforehand.
    let sim = sim(json!({"servers": 2, "spread": "addresses"})).await;
    let hosts: Vec<_> =
        sim.running.addresses().iter().map(|address| address.ip().to_string()).collect();
    assert_eq!(hosts, ["127.0.0.1", "127.0.0.2"]);
    let six = crate::client::sim(json!({"host": "::1"})).await;
    assert_eq!(six.get("/health").await.status, 200);
}
