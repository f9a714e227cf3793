//! A model server that only answers: many endpoints in one process.
//!
//! `POST` to any path answers with JSON, or with server-sent events where the request says
//! `"stream":true`; `GET /metrics` gives a page that changes from scrape to scrape as a loaded server's
//! would; `GET /bench/stats` counts what all endpoints have served; `/health` and `/readyz` are 200. There is no engine, no queue and no
//! delay: what it costs is a floor, and it is the same for whatever stands in front.

mod page;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use router_rt::Tasks;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

pub use page::Page;

use super::{RECEIVED_HEADER, SENT_HEADER, accept};
use crate::payload;

/// Bytes at the head of a request in which `"stream":true` is looked for.
const HEAD: usize = 4096;
/// The largest request body that is read, in bytes.
const MAX_BODY: u64 = 256 << 20;

/// What the endpoints answer.
#[derive(Clone, Debug)]
pub struct Answers {
    pub model: String,
    /// Bytes of a response body; 0 is as small as it comes.
    pub size: usize,
    /// Pieces in which a streamed response is sent; another is always sent in one.
    pub n_chunks: usize,
    pub page: Page,
}

/// What all endpoints have served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub requests: u64,
    /// Bytes of request bodies.
    pub received: u64,
    /// Metrics pages.
    pub scrapes: u64,
}

/// Endpoints that are being served, until their tasks are cancelled.
#[derive(Debug)]
pub struct Upstream {
    pub addresses: Vec<SocketAddr>,
}

struct Shared {
    json: Vec<Bytes>,
    events: Vec<Bytes>,
    models: Bytes,
    page: Page,
    requests: AtomicU64,
    received: AtomicU64,
    scrapes: AtomicU64,
}

/// A body of prepared pieces; only one with a known length is sent with `content-length`.
struct Pieces {
    pieces: VecDeque<Bytes>,
    len: Option<u64>,
}

// === impl Upstream ===

impl Upstream {
    /// Starts `n` endpoints at `ip`: at `base_port` and the ports after it, or at any free ports
    /// if it is 0.
    ///
    /// # Errors
    /// Addresses that cannot be bound.
    pub async fn start(
        ip: IpAddr,
        base_port: u16,
        n: usize,
        answers: &Answers,
        tasks: &Tasks,
    ) -> Result<Self> {
        ensure!(n > 0, "there must be at least one endpoint");
        let shared = Arc::new(Shared::new(answers));
        let mut addresses = Vec::with_capacity(n);
        for endpoint_idx in 0..n {
            let port = match base_port {
                0 => 0,
                base => u16::try_from(usize::from(base) + endpoint_idx)
                    .context("the ports do not fit below 65536")?,
            };
            let listener = TcpListener::bind((ip, port))
                .await
                .with_context(|| format!("binding {ip}:{port}"))?;
            let address = listener.local_addr()?;
            addresses.push(address);
            let shared = Arc::clone(&shared);
            let name = HeaderValue::from_str(&address.to_string())?;
            tasks.spawn(
                "endpoint",
                accept::serve(listener, tasks.clone(), move |request| {
                    answer(Arc::clone(&shared), name.clone(), request)
                }),
            );
        }
        Ok(Self { addresses })
    }
}

// === impl Shared ===

impl Shared {
    fn new(answers: &Answers) -> Self {
        let Answers { model, size, n_chunks, page } = answers;
        let models = serde_json::json!({
            "object": "list",
            "data": [{"id": model, "object": "model", "owned_by": "bench"}],
        });
        Self {
            json: payload::answer(model, 1, *size, false),
            events: payload::answer(model, *n_chunks, *size, true),
            models: models.to_string().into(),
            page: page.clone(),
            requests: AtomicU64::new(0),
            received: AtomicU64::new(0),
            scrapes: AtomicU64::new(0),
        }
    }

    fn stats(&self) -> Stats {
        Stats {
            requests: self.requests.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            scrapes: self.scrapes.load(Ordering::Relaxed),
        }
    }
}

async fn answer(
    shared: Arc<Shared>,
    name: HeaderValue,
    request: Request<Incoming>,
) -> Response<Pieces> {
    match (request.method(), request.uri().path()) {
        (&Method::POST, _) => complete(&shared, name, request.into_body()).await,
        (&Method::GET, "/metrics") => {
            let n = shared.scrapes.fetch_add(1, Ordering::Relaxed);
            whole("text/plain; version=1.0.0; charset=utf-8", shared.page.nth(n))
        }
        (&Method::GET, "/bench/stats") => {
            let stats = serde_json::to_vec(&shared.stats()).unwrap_or_default();
            whole("application/json", stats.into())
        }
        (&Method::GET, "/v1/models") => whole("application/json", shared.models.clone()),
        (&Method::GET, "/health" | "/readyz") => whole("text/plain", Bytes::new()),
        _ => empty(StatusCode::NOT_FOUND),
    }
}

async fn complete(shared: &Shared, name: HeaderValue, mut body: Incoming) -> Response<Pieces> {
    let mut head = Vec::with_capacity(HEAD);
    let mut received: u64 = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return empty(StatusCode::BAD_REQUEST) };
        let Ok(data) = frame.into_data() else { continue };
        head.extend_from_slice(&data[..data.len().min(HEAD - head.len())]);
        received += data.len() as u64;
        if received > MAX_BODY {
            return empty(StatusCode::PAYLOAD_TOO_LARGE);
        }
    }
    shared.requests.fetch_add(1, Ordering::Relaxed);
    shared.received.fetch_add(received, Ordering::Relaxed);
    let stream = memchr::memmem::find(&head, br#""stream":true"#).is_some();
    let pieces = if stream { &shared.events } else { &shared.json };
    let len = pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
    let content_type = if stream { "text/event-stream; charset=utf-8" } else { "application/json" };
    let mut response = Response::new(Pieces {
        pieces: pieces.iter().cloned().collect(),
        len: (!stream).then_some(len),
    });
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(SENT_HEADER, len.into());
    headers.insert(RECEIVED_HEADER, received.into());
    headers.insert("x-bench-endpoint", name);
    response
}

fn whole(content_type: &'static str, body: Bytes) -> Response<Pieces> {
    let len = Some(body.len() as u64);
    let mut response = Response::new(Pieces { pieces: [body].into(), len });
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn empty(status: StatusCode) -> Response<Pieces> {
    let mut response = whole("text/plain", Bytes::new());
    *response.status_mut() = status;
    response
}

// === impl Pieces ===

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.pop_front();
        if let (Some(len), Some(piece)) = (&mut self.len, &piece) {
            *len -= piece.len() as u64;
        }
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.len.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
