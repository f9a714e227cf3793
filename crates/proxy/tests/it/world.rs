//! A proxy on loopback with scripted model servers behind it.

use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, request::Parts};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use router_core::{Endpoint, EndpointSpec, Position, Rejection, Stamp, header::HeadPatch};
use router_engine::Settings;
use router_framework::{
    End, EndCause, Lease, Outcome, Picker, PreRequest, RequestCx, schedule::MAX_TARGETS,
};
use router_net::{
    Body, Server, ServerOptions, Target, Upstream, UpstreamBody, UpstreamOptions, body,
    upstream::SendError,
};
use router_proxy::{Proxy, ProxyOptions};
use router_rt::{Rng, Tasks};
use router_testkit::router::{RouterBuilder, TestRouter, named};
use smallvec::SmallVec;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// A limit on waits that only a broken test reaches.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) const CHAT: &str = "/v1/chat/completions";

/// A request body with odd but valid formatting, which must survive.
pub(crate) const PROMPT: &str = "{ \"messages\" : [{\"role\":\"user\",\"content\":\"h\\u0069\"}],\n\t\"model\" :\"m\", \"x\":1.0e0 }";

pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(SOON, future).await.unwrap()
}

// === World ===

pub(crate) struct World {
    pub(crate) addr: SocketAddr,
    pub(crate) router: TestRouter,
    pub(crate) ledger: Ledger,
    pub(crate) is_ready: Arc<AtomicBool>,
    /// The client.
    pub(crate) client: Upstream,
    /// What the proxy sends with.
    pub(crate) upstream: Upstream,
    pub(crate) server: Server,
}

#[derive(Default)]
pub(crate) struct WorldOptions {
    /// The document; empty for the built-in one. The objective `batch` is sheddable.
    pub(crate) config: String,
    pub(crate) proxy: ProxyOptions,
    pub(crate) server: ServerOptions,
    pub(crate) settings: Settings,
    pub(crate) upstream: UpstreamOptions,
}

impl World {
    /// The proxy with these model servers, tried in this order.
    pub(crate) async fn new(servers: &[SocketAddr]) -> Self {
        Self::with(servers, WorldOptions::default()).await
    }

    pub(crate) async fn with(servers: &[SocketAddr], options: WorldOptions) -> Self {
        let spec = |(n, addr): (usize, &SocketAddr)| {
            EndpointSpec::new("default", &format!("e{n}"), &addr.ip().to_string(), addr.port())
        };
        let ledger = Ledger::default();
        let hook: Arc<dyn PreRequest> = Arc::new(ledger.clone());
        let router = RouterBuilder::new(&options.config)
            .objective("batch", -1)
            .settings(|settings| *settings = options.settings)
            .specs(servers.iter().enumerate().map(spec).collect())
            .change(move |loaded| {
                loaded.pre_requests.push(named("ledger", hook));
                for profile in &mut loaded.profiles {
                    profile.picker = named("in-order", Arc::new(InOrder));
                }
            })
            .build();
        let tasks = Tasks::new();
        let upstream = Upstream::new(options.upstream, &tasks);
        let is_ready = Arc::new(AtomicBool::new(true));
        let ready = Arc::clone(&is_ready);
        let readiness = move || {
            if ready.load(Ordering::Relaxed) { Ok(()) } else { Err("draining".to_owned()) }
        };
        let proxy = Proxy::new(
            Arc::new(ArcSwap::new(Arc::clone(&router.router))),
            upstream.clone(),
            options.proxy,
            Arc::new(readiness),
            tasks.clone(),
        );
        let listener = listen().await;
        let server = Server::start(listener, None, options.server, &tasks, proxy).unwrap();
        let client = Upstream::new(UpstreamOptions::default(), &tasks);
        let addr = server.local_addr();
        Self { addr, router, ledger, is_ready, client, upstream, server }
    }

    pub(crate) async fn send(
        &self,
        request: Request<Body>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        soon(Box::pin(self.client.send(&Target::clear(self.addr), request))).await
    }

