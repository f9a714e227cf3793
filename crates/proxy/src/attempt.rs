//! Sending a request to its endpoint, and to the next one while no byte of a response has come.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{
    HeaderValue, Request, Response, StatusCode, Uri, header, request::Parts, uri::PathAndQuery,
};
use router_core::{Endpoint, ErrorCode, Rejection, endpoint::Scheme, header::HeadPatch};
use router_engine::{AttemptFailure, Exchange};
use router_net::{Target, Upstream, UpstreamBody, UpstreamError, body, upstream::SendError};
use router_rt::deadline;

use crate::{access::AccessEntry, held::Outgoing, request::Hop};

/// A routed request on its way to an endpoint.
pub(crate) struct Attempts<'a> {
    pub(crate) upstream: &'a Upstream,
    pub(crate) response_head_timeout: Option<Duration>,
    pub(crate) exchange: &'a mut Exchange,
    pub(crate) access: &'a mut AccessEntry,
    pub(crate) outline: Outline<'a>,
    /// The candidate that comes last.
    pub(crate) last: Option<Arc<Endpoint>>,
}

/// What the heads of all attempts are made of.
pub(crate) struct Outline<'a> {
    pub(crate) request: Arc<router_framework::Request>,
    pub(crate) uri: PathAndQuery,
    pub(crate) patch: &'a HeadPatch,
    pub(crate) hop: Hop,
    /// Length of the body as it is sent; `None` without a body.
    pub(crate) n_bytes: Option<u64>,
    /// In place of what the client sent.
    pub(crate) authorization: Option<&'a HeaderValue>,
}

/// What became of a request that an endpoint may have seen, as the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broke {
    BeforeResponse,
    WithinHead,
    NotHttp,
    HeadTooLarge,
    NoFinalResponse,
    /// It answered 503.
    Busy,
    Late,
}

/// What one attempt came to.
enum Outcome {
    Response(Response<UpstreamBody>),
    Failed {
        failure: AttemptFailure,
        sent: Option<Broke>,
    },
    /// No endpoint could do better.
    Hopeless(Rejection),
}

// === impl Attempts ===

impl Attempts<'_> {
    /// The first response that is worth passing on. Once it returns, the exchange is at the endpoint that
    /// sent it.
    pub(crate) async fn send(
        self,
        mut outgoing: Outgoing,
    ) -> Result<Response<UpstreamBody>, Rejection> {
        let mut sent_before = None;
        loop {
            let Some(endpoint) = self.exchange.endpoint().cloned() else {
                return Err(Rejection::no_endpoints("no endpoint is left for the request"));
            };
            self.access.attempt(&endpoint);
            let (upstream, limit) = (self.upstream, self.response_head_timeout);
            let sent = attempt(upstream, limit, &self.outline, &endpoint, &mut outgoing).await;
            let failure = match sent {
                Outcome::Response(response) => {
                    if !self.moves_on_from(&response, &endpoint, &outgoing) {
                        return Ok(response);
                    }
                    sent_before = Some(Broke::Busy);
                    AttemptFailure::Unavailable
                }
                Outcome::Failed { failure, sent } => {
                    sent_before = sent.or(sent_before);
                    failure
                }
                Outcome::Hopeless(rejection) => return Err(rejection),
            };
            if self.exchange.attempt_failed(failure).is_none() || !outgoing.is_left() {
                return Err(nobody_answered(failure, sent_before));
            }
        }
    }

    /// Whether a response is a 503 that another endpoint may do better than.
    fn moves_on_from(
        &self,
        response: &Response<UpstreamBody>,
        endpoint: &Arc<Endpoint>,
        outgoing: &Outgoing,
    ) -> bool {
        response.status() == StatusCode::SERVICE_UNAVAILABLE
            && outgoing.replay().is_some()
            && self.last.as_ref().is_some_and(|last| !Arc::ptr_eq(last, endpoint))
    }
}

