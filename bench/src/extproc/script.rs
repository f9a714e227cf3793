//! The messages that Envoy sends for one HTTP request and its response.

use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use router_proto::ext_proc::processing_mode::BodySendMode;
use router_proto::ext_proc::processing_request::Request;
use router_proto::ext_proc::{
    HeaderMap, HeaderValue, HttpBody, HttpHeaders, HttpTrailers, ProcessingRequest,
    ProtocolConfiguration,
};

use super::ExtProcArgs;
use crate::payload::{self, Payloads, TokenBodies};

/// How a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// Headers and body, both ways.
    Whole,
    /// No request body.
    Bodyless,
    /// Trailers after the body, both ways.
    Trailers,
    /// The model server answers 503.
    ServerError,
    /// The body is cut JSON: the picker must refuse it with 400.
    CutJson,
    /// The client goes away once the headers are sent.
    LeaveAfterHeaders,
    /// The client goes away with half of the body sent.
    LeaveMidBody,
    /// The client goes away once the whole request is sent, before the decision is seen.
    LeaveBeforeDecision,
    /// The client goes away before the model server answers.
    LeaveBeforeResponse,
    /// The client, or the model server, goes away with half of the response sent.
    LeaveMidResponse,
}

/// Makes the messages of each request.
#[derive(Debug)]
pub struct Script {
    payloads: Payloads,
    /// Makes bodies with token ids instead.
    token_bodies: Option<TokenBodies>,
    headers: Vec<HeaderValue>,
    body_chunk: usize,
    /// Bodies repeat after this many; 0 is never.
    n_distinct: u64,
    content_type: &'static str,
    response: Arc<[Bytes]>,
    run_tag: u64,
}

impl Script {
    /// # Errors
    /// A `--header` that is not `name:value`.
    pub fn new(args: &ExtProcArgs, run_tag: u64) -> Result<Self> {
        let mut headers = vec![
            HeaderValue::raw(":authority", "localhost:8081"),
            HeaderValue::raw(":path", args.path.clone()),
            HeaderValue::raw(":method", "POST"),
            HeaderValue::raw(":scheme", "http"),
            HeaderValue::raw("content-type", "application/json"),
            HeaderValue::raw("user-agent", "extproc-load"),
            HeaderValue::raw("accept", "*/*"),
            HeaderValue::raw("x-forwarded-proto", "http"),
        ];
        headers.extend(args.extra_headers()?);
        let response =
            payload::answer(&args.model, args.response_chunks, args.response_size, args.stream);
        Ok(Self {
            payloads: Payloads::new(&args.shape(run_tag)),
            token_bodies: (args.token_digits > 0).then(|| TokenBodies {
                model: args.model.clone(),
                size: args.body_size,
                n_digits: args.token_digits,
                run_tag,
            }),
            headers,
            body_chunk: args.body_chunk.max(1),
            n_distinct: args.distinct,
            content_type: if args.stream {
                "text/event-stream; charset=utf-8"
            } else {
                "application/json"
            },
            response: response.into(),
            run_tag,
        })
    }

    /// The body of request `n`.
    pub(super) fn body(&self, n: u64, course: Course) -> Bytes {
        let body_n = if self.n_distinct == 0 { n } else { n % self.n_distinct };
        match course {
            Course::Bodyless => Bytes::new(),
            Course::CutJson => {
                let body = self.whole_body(body_n);
                body.slice(..body.len() / 2)
            }
            _ => self.whole_body(body_n),
        }
    }

    fn whole_body(&self, n: u64) -> Bytes {
        match &self.token_bodies {
            Some(bodies) => bodies.body(n),
            None => self.payloads.body(n),
        }
    }

    /// The messages of request `n`, up to the end of its stream.
    pub(super) fn request(&self, n: u64, body: &Bytes, course: Course) -> Vec<ProcessingRequest> {
        let has_trailers = course == Course::Trailers;
        let mut messages = Vec::with_capacity(2 + body.len().div_ceil(self.body_chunk));
        messages.push(self.request_headers(n, body));
        messages.extend((0..body.len()).step_by(self.body_chunk).map(|at| {
            let end = (at + self.body_chunk).min(body.len());
            let is_last = end == body.len() && !has_trailers;
            Request::RequestBody(HttpBody::new(body.slice(at..end), is_last)).into()
        }));
        if has_trailers {
            messages.push(Request::RequestTrailers(trailers()).into());
        }
        messages
    }

    /// The messages of the response, up to the end of its stream.
    pub(super) fn response(&self, course: Course) -> Vec<ProcessingRequest> {
        let status = if course == Course::ServerError { "503" } else { "200" };
        let has_trailers = course == Course::Trailers;
        let headers = vec![
            HeaderValue::raw(":status", status),
            HeaderValue::raw("content-type", self.content_type),
            HeaderValue::raw("server", "uvicorn"),
            HeaderValue::raw("x-envoy-upstream-service-time", "1"),
        ];
        let mut messages = Vec::with_capacity(2 + self.response.len());
        messages.push(Request::ResponseHeaders(HttpHeaders::new(headers, false)).into());
        let last_idx = self.response.len().saturating_sub(1);
        messages.extend(self.response.iter().enumerate().map(|(idx, chunk)| {
            let is_last = idx == last_idx && !has_trailers;
            Request::ResponseBody(HttpBody::new(chunk.clone(), is_last)).into()
        }));
        if has_trailers {
            messages.push(Request::ResponseTrailers(trailers()).into());
        }
        messages
    }

    /// The most messages that the response has.
    pub(super) fn n_response_messages(&self) -> usize {
        2 + self.response.len()
    }

    /// Bytes of the response's body.
    pub(super) fn response_len(&self) -> usize {
        self.response.iter().map(Bytes::len).sum()
    }

    fn request_headers(&self, n: u64, body: &Bytes) -> ProcessingRequest {
        let mut headers = self.headers.clone();
        headers.push(HeaderValue::raw("content-length", body.len().to_string()));
        let id = format!("{:08x}-{:04x}-4000-8000-{n:012x}", self.run_tag as u32, n & 0xffff);
        headers.push(HeaderValue::raw("x-request-id", id));
        ProcessingRequest {
            protocol_config: Some(ProtocolConfiguration {
                request_body_mode: BodySendMode::FullDuplexStreamed.into(),
                response_body_mode: BodySendMode::FullDuplexStreamed.into(),
                send_body_without_waiting_for_header_response: false,
            }),
            ..Request::RequestHeaders(HttpHeaders::new(headers, body.is_empty())).into()
        }
    }
}

fn trailers() -> HttpTrailers {
    let headers = vec![HeaderValue::raw("x-bench-trailer", "1")];
    HttpTrailers { trailers: Some(HeaderMap { headers }) }
}