    /// Sends, and reads the whole answer.
    pub(crate) async fn ask(&self, request: Request<Body>) -> Answer {
        Answer::read(self.send(request).await.unwrap()).await
    }

    /// A connection to the proxy.
    pub(crate) async fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Waits until no client is connected.
    pub(crate) async fn all_gone(&self) {
        while self.server.n_connections() > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Sends these bytes over a connection of their own and reads until the proxy closes it.
    pub(crate) async fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        // The proxy may answer and close before it has read everything.
        let _closed = stream.write_all(bytes.as_ref()).await;
        let mut answer = Vec::new();
        let _reset = soon(stream.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// A whole response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) async fn read(response: Response<UpstreamBody>) -> Self {
        let (parts, body) = response.into_parts();
        let collected = soon(body.collect()).await.unwrap();
        let trailers = collected.trailers().cloned();
        Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: collected.to_bytes(),
            trailers,
        }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// `code` of an error in OpenAI's form.
    pub(crate) fn error_code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn post(path: &str, body: impl Into<Bytes>) -> Request<Body> {
    Request::post(path).body(body::full(body)).unwrap()
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(path).body(body::empty()).unwrap()
}

pub(crate) fn chat() -> Request<Body> {
    post(CHAT, PROMPT)
}

pub(crate) fn header<B>(mut request: Request<B>, name: &'static str, value: &str) -> Request<B> {
    request.headers_mut().append(name, value.parse().unwrap());
    request
}

// === Model servers ===

pub(crate) async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// An address that nothing listens on.
pub(crate) async fn nobody() -> SocketAddr {
    listen().await.local_addr().unwrap()
}

/// A request as a model server saw it.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) parts: Parts,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.parts.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// A model server that notes what it sees.
#[derive(Clone)]
pub(crate) struct ModelServer {
    pub(crate) addr: SocketAddr,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
}

impl ModelServer {
    /// Answers every request with `answer`.
    pub(crate) async fn new(
        tasks: &Tasks,
        answer: impl Fn() -> Response<Body> + Clone + Send + Sync + 'static,
    ) -> Self {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let log = Arc::clone(&seen);
        let handler = move |request: Request<Incoming>| {
            let (log, answer) = (Arc::clone(&log), answer.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                log.lock().push(Seen { parts, body });
                answer()
            }
        };
        let options = ServerOptions::named("model server");
        let server = Server::start(listen().await, None, options, tasks, handler).unwrap();
        Self { addr: server.local_addr(), seen }
    }

    /// Answers every request with this text.
    pub(crate) async fn saying(tasks: &Tasks, text: &'static str) -> Self {
        Self::new(tasks, move || Response::new(body::full(text))).await
    }

    pub(crate) fn n_seen(&self) -> usize {
        self.seen.lock().len()
    }

    /// The one request that it saw.
    pub(crate) fn only(&self) -> Seen {
        let mut seen = self.seen.lock();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.pop().unwrap()
    }
}

/// A model server that runs `script` on each connection, with the connection's number from 0 on.
pub(crate) async fn scripted<F, Fut>(tasks: &Tasks, script: F) -> SocketAddr
where
    F: Fn(usize, TcpStream) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = listen().await;
    let addr = listener.local_addr().unwrap();
    let owner = tasks.clone();
    tasks.spawn_cancellable("scripted server", async move {
        for n in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            owner.spawn_cancellable("scripted connection", script(n, stream));
        }
    });
    addr
}

/// Reads one head. None when the other side closed first.
pub(crate) async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// Reads one request with a `content-length`, and gives its body.
pub(crate) async fn read_request(stream: &mut TcpStream) -> Option<Bytes> {
    let head = read_head(stream).await?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    Some(body.into())
}

/// Waits until the other side has closed; drops what it still sends.
pub(crate) async fn wait_for_close(stream: &mut TcpStream) {
    let mut buffer = [0; 1024];
    while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {}
}

/// Writes, and does not mind when the other side is gone.
pub(crate) async fn say(stream: &mut TcpStream, text: impl AsRef<[u8]>) {
    let _gone = stream.write_all(text.as_ref()).await;
}

// === Ledger ===