/// One attempt. Apart from the exchange, which no other thread may look at while it waits.
async fn attempt(
    upstream: &Upstream,
    limit: Option<Duration>,
    outline: &Outline<'_>,
    endpoint: &Arc<Endpoint>,
    outgoing: &mut Outgoing,
) -> Outcome {
    let Some(target) = target(endpoint) else {
        tracing::warn!(?endpoint, "the endpoint's address is not an IP address");
        return Outcome::Failed { failure: AttemptFailure::Unreachable, sent: None };
    };
    // Making a connection takes a large future, which should not be moved about with the request's own.
    let sending = Box::pin(send_once(upstream, &target, outline, endpoint, outgoing));
    let sent = match limit {
        None => sending.await,
        Some(limit) => match deadline(limit, sending).await {
            Ok(sent) => sent,
            Err(elapsed) => {
                tracing::warn!(?endpoint, %elapsed, "no response head");
                let sent = Some(Broke::Late);
                return Outcome::Failed { failure: AttemptFailure::Timeout, sent };
            }
        },
    };
    match sent {
        Ok(response) if response.status().is_informational() => {
            // Nobody asked for another protocol, and no answer will follow.
            tracing::warn!(?endpoint, status = %response.status(), "not an answer");
            let sent = Some(Broke::NoFinalResponse);
            Outcome::Failed { failure: AttemptFailure::Unreachable, sent }
        }
        Ok(response) => Outcome::Response(response),
        Err(SendError { error, request }) => {
            if let Some(unsent) = request {
                outgoing.put_back(unsent.into_body());
            }
            judge(endpoint, &error)
        }
    }
}

/// Sends to one endpoint. A kept connection that the server had closed meanwhile says nothing about the
/// endpoint, so a body that is still there is sent over a new one.
async fn send_once(
    upstream: &Upstream,
    target: &Target,
    outline: &Outline<'_>,
    endpoint: &Endpoint,
    outgoing: &mut Outgoing,
) -> Result<Response<UpstreamBody>, SendError> {
    let head = || outline.head(endpoint);
    if let Some(replay) = outgoing.replay() {
        let request = || Request::from_parts(head(), replay.body());
        return upstream.send_replayable(target, request).await;
    }
    let body = outgoing.take().unwrap_or_else(body::empty);
    upstream.send(target, Request::from_parts(head(), body)).await
}

// === impl Outline ===

impl Outline<'_> {
    /// The head for one endpoint.
    fn head(&self, endpoint: &Endpoint) -> Parts {
        let mut headers = self.request.head.headers.clone();
        self.patch.apply(&mut headers);
        if let Some(host) = host(endpoint) {
            headers.insert(header::HOST, host);
        }
        if let Some(n_bytes) = self.n_bytes {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(n_bytes));
        }
        if let Some(value) = self.authorization {
            headers.insert(header::AUTHORIZATION, value.clone());
        }
        if self.hop.wants_trailers {
            // The one thing about this hop that the next one may use as well (RFC 9110 §10.1.4).
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = self.request.head.method.clone();
        parts.uri = Uri::from(self.uri.clone());
        parts.headers = headers;
        parts
    }
}

/// What a failure says about the endpoint and the request.
fn judge(endpoint: &Endpoint, error: &UpstreamError) -> Outcome {
    if !error.is_endpoint_fault() {
        let rejection = match error {
            UpstreamError::BadRequest { .. } => {
                Rejection::bad_request("the request cannot be sent to a model server")
                    .with_detail(error.to_string())
            }
            _ => Rejection::internal(error.to_string()),
        };
        return Outcome::Hopeless(rejection);
    }
    tracing::warn!(?endpoint, %error, "an attempt failed");
    let failure = match error {
        UpstreamError::HeadTimeout { .. } | UpstreamError::Stalled { .. } => {
            AttemptFailure::Timeout
        }
        _ => AttemptFailure::Unreachable,
    };
    Outcome::Failed { failure, sent: broke(error) }
}

/// How far a request came that broke off; `None` when nothing of it was sent.
fn broke(error: &UpstreamError) -> Option<Broke> {
    match error {
        UpstreamError::HeadTimeout { .. } | UpstreamError::Stalled { .. } => Some(Broke::Late),
        UpstreamError::BadResponse { source, .. } if source.is_parse_too_large() => {
            Some(Broke::HeadTooLarge)
        }
        UpstreamError::BadResponse { .. } => Some(Broke::NotHttp),
        UpstreamError::NoResponse { received: true, .. } => Some(Broke::WithinHead),
        error if error.is_connect() => None,
        _ => Some(Broke::BeforeResponse),
    }
}

