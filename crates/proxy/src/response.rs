//! The answer on its way to the client.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use parking_lot::Mutex;
use router_core::header::REQUEST_ID;
use router_engine::{Exchange, ResponseHead, exchange::Chunks, flow::Eviction};
use router_framework::EndCause;
use router_net::{BoxError, UpstreamBody};
use router_rt::Tasks;
use thiserror::Error;
use tokio::sync::oneshot;

use crate::{
    access::{AccessEntry, Cause},
    idle::Idle,
    request::remove_hop_by_hop,
};

/// Body of what the proxy answers: its own text, or a model server's response as it comes.
pub struct ProxyBody(Kind);

enum Kind {
    Whole(Full<Bytes>),
    Relay(Box<Relay>),
    Watched(Watched),
}

/// A response whose request may have to make room for a more important one. It is told so by a task of its own,
/// since nobody asks for the next piece of a response while its client does not read.
struct Watched {
    relay: Arc<Mutex<Relay>>,
    /// Ends the task.
    _watched: oneshot::Sender<Infallible>,
}

/// A response that goes by. Dropping it before its end closes the connection to the model server and ends
/// the exchange as one whose client went away.
struct Relay {
    /// Gone, and its connection with it, once the response has broken off.
    upstream: Option<UpstreamBody>,
    exchange: Exchange,
    /// Whoever asked for the next piece of a watched response last.
    waker: Option<Waker>,
    access: AccessEntry,
    silence: Silence,
    /// Pieces that were read and not yet taken.
    ready: <Chunks as IntoIterator>::IntoIter,
    trailers: Option<HeaderMap>,
    state: State,
    /// Why it broke off, until the client's connection is told.
    broken: Option<BrokenOff>,
    /// The head announces the length that the model server announced.
    keeps_length: bool,
}

/// How long nothing has come from the model server while somebody waited for it. What passes while a slow
/// client takes what came before says nothing about the model server.
struct Silence {
    idle: Idle,
    is_awaited: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Streaming,
    /// All has been read; pieces and trailers may be left.
    Ended,
    /// It broke off. What came before is still on its way to the client: hyper drops what it has not
    /// written when a body fails, the head of the response included.
    Breaking,
    /// The client's connection is broken off too.
    Failed,
}

/// A response that did not come to its end.
#[derive(Debug, Error)]
enum BrokenOff {
    #[error("the model server's response broke off: {0}")]
    Upstream(hyper::Error),
    #[error("the model server's response stopped coming")]
    Stalled,
    #[error("the request made room for a more important one")]
    Evicted,
}

/// Makes the client's response out of the model server's.
pub(crate) fn relay(
    response: Response<UpstreamBody>,
    mut exchange: Exchange,
    mut access: AccessEntry,
    idle: Idle,
    tasks: &Tasks,
) -> Response<ProxyBody> {
    let (mut parts, upstream) = response.into_parts();
    remove_hop_by_hop(&mut parts.headers);
    let head = ResponseHead {
        status: parts.status,
        headers: &parts.headers,
        served: None,
        from_proxy: false,
    };
    exchange.on_headers(&head).apply(&mut parts.headers);
    if !parts.headers.contains_key(REQUEST_ID)
        && let Ok(id) = HeaderValue::from_str(&exchange.request().external_id)
    {
        parts.headers.insert(REQUEST_ID, id);
    }
    // The version of one hop says nothing about another.
    parts.version = Version::HTTP_11;
    access.answered(parts.status);
    if upstream.is_end_stream() {
        exchange.end(EndCause::Natural);
        access.end(Cause::Natural);
        return Response::from_parts(parts, ProxyBody::whole(Bytes::new()));
    }
    let keeps_length = parts.headers.contains_key(header::CONTENT_LENGTH);
    let eviction = exchange.eviction();
    let relay = Relay {
        upstream: Some(upstream),
        exchange,
        waker: None,
        access,
        silence: Silence { idle, is_awaited: false },
        ready: Chunks::new().into_iter(),
        trailers: None,
        state: State::Streaming,
        broken: None,
        keeps_length,
    };
    let kind = match eviction {
        Some(eviction) => Kind::Watched(Watched::new(relay, eviction, tasks)),
        None => Kind::Relay(Box::new(relay)),
    };
    Response::from_parts(parts, ProxyBody(kind))
}

// === impl ProxyBody ===

impl ProxyBody {
    pub(crate) fn whole(text: impl Into<Bytes>) -> Self {
        Self(Kind::Whole(Full::new(text.into())))
    }
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Kind::Relay(relay) => relay.poll_frame(cx).map_err(Into::into),
            Kind::Watched(watched) => watched.poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(body) => body.is_end_stream(),
            Kind::Relay(relay) => relay.is_over(),
            Kind::Watched(watched) => watched.relay.lock().is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(body) => body.size_hint(),
            Kind::Relay(relay) => relay.size_hint(),
            Kind::Watched(watched) => watched.relay.lock().size_hint(),
        }
    }
}

// === impl Watched ===

