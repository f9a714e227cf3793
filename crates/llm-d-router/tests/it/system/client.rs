//! A plain HTTP client, a connection per request, that says how far an answer came.

use std::{fmt, io, net::SocketAddr};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, Version, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::{body::Incoming, client::conn, rt};
use hyper_util::rt::TokioIo;
use router_net::body::{self, Body};
use router_rt::Tasks;
use serde_json::Value;
use tokio::{net::TcpStream, time::Instant};
use xxhash_rust::xxh64::xxh64;

use super::world::TEST_ID;

/// Sends requests to one address. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    addr: SocketAddr,
    is_http2: bool,
    tasks: Tasks,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    /// Pieces of the body; none for no body at all.
    pub(crate) body: Vec<Bytes>,
    pub(crate) trailers: Option<HeaderMap>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
}

/// An answer whose head has come.
pub(crate) struct Opened {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) begun: Instant,
    body: Incoming,
}

/// A request that got no whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) stage: Stage,
    pub(crate) cause: String,
}

/// How far it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nobody accepted the connection.
    Connecting,
    /// The connection ended before the head of an answer.
    BeforeHead,
    /// The answer broke off.
    MidBody,
}

// === impl Client ===

impl Client {
    /// A client that speaks HTTP/1.1.
    pub(crate) fn new(addr: SocketAddr, tasks: Tasks) -> Self {
        Self { addr, is_http2: false, tasks }
    }

    /// The same over HTTP/2 in the clear.
    pub(crate) fn http2(mut self) -> Self {
        self.is_http2 = true;
        self
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn send(&self, call: Call) -> Result<Answer, Broken> {
        self.open(call).await?.finish().await
    }

    /// Sends a request and waits for the head of the answer. Dropping what it returns leaves, as a client
    /// does that goes away.
    pub(crate) async fn open(&self, call: Call) -> Result<Opened, Broken> {
        let connecting = |error: io::Error| Broken::new(Stage::Connecting, &error);
        let stream = TcpStream::connect(self.addr).await.map_err(connecting)?;
        stream.set_nodelay(true).map_err(connecting)?;
        let io = TokioIo::new(stream);
        let response = if self.is_http2 {
            let (mut sender, connection) =
                conn::http2::handshake(Spawner(self.tasks.clone()), io).await?;
            self.tasks.spawn_cancellable("client connection", connection);
            sender.send_request(call.request(self.addr, Version::HTTP_2)).await?
        } else {
            let (mut sender, connection) = conn::http1::handshake(io).await?;
            self.tasks.spawn_cancellable("client connection", connection);
            sender.send_request(call.request(self.addr, Version::HTTP_11)).await?
        };
        Ok(Opened::of(response))
    }
}

/// Runs what HTTP/2 does beside.
#[derive(Clone)]
struct Spawner(Tasks);

impl<F: Future<Output: Send> + Send + 'static> rt::Executor<F> for Spawner {
    fn execute(&self, future: F) {
        self.0.spawn_cancellable("client stream", future);
    }
}

// === impl Call ===

impl Call {
    pub(crate) fn get(path: &str) -> Self {
        Self {
            method: Method::GET,
            path: path.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            trailers: None,
        }
    }

    pub(crate) fn method(method: Method, path: &str) -> Self {
        Self { method, ..Self::get(path) }
    }

    /// A POST of these bytes as JSON, whatever they are.
    pub(crate) fn post(path: &str, body: impl Into<Bytes>) -> Self {
        let call = Self { body: vec![body.into()], ..Self::method(Method::POST, path) };
        call.header(header::CONTENT_TYPE.as_str(), "application/json")
    }

    pub(crate) fn json(path: &str, body: &Value) -> Self {
        Self::post(path, body.to_string())
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes the request one that can be found among what a server saw.
    pub(crate) fn id(self, id: &str) -> Self {
        self.header(TEST_ID, id)
    }

    /// Sends the body in pieces of so many bytes.
    pub(crate) fn pieces(mut self, n_bytes: usize) -> Self {
        let whole: Bytes = self.body.concat().into();
        let starts = (0..whole.len()).step_by(n_bytes.max(1));
        self.body =
            starts.map(|at| whole.slice(at..whole.len().min(at + n_bytes.max(1)))).collect();
        self
    }

    pub(crate) fn trailers(mut self, trailers: HeaderMap) -> Self {
        self.trailers = Some(trailers);
        self
    }

    fn request(self, addr: SocketAddr, version: Version) -> Request<Body> {
        let is_http2 = version == Version::HTTP_2;
        let uri = if is_http2 { format!("http://{addr}{}", self.path) } else { self.path };
        let mut request = Request::builder().method(self.method).uri(uri).version(version);
        if !is_http2 {
            request = request.header(header::HOST, addr.to_string());
        }
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        let body = match (self.body.len(), self.trailers) {
            (0, None) => body::empty(),
            (1, None) => body::full(self.body.concat()),
            (_, trailers) => {
                let data = self.body.into_iter().map(Frame::data);
                let frames = data.chain(trailers.map(Frame::trailers)).map(Ok::<_, io::Error>);
                body::boxed(StreamBody::new(stream::iter(frames.collect::<Vec<_>>())))
            }
        };
        // Only a test's own mistake makes a request that cannot be built.
        request.body(body).unwrap_or_else(|error| panic!("not a request: {error}"))
    }
}

// === impl Opened ===

impl Opened {
    fn of(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let (status, headers) = (parts.status.as_u16(), parts.headers);
        Self { status, headers, begun: Instant::now(), body }
    }

    /// The next piece of the body; none at its end.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, Broken> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| Broken::new(Stage::MidBody, &error))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// Reads on to the end; pieces that were taken are not in the answer.
    pub(crate) async fn finish(mut self) -> Result<Answer, Broken> {
        let mut body = BytesMut::new();
        while let Some(piece) = self.piece().await? {
            body.extend_from_slice(&piece);
        }
        let Self { status, headers, begun, .. } = self;
        Ok(Answer { status, headers, body: body.freeze(), begun, ended: Instant::now() })
    }
}

// === impl Answer ===

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&self.body)?)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The port of the server that answered.
    pub(crate) fn port(&self) -> Option<u16> {
        port(&self.headers)
    }

    /// The hash of the body, as servers note it.
    pub(crate) fn hash(&self) -> String {
        hash(&self.body)
    }
}

/// The port of the simulated server that answered with these headers.
pub(crate) fn port(headers: &HeaderMap) -> Option<u16> {
    headers.get("x-inference-port")?.to_str().ok()?.parse().ok()
}

/// The hash of some bytes, as servers note it.
pub(crate) fn hash(bytes: &[u8]) -> String {
    format!("{:016x}", xxh64(bytes, 0))
}

// === impl Broken ===

impl Broken {
    fn new(stage: Stage, cause: &dyn std::error::Error) -> Self {
        let mut text = cause.to_string();
        let mut source = cause.source();
        while let Some(deeper) = source {
            text = format!("{text}: {deeper}");
            source = deeper.source();
        }
        Self { stage, cause: text }
    }
}

impl From<hyper::Error> for Broken {
    fn from(error: hyper::Error) -> Self {
        Self::new(Stage::BeforeHead, &error)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no whole answer ({:?}): {}", self.stage, self.cause)
    }
}

impl std::error::Error for Broken {}
