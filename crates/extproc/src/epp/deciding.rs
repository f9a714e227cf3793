//! A request until it is routed: its body comes in, the engine decides, and the replies that were held back
//! go out.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderValue;
use router_core::{ErrorCode, Rejection, header};
use router_engine::{BodyFeed, BodyPlan, Decision, Routed};
use router_framework::SubsetHint;
use router_proto::ext_proc::{
    HttpBody, ProcessingResponse, TrailersResponse, processing_response::Response,
};
use router_wire::splice::splice;
use tokio::time::{Instant, Sleep, sleep};
use tonic::Status;

use super::{Going, gathered::Gathered};
use crate::{
    handler::Replies,
    reply::{self, Direction},
};

/// A request whose body is coming in, or that waits for its decision.
pub(super) struct Deciding {
    feed: BodyFeed,
    decision: Decision,
    gathered: Gathered,
    body: BodyState,
    /// Trailers have come, which want an answer of their own after the body's.
    has_trailers: bool,
    /// Ends when the body has not come on for the timeout.
    stalled: Pin<Box<Sleep>>,
    timeout: Duration,
    observes_body: bool,
}

/// How far the request's body has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyState {
    /// There is none, or Envoy does not send it.
    None,
    Coming,
    Ended,
}

impl Deciding {
    /// `has_body`: Envoy will send a body. `observes_body`: it will send the response's.
    pub(super) fn new(
        (feed, decision): (BodyFeed, Decision),
        has_body: bool,
        observes_body: bool,
        timeout: Duration,
    ) -> Self {
        Self {
            feed,
            decision,
            gathered: Gathered::default(),
            body: if has_body { BodyState::Coming } else { BodyState::None },
            has_trailers: false,
            stalled: Box::pin(sleep(timeout)),
            timeout,
            observes_body,
        }
    }

    pub(super) fn on_body(
        &mut self,
        message: &HttpBody,
        subset: Option<SubsetHint>,
    ) -> Result<(), Status> {
        if self.body != BodyState::Coming {
            return Err(body_after_its_end());
        }
        if let Some(subset) = subset {
            self.feed.restrict(subset);
        }
        self.stalled.as_mut().reset(Instant::now() + self.timeout);
        if self.feed.count(message.body.len()) {
            self.gathered.push(&message.body, |block| self.feed.scan(block));
        }
        if message.end_of_stream {
            self.on_body_end();
        }
        Ok(())
    }

    fn on_body_end(&mut self) {
        self.body = BodyState::Ended;
        self.gathered.end(|block| self.feed.scan(block));
        self.feed.end();
    }

    /// Trailers end the body as its end-of-stream mark would (defect A.1#2). Their answer waits for the
    /// answers to the headers and the body.
    pub(super) fn on_trailers(&mut self) -> Result<(), Status> {
        if self.body == BodyState::Ended || self.has_trailers {
            return Err(trailers_after_the_end());
        }
        self.has_trailers = true;
        if self.body == BodyState::Coming {
            self.on_body_end();
        }
        Ok(())
    }

    /// The decision, once it is there.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Routed, Rejection>> {
        if self.body == BodyState::Coming && self.stalled.as_mut().poll(cx).is_ready() {
            let message = "the request body stopped coming";
            self.feed.fail(Rejection::new(ErrorCode::RequestTimeout, message));
        }
        Pin::new(&mut self.decision).poll(cx)
    }

    /// Sends what routes the request: headers, then the whole body.
    pub(super) fn routed(self, routed: Routed, replies: &mut Replies) -> Going {
        let Self { feed, gathered, body, has_trailers, observes_body, .. } = self;
        let Routed { destination, head_patch, body_plan, scores, exchange, .. } = routed;
        let chunks = gathered.into_blocks();
        let chunks = match body_plan {
            BodyPlan::Pass => chunks,
            BodyPlan::Splice { span, replacement } => splice(&chunks, span, replacement),
        };
        let mut patch = head_patch;
        if let Ok(value) = HeaderValue::from_str(&destination) {
            patch.set(header::DESTINATION, value);
        }
        let n_bytes: usize = chunks.iter().map(Bytes::len).sum();
        // Over HTTP/1.1 a body of declared length has no room for trailers.
        if n_bytes > 0 && !has_trailers {
            patch.set(http::header::CONTENT_LENGTH, HeaderValue::from(n_bytes));
        }
        replies.push_whole(ProcessingResponse {
            dynamic_metadata: Some(reply::destination_metadata(&destination, scores.as_deref())),
            ..Response::RequestHeaders(reply::headers(&patch, true)).into()
        });
        if body != BodyState::None {
            reply::body(Direction::Request, chunks, !has_trailers, |r| replies.push_whole(r));
        }
        if has_trailers {
            replies.push(Response::RequestTrailers(TrailersResponse::default()));
        }
        Going {
            eviction: exchange.eviction(),
            exchange,
            lease: Some(feed.into_lease()),
            observes_body,
            awaits_trailers: body == BodyState::None && !has_trailers,
        }
    }
}

pub(super) fn body_after_its_end() -> Status {
    Status::invalid_argument("request body came after its end")
}

pub(super) fn trailers_after_the_end() -> Status {
    Status::invalid_argument("request trailers came after its end")
}
