//! One ext-proc stream from Envoy's side, and what must come back on it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
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

const DESTINATION: &str = "x-gateway-destination-endpoint";

pub(super) type Client = ExternalProcessorClient<Channel>;
pub(super) type Sender = mpsc::Sender<ProcessingRequest>;
pub(super) type Queue = mpsc::Receiver<ProcessingRequest>;

/// An open stream.
pub(super) struct Stream {
    outbound: Sender,
    answers: Streaming<ProcessingResponse>,
}

/// What ends a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    Headers,
    Body,
    Trailers,
}

/// The end of the request phase.
pub(super) enum Routed {
    Done { decision: Duration, request: Duration, pick: String },
    Rejected(i32),
}

/// A queue with `messages` in it and room for `n_more`, so that sending never waits.
pub(super) fn queue(messages: Vec<ProcessingRequest>, n_more: usize) -> Result<(Sender, Queue)> {
    let (sender, receiver) = mpsc::channel(messages.len() + n_more);
    for message in messages {
        sender.try_send(message)?;
    }
    Ok((sender, receiver))
}

/// Starts a stream. Ends with the server's first header frame, which some servers send only with
/// their first answer.
pub(super) async fn start(
    client: &mut Client,
    mut queue: Queue,
) -> Result<Streaming<ProcessingResponse>> {
    let requests = stream::poll_fn(move |cx| queue.poll_recv(cx));
    Ok(client.process(requests).await?.into_inner())
}

impl Stream {
    /// Starts a stream with `messages` sent and room for `n_more`.
    pub(super) async fn open(
        client: &mut Client,
        messages: Vec<ProcessingRequest>,
        n_more: usize,
    ) -> Result<Self> {
        let (outbound, queue) = queue(messages, n_more)?;
        Ok(Self { outbound, answers: start(client, queue).await? })
    }

    pub(super) fn send(&self, messages: impl IntoIterator<Item = ProcessingRequest>) -> Result<()> {
        for message in messages {
            self.outbound.try_send(message).context("the stream takes no more messages")?;
        }
        Ok(())
    }

    /// Waits for the decision and for all `n_sent` bytes to come back, up to the answer to `last`.
    pub(super) async fn request_phase(
        &mut self,
        started: Instant,
        n_sent: usize,
        last: Last,
    ) -> Result<Routed> {
        let mut decided = None;
        let mut n_back = 0;
        loop {
            let answered = match self.next("request").await? {
                Response::RequestHeaders(answer) => {
                    decided = Some((started.elapsed(), destination(answer)?));
                    last == Last::Headers
                }
                Response::RequestBody(answer) => {
                    let (len, is_last) = streamed(answer)?;
                    n_back += len;
                    is_last && last == Last::Body
                }
                Response::RequestTrailers(_) if last == Last::Trailers => true,
                Response::ImmediateResponse(answer) => {
                    return Ok(Routed::Rejected(answer.status.map_or(0, |status| status.code)));
                }
                other => bail!("unexpected answer in the request phase: {}", name(&other)),
            };
            if answered {
                break;
            }
        }
        ensure!(n_back == n_sent, "sent {n_sent} body bytes, {n_back} came back");
        let (decision, pick) = decided.context("the body was answered before the headers")?;
        Ok(Routed::Done { decision, request: started.elapsed(), pick })
    }

    /// Waits for all `n_sent` bytes of the response to come back, up to the answer to `last`.
    pub(super) async fn response_phase(&mut self, n_sent: usize, last: Last) -> Result<()> {
        let mut n_back = 0;
        let mut headers_seen = false;
        loop {
            let answered = match self.next("response").await? {
                Response::ResponseHeaders(_) => {
                    headers_seen = true;
                    last == Last::Headers
                }
                Response::ResponseBody(answer) => {
                    ensure!(headers_seen, "the response body was answered before its headers");
                    let (len, is_last) = streamed(answer)?;
                    n_back += len;
                    is_last && last == Last::Body
                }
                Response::ResponseTrailers(_) if last == Last::Trailers => true,
                other => bail!("unexpected answer in the response phase: {}", name(&other)),
            };
            if answered {
                break;
            }
        }
        ensure!(n_back == n_sent, "sent {n_sent} response bytes, {n_back} came back");
        Ok(())
    }

    /// Half-closes and waits for the server to close.
    pub(super) async fn close(self) -> Result<()> {
        let Self { outbound, mut answers } = self;
        drop(outbound);
        let late =
            answers.message().await?.map(|late| late.response.as_ref().map_or("empty", name));
        ensure!(late.is_none(), "an answer after the end: {}", late.unwrap_or_default());
        Ok(())
    }

    pub(super) async fn next(&mut self, phase: &str) -> Result<Response> {
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