/// Counts what is in flight on each endpoint, as load plugins do, and how requests end.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<watch::Sender<Books>>);

#[derive(Clone, Debug, Default)]
pub(crate) struct Books {
    pub(crate) in_flight: BTreeMap<String, i64>,
    /// Endpoints by name in the order in which requests came to them.
    pub(crate) path: Vec<String>,
    pub(crate) ends: Vec<(EndCause, Option<u16>)>,
}

struct Entry {
    books: Arc<watch::Sender<Books>>,
    endpoint: String,
    is_ended: bool,
}

impl Ledger {
    /// The books once `n` requests have ended; nothing may be in flight then.
    pub(crate) async fn ended(&self, n: usize) -> Books {
        let mut receiver = self.0.subscribe();
        let books = soon(receiver.wait_for(|books| books.ends.len() >= n)).await.unwrap().clone();
        assert_eq!(books.ends.len(), n, "{books:?}");
        assert!(books.in_flight.values().all(|n| *n == 0), "{books:?}");
        books
    }

    /// How requests ended, once `n` have; others may be in flight.
    pub(crate) async fn ended_some(&self, n: usize) -> Vec<(EndCause, Option<u16>)> {
        let mut receiver = self.0.subscribe();
        let books = soon(receiver.wait_for(|books| books.ends.len() >= n)).await.unwrap();
        books.ends.clone()
    }

    /// How the one request ended.
    pub(crate) async fn only_end(&self) -> (EndCause, Option<u16>) {
        self.ended(1).await.ends[0]
    }

    /// Waits until `n` requests are in flight.
    pub(crate) async fn in_flight(&self, n: i64) {
        let mut receiver = self.0.subscribe();
        let all = |books: &Books| books.in_flight.values().sum::<i64>();
        let _books = soon(receiver.wait_for(|books| all(books) == n)).await.unwrap();
    }

    pub(crate) fn path(&self) -> Vec<String> {
        self.0.borrow().path.clone()
    }
}

impl PreRequest for Ledger {
    fn pre_request(
        &self,
        cx: &RequestCx<'_>,
        outcome: &Outcome,
        _: &mut HeadPatch,
    ) -> Result<Option<Box<dyn Lease>>, Rejection> {
        let endpoint = outcome.target(cx).unwrap().name().to_owned();
        self.0.send_modify(|books| books.take(&endpoint));
        Ok(Some(Box::new(Entry { books: Arc::clone(&self.0), endpoint, is_ended: false })))
    }
}

impl Books {
    fn take(&mut self, endpoint: &str) {
        *self.in_flight.entry(endpoint.to_owned()).or_default() += 1;
        self.path.push(endpoint.to_owned());
    }

    fn give_back(&mut self, endpoint: &str) {
        *self.in_flight.entry(endpoint.to_owned()).or_default() -= 1;
    }
}

impl Lease for Entry {
    fn moved(&mut self, endpoint: &Arc<Endpoint>, _: Stamp) {
        let to = endpoint.name().to_owned();
        self.books.send_modify(|books| {
            books.give_back(&self.endpoint);
            books.take(&to);
        });
        self.endpoint = to;
    }

    fn end(&mut self, end: &End) {
        assert!(!std::mem::replace(&mut self.is_ended, true), "a lease ends once");
        let status = end.status.map(|status| status.as_u16());
        self.books.send_modify(|books| {
            books.give_back(&self.endpoint);
            books.ends.push((end.cause, status));
        });
    }
}

/// Ranks candidates by their names.
struct InOrder;

impl Picker for InOrder {
    fn n_shown(&self) -> usize {
        1
    }

    fn pick(
        &self,
        cx: &RequestCx<'_>,
        scored: &[(Position, f64)],
        _: &mut Rng,
        n_wanted: usize,
        ranked: &mut SmallVec<[Position; MAX_TARGETS]>,
    ) {
        ranked.extend(scored.iter().map(|(position, _)| *position));
        ranked.sort_by_key(|position| cx.endpoint(*position).unwrap().name().to_owned());
        ranked.truncate(n_wanted);
    }
}
