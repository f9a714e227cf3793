mod stalled;

use http::StatusCode;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};

use super::*;
use crate::{
    body::{Body, empty, full},
    testing::{Dropped, SOON, echo, get, serve, text, until},
    tls::{ClientTls, ClientTlsOptions, Roots, ServerTls, ServerTlsOptions},
    upstream::{Target, Upstream, UpstreamOptions},
};

const SHORT: Duration = Duration::from_millis(60);

fn limited(limits: Limits) -> ServerOptions {
    ServerOptions { limits, ..ServerOptions::default() }
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.local_addr()).await.unwrap()
}

/// Everything the server sends until it closes.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset after the answer is a close, too.
    let _reset = tokio::time::timeout(SOON, stream.read_to_end(&mut bytes)).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Sends `request` over a new connection and returns all that comes back.
async fn exchange(server: &Server, request: &str) -> String {
    let mut stream = connect(server).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    read_all(&mut stream).await
}

async fn h1(server: &Server, tasks: &Tasks) -> http1::SendRequest<Body> {
    let io = TokioIo::new(connect(server).await);
    let (sender, driver) = http1::handshake(io).await.unwrap();
    tasks.spawn("client", driver);
    sender
}

#[derive(Clone)]
struct Exec(Tasks);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Exec {
    fn execute(&self, future: F) {
        self.0.spawn("client stream", future);
    }
}

async fn h2(server: &Server, tasks: &Tasks) -> http2::SendRequest<Body> {
    let io = TokioIo::new(connect(server).await);
    let (sender, driver) = http2::handshake(Exec(tasks.clone()), io).await.unwrap();
    tasks.spawn("client", driver);
    sender
}

#[tokio::test]
async fn one_port_speaks_both_protocols() {
    let tasks = Tasks::new();
    let server = serve(&tasks, ServerOptions::default(), None, echo).await;
    let mut first = h1(&server, &tasks).await;
    let post = Request::post("/a").body(full("12345")).unwrap();
    assert_eq!(text(first.send_request(post).await.unwrap()).await, "POST /a 5");
    assert_eq!(text(first.send_request(get("/b")).await.unwrap()).await, "GET /b 0");
    let mut second = h2(&server, &tasks).await;
    let request = get(&format!("http://{}/c", server.local_addr()));
    let response = second.send_request(request).await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2);
    assert_eq!(text(response).await, "GET /c 0");
    assert_eq!(server.n_connections(), 2);
}

#[tokio::test]
async fn tls_negotiates_the_protocol_and_tells_the_handler() {
    let tasks = Tasks::new();
    let tls = ServerTls::self_signed(&["localhost".to_owned()], &ServerTlsOptions::default());
    let handler = |request: Request<Incoming>| async move {
        let peer = *request.extensions().get::<Peer>().unwrap();
        Response::new(full(format!("{:?} tls={}", request.version(), peer.tls)))
    };
    let server = serve(&tasks, ServerOptions::default(), Some(tls.unwrap()), handler).await;
    let insecure = ClientTlsOptions { roots: Roots::InsecureSkipVerify, ..Default::default() };
    let tls = Some(ClientTls::new(&insecure).unwrap());
    let client = Upstream::new(UpstreamOptions { tls, ..UpstreamOptions::default() }, &tasks);
    let target = Target::tls(server.local_addr(), "localhost");
    let response = client.send(&target, get("/")).await.unwrap();
    assert_eq!(text(response).await, "HTTP/1.1 tls=true");
    let response = client.send(&target.http2(), get("/")).await.unwrap();
    assert_eq!(text(response).await, "HTTP/2.0 tls=true");
}

#[tokio::test]
async fn a_client_that_speaks_no_tls_is_turned_away() {
    let tasks = Tasks::new();
    let tls = ServerTls::self_signed(&["localhost".to_owned()], &ServerTlsOptions::default());
    let server = serve(&tasks, ServerOptions::default(), Some(tls.unwrap()), echo).await;
    let mut stream = connect(&server).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _reset = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP"));
    until(|| server.n_connections() == 0).await;
}

