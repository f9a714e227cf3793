//! One request through an endpoint picker, as Envoy plays it.
//!
//! Request headers, the body in chunks, end of stream; then the decision and the whole body must come
//! back. Response headers, chunks, end of stream; then those must come back. Then half-close, and the
//! server closes.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::stream;
use router_proto::ext_proc::external_processor_client::ExternalProcessorClient;
use router_proto::ext_proc::processing_response::Response;
use router_proto::ext_proc::{
    BodyResponse, HeadersResponse, ProcessingRequest, ProcessingResponse,
};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Streaming;
use tonic::transport::Channel;

use super::{BreakOff, ExtProcArgs, Script};
use crate::load::{Exchange, Outcome};

const DESTINATION: &str = "x-gateway-destination-endpoint";

/// How long a stream that is broken off before the decision is kept at most.
const UNDECIDED: Duration = Duration::from_millis(100);

type Client = ExternalProcessorClient<Channel>;

/// Requests through an endpoint picker.
pub struct ExtProcLoad {
    clients: Vec<Client>,
    script: Script,
    break_off: fn(u64) -> Option<BreakOff>,
}

/// An open stream.
struct Stream {
    outbound: mpsc::Sender<ProcessingRequest>,
    answers: Streaming<ProcessingResponse>,
}

/// The end of the request phase.
enum Routed {
    Done { decision: Duration, request: Duration, pick: String },
    Rejected(i32),
}

// === impl ExtProcLoad ===

impl ExtProcLoad {
    /// Connects.
    ///
    /// # Errors
    /// A server that cannot be reached, or a malformed `--header`.
    pub async fn connect(args: &ExtProcArgs, run_tag: u64) -> Result<Self> {
        Ok(Self {
            clients: args.connect().await?,
            script: Script::new(args, run_tag)?,
            break_off: |_| None,
        })
    }

    /// Breaks off the requests for whose number `choose` names a place. Such a request counts as
    /// refused, under that place.
    #[must_use]
    pub fn breaking_off(self, choose: fn(u64) -> Option<BreakOff>) -> Self {
        Self { break_off: choose, ..self }
    }
}

impl Exchange for ExtProcLoad {
    type Slot = Client;

    const PHASES: &'static [&'static str] = &["decision", "request", "total"];

    fn slot(&self, worker_idx: usize) -> Client {
        self.clients[worker_idx % self.clients.len()].clone()
    }

    async fn run(&self, client: &mut Client, n: u64, started: Instant) -> Result<Outcome> {
        let script = &self.script;
        if let Some(place) = (self.break_off)(n) {
            break_off(client, script, n, place).await?;
            return Ok(Outcome::Rejected(format!("{place:?}")));
        }
        let body = script.body(n);
        let mut stream = open(client, script, n, &body).await?;
        let (decision, request, pick) = match stream.request_phase(started, body.len()).await? {
            Routed::Done { decision, request, pick } => (decision, request, pick),
            Routed::Rejected(status) => {
                return Ok(Outcome::Rejected(format!("immediate response {status}")));
            }
        };
        stream.send(script.response_headers())?;
        for chunk in script.response_body() {
            stream.send(chunk)?;
        }
        stream.response_phase(script.response_len()).await?;
        stream.close().await?;
        Ok(Outcome::Done { phases: vec![decision, request, started.elapsed()], pick })
    }
}

/// The queue of a stream's messages, with the headers of request `n` and the first `n_chunks` chunks of
/// its body in it. It has room for every message of the exchange, so that sending never waits.
pub(super) fn queue(
    script: &Script,
    n: u64,
    body: &Bytes,
    n_chunks: usize,
) -> Result<(mpsc::Sender<ProcessingRequest>, mpsc::Receiver<ProcessingRequest>)> {
    let room = script.n_request_messages(body.len()) + script.n_response_messages();
    let (sender, receiver) = mpsc::channel(room);
    sender.try_send(script.request_headers(n, body.len()))?;
    for chunk in script.request_body(body).take(n_chunks) {
        sender.try_send(chunk)?;
    }
    Ok((sender, receiver))
}

/// Starts a stream. Ends with the server's first header frame, which some servers send only with
/// their first answer.
pub(super) async fn start(
    client: &mut Client,
    mut queue: mpsc::Receiver<ProcessingRequest>,
) -> Result<Streaming<ProcessingResponse>> {
    let requests = stream::poll_fn(move |cx| queue.poll_recv(cx));
    Ok(client.process(requests).await?.into_inner())
}

async fn open(client: &mut Client, script: &Script, n: u64, body: &Bytes) -> Result<Stream> {
    let (outbound, receiver) = queue(script, n, body, usize::MAX)?;
    Ok(Stream { outbound, answers: start(client, receiver).await? })
}

