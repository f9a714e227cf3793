//! Bad input gets a clear error.

use http::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::client::{instant, sim};

#[tokio::test(start_paused = true)]
async fn bad_bodies_are_400() {
    let sim = sim(json!({"time-factor": 0, "max-model-len": 100})).await;
    let message = json!([{"role": "user", "content": "x"}]);
    let cases: [(&str, Value, &str); 17] = [
        ("/v1/chat/completions", json!({}), "messages"),
        ("/v1/chat/completions", json!({"messages": []}), "empty"),
        ("/v1/chat/completions", json!({"messages": [5]}), "role"),
        ("/v1/chat/completions", json!({"messages": "x"}), "expected a sequence"),
        ("/v1/chat/completions", json!({"messages": message, "n": 0}), "`n` must be 1 to 128"),
        ("/v1/chat/completions", json!({"messages": message, "n": 129}), "`n` must be 1 to 128"),
        ("/v1/chat/completions", json!({"messages": message, "max_tokens": 0}), "at least 1"),
        ("/v1/chat/completions", json!({"messages": message, "max_tokens": -1}), "integer `-1`"),
        (
            "/v1/chat/completions",
            json!({"messages": message, "max_tokens": 100}),
            "you requested 100 output",
        ),
        ("/v1/completions", json!({}), "missing field `prompt`"),
        ("/v1/completions", json!({"prompt": ""}), "empty"),
        ("/v1/completions", json!({"prompt": 5.5}), "expected a string, an array"),
        ("/v1/completions", json!({"prompt": [-1]}), "expected a string, an array"),
        ("/v1/embeddings", json!({"input": "x", "dimensions": 0}), "dimensions"),
        ("/v1/responses", json!({"input": 5}), "input"),
        ("/inference/v1/generate", json!({"token_ids": []}), "empty"),
        ("/tokenize", json!({"prompt": [1]}), "expected a string"),
    ];
    for (path, body, text) in cases {
        let reply = sim.post(path, &body).await;
        let error = &reply.json()["error"];
        assert_eq!((reply.status.as_u16(), &error["code"]), (400, &json!(400)), "{path} {body}");
        assert_eq!(error["type"], "BadRequestError");
        assert!(error["message"].as_str().unwrap().contains(text), "{path} {body}: {error}");
    }
    for body in [&b""[..], b"{", b"null", b"\xff\xfe", b"[]", &[b'['; 10_000]] {
        let reply = sim.send(Method::POST, "/v1/chat/completions", &[], body.to_vec()).await;
        assert_eq!(reply.status, 400);
    }
    assert_eq!(sim.server().signals().counters.refused, 0, "none of these reaches the engine");
}

#[tokio::test(start_paused = true)]
async fn unknown_paths_and_methods() {
    let sim = sim(instant()).await;
    assert_eq!(sim.get("/nothing").await.status, 404);
    assert_eq!(sim.get("/v1/chat/completions").await.status, 405);
    assert_eq!(sim.post("/v1/models", &json!({})).await.status, 405);
    let awake = crate::client::sim(json!({"enable-sleep-mode": false})).await;
    assert_eq!(awake.post("/sleep", &json!({})).await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn large_bodies() {
    let sim = sim(json!({
        "time-factor": 0, "max-request-body-size-mb": 2, "max-model-len": 10_000_000, "kv-cache-size": 1_000_000,
        "mode": "echo",
    }))
    .await;
    // Long enough to be read away from the runtime's threads.
    let long = "word ".repeat(300_000);
    let reply = sim.post("/v1/completions", &json!({"prompt": long, "max_tokens": 1})).await;
    assert_eq!(reply.json()["usage"]["prompt_tokens"], 300_000);
    let over = "x".repeat(3 << 20);
    let reply = sim.post("/v1/completions", &json!({ "prompt": over })).await;
    assert_eq!(reply.status, 413, "a length announced as too large");
    // A body of unknown length is read up to the bound.
    let mut socket = TcpStream::connect(sim.address()).await.unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let chunk = [b"100000\r\n".as_slice(), &vec![b'x'; 1 << 20], b"\r\n"].concat();
    let (mut reader, mut writer) = socket.split();
    let send = async {
        // The server may answer and close before all is sent.
        for _ in 0..4 {
            if writer.write_all(&chunk).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let mut answer = vec![0; 64];
    let n = tokio::select! {
        biased;
        n = reader.read(&mut answer) => n.unwrap(),
        () = send => unreachable!(),
    };
    assert!(answer[..n].starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&answer[..n]));
}
