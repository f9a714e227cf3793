//! The endpoint picker's side of a stream: Envoy's messages drive one request of the engine.
//!
//! ```text
//! Start ──headers──► Deciding ──decision──► Routed ──response headers──► Responding ──end──► Done
//!                        └──── rejection ────────────────────────────────────────────────► Done
//! ```
//!
//! The reply to the request's headers is held back until the request is routed; its body follows at once.
//! Response bodies pass in the order in which they come, without being gathered.
//!
//! Messages that cannot follow each other end the stream with a gRPC error. A response to a request that was
//! not routed, which Envoy made itself, passes as it is.

mod deciding;
mod gathered;
mod modes;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use arc_swap::ArcSwap;
use http::{HeaderName, StatusCode};
use router_core::{Rejection, Stamp, header};
use router_engine::{BodyLease, Exchange, ResponseHead, Router, flow::Eviction};
use router_framework::{EndCause, SubsetHint};
use router_proto::ext_proc::{
    HttpBody, HttpHeaders, ProcessingRequest, ProtocolConfiguration, TrailersResponse,
    processing_request::Request as Message, processing_response::Response,
};
use tonic::Status;

use self::{
    deciding::{Deciding, body_after_its_end, trailers_after_the_end},
    modes::{headers_are_missing, request_body_is_sent, response_body_is_sent},
};
use crate::{
    handler::{Handler, Opening, Replies, Session},
    head::{self, Parts},
    reply::{self, Direction},
};

/// Header that Envoy adds to what an upstream answered, and not to what it answers itself.
const UPSTREAM_TIME: &str = "x-envoy-upstream-service-time";

/// Sessions of the endpoint picker. The router is looked up per stream, so that a reloaded configuration
/// serves new requests while the old one finishes its own.
#[derive(Clone)]
pub struct EppHandler {
    router: Arc<ArcSwap<Router>>,
    body_timeout: Duration,
}

impl EppHandler {
    /// `body_timeout` is how long a request body may stop coming before the request is answered 408.
    pub fn new(router: Arc<ArcSwap<Router>>, body_timeout: Duration) -> Self {
        Self { router, body_timeout }
    }
}

impl Handler for EppHandler {
    type Session = EppSession;

    fn open(&self, _: Opening) -> EppSession {
        EppSession {
            router: self.router.load_full(),
            phase: Phase::Start,
            response: ResponseState::Nothing,
            body_timeout: self.body_timeout,
        }
    }
}

/// One stream of the endpoint picker.
pub struct EppSession {
    router: Arc<Router>,
    phase: Phase,
    response: ResponseState,
    body_timeout: Duration,
}

enum Phase {
    Start,
    Deciding(Box<Deciding>),
    /// The request has gone to its endpoint; no response head yet.
    Routed(Box<Going>),
    Responding(Box<Going>),
    Done,
}

/// How far the response has come, whoever makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ResponseState {
    Nothing,
    Headers,
    Body,
    Ended,
}

/// A routed request.
struct Going {
    exchange: Exchange,
    /// Bytes of the request's body that wait to be sent.
    lease: Option<BodyLease>,
    /// Envoy sends the response's body to us.
    observes_body: bool,
    /// Envoy keeps the request's body from us and may still send its trailers.
    awaits_trailers: bool,
    /// Ready when the request has to make room for a more important one.
    eviction: Option<Eviction>,
}

impl Session for EppSession {
    fn on_message(
        &mut self,
        message: ProcessingRequest,
        replies: &mut Replies,
    ) -> Result<(), Status> {
        let subset = head::subset(&message);
        let Some(content) = &message.request else { return Ok(()) };
        match content {
            Message::RequestHeaders(headers) => {
                let config = message.protocol_config.as_ref();
                self.on_request_headers(headers, subset, config)?;
            }
            Message::RequestBody(body) => self.on_request_body(body, subset)?,
            Message::RequestTrailers(_) => self.on_request_trailers(replies)?,
            Message::ResponseHeaders(headers) => {
                self.response_comes(ResponseState::Headers, headers.end_of_stream)?;
                self.on_response_headers(headers, head::served(&message), replies)?;
            }
            Message::ResponseBody(body) => {
                self.response_comes(ResponseState::Body, body.end_of_stream)?;
                self.on_response_body(body, replies);
            }
            Message::ResponseTrailers(_) => {
                self.response_comes(ResponseState::Ended, true)?;
                self.on_response_trailers(replies);
            }
        }
        Ok(())
    }

