//! What holds for any messages in any order, as plain functions for a fuzzer and for property tests.
//!
//! No other part of the crate calls them.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    slice,
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};
use futures_core::Stream;
use futures_util::stream;
use http_body::Frame;
use prost::Message as _;
use router_core::header;
use router_proto::ext_proc::{
    ProcessingRequest, ProcessingResponse, body_mutation::Mutation, processing_request::Request,
    processing_response::Response,
};
use tokio::task::unconstrained;
use tonic::{Code, Status};

use crate::{grpc::Messages, handler::Handler, reply::MAX_PIECE_BYTES, service::ProcessService};

/// Longest message in a stream of [`fuzz_frames`].
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// The messages in an input: each is its length in two bytes, little end first, and its encoding. What
/// cannot be decoded is left out.
pub fn messages(mut input: &[u8]) -> Vec<ProcessingRequest> {
    let mut messages = Vec::new();
    while input.len() >= 2 {
        let length = usize::from(input.get_u16_le()).min(input.len());
        let (encoded, rest) = input.split_at(length);
        messages.extend(ProcessingRequest::decode(encoded).ok());
        input = rest;
    }
    messages
}

/// The body of a gRPC request gives the same messages however HTTP/2 cuts it into frames. The first byte of an
/// input is the size of frames, less one.
pub fn fuzz_frames(data: &[u8]) {
    let [size, wire @ ..] = data else { return };
    let size = 1 + usize::from(*size);
    assert_eq!(read(wire, size), read(wire, wire.len().max(1)), "in frames of {size}");
}

/// The messages in a body that comes in frames of this size, encoded again, and how it ends.
fn read(wire: &[u8], size: usize) -> (Vec<Vec<u8>>, Result<(), Code>) {
    let mut messages = Messages::new(Frames(wire.chunks(size)), MAX_MESSAGE_BYTES);
    let mut cx = Context::from_waker(Waker::noop());
    let mut read = Vec::new();
    loop {
        match Pin::new(&mut messages).poll_next(&mut cx) {
            Poll::Ready(Some(Ok(message))) => read.push(message.encode_to_vec()),
            Poll::Ready(Some(Err(status))) => return (read, Err(status.code())),
            Poll::Ready(None) => return (read, Ok(())),
            Poll::Pending => panic!("all frames are there and the stream waits"),
        }
    }
}

/// A body whose frames are all there.
struct Frames<'a>(slice::Chunks<'a, u8>);

impl http_body::Body for Frames<'_> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.next().map(|frame| Ok(Frame::data(Bytes::copy_from_slice(frame)))))
    }
}

/// Plays a stream to its end and checks what must hold of the replies. Gives them, and the error that ended
/// the stream, if one did. The messages come at once, and the peer half-closes after them.
pub fn play<H: Handler>(
    service: &ProcessService<H>,
    messages: Vec<ProcessingRequest>,
) -> (Vec<ProcessingResponse>, Option<Status>) {
    let mut checker = Checker::default();
    messages.iter().for_each(|message| checker.sent(message));
    let mut replies = Vec::new();
    let Ok(stream) = service.open(stream::iter(messages.into_iter().map(Ok))) else {
        return (replies, None);
    };
    let mut stream = pin!(stream);
    let mut cx = Context::from_waker(Waker::noop());
    let error = loop {
        // A test's task may have used up its share of the thread, which must not look like waiting.
        let mut next = pin!(unconstrained(poll_fn(|cx| stream.as_mut().poll_next(cx))));
        match next.as_mut().poll(&mut cx) {
            Poll::Ready(Some(Ok(reply))) => {
                checker.replied(&reply);
                replies.push(reply);
            }
            Poll::Ready(Some(Err(status))) => break Some(status),
            Poll::Ready(None) => break None,
            Poll::Pending => panic!("all messages are there and the stream waits"),
        }
    };
    checker.ended();
    (replies, error)
}

