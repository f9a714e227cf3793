//! The response stream of one `Process` call: polled by the gRPC server, it reads messages, lets the
//! session work and gives out replies.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::Stream;
use router_proto::ext_proc::{ProcessingRequest, ProcessingResponse};
use tokio::time::{Instant, Sleep, sleep};
use tonic::{Code, Status};

use crate::{
    handler::{Replies, Session},
    service::StreamGuard,
};

/// A stream at work.
pub struct ProcessStream<M, S> {
    messages: M,
    session: S,
    replies: Replies,
    /// The peer has half-closed.
    ended: bool,
    idle: Pin<Box<Sleep>>,
    idle_timeout: Duration,
    guard: StreamGuard,
}

impl<M, S> ProcessStream<M, S> {
    pub(crate) fn new(messages: M, session: S, idle_timeout: Duration, guard: StreamGuard) -> Self {
        let idle = Box::pin(sleep(idle_timeout));
        Self {
            messages,
            session,
            replies: Replies::default(),
            ended: false,
            idle,
            idle_timeout,
            guard,
        }
    }
}

impl<M, S> ProcessStream<M, S>
where
    M: Stream<Item = Result<ProcessingRequest, Status>> + Unpin,
    S: Session,
{
    /// Reads one message, or notes the end of them.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        match ready!(Pin::new(&mut self.messages).poll_next(cx)) {
            Some(Ok(message)) => {
                self.idle.as_mut().reset(Instant::now() + self.idle_timeout);
                Poll::Ready(self.session.on_message(message, &mut self.replies))
            }
            Some(Err(status)) if status.code() != Code::Cancelled => Poll::Ready(Err(status)),
            // Envoy resets the stream when its client goes away: an end like any other.
            Some(Err(_)) | None => {
                self.ended = true;
                self.session.on_half_close();
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl<M, S> Stream for ProcessStream<M, S>
where
    M: Stream<Item = Result<ProcessingRequest, Status>> + Unpin,
    S: Session,
{
    type Item = Result<ProcessingResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(reply) = this.replies.pop() {
                return Poll::Ready(Some(Ok(reply)));
            }
            if this.replies.is_closing() || this.ended {
                this.guard.finished(Code::Ok);
                return Poll::Ready(None);
            }
            match this.session.poll_work(cx, &mut this.replies) {
                Poll::Ready(Ok(())) => continue,
                Poll::Ready(Err(status)) => return this.failed(status),
                Poll::Pending => {}
            }
            match this.poll_message(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(status)) => return this.failed(status),
                Poll::Pending => {
                    if this.idle.as_mut().poll(cx).is_ready() {
                        return this
                            .failed(Status::deadline_exceeded("the stream was idle for too long"));
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

impl<M, S> ProcessStream<M, S> {
    fn failed<T>(&mut self, status: Status) -> Poll<Option<Result<T, Status>>> {
        self.guard.finished(status.code());
        self.ended = true;
        self.replies = Replies::default();
        Poll::Ready(Some(Err(status)))
    }
}
