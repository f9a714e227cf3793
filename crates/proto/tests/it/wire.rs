//! Field numbers. The bytes are put together from the numbers of the published `.proto` files, so a
//! wrong tag in ours cannot hide behind a round trip with itself.

use std::fmt::Debug;

use bytes::Bytes;
use prost::Message;
use router_proto::ext_proc::processing_mode::{BodySendMode, HeaderSendMode};
use router_proto::ext_proc::{
    BodyMutation, BodyResponse, CommonResponse, GrpcStatus, HeaderMap, HeaderMutation, HeaderValue,
    HeaderValueOption, HttpBody, HttpHeaders, HttpStatus, HttpTrailers, ImmediateResponse,
    Metadata, ProcessingMode, ProcessingRequest, ProcessingResponse, ProtocolConfiguration,
    TrailersResponse, body_mutation, common_response::ResponseStatus, external_processor_server,
    processing_request::Request, processing_response::Response,
};
use router_proto::google::{BoolValue, Duration, Struct, Value};
use router_proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListResponse,
    health_check_response::ServingStatus, health_server,
};

/// A length-delimited field: a message, a string or bytes.
fn len(tag: u32, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let mut out = Vec::new();
    prost::encoding::encode_varint(u64::from(tag << 3 | 2), &mut out);
    prost::encoding::encode_varint(content.len() as u64, &mut out);
    out.extend_from_slice(content);
    out
}

/// A varint field: a number, a flag or an enum.
fn int(tag: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(u64::from(tag << 3), &mut out);
    prost::encoding::encode_varint(value, &mut out);
    out
}

fn double(tag: u32, value: f64) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(u64::from(tag << 3 | 1), &mut out);
    out.extend_from_slice(&value.to_le_bytes());
    out
}

/// The message is what the bytes say, and the bytes are what the message becomes.
#[track_caller]
fn check<M: Message + Default + PartialEq + Debug>(message: M, bytes: Vec<u8>) {
    assert_eq!(M::decode(bytes.as_slice()).unwrap(), message);
    assert_eq!(message.encode_to_vec(), bytes);
}

fn raw_header(key: &str, value: &[u8]) -> Vec<u8> {
    len(1, [len(1, key), len(3, value)].concat())
}

#[test]
fn every_request_phase_has_its_tag() {
    let headers =
        || HttpHeaders::new(vec![HeaderValue::raw(":path", Bytes::from_static(b"/\xff"))], true);
    let header_bytes = [len(1, raw_header(":path", b"/\xff")), int(3, 1)].concat();
    let body = || HttpBody::new(Bytes::from_static(b"{}"), true);
    let body_bytes = [len(1, "{}"), int(2, 1)].concat();
    let trailers =
        || HttpTrailers { trailers: Some(HeaderMap { headers: vec![HeaderValue::raw("t", "1")] }) };
    let trailer_bytes = len(1, raw_header("t", b"1"));
    for (request, tag, inner) in [
        (Request::RequestHeaders(headers()), 2, &header_bytes),
        (Request::ResponseHeaders(headers()), 3, &header_bytes),
        (Request::RequestBody(body()), 4, &body_bytes),
        (Request::ResponseBody(body()), 5, &body_bytes),
        (Request::RequestTrailers(trailers()), 6, &trailer_bytes),
        (Request::ResponseTrailers(trailers()), 7, &trailer_bytes),
    ] {
        check(ProcessingRequest::from(request), len(tag, inner));
    }
}

