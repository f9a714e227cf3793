use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use tokio::sync::{Notify, mpsc};

use super::*;
use crate::{
    body::{empty, full},
    server::ServerOptions,
    testing::{
        SOON, echo, get, nobody, read, read_head, say, scripted, serve, text, until, wait_for_close,
    },
};

fn client(tasks: &Tasks) -> Upstream {
    Upstream::new(UpstreamOptions { idle_timeout: SOON, ..UpstreamOptions::default() }, tasks)
}

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn one_connection_serves_one_request_after_another() {
    let tasks = Tasks::new();
    let server = serve(&tasks, ServerOptions::default(), None, echo).await;
    let client = client(&tasks);
    let target = Target::clear(server.local_addr());
    for size in [0, 10, 100_000] {
        let body = full(vec![b'x'; size]);
        let request = Request::post("http://ignored/p?q=1").body(body).unwrap();
        let response = client.send(&target, request).await.unwrap();
        assert_eq!(text(response).await, format!("POST /p {size}"));
    }
    assert_eq!((client.n_connects(), client.n_idle()), (1, 1));
}

#[tokio::test]
async fn the_host_stays_and_a_missing_one_is_filled_in() {
    let tasks = Tasks::new();
    let handler = |request: Request<Incoming>| async move {
        let host =
            request.headers().get(header::HOST).map(|host| host.to_str().unwrap().to_owned());
        let authority = request.uri().authority().map(ToString::to_string);
        Response::new(full(host.or(authority).unwrap()))
    };
    let server = serve(&tasks, ServerOptions::default(), None, handler).await;
    let client = client(&tasks);
    let clear = Target::clear(server.local_addr());
    for target in [clear.clone(), clear.http2()] {
        let named = Request::get("/").header("host", "model.example").body(empty()).unwrap();
        let response = client.send(&target, named).await.unwrap();
        assert_eq!(text(response).await, "model.example");
        let response = client.send(&target, get("/")).await.unwrap();
        assert_eq!(text(response).await, server.local_addr().to_string());
    }
}

#[tokio::test]
async fn http2_requests_share_a_connection() {
    let tasks = Tasks::new();
    let go = Arc::new(Notify::new());
    let n_waiting = Arc::new(AtomicUsize::new(0));
    let handler = {
        let (go, n_waiting) = (Arc::clone(&go), Arc::clone(&n_waiting));
        move |_: Request<Incoming>| {
            let (go, n_waiting) = (Arc::clone(&go), Arc::clone(&n_waiting));
            async move {
                n_waiting.fetch_add(1, Ordering::SeqCst);
                go.notified().await;
                Response::new(full("ok"))
            }
        }
    };
    let server = serve(&tasks, ServerOptions::default(), None, handler).await;
    let client = client(&tasks);
    let target = Target::clear(server.local_addr()).http2();
    let send = || {
        let (client, target) = (client.clone(), target.clone());
        tasks.spawn(
            "request",
            async move { text(client.send(&target, get("/")).await.unwrap()).await },
        )
    };
    go.notify_one();
    assert_eq!(send().join().await.unwrap(), "ok");
    let all: Vec<_> = (0..5).map(|_| send()).collect();
    until(|| n_waiting.load(Ordering::SeqCst) == 6).await;
    go.notify_waiters();
    for one in all {
        assert_eq!(one.join().await.unwrap(), "ok");
    }
    assert_eq!((client.n_connects(), server.n_connections()), (1, 1));
}

#[tokio::test]
async fn a_closed_port_is_a_connect_failure_and_the_request_comes_back() {
    let tasks = Tasks::new();
    let target = Target::clear(nobody().await);
    let request = Request::post("/x").body(full("body")).unwrap();
    let failed = client(&tasks).send(&target, request).await.unwrap_err();
    assert!(failed.error.is_connect() && failed.error.is_endpoint_fault(), "{failed}");
    assert!(matches!(failed.error, UpstreamError::Connect { .. }), "{failed}");
    assert_eq!(read(failed.request.unwrap().into_body()).await, "body");
}

#[tokio::test]
async fn a_close_before_the_head_says_whether_anything_came() {
    let tasks = Tasks::new();
    for (sent, came) in [("", false), ("HTTP/1.1 20", true)] {
        let addr = scripted(&tasks, move |_, mut stream| async move {
            read_head(&mut stream).await;
            say(&mut stream, sent).await;
        })
        .await;
        let failed = client(&tasks).send(&Target::clear(addr), get("/")).await.unwrap_err();
        assert!(
            matches!(failed.error, UpstreamError::NoResponse { reused: false, received, .. } if received == came),
            "{failed:?}"
        );
        assert!(failed.request.is_none() && !failed.error.is_stale_connection());
    }
}

