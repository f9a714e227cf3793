use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use hyper::body::Incoming;
use router_rt::Tasks;

use super::*;
use crate::{
    body::full,
    server::ServerOptions,
    testing::{SOON, nobody, read_head, say, scripted, serve, wait_for_close},
    tls::{ClientTls, ClientTlsOptions, Roots, ServerTls, ServerTlsOptions},
};

fn scraper(deadline: Duration, max_page_bytes: usize) -> Scraper {
    Scraper::new(ScrapeOptions { deadline, max_page_bytes, ..ScrapeOptions::default() })
}

fn metrics(addr: SocketAddr) -> ScrapeTarget {
    ScrapeTarget::new(addr, "/metrics").unwrap()
}

#[tokio::test]
async fn pages_come_over_one_kept_connection() {
    let tasks = Tasks::new();
    let handler = |request: Request<Incoming>| async move {
        let accept = request.headers().get("accept-encoding").unwrap().to_str().unwrap();
        assert_eq!((request.uri().path(), accept), ("/metrics", "identity"));
        Response::new(full(vec![b'm'; 200_000]))
    };
    let server = serve(&tasks, ServerOptions::default(), None, handler).await;
    let scraper = scraper(SOON, 1 << 20);
    let mut scrape = scraper.target(metrics(server.local_addr()));
    for _ in 0..5 {
        let page = scrape.fetch().await.unwrap();
        assert_eq!(page.len(), 200_000);
        assert!(page.iter().all(|byte| *byte == b'm'));
    }
    assert_eq!(server.n_connections(), 1);
    assert_eq!(tasks.n_panics(), 0);
}

#[tokio::test]
async fn pages_come_over_tls_with_further_headers() {
    let tasks = Tasks::new();
    let tls = ServerTls::self_signed(&["localhost".to_owned()], &ServerTlsOptions::default());
    let handler = |request: Request<Incoming>| async move {
        Response::new(full(request.headers()["authorization"].as_bytes().to_vec()))
    };
    let server = serve(&tasks, ServerOptions::default(), Some(tls.unwrap()), handler).await;
    let insecure = ClientTlsOptions { roots: Roots::InsecureSkipVerify, ..Default::default() };
    let tls = Some(ClientTls::new(&insecure).unwrap());
    let scraper = Scraper::new(ScrapeOptions { deadline: SOON, tls, ..ScrapeOptions::default() });
    let target = metrics(server.local_addr()).tls("localhost");
    let mut scrape = scraper.target(target.header("authorization", "Bearer t").unwrap());
    for _ in 0..2 {
        assert_eq!(&*scrape.fetch().await.unwrap(), b"Bearer t");
    }
    assert_eq!(server.n_connections(), 1);
}

#[tokio::test]
async fn a_page_over_the_bound_is_refused_before_it_is_read() {
    let tasks = Tasks::new();
    let n_sent = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&n_sent);
    let addr = scripted(&tasks, move |_, mut stream| {
        let n_sent = std::sync::Arc::clone(&counted);
        async move {
            read_head(&mut stream).await;
            say(&mut stream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
            while stream.write_all(chunk.as_bytes()).await.is_ok() {
                n_sent.fetch_add(chunk.len(), Ordering::SeqCst);
            }
        }
    })
    .await;
    let mut scrape = scraper(SOON, 1 << 20).target(metrics(addr));
    assert!(matches!(scrape.fetch().await, Err(ScrapeError::TooLarge(_))));
    assert!(n_sent.load(Ordering::SeqCst) < 64 << 20, "the connection was closed");
}

#[tokio::test]
async fn a_page_that_never_ends_meets_the_deadline() {
    let tasks = Tasks::new();
    let addr = scripted(&tasks, |_, mut stream| async move {
        read_head(&mut stream).await;
        say(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart").await;
        wait_for_close(&mut stream).await;
    })
    .await;
    let mut scrape = scraper(Duration::from_millis(40), 1 << 20).target(metrics(addr));
    for _ in 0..2 {
        assert!(matches!(scrape.fetch().await, Err(ScrapeError::Deadline(_))));
    }
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_made_anew() {
    let tasks = Tasks::new();
    let n_connections = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&n_connections);
    let addr = scripted(&tasks, move |_, mut stream| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            read_head(&mut stream).await;
            say(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx").await;
        }
    })
    .await;
    let mut scrape = scraper(SOON, 100).target(metrics(addr));
    for _ in 0..3 {
        assert_eq!(&*scrape.fetch().await.unwrap(), b"x");
    }
    assert_eq!(n_connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn failures_are_typed_and_the_next_fetch_starts_anew() {
    let tasks = Tasks::new();
    let mut scrape = scraper(SOON, 100).target(metrics(nobody().await));
    assert!(matches!(scrape.fetch().await, Err(ScrapeError::Connect(_))));
    let addr = scripted(&tasks, |n, mut stream| async move {
        read_head(&mut stream).await;
        let status = if n == 0 { "500 Broken" } else { "200 OK" };
        say(&mut stream, &format!("HTTP/1.1 {status}\r\ncontent-length: 1\r\n\r\nx")).await;
        wait_for_close(&mut stream).await;
    })
    .await;
    let mut scrape = scraper(SOON, 100).target(metrics(addr));
    assert!(matches!(scrape.fetch().await, Err(ScrapeError::Status(500))));
    assert_eq!(&*scrape.fetch().await.unwrap(), b"x");
}

#[tokio::test]
async fn buffers_are_reused_and_huge_ones_are_let_go() {
    let tasks = Tasks::new();
    let handler = |request: Request<Incoming>| async move {
        let size = if request.uri().path() == "/huge" { 3 << 20 } else { 50_000 };
        Response::new(full(vec![b'm'; size]))
    };
    let server = serve(&tasks, ServerOptions::default(), None, handler).await;
    let scraper = scraper(SOON, 8 << 20);
    let mut small = scraper.target(metrics(server.local_addr()));
    let first = small.fetch().await.unwrap();
    let place = first.as_ptr();
    drop(first);
    assert_eq!(small.fetch().await.unwrap().as_ptr(), place);
    let target = ScrapeTarget::new(server.local_addr(), "/huge").unwrap();
    drop(scraper.target(target).fetch().await.unwrap());
    assert_eq!(scraper.buffers.n_kept_bytes_over(1 << 20), 0);
}

#[test]
fn targets_that_would_break_the_request_are_refused() {
    let addr: SocketAddr = "127.0.0.1:1".parse().unwrap();
    for path in ["", "metrics", "/a b", "/a\r\nx: y", "/é"] {
        assert_eq!(ScrapeTarget::new(addr, path), Err(BadTarget(path.to_owned())));
    }
    assert!(metrics(addr).header("x", "a\r\nb").is_err());
    assert!(metrics(addr).header("a b", "c").is_err());
}