impl Watched {
    fn new(relay: Relay, eviction: Eviction, tasks: &Tasks) -> Self {
        let relay = Arc::new(Mutex::new(relay));
        let (on_drop, is_dropped) = oneshot::channel();
        let watched = Arc::downgrade(&relay);
        drop(tasks.spawn_cancellable("eviction", async move {
            tokio::select! {
                biased;
                _dropped = is_dropped => {}
                () = eviction => {
                    if let Some(relay) = watched.upgrade() {
                        relay.lock().make_room();
                    }
                }
            }
        }));
        Self { relay, _watched: on_drop }
    }

    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let mut relay = self.relay.lock();
        let polled = relay.poll_frame(cx);
        relay.waker = polled.is_pending().then(|| cx.waker().clone());
        polled
    }
}

// === impl Relay ===

impl Relay {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        loop {
            if let Some(chunk) = self.ready.find(|chunk| !chunk.is_empty()) {
                self.access.add_bytes_out(chunk.len());
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            match self.state {
                State::Streaming => {}
                State::Ended => {
                    return Poll::Ready(self.trailers.take().map(Frame::trailers).map(Ok));
                }
                State::Breaking => {
                    self.state = State::Failed;
                    return Poll::Ready(self.broken.take().map(Err));
                }
                State::Failed => return Poll::Ready(None),
            }
            let polled = match &mut self.upstream {
                Some(upstream) => Pin::new(upstream).poll_frame(cx),
                None => Poll::Ready(None),
            };
            match polled {
                Poll::Ready(Some(Ok(frame))) => self.take(frame),
                Poll::Ready(None) => self.end(),
                Poll::Ready(Some(Err(error))) => {
                    self.fail(BrokenOff::Upstream(error));
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Pending => {
                    ready!(self.silence.poll_overdue(cx));
                    self.fail(BrokenOff::Stalled);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
    }

    /// The request has to make room for a more important one.
    fn make_room(&mut self) {
        if self.state != State::Streaming {
            return;
        }
        self.exchange.evict();
        self.fail(BrokenOff::Evicted);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn take(&mut self, frame: Frame<Bytes>) {
        self.silence.broken();
        match frame.into_data() {
            Ok(chunk) => {
                self.ready = self.exchange.on_chunk(chunk).into_iter();
                // Nobody asks on once the announced length has been sent.
                if self.upstream.as_ref().is_some_and(Body::is_end_stream) {
                    self.end();
                }
            }
            Err(frame) => {
                self.trailers = frame.into_trailers().ok();
                self.end();
            }
        }
    }

    /// The model server's response has come to its end.
    fn end(&mut self) {
        let rest = self.exchange.finish_body();
        if !rest.is_empty() {
            let mut pieces: Chunks = self.ready.by_ref().collect();
            pieces.extend(rest);
            self.ready = pieces.into_iter();
        }
        self.state = State::Ended;
        self.exchange.end(EndCause::Natural);
    }

    /// Notes that it broke off; the body fails when it is asked again, once the pieces before are written.
    fn fail(&mut self, cause: BrokenOff) {
        self.state = State::Breaking;
        self.upstream = None;
        self.exchange.end(EndCause::Error);
        tracing::warn!(endpoint = ?self.exchange.endpoint(), error = %cause, "a response broke off");
        self.access.end(Cause::Error);
        self.broken = Some(cause);
    }

    fn is_over(&self) -> bool {
        match self.state {
            State::Streaming | State::Breaking => false,
            State::Ended => self.ready.as_slice().is_empty() && self.trailers.is_none(),
            State::Failed => true,
        }
    }

    /// With a length in the head, what is left of it. Without, the length is open, even if the model
    /// server's is known: what is restored in the body may change it.
    fn size_hint(&self) -> SizeHint {
        if !self.keeps_length {
            return SizeHint::new();
        }
        let waiting: u64 = self.ready.as_slice().iter().map(|chunk| chunk.len() as u64).sum();
        match self.upstream.as_ref().and_then(|upstream| upstream.size_hint().exact()) {
            Some(coming) => SizeHint::with_exact(coming + waiting),
            None => SizeHint::new(),
        }
    }
}

// === impl Silence ===

impl Silence {
    /// Something came.
    fn broken(&mut self) {
        self.is_awaited = false;
    }

    /// Nothing has come; counts from the first time that this is asked.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_awaited {
            self.is_awaited = true;
            self.idle.moved();
        }
        self.idle.poll_overdue(cx)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        match self.state {
            State::Ended if self.is_over() => self.access.end(Cause::Natural),
            // What is left was not taken: the client is gone, though the exchange had ended.
            State::Streaming | State::Ended => self.access.end(Cause::ClientDisconnect),
            State::Breaking | State::Failed => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use tokio::time::{Instant, advance};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    async fn is_overdue(silence: &mut Silence) -> bool {
        poll_fn(|cx| Poll::Ready(silence.poll_overdue(cx).is_ready())).await
    }

    #[tokio::test(start_paused = true)]
    async fn only_waiting_for_the_model_server_counts_as_its_silence() {
        let mut silence = Silence { idle: Idle::new(Some(LIMIT)), is_awaited: false };
        for _ in 0..3 {
            // The client takes its time.
            advance(2 * LIMIT).await;
            assert!(!is_overdue(&mut silence).await);
            advance(LIMIT / 2).await;
            assert!(!is_overdue(&mut silence).await);
            silence.broken();
        }
        let start = Instant::now();
        poll_fn(|cx| silence.poll_overdue(cx)).await;
        assert_eq!(start.elapsed(), LIMIT);
    }
}
