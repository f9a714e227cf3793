//! Messages as Envoy sends them.

use bytes::Bytes;
use router_proto::{
    ext_proc::{
        HeaderValue as Entry, HttpBody, HttpHeaders, HttpTrailers, Metadata, ProcessingRequest,
        ProtocolConfiguration, processing_mode::BodySendMode, processing_request::Request,
    },
    google::{Struct, Value},
};

pub(crate) const PATH: &str = "/v1/chat/completions";
pub(crate) const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hello"}]}"#;

fn list(headers: &[(&str, &str)]) -> Vec<Entry> {
    headers.iter().map(|(key, value)| Entry::raw(*key, value.as_bytes().to_vec())).collect()
}

pub(crate) fn request_headers(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    end_of_stream: bool,
) -> ProcessingRequest {
    let mut all = list(&[
        (":method", method),
        (":path", path),
        (":scheme", "http"),
        (":authority", "models.example"),
    ]);
    all.extend(list(headers));
    Request::RequestHeaders(HttpHeaders::new(all, end_of_stream)).into()
}

/// The head of a chat request with a body to follow.
pub(crate) fn chat_headers() -> ProcessingRequest {
    request_headers("POST", PATH, &[("content-type", "application/json")], false)
}

pub(crate) fn request_body(body: impl Into<Bytes>, end_of_stream: bool) -> ProcessingRequest {
    Request::RequestBody(HttpBody::new(body.into(), end_of_stream)).into()
}

pub(crate) fn request_trailers() -> ProcessingRequest {
    Request::RequestTrailers(HttpTrailers::default()).into()
}

pub(crate) fn response_headers(headers: &[(&str, &str)], end_of_stream: bool) -> ProcessingRequest {
    Request::ResponseHeaders(HttpHeaders::new(list(headers), end_of_stream)).into()
}

/// The head of a response with this status, as an upstream sends it.
pub(crate) fn status(status: &str, end_of_stream: bool) -> ProcessingRequest {
    let headers = [
        (":status", status),
        ("content-type", "application/json"),
        ("x-envoy-upstream-service-time", "3"),
    ];
    response_headers(&headers, end_of_stream)
}

pub(crate) fn response_body(body: impl Into<Bytes>, end_of_stream: bool) -> ProcessingRequest {
    Request::ResponseBody(HttpBody::new(body.into(), end_of_stream)).into()
}

pub(crate) fn response_trailers() -> ProcessingRequest {
    Request::ResponseTrailers(HttpTrailers::default()).into()
}

/// The message with dynamic metadata of the proxy.
pub(crate) fn with_metadata(
    mut message: ProcessingRequest,
    namespace: &str,
    key: &str,
    value: Value,
) -> ProcessingRequest {
    let fields: Struct = [(key, value)].into_iter().collect();
    let filter_metadata = [(namespace.to_owned(), fields)].into();
    message.metadata_context = Some(Metadata { filter_metadata });
    message
}

/// The message with the restriction to these endpoints.
pub(crate) fn with_subset(message: ProcessingRequest, value: Value) -> ProcessingRequest {
    let key = "x-gateway-destination-endpoint-subset";
    with_metadata(message, "envoy.lb.subset_hint", key, value)
}

/// The message with what the proxy says of the endpoint that served.
pub(crate) fn with_served(message: ProcessingRequest, served: &str) -> ProcessingRequest {
    let key = "x-gateway-destination-endpoint-served";
    with_metadata(message, "envoy.lb", key, Value::from(served))
}

/// The message with the modes of the filter.
pub(crate) fn with_modes(
    mut message: ProcessingRequest,
    request: BodySendMode,
    response: BodySendMode,
) -> ProcessingRequest {
    message.protocol_config = Some(ProtocolConfiguration {
        request_body_mode: request.into(),
        response_body_mode: response.into(),
        ..ProtocolConfiguration::default()
    });
    message
}