    fn poll_work(
        &mut self,
        cx: &mut Context<'_>,
        replies: &mut Replies,
    ) -> Poll<Result<(), Status>> {
        let deciding = match &mut self.phase {
            Phase::Deciding(deciding) => deciding,
            Phase::Routed(going) | Phase::Responding(going) => {
                // Work is asked for when every reply has been sent, the body's among them.
                going.lease = None;
                return going.poll_eviction(cx).map(|rejection| {
                    replies.push(reply::immediate(&rejection));
                    replies.close();
                    self.phase = Phase::Done;
                    Ok(())
                });
            }
            Phase::Start | Phase::Done => return Poll::Pending,
        };
        let decided = ready!(deciding.poll(cx));
        let Phase::Deciding(deciding) = std::mem::replace(&mut self.phase, Phase::Done) else {
            return Poll::Pending;
        };
        match decided {
            Ok(routed) => self.phase = Phase::Routed(Box::new(deciding.routed(routed, replies))),
            Err(rejection) => {
                tracing::debug!(%rejection, "request rejected");
                replies.push(reply::immediate(&rejection));
                replies.close();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn on_half_close(&mut self) {
        if let Phase::Routed(going) | Phase::Responding(going) = &mut self.phase {
            // Envoy half-closes when it needs nothing more, and resets when its client goes away.
            let cause =
                if going.observes_body { EndCause::ClientDisconnect } else { EndCause::Natural };
            going.exchange.end(cause);
        }
        self.phase = Phase::Done;
    }
}

impl EppSession {
    fn on_request_headers(
        &mut self,
        message: &HttpHeaders,
        subset: Option<SubsetHint>,
        config: Option<&ProtocolConfiguration>,
    ) -> Result<(), Status> {
        if !matches!(self.phase, Phase::Start) {
            return Err(Status::invalid_argument("request headers must be the first message"));
        }
        let sends_body = request_body_is_sent(config)?;
        let observes_body = response_body_is_sent(config)?;
        let has_body = sends_body && !message.end_of_stream;
        let received: Stamp = self.router.clock().now();
        let parts = Parts::read(message)?;
        let head = parts.into_request_head(!has_body, subset.unwrap_or_default(), received);
        let begun = self.router.begin(head);
        let deciding = Deciding::new(begun, has_body, observes_body, self.body_timeout);
        self.phase = Phase::Deciding(Box::new(deciding));
        Ok(())
    }

    fn on_request_body(
        &mut self,
        message: &HttpBody,
        subset: Option<SubsetHint>,
    ) -> Result<(), Status> {
        match &mut self.phase {
            Phase::Deciding(deciding) => deciding.on_body(message, subset),
            Phase::Start => Err(headers_are_missing()),
            Phase::Routed(_) | Phase::Responding(_) => Err(body_after_its_end()),
            // Envoy had sent it before it answered the request itself.
            Phase::Done => Ok(()),
        }
    }

    fn on_request_trailers(&mut self, replies: &mut Replies) -> Result<(), Status> {
        match &mut self.phase {
            Phase::Deciding(deciding) => return deciding.on_trailers(),
            Phase::Routed(going) | Phase::Responding(going) if going.awaits_trailers => {
                going.awaits_trailers = false;
                replies.push(Response::RequestTrailers(TrailersResponse::default()));
            }
            Phase::Start => return Err(headers_are_missing()),
            Phase::Routed(_) | Phase::Responding(_) => return Err(trailers_after_the_end()),
            Phase::Done => {}
        }
        Ok(())
    }

    /// Notes how far the response has come, whose parts come once and in order.
    fn response_comes(&mut self, part: ResponseState, is_end: bool) -> Result<(), Status> {
        let repeats = part == self.response && part != ResponseState::Body;
        if self.response > part || repeats {
            return Err(Status::invalid_argument("a part of the response came in the wrong order"));
        }
        self.response = if is_end { ResponseState::Ended } else { part };
        Ok(())
    }

    fn on_response_headers(
        &mut self,
        message: &HttpHeaders,
        served: Option<String>,
        replies: &mut Replies,
    ) -> Result<(), Status> {
        let Phase::Routed(mut going) = std::mem::replace(&mut self.phase, Phase::Done) else {
            // A local reply of Envoy to a request that is not routed, such as one over its own limits. A
            // decision under way is no longer needed.
            replies.push(Response::ResponseHeaders(reply::headers(
                &header::HeadPatch::default(),
                false,
            )));
            return Ok(());
        };
        let parts = Parts::read(message)?;
        let status = parts.status.unwrap_or(StatusCode::OK);
        let from_proxy = is_local_reply(status, &parts.headers);
        let head =
            ResponseHead { status, headers: &parts.headers, served: served.as_deref(), from_proxy };
        let patch = going.exchange.on_headers(&head);
        replies.push(Response::ResponseHeaders(reply::headers(&patch, false)));
        if message.end_of_stream || !going.observes_body {
            going.end(EndCause::Natural, replies);
        } else {
            self.phase = Phase::Responding(going);
        }
        Ok(())
    }

    fn on_response_body(&mut self, message: &HttpBody, replies: &mut Replies) {
        // Without the response's headers, which Envoy may be told to keep from us, its bytes count all the same.
        let (Phase::Responding(going) | Phase::Routed(going)) = &mut self.phase else {
            // Bytes of a response that we do not follow pass as they are.
            self.phase = Phase::Done;
            let chunks = [message.body.clone()];
            reply::body(Direction::Response, chunks, message.end_of_stream, |r| {
                replies.push_whole(r)
            });
            return;
        };
        let mut chunks = going.exchange.on_chunk(message.body.clone());
        if message.end_of_stream {
            chunks.extend(going.exchange.finish_body());
        }
        reply::body(Direction::Response, chunks, message.end_of_stream, |r| replies.push_whole(r));
        if message.end_of_stream {
            going.end(EndCause::Natural, replies);
            self.phase = Phase::Done;
        }
    }

    fn on_response_trailers(&mut self, replies: &mut Replies) {
        if let Phase::Responding(going) | Phase::Routed(going) = &mut self.phase {
            let rest = going.exchange.finish_body();
            reply::body(Direction::Response, rest, false, |r| replies.push_whole(r));
            replies.push(Response::ResponseTrailers(TrailersResponse::default()));
            going.end(EndCause::Natural, replies);
            self.phase = Phase::Done;
            return;
        }
        self.phase = Phase::Done;
        replies.push(Response::ResponseTrailers(TrailersResponse::default()));
    }
}

impl Going {
    /// The answer for the client, once the request has to make room. Envoy sends it if no byte of a response
    /// has gone out, and else breaks the response off.
    fn poll_eviction(&mut self, cx: &mut Context<'_>) -> Poll<Rejection> {
        let Some(eviction) = &mut self.eviction else { return Poll::Pending };
        ready!(Pin::new(eviction).poll(cx));
        self.eviction = None;
        Poll::Ready(self.exchange.evict())
    }

    /// The response has ended; numbers for the proxy go with the last reply.
    fn end(&mut self, cause: EndCause, replies: &mut Replies) {
        let metadata = reply::number_metadata(self.exchange.end(cause));
        if let (Some(metadata), Some(last)) = (metadata, replies.last_mut()) {
            last.dynamic_metadata = Some(metadata);
        }
    }
}

/// Whether Envoy made this response because it could not reach the endpoint. What an upstream answers
/// carries a header on how long that took, unless Envoy was told to leave its headers out as gateways tell
/// it, and the upstream's date or name, which Envoy adds to its own answers only after we have seen them.
fn is_local_reply(status: StatusCode, headers: &http::HeaderMap) -> bool {
    let is_text =
        headers.get(http::header::CONTENT_TYPE).is_some_and(|value| value == "text/plain");
    let of_upstreams =
        [HeaderName::from_static(UPSTREAM_TIME), http::header::DATE, http::header::SERVER];
    let is_from_upstream = of_upstreams.iter().any(|name| headers.contains_key(name));
    status == StatusCode::SERVICE_UNAVAILABLE && is_text && !is_from_upstream
}

#[cfg(test)]
mod tests;
