//! Envoy's side of an ext-proc stream, message by message, right or wrong.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use bytes::Bytes;
use futures_util::stream;
use router_proto::{
    ext_proc::{
        HeaderValue, HttpBody, HttpHeaders, HttpTrailers, ProcessingRequest, ProcessingResponse,
        ProtocolConfiguration, external_processor_client::ExternalProcessorClient,
        processing_mode::BodySendMode, processing_request::Request, processing_response::Response,
    },
    google::{Struct, Value},
};
use tokio::{sync::mpsc, time::timeout};
use tonic::{Status, Streaming, transport::Channel};

use super::world::LIMIT;

/// Messages that a stream may be ahead of the picker.
const QUEUE: usize = 64;

/// A connection to the picker.
#[derive(Clone)]
pub(crate) struct Picker(ExternalProcessorClient<Channel>);

/// One stream.
pub(crate) struct Stream {
    messages: mpsc::Sender<ProcessingRequest>,
    answers: Streaming<ProcessingResponse>,
}

impl Picker {
    pub(crate) async fn connect(addr: SocketAddr) -> anyhow::Result<Self> {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{addr}"))?;
        let channel = endpoint.buffer_size(4096).connect().await?;
        Ok(Self(ExternalProcessorClient::new(channel).max_encoding_message_size(usize::MAX)))
    }

    pub(crate) async fn open(&self) -> anyhow::Result<Stream> {
        let (messages, mut queue) = mpsc::channel(QUEUE);
        let requests = stream::poll_fn(move |cx| queue.poll_recv(cx));
        let answers = self.0.clone().process(requests).await?.into_inner();
        Ok(Stream { messages, answers })
    }
}

impl Stream {
    /// Sends a message. A stream that the picker has ended takes none, which is no error here.
    pub(crate) async fn send(&self, message: impl Into<ProcessingRequest>) {
        self.messages.send(message.into()).await.ok();
    }

    /// Sends beside the one who reads.
    pub(crate) fn sender(&self) -> mpsc::Sender<ProcessingRequest> {
        self.messages.clone()
    }

    /// The next answer; none at the stream's end.
    pub(crate) async fn answer(&mut self) -> anyhow::Result<Option<Result<Response, Status>>> {
        match timeout(LIMIT, self.answers.message()).await.context("no answer")? {
            Ok(Some(answer)) => Ok(Some(Ok(answer.response.context("an empty answer")?))),
            Ok(None) => Ok(None),
            Err(status) => Ok(Some(Err(status))),
        }
    }

    /// The status of the immediate answer that must come next.
    pub(crate) async fn refusal(&mut self) -> anyhow::Result<i32> {
        match self.answer().await? {
            Some(Ok(Response::ImmediateResponse(answer))) => {
                Ok(answer.status.map_or(0, |status| status.code))
            }
            other => bail!("no refusal but {other:?}"),
        }
    }

    /// The destination in the answer to the headers that must come next.
    pub(crate) async fn destination(&mut self) -> anyhow::Result<String> {
        let Some(Ok(Response::RequestHeaders(answer))) = self.answer().await? else {
            bail!("the headers are not answered")
        };
        let mutation = answer.response.and_then(|common| common.header_mutation);
        let set = mutation.map(|mutation| mutation.set_headers).unwrap_or_default();
        let destination = router_core::header::DESTINATION;
        let mut headers = set.iter().filter_map(|option| option.header.as_ref());
        let found = headers.rfind(|header| header.key == destination.as_str());
        let found = found.context("no destination")?;
        Ok(String::from_utf8(found.bytes().to_vec())?)
    }

    /// Takes answers until the stream ends, and gives the status with which it does.
    pub(crate) async fn end(&mut self) -> anyhow::Result<tonic::Code> {
        loop {
            match self.answer().await? {
                Some(Ok(_)) => {}
                Some(Err(status)) => return Ok(status.code()),
                None => return Ok(tonic::Code::Ok),
            }
        }
    }

    /// Sends nothing more, as Envoy does at the end of a request.
    pub(crate) fn half_close(self) -> Streaming<ProcessingResponse> {
        self.answers
    }
}

/// The head of a request for chat completions.
pub(crate) fn head(end_of_stream: bool) -> ProcessingRequest {
    head_with(Vec::new(), end_of_stream)
}

/// The same with more headers.
pub(crate) fn head_with(more: Vec<HeaderValue>, end_of_stream: bool) -> ProcessingRequest {
    let mut headers = vec![
        HeaderValue::raw(":method", "POST"),
        HeaderValue::raw(":path", "/v1/chat/completions"),
        HeaderValue::raw(":authority", "router"),
        HeaderValue::raw("content-type", "application/json"),
    ];
    headers.extend(more);
    ProcessingRequest {
        protocol_config: Some(modes(BodySendMode::FullDuplexStreamed)),
        ..Request::RequestHeaders(HttpHeaders::new(headers, end_of_stream)).into()
    }
}

/// How Envoy says that it sends bodies.
pub(crate) fn modes(mode: BodySendMode) -> ProtocolConfiguration {
    ProtocolConfiguration {
        request_body_mode: mode.into(),
        response_body_mode: mode.into(),
        send_body_without_waiting_for_header_response: false,
    }
}

pub(crate) fn body(bytes: impl Into<Bytes>, end_of_stream: bool) -> ProcessingRequest {
    Request::RequestBody(HttpBody::new(bytes.into(), end_of_stream)).into()
}

pub(crate) fn trailers() -> ProcessingRequest {
    Request::RequestTrailers(HttpTrailers::default()).into()
}

pub(crate) fn response_head(status: &str, end_of_stream: bool) -> ProcessingRequest {
    let headers = vec![
        HeaderValue::raw(":status", status.to_owned()),
        HeaderValue::raw("content-type", "application/json"),
    ];
    Request::ResponseHeaders(HttpHeaders::new(headers, end_of_stream)).into()
}

pub(crate) fn response_body(bytes: impl Into<Bytes>, end_of_stream: bool) -> ProcessingRequest {
    Request::ResponseBody(HttpBody::new(bytes.into(), end_of_stream)).into()
}

pub(crate) fn response_trailers() -> ProcessingRequest {
    Request::ResponseTrailers(HttpTrailers::default()).into()
}

/// Adds metadata under a namespace.
pub(crate) fn with_metadata(
    mut message: ProcessingRequest,
    namespace: &str,
    key: &str,
    value: impl Into<Value>,
) -> ProcessingRequest {
    let fields: Struct = [(key, value.into())].into_iter().collect();
    let metadata = message.metadata_context.get_or_insert_default();
    metadata.filter_metadata.insert(namespace.to_owned(), fields);
    message
}

/// A chat that the picker accepts.
pub(crate) const CHAT: &str =
    r#"{"model":"sim-model","messages":[{"role":"user","content":"Hello"}]}"#;
