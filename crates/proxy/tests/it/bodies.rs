//! Request bodies: how they come, and what bad ones get.

use std::{fmt::Write, time::Duration};

use router_engine::Settings;
use router_net::ServerOptions;
use router_proxy::ProxyOptions;
use router_rt::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{
    CHAT, ModelServer, PROMPT, World, WorldOptions, chat, get, post, read_head, soon,
};

/// A world with one good model server.
async fn world(tasks: &Tasks, options: WorldOptions) -> (World, ModelServer) {
    let model = ModelServer::saying(tasks, "{}").await;
    (World::with(&[model.addr], options).await, model)
}

fn chunked(path: &str, chunks: &[&str]) -> String {
    let mut text = format!("POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    for chunk in chunks {
        write!(text, "{:x}\r\n{chunk}\r\n", chunk.len()).unwrap();
    }
    text
}

#[tokio::test]
async fn a_chunked_body_gets_a_length() {
    let tasks = Tasks::new();
    let (world, model) = world(&tasks, WorldOptions::default()).await;
    let single: Vec<String> = PROMPT.chars().map(String::from).collect();
    let single: Vec<&str> = single.iter().map(String::as_str).collect();
    for chunks in [&[PROMPT][..], &single] {
        let mut client = world.connect().await;
        let text = chunked(CHAT, chunks) + "0\r\nx-trailer: dropped\r\n\r\n";
        client.write_all(text.as_bytes()).await.unwrap();
        assert!(soon(read_head(&mut client)).await.unwrap().starts_with("HTTP/1.1 200"));
        let seen = model.only();
        assert_eq!(seen.body, PROMPT);
        assert_eq!(seen.header("content-length"), Some(&*PROMPT.len().to_string()));
        assert_eq!((seen.header("transfer-encoding"), seen.header("x-trailer")), (None, None));
    }
    world.ledger.ended(2).await;
}

#[tokio::test]
async fn ten_megabytes_arrive() {
    let tasks = Tasks::new();
    let (world, model) = world(&tasks, WorldOptions::default()).await;
    let content = "lorem ipsum ".repeat(10 << 20 >> 3);
    let text = format!("{{\"model\":\"m\",\"prompt\":\"{content}\"}}");
    assert_eq!(world.ask(post("/v1/completions", text.clone())).await.status, 200);
    assert_eq!(model.only().body, text);
    assert_eq!(world.router.budget().held(), 0);
}

#[tokio::test]
async fn a_client_that_waits_is_told_to_continue() {
    let tasks = Tasks::new();
    let (world, model) = world(&tasks, WorldOptions::default()).await;
    let mut client = world.connect().await;
    let length = PROMPT.len();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
    );
    client.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(soon(read_head(&mut client)).await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(PROMPT.as_bytes()).await.unwrap();
    assert!(soon(read_head(&mut client)).await.unwrap().starts_with("HTTP/1.1 200"));
    let seen = model.only();
    assert_eq!((seen.header("expect"), &*seen.body), (None, PROMPT.as_bytes()));
}

#[tokio::test]
async fn a_client_that_waits_is_not_asked_for_a_body_that_is_refused() {
    let world = World::new(&[]).await;
    for (coding, length, status) in [("gzip", 10, 415), ("identity", 1_u64 << 40, 413)] {
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-encoding: {coding}\r\n\
             content-length: {length}\r\n\r\n"
        );
        let answer = world.raw(head).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test]
async fn a_body_that_stops_coming_is_408() {
    let tasks = Tasks::new();
    let proxy =
        ProxyOptions { body_idle_timeout: Duration::from_millis(50), ..ProxyOptions::default() };
    let (world, model) = world(&tasks, WorldOptions { proxy, ..WorldOptions::default() }).await;
    let answer = world
        .raw(format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{\"mod"))
        .await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("\"code\":\"RequestTimeout\""), "{answer}");
    assert_eq!(model.n_seen(), 0);
    assert_eq!(world.router.budget().held(), 0);
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_and_the_client_sees_it() {
    let tasks = Tasks::new();
    let settings = Settings { max_body_bytes: 10_000, ..Settings::default() };
    let (world, model) = world(&tasks, WorldOptions { settings, ..WorldOptions::default() }).await;
    // A client that writes all it has before it reads.
    let text = "x".repeat(8 << 20);
    let length = text.len();
    let announced =
        format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{text}");
    let streamed = chunked(CHAT, &["{\"prompt\":\"", &text, "\"}"]) + "0\r\n\r\n";
    for request in [announced, streamed] {
        let mut client = world.connect().await;
        soon(client.write_all(request.as_bytes())).await.unwrap();
        let head = soon(read_head(&mut client)).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.unwrap().parse().unwrap()];
        soon(client.read_exact(&mut body)).await.unwrap();
        assert!(String::from_utf8(body).unwrap().contains("larger than 10000 bytes"));
        // The rest has been thrown away, so the connection serves on.
        client.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert!(soon(read_head(&mut client)).await.unwrap().starts_with("HTTP/1.1 200"));
    }
    assert_eq!((model.n_seen(), world.router.budget().held()), (0, 0));
}