/// Follows the order of replies and the bytes of bodies.
#[derive(Default)]
struct Checker {
    request: Side,
    response: Side,
    /// The body may be changed on its way.
    rewrites: bool,
    /// An immediate response was the last reply.
    answered: bool,
}

/// One direction.
#[derive(Default)]
struct Side {
    sent: Vec<u8>,
    received: Vec<u8>,
    stage: Stage,
}

/// How far the replies of a direction have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Nothing,
    Headers,
    Body,
    BodyEnded,
    Trailers,
}

impl Checker {
    fn sent(&mut self, message: &ProcessingRequest) {
        match &message.request {
            Some(Request::RequestHeaders(headers)) => {
                let list = headers.headers.iter().flat_map(|map| &map.headers);
                let names = [header::MODEL_REWRITE, header::MODEL_REWRITE_ALIAS];
                self.rewrites |= list.into_iter().any(|entry| {
                    names.iter().any(|name| entry.key.eq_ignore_ascii_case(name.as_str()))
                });
            }
            Some(Request::RequestBody(body)) => self.request.sent.extend_from_slice(&body.body),
            Some(Request::ResponseBody(body)) => self.response.sent.extend_from_slice(&body.body),
            _ => {}
        }
    }

    /// What was passed on is what came, as far as it was passed on.
    fn ended(&self) {
        for side in [&self.request, &self.response] {
            assert!(self.rewrites || side.sent.starts_with(&side.received), "other bytes went on");
        }
    }

    fn replied(&mut self, reply: &ProcessingResponse) {
        assert!(!self.answered, "a reply after an immediate response: {reply:?}");
        match &reply.response {
            Some(Response::RequestHeaders(_)) => self.request.moves_to(Stage::Headers),
            Some(Response::RequestBody(body)) => {
                assert!(self.request.stage >= Stage::Headers, "a body before its headers");
                self.request.piece(body.response.as_ref().and_then(|r| r.body_mutation.as_ref()));
            }
            Some(Response::RequestTrailers(_)) => {
                assert!(self.request.stage >= Stage::Headers, "trailers before headers");
                self.request.moves_to(Stage::Trailers);
            }
            Some(Response::ResponseHeaders(_)) => self.response.moves_to(Stage::Headers),
            Some(Response::ResponseBody(body)) => {
                self.response.piece(body.response.as_ref().and_then(|r| r.body_mutation.as_ref()));
            }
            Some(Response::ResponseTrailers(_)) => self.response.moves_to(Stage::Trailers),
            Some(Response::ImmediateResponse(_)) => {
                assert_eq!(self.request.stage, Stage::Nothing, "rejected after it was routed");
                self.answered = true;
            }
            other => panic!("a reply that Envoy does not expect: {other:?}"),
        }
    }
}

impl Side {
    fn moves_to(&mut self, stage: Stage) {
        assert!(stage > self.stage, "{stage:?} after {:?}", self.stage);
        self.stage = stage;
    }

    fn piece(&mut self, mutation: Option<&router_proto::ext_proc::BodyMutation>) {
        let Some(Mutation::StreamedResponse(piece)) = mutation.and_then(|m| m.mutation.as_ref())
        else {
            panic!("a body reply without a piece")
        };
        assert!(piece.body.len() <= MAX_PIECE_BYTES);
        assert!(self.stage < Stage::BodyEnded, "a piece after {:?}", self.stage);
        self.stage = if piece.end_of_stream { Stage::BodyEnded } else { Stage::Body };
        self.received.extend_from_slice(&piece.body);
    }
}

/// The bodies that the replies make up: the request's and the response's.
pub fn bodies(replies: &[ProcessingResponse]) -> (Bytes, Bytes) {
    let mut checker = Checker::default();
    replies.iter().for_each(|reply| checker.replied(reply));
    (checker.request.received.into(), checker.response.received.into())
}