#[test]
fn request_context_has_its_tags() {
    let hint = Value::from(vec!["10.0.0.1:8000".into(), 2.5.into(), true.into(), Value::null()]);
    let metadata = Metadata {
        filter_metadata: [("envoy.lb.subset_hint".into(), Struct::from_iter([("k", hint)]))].into(),
    };
    let values = [
        len(1, len(3, "10.0.0.1:8000")),
        len(1, double(2, 2.5)),
        len(1, int(4, 1)),
        len(1, int(1, 0)),
    ];
    let fields = len(1, [len(1, "k"), len(2, len(6, values.concat()))].concat());
    let entry = [len(1, "envoy.lb.subset_hint"), len(2, fields)].concat();
    let nested = Struct::from_iter([("a", Struct::default().into())]);
    let attribute = [len(1, "ns"), len(2, len(1, [len(1, "a"), len(2, len(5, ""))].concat()))];
    check(
        ProcessingRequest {
            metadata_context: Some(metadata),
            attributes: [("ns".into(), nested)].into(),
            observability_mode: true,
            protocol_config: Some(ProtocolConfiguration {
                request_body_mode: BodySendMode::FullDuplexStreamed.into(),
                response_body_mode: BodySendMode::BufferedPartial.into(),
                send_body_without_waiting_for_header_response: true,
            }),
            request: None,
        },
        [
            len(8, len(1, entry)),
            len(9, attribute.concat()),
            int(10, 1),
            len(11, [int(1, 4), int(2, 3), int(3, 1)].concat()),
        ]
        .concat(),
    );
}

#[test]
fn every_answer_has_its_tag() {
    let trailers = TrailersResponse {
        header_mutation: Some(HeaderMutation {
            set_headers: vec![],
            remove_headers: vec!["x".into()],
        }),
    };
    for (response, tag, inner) in [
        (Response::RequestHeaders(CommonResponse::default().into()), 1, len(1, "")),
        (Response::ResponseHeaders(CommonResponse::default().into()), 2, len(1, "")),
        (Response::RequestBody(BodyResponse::default()), 3, vec![]),
        (Response::ResponseBody(BodyResponse::default()), 4, vec![]),
        (Response::RequestTrailers(trailers.clone()), 5, len(1, len(2, "x"))),
        (Response::ResponseTrailers(trailers), 6, len(1, len(2, "x"))),
        (Response::ImmediateResponse(ImmediateResponse::default()), 7, vec![]),
    ] {
        check(ProcessingResponse::from(response), len(tag, inner));
    }
}

#[test]
fn answer_context_has_its_tags() {
    let mode = ProcessingMode {
        request_header_mode: HeaderSendMode::Send.into(),
        response_header_mode: HeaderSendMode::Skip.into(),
        request_body_mode: BodySendMode::Streamed.into(),
        response_body_mode: BodySendMode::Buffered.into(),
        request_trailer_mode: HeaderSendMode::Send.into(),
        response_trailer_mode: HeaderSendMode::Skip.into(),
    };
    let mode_bytes = [int(1, 1), int(2, 2), int(3, 1), int(4, 2), int(5, 1), int(6, 2)].concat();
    check(
        ProcessingResponse {
            dynamic_metadata: Some(Struct::from_iter([("envoy.lb", 1.0.into())])),
            mode_override: Some(mode),
            override_message_timeout: Some(Duration { seconds: 3, nanos: 5 }),
            response: None,
        },
        [
            len(8, len(1, [len(1, "envoy.lb"), len(2, double(2, 1.0))].concat())),
            len(9, mode_bytes),
            len(10, [int(1, 3), int(2, 5)].concat()),
        ]
        .concat(),
    );
}

#[test]
fn common_response_has_its_tags() {
    check(
        CommonResponse {
            status: ResponseStatus::ContinueAndReplace.into(),
            header_mutation: Some(HeaderMutation {
                set_headers: vec![
                    HeaderValueOption::overwrite("a", "1"),
                    HeaderValueOption {
                        header: Some(HeaderValue {
                            value: "2".into(),
                            ..HeaderValue::raw("b", "")
                        }),
                        append: Some(BoolValue { value: true }),
                        append_action: 0,
                        keep_empty_value: true,
                    },
                ],
                remove_headers: vec!["x".into(), "y".into()],
            }),
            body_mutation: Some(BodyMutation {
                mutation: Some(body_mutation::Mutation::ClearBody(true)),
            }),
            trailers: Some(HeaderMap { headers: vec![HeaderValue::raw("t", "1")] }),
            clear_route_cache: true,
        },
        [
            int(1, 1),
            len(
                2,
                [
                    len(1, [raw_header("a", b"1"), int(3, 2)].concat()),
                    len(
                        1,
                        [len(1, [len(1, "b"), len(2, "2")].concat()), len(2, int(1, 1)), int(4, 1)]
                            .concat(),
                    ),
                    len(2, "x"),
                    len(2, "y"),
                ]
                .concat(),
            ),
            len(3, int(2, 1)),
            len(4, raw_header("t", b"1")),
            int(5, 1),
        ]
        .concat(),
    );
}