#[tokio::test]
async fn the_rest_of_a_refused_body_is_not_read_for_ever() {
    let proxy = ProxyOptions {
        discard: router_proxy::DiscardOptions {
            max_bytes: 1 << 40,
            timeout: Duration::from_millis(50),
        },
        ..ProxyOptions::default()
    };
    let world = World::with(&[], WorldOptions { proxy, ..WorldOptions::default() }).await;
    let head = "host: x\r\ncontent-encoding: gzip\r\ncontent-length: 1000000";
    let answer = world.raw(format!("POST {CHAT} HTTP/1.1\r\n{head}\r\n\r\nx")).await;
    assert!(answer.starts_with("HTTP/1.1 415 "), "{answer}");
}

#[tokio::test]
async fn when_too_much_is_held_new_bodies_are_503() {
    let tasks = Tasks::new();
    let settings = Settings { max_buffered_bytes: 20_000, ..Settings::default() };
    let (world, _model) = world(&tasks, WorldOptions { settings, ..WorldOptions::default() }).await;
    let answer = world.ask(post(CHAT, " ".repeat(30_000))).await;
    assert_eq!((answer.status, &*answer.error_code()), (503, "ServiceUnavailable"));
    assert_eq!(world.ask(chat()).await.status, 200);
    assert_eq!(world.router.budget().held(), 0);
}

#[tokio::test]
async fn what_cannot_be_read_is_said() {
    let tasks = Tasks::new();
    let (world, model) = world(&tasks, WorldOptions::default()).await;
    for (path, body, status) in [
        (CHAT, "{\"model\":\"m\",", 400),
        (CHAT, "[]", 400),
        (CHAT, "{\"messages\":[]}", 400),
        (CHAT, "\u{0}\u{1}", 400),
        ("/v1/embeddings", "{\"model\":7}", 400),
    ] {
        let answer = world.ask(post(path, body)).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        let error = &answer.json()["error"];
        assert!(error["message"].as_str().unwrap().starts_with("inference error: "), "{error}");
        assert!(error["type"].is_string() && error["code"].is_string(), "{error}");
    }
    let encoded = http::Request::post(CHAT).header("content-encoding", "gzip");
    let answer = world.ask(encoded.body(router_net::body::full("\x1f")).unwrap()).await;
    assert_eq!(answer.status, 415);
    assert_eq!(model.n_seen(), 0);
    assert_eq!(world.client.n_connects(), 1, "none of this costs the connection");
}

/// Framing that two parties could read differently.
#[tokio::test]
async fn ambiguous_framing_is_refused() {
    let tasks = Tasks::new();
    let (world, model) = world(&tasks, WorldOptions::default()).await;
    let check = async |headers: &str, body: &str, status: u16| {
        let answer =
            world.raw(format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n{body}")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{headers}: {answer}");
    };
    check("content-length: 5\r\ncontent-length: 6", "hello", 400).await;
    check("content-length: 99999999999999999999999", "hello", 400).await;
    check("content-length: -1", "hello", 400).await;
    check("content-length: 5, 5", "hello", 400).await;
    check("content-length: +5", "hello", 400).await;
    check("transfer-encoding: gzip", "hello", 400).await;
    check("transfer-encoding: chunked, gzip", "hello", 400).await;
    check("transfer-encoding: chunked", "zz\r\n", 400).await;
    check("transfer-encoding: chunked", "ffffffffffffffffff\r\n", 400).await;
    check("transfer-encoding: chunked", "5\r\nhelloX", 400).await;
    check("bad header: 1", "", 400).await;
    check("x: \u{0}", "", 400).await;
    assert_eq!(model.n_seen(), 0);
}

