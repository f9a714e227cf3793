//! HTTP/2 streams as tasks, and the limit on how long a peer may take nothing of one.
//!
//! hyper asks a response body for its next piece once the stream's window had room for the piece before.
//! So a stream whose body has given a piece and is not asked again waits for its peer to open the window.
//! Bodies note what they give in a task-local value, which the stream's task looks at.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use router_rt::Tasks;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

use super::activity::InRequest;

/// Runs the streams of an HTTP/2 connection as tasks of the server.
#[derive(Clone)]
pub(super) struct Streams {
    pub(super) tasks: Tasks,
    pub(super) cut: CancellationToken,
    /// How long a peer may take nothing of a body before the stream is reset.
    pub(super) stall_timeout: Duration,
}

/// A response body that keeps its request counted until it is sent or dropped.
pub(super) struct Counted<B> {
    body: B,
    _request: InRequest,
}

/// How far the body of the stream at work has come.
#[derive(Debug, Default)]
struct Sending {
    n_given: Cell<u64>,
    /// The last piece given has not found room yet.
    is_waiting: Cell<bool>,
}

tokio::task_local! {
    static SENDING: Sending;
}

// === impl Streams ===

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let cut = self.cut.clone();
        // Boxed, because a future that contains another may take twice its size.
        let stream = while_taken(Box::pin(stream), self.stall_timeout);
        let stream = SENDING.scope(Sending::default(), stream);
        self.tasks.spawn("http2 stream", async move {
            tokio::select! {
                biased;
                () = cut.cancelled() => {}
                () = stream => {}
            }
        });
    }
}

/// Runs a stream to its end, or until its peer has taken nothing for the limit. A stream that is dropped
/// before its end is reset.
async fn while_taken<F: Future<Output = ()>>(mut stream: Pin<Box<F>>, limit: Duration) {
    let mut waiting: Option<(u64, Pin<Box<Sleep>>)> = None;
    poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(n_given) = SENDING.with(Sending::waits_at) else {
            waiting = None;
            return Poll::Pending;
        };
        let (_, timer) = match &mut waiting {
            Some(same) if same.0 == n_given => same,
            _ => waiting.insert((n_given, Box::pin(sleep(limit)))),
        };
        ready!(timer.as_mut().poll(cx));
        tracing::debug!(?limit, "an HTTP/2 stream is reset, its peer takes nothing of it");
        Poll::Ready(())
    })
    .await;
}

// === impl Sending ===

impl Sending {
    fn polled(&self, gave_piece: bool) {
        self.n_given.set(self.n_given.get() + u64::from(gave_piece));
        self.is_waiting.set(gave_piece);
    }

    /// The number of the piece that waits for room.
    fn waits_at(&self) -> Option<u64> {
        self.is_waiting.get().then_some(self.n_given.get())
    }
}

// === impl Counted ===

impl<B> Counted<B> {
    pub(super) fn new(body: B, request: InRequest) -> Self {
        Self { body, _request: request }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let gave_piece = matches!(polled, Poll::Ready(Some(Ok(_))));
        // HTTP/1 has no streams: there the socket's own limit says everything.
        let _is_http2 = SENDING.try_with(|sending| sending.polled(gave_piece));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
