//! The access log.

use std::{io, sync::Arc};

use parking_lot::Mutex;
use router_proxy::ProxyOptions;
use router_rt::Tasks;
use router_telemetry::LogOptions;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tracing_subscriber::layer::SubscriberExt;

use crate::world::{
    CHAT, ModelServer, PROMPT, World, WorldOptions, chat, get, header, nobody, post, scripted,
    wait_for_close,
};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// Logs of this thread, on which all of a test's tasks run.
    fn capture(&self) -> tracing::subscriber::DefaultGuard {
        let writer = self.clone();
        let layer = router_telemetry::logs::layer(&LogOptions::default(), move || writer.clone());
        tracing::subscriber::set_default(tracing_subscriber::registry().with(layer))
    }

    fn access(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().clone()).unwrap();
        let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        all.filter(|line| line["logger"] == "router_proxy::access").collect()
    }
}

#[tokio::test]
async fn every_request_has_its_line() {
    let lines = Lines::default();
    let _guard = lines.capture();
    let tasks = Tasks::new();
    let model = ModelServer::saying(&tasks, "{\"model\":\"t\"}").await;
    let world = World::new(&[nobody().await, model.addr]).await;
    let request = header(post("/v1/chat/completions?key=secret", PROMPT), "x-request-id", "r-1");
    world.ask(header(request, "x-llm-d-model-name-rewrite", "t")).await;
    world.ask(post(CHAT, "{")).await;
    world.ask(get("/healthz")).await;
    let lines = lines.access();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let line = &lines[0];
    let fields: [(&str, Value); 14] = [
        ("msg", "request".into()),
        ("level", "info".into()),
        ("request_id", "r-1".into()),
        ("method", "POST".into()),
        ("path", CHAT.into()),
        ("status", 200.into()),
        ("endpoint", model.addr.to_string().into()),
        ("model", "m".into()),
        ("target_model", "t".into()),
        ("priority", 0.into()),
        ("bytes_in", PROMPT.len().into()),
        ("bytes_out", "{\"model\":\"m\"}".len().into()),
        ("attempts", 2.into()),
        ("cause", "natural".into()),
    ];
    for (name, value) in fields {
        assert_eq!(line[name], value, "{name}");
    }
    let (first, whole) = (line["ttfb_ms"].as_f64().unwrap(), line["duration_ms"].as_f64().unwrap());
    assert!(first > 0.0 && whole >= first, "{line}");
    let line = &lines[1];
    assert_eq!((&line["status"], &line["cause"]), (&400.into(), &"rejected".into()));
    assert_eq!((&line["attempts"], &line["endpoint"]), (&0.into(), &"".into()));
}

#[tokio::test]
async fn requests_that_are_not_served_keep_their_clients_id() {
    let lines = Lines::default();
    let _guard = lines.capture();
    let world = World::new(&[nobody().await]).await;
    let refused = header(post(CHAT, "{"), "x-request-id", "r-1");
    let unserved = header(chat(), "x-request-id", "r-2");
    for (request, id, status) in [(refused, "r-1", 400), (unserved, "r-2", 503)] {
        let answer = world.ask(request).await;
        assert_eq!((answer.status, answer.headers["x-request-id"].to_str().unwrap()), (status, id));
        assert_eq!(lines.access().last().unwrap()["request_id"], id);
    }
    // Nothing to know it by, and nothing made up.
    let anonymous = world.ask(post(CHAT, "{")).await;
    assert!(!anonymous.headers.contains_key("x-request-id"));
    assert_eq!(lines.access().last().unwrap()["request_id"], "");
}

#[tokio::test]
async fn clients_that_went_away_and_servers_that_failed_are_told_apart() {
    let lines = Lines::default();
    let _guard = lines.capture();
    let tasks = Tasks::new();
    let silent = scripted(&tasks, |_, mut stream| async move {
        wait_for_close(&mut stream).await;
    });
    let world = World::new(&[silent.await]).await;
    let mut client = world.connect().await;
    let length = PROMPT.len();
    let text =
        format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{PROMPT}");
    client.write_all(text.as_bytes()).await.unwrap();
    world.ledger.in_flight(1).await;
    drop(client);
    world.ledger.ended(1).await;
    while lines.access().is_empty() {
        tokio::task::yield_now().await;
    }
    let alone = World::new(&[nobody().await]).await;
    alone.ask(chat()).await;
    let causes: Vec<_> = lines.access().iter().map(|line| line["cause"].clone()).collect();
    assert_eq!(causes, ["client-disconnect", "error"]);
}

#[tokio::test]
async fn the_log_can_be_turned_off() {
    let lines = Lines::default();
    let _guard = lines.capture();
    let proxy = ProxyOptions { access_log: false, ..ProxyOptions::default() };
    let world = World::with(&[], WorldOptions { proxy, ..WorldOptions::default() }).await;
    world.ask(chat()).await;
    assert!(lines.access().is_empty());
}