/// The answer when the last attempt has failed.
fn nobody_answered(failure: AttemptFailure, sent: Option<Broke>) -> Rejection {
    let broke = match (failure, sent) {
        (AttemptFailure::Timeout, _) => Broke::Late,
        (AttemptFailure::Unreachable | AttemptFailure::Unavailable, Some(broke)) => broke,
        (AttemptFailure::Unreachable | AttemptFailure::Unavailable, None) => {
            return Rejection::no_endpoints("no model server could be reached, try again later");
        }
    };
    let code = match failure {
        AttemptFailure::Timeout => ErrorCode::ModelServerTimeout,
        AttemptFailure::Unreachable | AttemptFailure::Unavailable => ErrorCode::ModelServerError,
    };
    Rejection::new(code, broke.message())
}

impl Broke {
    fn message(self) -> &'static str {
        match self {
            Self::BeforeResponse => "the model server ended the connection before its response",
            Self::WithinHead => {
                "the model server ended the connection within the head of its response"
            }
            Self::NotHttp => "what the model server sent is not a valid HTTP response",
            Self::HeadTooLarge => "the head of the model server's response is too large",
            Self::NoFinalResponse => "the model server switched protocols instead of responding",
            Self::Busy => "one model server was unavailable and no other could be reached",
            Self::Late => "the model server did not answer in time",
        }
    }
}

/// Where an endpoint is reached; `None` when its address is no IP address.
pub(crate) fn target(endpoint: &Endpoint) -> Option<Target> {
    let spec = endpoint.spec();
    let addr = SocketAddr::new(spec.address.parse::<IpAddr>().ok()?, spec.port);
    Some(match spec.scheme {
        Scheme::Http => Target::clear(addr),
        Scheme::H2c => Target::clear(addr).http2(),
        Scheme::Https => Target::tls(addr, spec.host.as_deref().unwrap_or(&spec.address)),
    })
}

/// The `host` header for an endpoint: its own name where it has one, else its address.
pub(crate) fn host(endpoint: &Endpoint) -> Option<HeaderValue> {
    let spec = endpoint.spec();
    let Some(host) = &spec.host else { return HeaderValue::from_str(endpoint.authority()).ok() };
    let is_default = match spec.scheme {
        Scheme::Http | Scheme::H2c => spec.port == 80,
        Scheme::Https => spec.port == 443,
    };
    if is_default {
        return HeaderValue::from_str(host).ok();
    }
    HeaderValue::from_str(&format!("{host}:{}", spec.port)).ok()
}

#[cfg(test)]
mod tests {
    use router_core::{EndpointSpec, Pool};

    use super::*;

    #[test]
    fn the_host_is_the_endpoints_own() {
        let check = |scheme, port, name: Option<&str>, expected: &str| {
            let mut spec = EndpointSpec::new("d", "e", "10.0.0.1", port);
            spec.scheme = scheme;
            spec.host = name.map(Into::into);
            let pool = Pool::new(0);
            pool.replace(vec![spec]);
            assert_eq!(host(&pool.snapshot().endpoints()[0]).unwrap(), expected);
        };
        check(Scheme::Http, 80, None, "10.0.0.1:80");
        check(Scheme::Https, 443, Some("m.example"), "m.example");
        check(Scheme::Https, 8443, Some("m.example"), "m.example:8443");
        check(Scheme::Http, 443, Some("m.example"), "m.example:443");
    }

    #[test]
    fn the_answer_says_whether_the_request_may_have_been_seen() {
        let check = |failure, sent, status| {
            assert_eq!(nobody_answered(failure, sent).code.http_status(), status);
        };
        check(AttemptFailure::Unreachable, None, 503);
        check(AttemptFailure::Unreachable, Some(Broke::NotHttp), 502);
        check(AttemptFailure::Unavailable, Some(Broke::Busy), 502);
        check(AttemptFailure::Timeout, Some(Broke::Late), 504);
    }
}