#[tokio::test]
async fn drain_lets_requests_end_and_takes_no_new_ones() {
    let tasks = Tasks::new();
    let go = Arc::new(Notify::new());
    let started = Arc::new(Notify::new());
    let handler = {
        let (go, started) = (Arc::clone(&go), Arc::clone(&started));
        move |_: Request<Incoming>| {
            let (go, started) = (Arc::clone(&go), Arc::clone(&started));
            async move {
                started.notify_one();
                go.notified().await;
                Response::new(full("done"))
            }
        }
    };
    let server = Arc::new(serve(&tasks, ServerOptions::default(), None, handler).await);
    let mut one = h1(&server, &tasks).await;
    let mut two = h2(&server, &tasks).await;
    let mut idle = connect(&server).await;
    let uri = format!("http://{}/", server.local_addr());
    let answers = [
        tasks.spawn("h1", async move { text(one.send_request(get("/")).await.unwrap()).await }),
        tasks.spawn("h2", async move { text(two.send_request(get(&uri)).await.unwrap()).await }),
    ];
    started.notified().await;
    started.notified().await;
    let drained = {
        let server = Arc::clone(&server);
        Tasks::new().spawn("drain", async move { server.drain(SOON).await })
    };
    assert_eq!(read_all(&mut idle).await, "", "silent connections close at once");
    until_refused(server.local_addr()).await;
    go.notify_one();
    go.notify_one();
    for answer in answers {
        assert_eq!(answer.join().await.unwrap(), "done");
    }
    assert_eq!(drained.join().await, Ok(0));
    assert_eq!(server.n_connections(), 0);
}

async fn until_refused(addr: SocketAddr) {
    tokio::time::timeout(SOON, async { while TcpStream::connect(addr).await.is_ok() {} })
        .await
        .unwrap();
}

#[tokio::test]
async fn a52_what_outlasts_the_drain_is_cut() {
    let tasks = Tasks::new();
    let dropped = Dropped::default();
    let started = Arc::new(Notify::new());
    let handler = {
        let (dropped, started) = (dropped.clone(), Arc::clone(&started));
        move |_: Request<Incoming>| {
            let (guard, started) = (dropped.guard(), Arc::clone(&started));
            async move {
                let _guard = guard;
                started.notify_one();
                std::future::pending::<Response<Body>>().await
            }
        }
    };
    let server = serve(&tasks, ServerOptions::default(), None, handler).await;
    let mut one = h1(&server, &tasks).await;
    let mut two = h2(&server, &tasks).await;
    let uri = format!("http://{}/", server.local_addr());
    let lost = [
        tasks.spawn("h1", async move { one.send_request(get("/")).await.is_err() }),
        tasks.spawn("h2", async move { two.send_request(get(&uri)).await.is_err() }),
    ];
    started.notified().await;
    started.notified().await;
    assert_eq!(server.drain(SHORT).await, 2);
    for lost in lost {
        assert_eq!(lost.join().await, Ok(true));
    }
    assert!(dropped.is_set());
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_for_a_place() {
    let tasks = Tasks::new();
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let server = serve(&tasks, limited(limits), None, echo).await;
    let mut first = h1(&server, &tasks).await;
    text(first.send_request(get("/")).await.unwrap()).await;
    let mut second = h1(&server, &tasks).await;
    let waiting = tasks.spawn("second", async move {
        text(second.send_request(get("/second")).await.unwrap()).await
    });
    assert_eq!(text(first.send_request(get("/first")).await.unwrap()).await, "GET /first 0");
    assert!(!waiting.is_finished());
    assert_eq!(server.n_connections(), 1);
    drop(first);
    assert_eq!(waiting.join().await.unwrap(), "GET /second 0");
}

#[tokio::test]
async fn heads_beyond_the_bounds_are_refused() {
    let tasks = Tasks::new();
    let limits = Limits { max_header_bytes: 16 << 10, max_headers: 10, ..Limits::default() };
    let server = serve(&tasks, limited(limits), None, echo).await;
    let big = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(17 << 10));
    let answer = exchange(&server, &big).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer:?}");
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(11));
    assert!(exchange(&server, &many).await.starts_with("HTTP/1.1 431"));
    let fits = format!("GET / HTTP/1.1\r\nconnection: close\r\n{}\r\n", "x: y\r\n".repeat(9));
    assert!(exchange(&server, &fits).await.starts_with("HTTP/1.1 200"));
    let garbage = exchange(&server, "\u{1}\u{2}\u{3} nonsense\r\n\r\n").await;
    assert!(garbage.starts_with("HTTP/1.1 400"), "{garbage}");
}

#[tokio::test]
async fn http2_heads_beyond_the_bound_are_refused_and_the_connection_lives() {
    let tasks = Tasks::new();
    let limits = Limits { max_header_bytes: 4 << 10, ..Limits::default() };
    let server = serve(&tasks, limited(limits), None, echo).await;
    let mut client = h2(&server, &tasks).await;
    let uri = format!("http://{}/", server.local_addr());
    let mut big = get(&uri);
    let value = http::HeaderValue::try_from("y".repeat(6 << 10)).unwrap();
    big.headers_mut().insert("x", value);
    match client.send_request(big).await {
        Ok(response) => assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        Err(error) => assert!(!error.is_closed(), "{error}"),
    }
    assert_eq!(text(client.send_request(get(&uri)).await.unwrap()).await, "GET / 0");
}

