//! One HTTP request over a kept connection, with its answer checked.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use router_rt::Tasks;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{HttpArgs, RECEIVED_HEADER, SENT_HEADER};
use crate::load::{Exchange, Outcome};
use crate::payload::Payloads;

const STREAM_END: &[u8] = b"data: [DONE]\n\n";

/// Requests to an HTTP server; each worker has a connection of its own.
pub struct HttpLoad {
    payloads: Payloads,
    target: String,
    path: String,
    headers: HeaderMap,
    stream: bool,
    expect_bytes: Option<u64>,
    connections: Tasks,
}

/// A connection that is free for the next request.
type Connection = SendRequest<Full<Bytes>>;

impl HttpLoad {
    /// # Errors
    /// A malformed `--header`.
    pub fn new(args: &HttpArgs, run_tag: u64) -> Result<Self> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(&args.target)?);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(USER_AGENT, HeaderValue::from_static("http-load"));
        for header in &args.headers {
            let (name, value) = header.split_once(':').context("--header is name:value")?;
            let name = HeaderName::from_bytes(name.trim().as_bytes())?;
            headers.append(name, HeaderValue::from_str(value.trim())?);
        }
        Ok(Self {
            payloads: Payloads::new(&args.shape(run_tag)),
            target: args.target.clone(),
            path: args.path.clone(),
            headers,
            stream: args.stream,
            expect_bytes: args.expect_bytes,
            connections: Tasks::new(),
        })
    }

    async fn connect(&self) -> Result<Connection> {
        let tcp = TcpStream::connect(&self.target)
            .await
            .with_context(|| format!("connecting to {}", self.target))?;
        tcp.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
        self.connections.spawn("client connection", connection);
        Ok(sender)
    }

    fn request(&self, body: Bytes) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.path.as_str())
            .body(Full::new(body))?;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }
}

impl Exchange for HttpLoad {
    type Slot = Option<Connection>;

    const PHASES: &'static [&'static str] = &["first_byte", "total"];

    fn slot(&self, _worker_idx: usize) -> Option<Connection> {
        None
    }

    async fn run(
        &self,
        slot: &mut Option<Connection>,
        n: u64,
        started: Instant,
    ) -> Result<Outcome> {
        // Taken out: a request that fails or is given up leaves no half-read connection behind.
        let mut connection = match slot.take() {
            Some(free) if !free.is_closed() => free,
            Some(_) | None => self.connect().await?,
        };
        let body = self.payloads.body(n);
        let n_sent = body.len() as u64;
        connection.ready().await?;
        let response = connection.send_request(self.request(body)?).await?;
        let first_byte = started.elapsed();
        if response.status() != StatusCode::OK {
            let status = response.status();
            drain(response).await?;
            *slot = Some(connection);
            return Ok(Outcome::Rejected(format!("status {status}")));
        }
        let pick = header(&response, "x-bench-endpoint").unwrap_or_default().to_owned();
        self.check(response, n_sent).await?;
        *slot = Some(connection);
        Ok(Outcome::Done { phases: vec![first_byte, started.elapsed()], pick })
    }
}

impl HttpLoad {
    /// Reads the body to its end and holds it, and what the server says it received, to what was
    /// sent.
    async fn check(&self, response: Response<Incoming>, n_sent: u64) -> Result<()> {
        let number = |name| header(&response, name).map(str::parse::<u64>).transpose();
        let received = number(RECEIVED_HEADER)?;
        let expected = self.expect_bytes.or(number(SENT_HEADER)?);
        if let Some(received) = received {
            ensure!(received == n_sent, "sent {n_sent} body bytes, {received} arrived");
        }
        let (n_back, tail) = read(response).await?;
        match expected {
            Some(expected) => {
                ensure!(n_back == expected, "{expected} response bytes sent, {n_back} arrived");
            }
            None => ensure!(n_back > 0, "an empty response"),
        }
        ensure!(!self.stream || tail == STREAM_END, "the stream ends without [DONE]");
        Ok(())
    }
}

/// Length and last bytes of the body.
async fn read(response: Response<Incoming>) -> Result<(u64, Vec<u8>)> {
    let mut body = response.into_body();
    let mut len = 0;
    let mut tail: Vec<u8> = Vec::with_capacity(2 * STREAM_END.len());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        len += data.len() as u64;
        tail.extend_from_slice(&data[data.len().saturating_sub(STREAM_END.len())..]);
        tail.drain(..tail.len().saturating_sub(STREAM_END.len()));
    }
    Ok((len, tail))
}

async fn drain(response: Response<Incoming>) -> Result<()> {
    read(response).await.map(drop)
}

fn header<'a>(response: &'a Response<Incoming>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

impl Drop for HttpLoad {
    fn drop(&mut self) {
        self.connections.cancel();
    }
}
