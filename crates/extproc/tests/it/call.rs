//! One stream with a test in Envoy's place, without sockets.

use std::{
    fmt::Write as _,
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use router_extproc::{
    EppHandler, Handler, ProcessService, ProcessStream, StreamLimits, fuzz::bodies,
};
use router_proto::{
    ext_proc::{
        HeaderMutation, ImmediateResponse, ProcessingRequest, ProcessingResponse,
        body_mutation::Mutation, processing_response::Response,
    },
    google::Struct,
};
use router_testkit::router::{RouterBuilder, TestRouter};
use tokio::{sync::mpsc, task::unconstrained};
use tonic::Status;

use crate::messages::{CHAT, chat_headers, request_body};

/// Goes by queue length; counts what is in flight.
pub(crate) const BY_QUEUE: &str = "
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: active-request-scorer
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 1000}
  - {pluginRef: active-request-scorer, weight: 1}
";

pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(30);

type Messages = BoxStream<'static, Result<ProcessingRequest, Status>>;

/// A picker without sockets.
pub(crate) struct World {
    pub(crate) router: TestRouter,
    pub(crate) service: ProcessService<EppHandler>,
}

/// One stream.
pub(crate) struct Call {
    /// Gone once the test has half-closed.
    messages: Option<mpsc::Sender<Result<ProcessingRequest, Status>>>,
    stream: ProcessStream<Messages, <EppHandler as Handler>::Session>,
    /// How the stream ended, if it has.
    pub(crate) end: Option<Result<(), Status>>,
}

// === impl World ===

impl World {
    /// Three endpoints at `10.0.0.1:8000` and onwards; the first has the shortest queue.
    pub(crate) fn new() -> Self {
        Self::of(RouterBuilder::new(BY_QUEUE).endpoints(3))
    }

    pub(crate) fn of(builder: RouterBuilder) -> Self {
        Self::limited(builder, StreamLimits::default())
    }

    pub(crate) fn limited(builder: RouterBuilder, limits: StreamLimits) -> Self {
        let router = builder.build();
        for at in 0..router.datastore().snapshot().len() {
            router.publish(at, |signals| signals.waiting = at as f64);
        }
        let shared = Arc::new(ArcSwap::new(Arc::clone(&router.router)));
        let service = ProcessService::new(EppHandler::new(shared, BODY_TIMEOUT), limits);
        Self { router, service }
    }

    pub(crate) fn try_open(&self) -> Result<Call, Status> {
        let (sender, receiver) = mpsc::channel(256);
        let messages = stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|message| (message, receiver))
        });
        let stream = self.service.open(messages.boxed())?;
        Ok(Call { messages: Some(sender), stream, end: None })
    }

    pub(crate) fn open(&self) -> Call {
        self.try_open().unwrap()
    }

    /// A stream whose request has been routed; its replies are checked and gone.
    pub(crate) fn routed(&self) -> Call {
        let mut call = self.open();
        assert_eq!(shape(&call.say(chat_headers())), "");
        let replies = call.say(request_body(CHAT, true));
        assert_eq!(shape(&replies), format!("H B{}!", CHAT.len()));
        assert_eq!(self.in_flight(), 1.0);
        call
    }

    /// Requests in flight over all endpoints.
    pub(crate) fn in_flight(&self) -> f64 {
        self.router.sum("llm_d_epp_inflight_requests", &[])
    }

    pub(crate) fn in_flight_at(&self, name: &str) -> f64 {
        self.router.sum("llm_d_epp_inflight_requests", &[("endpoint_name", name)])
    }

    pub(crate) fn errors(&self, code: &str) -> f64 {
        self.router.sum("llm_d_epp_request_error_total", &[("error_code", code)])
    }

    /// Nothing is held for any request.
    #[track_caller]
    pub(crate) fn assert_idle(&self) {
        assert_eq!(self.in_flight(), 0.0, "requests in flight");
        assert_eq!(self.router.sum("llm_d_epp_inflight_tokens", &[]), 0.0, "tokens in flight");
        assert_eq!(self.router.sum("llm_d_epp_request_running", &[]), 0.0, "running");
        assert_eq!(self.router.budget().held(), 0, "bytes of bodies");
        assert_eq!(self.service.n_open(), 0, "streams");
    }
}

// === impl Call ===

impl Call {
    /// Sends a message and reads what can be read.
    pub(crate) fn say(&mut self, message: ProcessingRequest) -> Vec<ProcessingResponse> {
        self.say_result(Ok(message))
    }