#[tokio::test]
async fn streams_beyond_the_bound_wait() {
    let tasks = Tasks::new();
    let limits = Limits { max_concurrent_streams: 1, ..Limits::default() };
    let go = Arc::new(Notify::new());
    let n_started = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let handler = {
        let (go, n_started) = (Arc::clone(&go), Arc::clone(&n_started));
        move |_: Request<Incoming>| {
            let (go, n_started) = (Arc::clone(&go), Arc::clone(&n_started));
            async move {
                n_started.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                go.notified().await;
                Response::new(empty())
            }
        }
    };
    let server = serve(&tasks, limited(limits), None, handler).await;
    let client = h2(&server, &tasks).await;
    let started = || n_started.load(std::sync::atomic::Ordering::SeqCst);
    let uri = format!("http://{}/", server.local_addr());
    let send = || {
        let (mut client, uri) = (client.clone(), uri.clone());
        tasks.spawn("request", async move { client.send_request(get(&uri)).await.is_ok() })
    };
    // The client learns the bound with the server's settings, so before the second request.
    let first = send();
    until(|| started() == 1).await;
    let second = send();
    assert!(!second.is_finished());
    assert_eq!(started(), 1);
    go.notify_one();
    assert_eq!(first.join().await, Ok(true));
    until(|| started() == 2).await;
    go.notify_one();
    assert_eq!(second.join().await, Ok(true));
}

#[tokio::test]
async fn slow_and_silent_clients_are_closed() {
    let tasks = Tasks::new();
    let limits = Limits { header_timeout: SHORT, idle_timeout: SOON, ..Limits::default() };
    let server = serve(&tasks, limited(limits), None, echo).await;
    for beginning in ["", "P", "PRI * HT", "GET / HTTP/1.1\r\nhost:"] {
        assert_eq!(exchange(&server, beginning).await, "", "{beginning:?}");
    }
    // A head that dribbles after a good request is closed, too.
    let mut stream = connect(&server).await;
    stream.write_all(b"GET /good HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 15];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    stream.write_all(b"GET /slow").await.unwrap();
    assert!(read_all(&mut stream).await.ends_with("GET /good 0"));
    until(|| server.n_connections() == 0).await;
}

#[tokio::test]
async fn idle_connections_are_closed_and_busy_ones_are_not() {
    let tasks = Tasks::new();
    let limits = Limits { header_timeout: SOON, idle_timeout: SHORT, ..Limits::default() };
    let go = Arc::new(Notify::new());
    let handler = {
        let go = Arc::clone(&go);
        move |_: Request<Incoming>| {
            let go = Arc::clone(&go);
            async move {
                go.notified().await;
                Response::new(full("late"))
            }
        }
    };
    let server = serve(&tasks, limited(limits), None, handler).await;
    let mut idle = connect(&server).await;
    let mut busy = h1(&server, &tasks).await;
    let answer =
        tasks.spawn("busy", async move { text(busy.send_request(get("/")).await.unwrap()).await });
    assert_eq!(read_all(&mut idle).await, "");
    assert!(!answer.is_finished(), "a request in progress outlives the idle time");
    go.notify_one();
    assert_eq!(answer.join().await.unwrap(), "late");
    until(|| server.n_connections() == 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_drops_its_request() {
    let tasks = Tasks::new();
    let dropped = Dropped::default();
    let started = Arc::new(Notify::new());
    let handler = {
        let (dropped, started) = (dropped.clone(), Arc::clone(&started));
        move |_: Request<Incoming>| {
            let (guard, started) = (dropped.guard(), Arc::clone(&started));
            async move {
                let _guard = guard;
                started.notify_one();
                std::future::pending::<Response<Body>>().await
            }
        }
    };
    let server = serve(&tasks, ServerOptions::default(), None, handler).await;
    let mut stream = connect(&server).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    started.notified().await;
    drop(stream);
    until(|| dropped.is_set()).await;
    until(|| server.n_connections() == 0).await;
}

#[tokio::test]
async fn a_handler_that_panics_costs_only_its_connection() {
    let tasks = Tasks::new();
    let handler = |request: Request<Incoming>| async move {
        assert_ne!(request.uri().path(), "/bad");
        Response::new(full("fine"))
    };
    let server = serve(&tasks, ServerOptions::default(), None, handler).await;
    assert_eq!(exchange(&server, "GET /bad HTTP/1.1\r\nhost: x\r\n\r\n").await, "");
    let good = "GET /good HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert!(exchange(&server, good).await.ends_with("fine"));
    assert_eq!(tasks.n_panics(), 1);
    until(|| server.n_connections() == 0).await;
}