/// RFC 9112 §6.1: the chunks count, the length does not, and the connection ends with the answer.
#[tokio::test]
async fn chunks_count_more_than_a_length() {
    let tasks = Tasks::new();
    let (world, model) = world(&tasks, WorldOptions::default()).await;
    for headers in [
        "content-length: 4\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 4",
    ] {
        let smuggled = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
        let answer = world
            .raw(format!(
                "POST {CHAT} HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n{:x}\r\n{PROMPT}\r\n0\r\n\r\n{smuggled}",
                PROMPT.len()
            ))
            .await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let seen = model.only();
        assert_eq!(
            (&*seen.body, seen.header("content-length")),
            (PROMPT.as_bytes(), Some(&*PROMPT.len().to_string()))
        );
        assert_eq!(seen.header("transfer-encoding"), None);
    }
}

#[tokio::test]
async fn a_body_that_ends_early_reaches_nobody() {
    let tasks = Tasks::new();
    let (world, model) = world(&tasks, WorldOptions::default()).await;
    let mut client = world.connect().await;
    let part = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{PROMPT}");
    client.write_all(part.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    let _reset = soon(client.read_to_string(&mut answer)).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!((model.n_seen(), world.router.budget().held()), (0, 0));
    assert!(world.ledger.path().is_empty());
}

#[tokio::test]
async fn heads_have_bounds() {
    let tasks = Tasks::new();
    let mut server = ServerOptions::named("serve");
    server.limits.max_header_bytes = 16 << 10;
    server.limits.max_headers = 40;
    let (world, _model) = world(&tasks, WorldOptions { server, ..WorldOptions::default() }).await;
    let long = format!("x-long: {}", "x".repeat(20 << 10));
    let many = (0..50).map(|n| format!("x-{n}: 1")).collect::<Vec<_>>().join("\r\n");
    for headers in [long, many] {
        let answer = world.raw(format!("GET / HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    assert_eq!(world.ask(get("/x")).await.status, 200);
}

#[tokio::test]
async fn what_is_not_done_is_501() {
    let tasks = Tasks::new();
    let (world, model) = world(&tasks, WorldOptions::default()).await;
    for head in [
        "GET /v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: websocket",
        "CONNECT other.example:443 HTTP/1.1\r\nhost: other.example:443\r\nconnection: close",
        "TRACE / HTTP/1.1\r\nhost: x\r\nconnection: close",
    ] {
        let answer = world.raw(format!("{head}\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 501 "), "{head}: {answer}");
    }
    // RFC 9112 §6.1: the framing is understood, what it frames is not.
    let coded =
        "transfer-encoding: gzip, chunked\r\nconnection: close\r\n\r\n1\r\n\u{1f}\r\n0\r\n\r\n";
    let answer = world.raw(format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\n{coded}")).await;
    assert!(answer.starts_with("HTTP/1.1 501 "), "{answer}");
    assert!(answer.contains("transfer codings other than `chunked`"), "{answer}");
    assert_eq!(model.n_seen(), 0);
    // RFC 9110 §7.8: an offer may be ignored, and Java's client makes this one with every first request.
    let offer = "connection: upgrade, http2-settings, close\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__";
    let answer = world.raw(format!("GET /x HTTP/1.1\r\nhost: x\r\n{offer}\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(model.only().header("http2-settings"), None);
}

/// Requests that come before the answers to those before them are served in order.
#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let tasks = Tasks::new();
    let (world, model) = world(&tasks, WorldOptions::default()).await;
    let one = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n", PROMPT.len());
    let requests =
        format!("{one}\r\n{PROMPT}").repeat(3) + &format!("{one}connection: close\r\n\r\n{PROMPT}");
    let answer = world.raw(requests).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 4, "{answer}");
    assert_eq!(model.n_seen(), 4);
    world.ledger.ended(4).await;
}

/// Thousands of bodies that never end hold little, and nothing once they are gone.
#[tokio::test]
async fn idle_bodies_leave_nothing_behind() {
    const N_CLIENTS: usize = 300;
    let tasks = Tasks::new();
    let (world, model) = world(&tasks, WorldOptions::default()).await;
    let mut clients = Vec::new();
    for _ in 0..N_CLIENTS {
        let mut client = world.connect().await;
        let start = chunked(CHAT, &["{\"model\":\"m\",\"prompt\":\"", &"x".repeat(8_192)]);
        client.write_all(start.as_bytes()).await.unwrap();
        clients.push(client);
    }
    let all_came = async {
        while world.router.budget().held() < N_CLIENTS * 8_192 {
            tokio::task::yield_now().await;
        }
    };
    soon(all_came).await;
    drop(clients);
    soon(world.all_gone()).await;
    assert_eq!((model.n_seen(), world.router.budget().held()), (0, 0));
}