#[tokio::test]
async fn a_close_after_the_head_fails_the_body_only() {
    let tasks = Tasks::new();
    let addr = scripted(&tasks, |_, mut stream| async move {
        read_head(&mut stream).await;
        say(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    })
    .await;
    let client = client(&tasks);
    let response = client.send(&Target::clear(addr), get("/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "half");
    assert!(body.frame().await.unwrap().is_err());
    assert_eq!(client.n_idle(), 0);
}

#[tokio::test]
async fn what_is_not_http_is_a_bad_response() {
    let tasks = Tasks::new();
    let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(100 << 10));
    for answer in ["nonsense\r\n\r\n".to_owned(), endless] {
        let addr = scripted(&tasks, move |_, mut stream| {
            let answer = answer.clone();
            async move {
                read_head(&mut stream).await;
                say(&mut stream, &answer).await;
                wait_for_close(&mut stream).await;
            }
        })
        .await;
        let failed = client(&tasks).send(&Target::clear(addr), get("/")).await.unwrap_err();
        assert!(matches!(failed.error, UpstreamError::BadResponse { .. }), "{failed:?}");
    }
}

/// A server that reports when its client closes a connection.
async fn reporting(
    tasks: &Tasks,
    answer: &'static str,
) -> (SocketAddr, mpsc::Receiver<&'static str>) {
    let (report, reports) = mpsc::channel(8);
    let addr = scripted(tasks, move |_, mut stream| {
        let report = report.clone();
        async move {
            read_head(&mut stream).await;
            report.send("asked").await.unwrap();
            say(&mut stream, answer).await;
            wait_for_close(&mut stream).await;
            report.send("closed").await.unwrap();
        }
    })
    .await;
    (addr, reports)
}

#[tokio::test]
async fn dropping_the_request_closes_the_connection_at_once() {
    let tasks = Tasks::new();
    let (addr, mut reports) = reporting(&tasks, "").await;
    let (client, target) = (client(&tasks), Target::clear(addr));
    {
        let sending = client.send(&target, get("/"));
        tokio::pin!(sending);
        tokio::select! {
            biased;
            _ = &mut sending => panic!("nobody answers"),
            report = reports.recv() => assert_eq!(report, Some("asked")),
        }
    }
    let report = tokio::time::timeout(SOON, reports.recv()).await.unwrap();
    assert_eq!(report, Some("closed"));
}

#[tokio::test]
async fn dropping_the_body_closes_the_connection_at_once() {
    let tasks = Tasks::new();
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n";
    let (addr, mut reports) = reporting(&tasks, head).await;
    let client = client(&tasks);
    let response = client.send(&Target::clear(addr), get("/")).await.unwrap();
    let mut body = response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "x");
    drop(body);
    assert_eq!(reports.recv().await, Some("asked"));
    let report = tokio::time::timeout(SOON, reports.recv()).await.unwrap();
    assert_eq!(report, Some("closed"));
    assert_eq!(client.n_idle(), 0);
}

/// Answers the first request of its first connection, then closes when the second one comes.
async fn closes_on_reuse(tasks: &Tasks) -> SocketAddr {
    scripted(tasks, |n, mut stream| async move {
        read_head(&mut stream).await;
        say(&mut stream, ANSWER).await;
        read_head(&mut stream).await;
        if n > 0 {
            say(&mut stream, ANSWER).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_kept_connection_that_closes_on_use_is_told_apart() {
    let tasks = Tasks::new();
    let target = Target::clear(closes_on_reuse(&tasks).await);
    let client = client(&tasks);
    assert_eq!(text(client.send(&target, get("/")).await.unwrap()).await, "ok");
    let failed = client.send(&target, get("/")).await.unwrap_err();
    assert!(failed.error.is_stale_connection(), "{failed:?}");
}

#[tokio::test]
async fn a_replayable_request_survives_a_kept_connection_that_closes_on_use() {
    let tasks = Tasks::new();
    let target = Target::clear(closes_on_reuse(&tasks).await);
    let client = client(&tasks);
    let mut n_made = 0;
    for _ in 0..2 {
        let response = client
            .send_replayable(&target, || {
                n_made += 1;
                get("/")
            })
            .await;
        assert_eq!(text(response.unwrap()).await, "ok");
    }
    assert_eq!((n_made, client.n_connects()), (3, 2));
}

#[tokio::test]
async fn a_kept_connection_closed_long_ago_is_not_used() {
    let tasks = Tasks::new();
    let addr = scripted(&tasks, |_, mut stream| async move {
        read_head(&mut stream).await;
        say(&mut stream, ANSWER).await;
    })
    .await;
    let (client, target) = (client(&tasks), Target::clear(addr));
    for _ in 0..3 {
        assert_eq!(text(client.send(&target, get("/")).await.unwrap()).await, "ok");
        // The pool keeps the connection until its driver has seen the close.
        until(|| client.shared.tasks.running() == [("upstream pool", 1)]).await;
    }
    assert_eq!(client.n_connects(), 3);
}

#[tokio::test]
async fn a_head_that_does_not_come_in_time_is_an_error() {
    let tasks = Tasks::new();
    let (addr, mut reports) = reporting(&tasks, "").await;
    let limit = Duration::from_millis(30);
    let options = UpstreamOptions { head_timeout: Some(limit), ..UpstreamOptions::default() };
    let client = Upstream::new(options, &tasks);
    let failed = client.send(&Target::clear(addr), get("/")).await.unwrap_err();
    assert!(matches!(failed.error, UpstreamError::HeadTimeout { .. }), "{failed:?}");
    assert_eq!(reports.recv().await, Some("asked"));
    assert_eq!(reports.recv().await, Some("closed"));
}

/// A kept connection on which nothing moves is not one that the server had closed: the request is at work,
/// as far as anybody knows.
#[tokio::test]
async fn a_server_that_never_reads_the_body_is_given_up_and_sent_nothing_again() {
    let tasks = Tasks::new();
    let given_up = Arc::new(Notify::new());
    let (closed, mut sees_close) = mpsc::channel(1);
    let waits = Arc::clone(&given_up);
    let addr = scripted(&tasks, move |_, mut stream| {
        let (waits, closed) = (Arc::clone(&waits), closed.clone());
        async move {
            read_head(&mut stream).await;
            say(&mut stream, ANSWER).await;
            waits.notified().await;
            wait_for_close(&mut stream).await;
            closed.send(()).await.unwrap();
        }
    });
    let target = Target::clear(addr.await);
    let limit = Duration::from_millis(60);
    let options =
        UpstreamOptions { stall_timeout: limit, idle_timeout: SOON, ..UpstreamOptions::default() };
    let client = Upstream::new(options, &tasks);
    assert_eq!(text(client.send(&target, get("/")).await.unwrap()).await, "ok");
    // More than the two sockets can hold.
    let body = Bytes::from(vec![b'x'; 64 << 20]);
    let mut n_made = 0;
    let sending = client.send_replayable(&target, || {
        n_made += 1;
        Request::post("/").body(full(body.clone())).unwrap()
    });
    let failed = tokio::time::timeout(SOON, sending).await.unwrap().unwrap_err();
    assert!(matches!(failed.error, UpstreamError::Stalled { .. }), "{failed:?}");
    assert!(failed.error.is_endpoint_fault() && !failed.error.is_connect());
    assert_eq!((n_made, client.n_connects()), (1, 1));
    given_up.notify_one();
    sees_close.recv().await.unwrap();
}

#[tokio::test]
async fn idle_connections_are_bounded_forgotten_and_closed() {
    let tasks = Tasks::new();
    let server = serve(&tasks, ServerOptions::default(), None, echo).await;
    let options = UpstreamOptions {
        max_idle_per_target: 2,
        idle_timeout: SOON,
        ..UpstreamOptions::default()
    };
    let owner = tasks.child();
    let client = Upstream::new(options, &owner);
    let target = Target::clear(server.local_addr());
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(client.send(&target, get("/")).await.unwrap());
    }
    assert_eq!(client.n_connects(), 4);
    for response in open {
        text(response).await;
    }
    assert_eq!(client.n_idle(), 2);
    until(|| server.n_connections() == 2).await;
    client.forget(&target);
    until(|| server.n_connections() == 0).await;
    text(client.send(&target, get("/")).await.unwrap()).await;
    assert_eq!(client.n_idle(), 1);
    owner.shutdown(SOON).await.unwrap();
    assert_eq!(client.n_idle(), 0);
}

#[tokio::test]
async fn cancelling_the_owner_lets_responses_end() {
    let tasks = Tasks::new();
    let go = Arc::new(Notify::new());
    let addr = {
        let go = Arc::clone(&go);
        scripted(&tasks, move |_, mut stream| {
            let go = Arc::clone(&go);
            async move {
                read_head(&mut stream).await;
                say(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha").await;
                go.notified().await;
                say(&mut stream, "lf").await;
            }
        })
        .await
    };
    let owner = Tasks::new();
    let client = client(&owner);
    let response = client.send(&Target::clear(addr), get("/")).await.unwrap();
    owner.cancel();
    go.notify_one();
    assert_eq!(text(response).await, "half");
    owner.shutdown(SOON).await.unwrap();
    assert_eq!(client.n_idle(), 0);
}

#[tokio::test]
async fn a_target_with_tls_needs_a_client_with_tls() {
    let tasks = Tasks::new();
    let server = serve(&tasks, ServerOptions::default(), None, echo).await;
    let target = Target::tls(server.local_addr(), "localhost");
    let failed = client(&tasks).send(&target, get("/")).await.unwrap_err();
    assert!(matches!(failed.error, UpstreamError::NoTls { .. }), "{failed:?}");
    assert!(!failed.error.is_endpoint_fault());
}
