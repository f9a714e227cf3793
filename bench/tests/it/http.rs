use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use router_bench::http::get::get;
use router_bench::http::upstream::{Answers, Page, Stats, Upstream};
use router_bench::http::{HttpArgs, HttpLoad, floor};
use router_bench::load::{self, Summary};
use router_rt::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::args::parse;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

async fn start_upstream(n: usize, size: usize, tasks: &Tasks) -> Vec<String> {
    let answers = Answers {
        model: "base-model".into(),
        size,
        n_chunks: 5,
        page: Page::load("vllm", 2).unwrap(),
    };
    let upstream = Upstream::start(LOOPBACK, 0, n, &answers, tasks).await.unwrap();
    upstream.addresses.iter().map(ToString::to_string).collect()
}

async fn run(target: &str, what: &str, load: &str) -> Summary {
    let args: HttpArgs = parse(&format!("--target {target} {what}"));
    load::run(&parse(load), Arc::new(HttpLoad::new(&args, 1).unwrap())).await.unwrap()
}

async fn stats(target: &str) -> Stats {
    serde_json::from_slice(&get(target, "/bench/stats").await.unwrap()).unwrap()
}

#[tokio::test]
async fn every_request_goes_through_the_floor() {
    let tasks = Tasks::new();
    let endpoints = start_upstream(3, 20_000, &tasks).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap().to_string();
    let proxy_tasks = tasks.clone();
    let upstreams = endpoints.clone();
    tasks.spawn("floor", async move { floor::serve(listener, proxy_tasks, &upstreams).await });
    let mut n_seen = 0;
    for what in [
        "--body-size 1024 --stream true",
        "--body-size 200000",
        "--body-size 1024 --header x-a:b --expect-bytes 20000",
    ] {
        let summary = run(&proxy, what, "--requests 60 -c 5").await;
        assert_eq!((summary.ok, summary.failed), (60, 0), "{what}: {:?}", summary.errors);
        assert_eq!(summary.endpoints_picked, 3);
        assert!(summary.latency_us["first_byte"].p50 <= summary.latency_us["total"].p50);
        n_seen += 60;
        assert_eq!(stats(&endpoints[0]).await.requests, n_seen);
    }
}

#[tokio::test]
async fn the_model_server_serves_pages_and_models() {
    let tasks = Tasks::new();
    let endpoints = start_upstream(2, 0, &tasks).await;
    let page = get(&endpoints[1], "/metrics").await.unwrap();
    assert!(page.starts_with(b"# HELP") && page.len() > 55_000);
    assert_ne!(page, get(&endpoints[0], "/metrics").await.unwrap());
    assert_eq!(stats(&endpoints[0]).await, Stats { scrapes: 2, ..Stats::default() });
    let models = get(&endpoints[0], "/v1/models").await.unwrap();
    let models: serde_json::Value = serde_json::from_slice(&models).unwrap();
    assert_eq!(models["data"][0]["id"], "base-model");
    assert_eq!(get(&endpoints[0], "/health").await.unwrap(), Bytes::new());
    let error = get(&endpoints[0], "/nothing").await.unwrap_err();
    assert!(format!("{error:#}").contains("status 404"), "{error:#}");
}

#[tokio::test]
async fn a_floor_with_nothing_behind_refuses() {
    let tasks = Tasks::new();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoints = vec![gone.local_addr().unwrap().to_string()];
    drop(gone);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap().to_string();
    let proxy_tasks = tasks.clone();
    tasks.spawn("floor", async move { floor::serve(listener, proxy_tasks, &endpoints).await });
    let summary = run(&proxy, "", "--requests 4 -c 2").await;
    assert_eq!((summary.ok, summary.rejected), (0, 4));
    assert_eq!(summary.errors["status 502 Bad Gateway"], 4);
}

/// Wrong answers, as bytes on the wire.
#[tokio::test]
async fn wrong_answers_are_seen() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\ndata: \r\n0\r\n\r\n";
    for (answer, what, expected) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "", "an empty response"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", "", "end of file"),
        (
            "HTTP/1.1 200 OK\r\nx-bench-sent: 4\r\ncontent-length: 3\r\n\r\nabc",
            "",
            "4 response bytes sent, 3 arrived",
        ),
        (
            "HTTP/1.1 200 OK\r\nx-bench-received: 7\r\ncontent-length: 3\r\n\r\nabc",
            "",
            "sent 1024 body bytes, 7 arrived",
        ),
        (chunked, "--stream true", "the stream ends without [DONE]"),
        ("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", "", "status 503"),
        ("", "", "connection closed before message completed"),
    ] {
        let tasks = Tasks::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap().to_string();
        tasks.spawn_cancellable("wrong server", async move {
            loop {
                let Ok((mut tcp, _)) = listener.accept().await else { return };
                let mut request = vec![0; 64 << 10];
                let mut n_read = 0;
                while n_read < 1024 {
                    n_read += tcp.read(&mut request).await.unwrap_or(usize::MAX / 2);
                }
                tcp.write_all(answer.as_bytes()).await.ok();
            }
        });
        let summary = run(&target, what, "--requests 2 -c 1 --timeout 5").await;
        assert_eq!(summary.ok, 0, "{answer}");
        let (error, n) = summary.errors.iter().next().unwrap();
        assert!(error.contains(expected) && *n == 2, "{error}, not {expected}");
        tasks.cancel();
    }
}