/// Plays request `n` up to `place`. Dropping the stream then resets it, as Envoy does.
async fn break_off(client: &mut Client, script: &Script, n: u64, place: BreakOff) -> Result<()> {
    let body = script.body(n);
    let n_chunks = script.n_request_messages(body.len()) - 1;
    let n_sent = match place {
        BreakOff::AfterHeaders => 0,
        BreakOff::MidBody => n_chunks / 2,
        BreakOff::BeforeDecision => n_chunks,
        BreakOff::BeforeResponse | BreakOff::MidResponse => {
            return break_off_late(client, script, n, place).await;
        }
    };
    let (_outbound, receiver) = queue(script, n, &body, n_sent)?;
    // A server that holds back its header frame until it has decided is left after this time.
    if let Ok(started) = tokio::time::timeout(UNDECIDED, start(client, receiver)).await {
        started?;
    }
    Ok(())
}

async fn break_off_late(
    client: &mut Client,
    script: &Script,
    n: u64,
    place: BreakOff,
) -> Result<()> {
    let body = script.body(n);
    let mut stream = open(client, script, n, &body).await?;
    let routed = stream.request_phase(Instant::now(), body.len()).await?;
    if place == BreakOff::MidResponse && matches!(routed, Routed::Done { .. }) {
        stream.send(script.response_headers())?;
        for chunk in script.response_body().take(script.n_response_messages() / 2) {
            stream.send(chunk)?;
        }
        stream.next("response").await?;
    }
    Ok(())
}

// === impl Stream ===

impl Stream {
    fn send(&self, message: ProcessingRequest) -> Result<()> {
        self.outbound.try_send(message).context("the stream takes no more messages")
    }

    /// Waits for the decision and for the whole body to come back.
    async fn request_phase(&mut self, started: Instant, sent: usize) -> Result<Routed> {
        let mut decided = None;
        let mut n_back = 0;
        loop {
            match self.next("request").await? {
                Response::RequestHeaders(answer) => {
                    decided = Some((started.elapsed(), destination(answer)?));
                }
                Response::RequestBody(answer) => {
                    let (len, last) = streamed(answer)?;
                    n_back += len;
                    if last {
                        break;
                    }
                }
                Response::ImmediateResponse(answer) => {
                    return Ok(Routed::Rejected(answer.status.map_or(0, |status| status.code)));
                }
                other => bail!("unexpected answer in the request phase: {}", name(&other)),
            }
        }
        ensure!(n_back == sent, "sent {sent} body bytes, {n_back} came back");
        let (decision, pick) = decided.context("the body was answered before the headers")?;
        Ok(Routed::Done { decision, request: started.elapsed(), pick })
    }

    /// Waits for the whole response to come back.
    async fn response_phase(&mut self, sent: usize) -> Result<()> {
        let mut n_back = 0;
        let mut headers_seen = false;
        loop {
            match self.next("response").await? {
                Response::ResponseHeaders(_) => headers_seen = true,
                Response::ResponseBody(answer) => {
                    ensure!(headers_seen, "the response body was answered before its headers");
                    let (len, last) = streamed(answer)?;
                    n_back += len;
                    if last {
                        break;
                    }
                }
                other => bail!("unexpected answer in the response phase: {}", name(&other)),
            }
        }
        ensure!(n_back == sent, "sent {sent} response bytes, {n_back} came back");
        Ok(())
    }

    /// Half-closes and waits for the server to close.
    async fn close(self) -> Result<()> {
        let Self { outbound, mut answers } = self;
        drop(outbound);
        let late =
            answers.message().await?.map(|late| late.response.as_ref().map_or("empty", name));
        ensure!(late.is_none(), "an answer after the end: {}", late.unwrap_or_default());
        Ok(())
    }

    async fn next(&mut self, phase: &str) -> Result<Response> {
        let message = self.answers.message().await?;
        let message = message.with_context(|| format!("stream closed in the {phase} phase"))?;
        message.response.context("an answer with nothing in it")
    }
}

fn destination(answer: HeadersResponse) -> Result<String> {
    let mutation = answer.response.and_then(|common| common.header_mutation).unwrap_or_default();
    let header = mutation
        .set_headers
        .iter()
        .filter_map(|option| option.header.as_ref())
        .find(|header| header.key.eq_ignore_ascii_case(DESTINATION));
    let value = header.context("no destination endpoint in the header answer")?.bytes();
    ensure!(!value.is_empty(), "an empty destination endpoint");
    Ok(String::from_utf8_lossy(value).into_owned())
}

/// Bytes of a streamed piece, and whether it is the last.
fn streamed(answer: BodyResponse) -> Result<(usize, bool)> {
    let piece = answer.into_streamed().context("a body answer that is not streamed")?;
    Ok((piece.body.len(), piece.end_of_stream))
}

fn name(response: &Response) -> &'static str {
    match response {
        Response::RequestHeaders(_) => "request headers",
        Response::ResponseHeaders(_) => "response headers",
        Response::RequestBody(_) => "request body",
        Response::ResponseBody(_) => "response body",
        Response::RequestTrailers(_) => "request trailers",
        Response::ResponseTrailers(_) => "response trailers",
        Response::ImmediateResponse(_) => "immediate response",
    }
}