    /// The transport gives this.
    pub(crate) fn say_result(
        &mut self,
        message: Result<ProcessingRequest, Status>,
    ) -> Vec<ProcessingResponse> {
        self.messages.as_ref().unwrap().try_send(message).unwrap();
        self.read()
    }

    pub(crate) fn half_close(&mut self) -> Vec<ProcessingResponse> {
        self.messages = None;
        self.read()
    }

    /// Reads until the stream waits or has ended.
    pub(crate) fn read(&mut self) -> Vec<ProcessingResponse> {
        let mut replies = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        while self.end.is_none() {
            // The test's task may have used up its share of the thread, which must not look like waiting.
            let mut next = pin!(unconstrained(self.stream.next()));
            match next.as_mut().poll(&mut cx) {
                Poll::Ready(Some(Ok(reply))) => replies.push(reply),
                Poll::Ready(Some(Err(status))) => self.end = Some(Err(status)),
                Poll::Ready(None) => self.end = Some(Ok(())),
                Poll::Pending => break,
            }
        }
        replies
    }

    /// The status that the stream failed with.
    #[track_caller]
    pub(crate) fn failure(&self) -> &Status {
        match &self.end {
            Some(Err(status)) => status,
            other => panic!("the stream has not failed: {other:?}"),
        }
    }
}

/// Replies in short: `H` request headers, `B5` a piece of five bytes of the request's body, `B0!` one that
/// ends it, `T` trailers; the same in small letters for the response; `I429` an immediate response.
pub(crate) fn shape(replies: &[ProcessingResponse]) -> String {
    let mut shape = String::new();
    for reply in replies {
        if !shape.is_empty() {
            shape.push(' ');
        }
        match reply.response.as_ref().unwrap() {
            Response::RequestHeaders(_) => shape.push('H'),
            Response::RequestBody(body) => write!(shape, "B{}", piece(body)).unwrap(),
            Response::RequestTrailers(_) => shape.push('T'),
            Response::ResponseHeaders(_) => shape.push('h'),
            Response::ResponseBody(body) => write!(shape, "b{}", piece(body)).unwrap(),
            Response::ResponseTrailers(_) => shape.push('t'),
            Response::ImmediateResponse(answer) => {
                write!(shape, "I{}", answer.status.as_ref().unwrap().code).unwrap();
            }
        }
    }
    shape
}

fn piece(body: &router_proto::ext_proc::BodyResponse) -> String {
    let mutation = body.response.as_ref().unwrap().body_mutation.as_ref().unwrap();
    let Some(Mutation::StreamedResponse(piece)) = &mutation.mutation else {
        panic!("{mutation:?}")
    };
    format!("{}{}", piece.body.len(), if piece.end_of_stream { "!" } else { "" })
}

/// The request's body as it goes on.
pub(crate) fn request_bytes(replies: &[ProcessingResponse]) -> Bytes {
    bodies(replies).0
}

/// The response's body as it goes on.
pub(crate) fn response_bytes(replies: &[ProcessingResponse]) -> Bytes {
    bodies(replies).1
}

/// The mutation of the first reply, which is one to headers.
pub(crate) fn mutation(replies: &[ProcessingResponse]) -> HeaderMutation {
    let common = match replies[0].response.as_ref().unwrap() {
        Response::RequestHeaders(headers) | Response::ResponseHeaders(headers) => {
            headers.response.clone().unwrap()
        }
        other => panic!("{other:?}"),
    };
    common.header_mutation.unwrap_or_default()
}

/// The value that a mutation sets for a header, when it does so once.
pub(crate) fn set_value(mutation: &HeaderMutation, name: &str) -> Option<String> {
    let headers = mutation.set_headers.iter().filter_map(|option| option.header.as_ref());
    let mut values = headers.filter(|header| header.key == name);
    let value = values.next()?;
    assert!(values.next().is_none(), "{name} is set twice");
    Some(String::from_utf8(value.bytes().to_vec()).unwrap())
}

pub(crate) fn destination(replies: &[ProcessingResponse]) -> String {
    set_value(&mutation(replies), "x-gateway-destination-endpoint").unwrap()
}

pub(crate) fn immediate(replies: &[ProcessingResponse]) -> &ImmediateResponse {
    match replies {
        [ProcessingResponse { response: Some(Response::ImmediateResponse(answer)), .. }] => answer,
        other => panic!("{other:?}"),
    }
}

/// A namespace of a reply's dynamic metadata.
pub(crate) fn metadata<'a>(reply: &'a ProcessingResponse, namespace: &str) -> &'a Struct {
    reply.dynamic_metadata.as_ref().unwrap().fields[namespace].as_struct().unwrap()
}