#[test]
fn body_mutations_have_their_tags() {
    let streamed = BodyResponse::streamed(Bytes::from_static(b"ab"), true);
    check(streamed.clone(), len(1, len(3, len(3, [len(1, "ab"), int(2, 1)].concat()))));
    let piece = streamed.into_streamed().unwrap();
    assert_eq!((piece.body.as_ref(), piece.end_of_stream), (&b"ab"[..], true));
    let whole = body_mutation::Mutation::Body(Bytes::from_static(b"ab"));
    check(BodyMutation { mutation: Some(whole) }, len(1, "ab"));
}

#[test]
fn immediate_response_has_its_tags() {
    check(
        ImmediateResponse {
            status: Some(HttpStatus { code: 429 }),
            headers: Some(HeaderMutation { set_headers: vec![], remove_headers: vec!["x".into()] }),
            body: Bytes::from_static(b"no"),
            grpc_status: Some(GrpcStatus { status: 8 }),
            details: "why".into(),
        },
        [len(1, int(1, 429)), len(2, len(2, "x")), len(3, "no"), len(4, int(1, 8)), len(5, "why")]
            .concat(),
    );
}

#[test]
fn health_has_its_tags() {
    check(HealthCheckRequest { service: "s".into() }, len(1, "s"));
    let serving = HealthCheckResponse { status: ServingStatus::Serving.into() };
    check(serving, int(1, 1));
    check(HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() }, int(1, 3));
    check(
        HealthListResponse { statuses: [("s".into(), serving)].into() },
        len(1, [len(1, "s"), len(2, int(1, 1))].concat()),
    );
}

#[test]
fn service_names_are_the_published_ones() {
    assert_eq!(
        external_processor_server::SERVICE_NAME,
        "envoy.service.ext_proc.v3.ExternalProcessor"
    );
    assert_eq!(health_server::SERVICE_NAME, "grpc.health.v1.Health");
}

#[test]
fn unknown_fields_and_enum_values_pass() {
    let known = len(4, [len(1, "{}"), int(9, 7), len(10, "later")].concat());
    let message = ProcessingRequest::decode([known, len(99, "x")].concat().as_slice()).unwrap();
    let body = HttpBody::new(Bytes::from_static(b"{}"), false);
    assert_eq!(message, ProcessingRequest::from(Request::RequestBody(body)));
    let config = ProtocolConfiguration::decode(int(1, 77).as_slice()).unwrap();
    assert_eq!(config.request_body_mode, 77);
    assert!(BodySendMode::try_from(77).is_err());
}

#[test]
fn a_header_takes_its_value_from_either_field() {
    let text = HeaderValue { value: "text".into(), ..HeaderValue::raw("k", "") };
    assert_eq!(text.bytes(), b"text");
    assert_eq!(HeaderValue::raw("k", "raw").bytes(), b"raw");
}

#[test]
fn bodies_share_the_received_memory() {
    let content = vec![b'x'; 4096];
    let received = Bytes::from(len(4, len(1, &content)));
    let range = received.as_ptr_range();
    let message = ProcessingRequest::decode(received).unwrap();
    let Some(Request::RequestBody(body)) = message.request else { panic!("not a body") };
    assert_eq!(body.body, content);
    assert!(range.contains(&body.body.as_ptr()));
}

#[test]
fn deep_nesting_is_an_error_not_an_overflow() {
    let mut value = int(4, 1);
    for _ in 0..10_000 {
        value = len(6, len(1, value));
    }
    Value::decode(value.as_slice()).unwrap_err();
}
