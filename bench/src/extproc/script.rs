//! The messages that Envoy sends for one HTTP request and its response.

use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use router_proto::ext_proc::processing_mode::BodySendMode;
use router_proto::ext_proc::processing_request::Request;
use router_proto::ext_proc::{
    HeaderValue, HttpBody, HttpHeaders, ProcessingRequest, ProtocolConfiguration,
};

use super::ExtProcArgs;
use crate::payload::{self, Payloads};

/// Where a request is broken off, for runs that must leave nothing behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakOff {
    /// The client goes away once the headers are sent.
    AfterHeaders,
    /// The client goes away with half of the body sent.
    MidBody,
    /// The client goes away once the whole request is sent, before the decision is seen.
    BeforeDecision,
    /// The client goes away before the model server answers.
    BeforeResponse,
    /// The client, or the model server, goes away with half of the response sent.
    MidResponse,
}

/// Makes the messages of each request.
#[derive(Debug)]
pub struct Script {
    payloads: Payloads,
    headers: Vec<HeaderValue>,
    body_chunk: usize,
    response_headers: Vec<HeaderValue>,
    response: Arc<[Bytes]>,
    run_tag: u64,
}

impl Script {
    /// # Errors
    /// A `--header` that is not `name:value`.
    pub fn new(args: &ExtProcArgs, run_tag: u64) -> Result<Self> {
        let content_type =
            if args.stream { "text/event-stream; charset=utf-8" } else { "application/json" };
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
            headers,
            body_chunk: args.body_chunk.max(1),
            response_headers: vec![
                HeaderValue::raw(":status", "200"),
                HeaderValue::raw("content-type", content_type),
                HeaderValue::raw("server", "uvicorn"),
                HeaderValue::raw("x-envoy-upstream-service-time", "1"),
            ],
            response: response.into(),
            run_tag,
        })
    }

    pub(super) fn body(&self, n: u64) -> Bytes {
        self.payloads.body(n)
    }

    /// The first message of request `n`.
    pub(super) fn request_headers(&self, n: u64, body_len: usize) -> ProcessingRequest {
        let mut headers = self.headers.clone();
        headers.push(HeaderValue::raw("content-length", body_len.to_string()));
        let id = format!("{:08x}-{:04x}-4000-8000-{n:012x}", self.run_tag as u32, n & 0xffff);
        headers.push(HeaderValue::raw("x-request-id", id));
        ProcessingRequest {
            protocol_config: Some(ProtocolConfiguration {
                request_body_mode: BodySendMode::FullDuplexStreamed.into(),
                response_body_mode: BodySendMode::FullDuplexStreamed.into(),
                send_body_without_waiting_for_header_response: false,
            }),
            ..Request::RequestHeaders(HttpHeaders::new(headers, false)).into()
        }
    }

    /// The body in chunks; the last one says so.
    pub(super) fn request_body(&self, body: &Bytes) -> impl Iterator<Item = ProcessingRequest> {
        let (body, step) = (body.clone(), self.body_chunk);
        (0..body.len()).step_by(step).map(move |at| {
            let end = (at + step).min(body.len());
            let chunk = HttpBody::new(body.slice(at..end), end == body.len());
            Request::RequestBody(chunk).into()
        })
    }

    pub(super) fn n_request_messages(&self, body_len: usize) -> usize {
        1 + body_len.div_ceil(self.body_chunk)
    }

    pub(super) fn response_headers(&self) -> ProcessingRequest {
        Request::ResponseHeaders(HttpHeaders::new(self.response_headers.clone(), false)).into()
    }

    /// The response in chunks; the last one says so.
    pub(super) fn response_body(&self) -> impl Iterator<Item = ProcessingRequest> {
        let last_idx = self.response.len().saturating_sub(1);
        self.response.iter().enumerate().map(move |(idx, chunk)| {
            Request::ResponseBody(HttpBody::new(chunk.clone(), idx == last_idx)).into()
        })
    }

    pub(super) fn n_response_messages(&self) -> usize {
        1 + self.response.len()
    }

    pub(super) fn response_len(&self) -> usize {
        self.response.iter().map(Bytes::len).sum()
    }
}
