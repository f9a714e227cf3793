//! A request body that waits for an endpoint.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    vec,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use router_engine::{BodyLease, BodyPlan};
use router_net::{Body, BoxError, body};
use router_wire::splice::splice;

/// The whole body of a request, with its share of the budget.
pub(crate) struct Held {
    chunks: Vec<Bytes>,
    n_bytes: u64,
    lease: BodyLease,
}

/// What an attempt can send.
pub(crate) enum Outgoing {
    /// Sent as often as needed.
    Replay(Replay),
    /// Sent once, let go while it is sent.
    Once(Held),
    /// An attempt failed before it took the body.
    Returned(Body),
    /// Sent, and not there any more.
    Gone,
}

/// A body that is kept, or no body: let go when nobody sends it or could send it again.
#[derive(Clone)]
pub(crate) struct Replay(Option<Arc<Held>>);

/// A body that is kept, on its way out.
struct KeptBody {
    held: Arc<Held>,
    at: usize,
    n_left: u64,
}

/// A body that is let go on its way out.
struct OnceBody {
    chunks: vec::IntoIter<Bytes>,
    n_left: u64,
    _lease: BodyLease,
}

// === impl Held ===

impl Held {
    pub(crate) fn new(chunks: Vec<Bytes>, lease: BodyLease) -> Self {
        let n_bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Self { chunks, n_bytes, lease }
    }

    /// The body as the model server gets it.
    pub(crate) fn planned(self, plan: BodyPlan) -> Self {
        match plan {
            BodyPlan::Pass => self,
            BodyPlan::Splice { span, replacement } => {
                Self::new(splice(&self.chunks, span, replacement), self.lease)
            }
        }
    }

    pub(crate) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }
}

// === impl Replay ===

impl Replay {
    pub(crate) fn body(&self) -> Body {
        match &self.0 {
            None => body::empty(),
            Some(held) => {
                let held = Arc::clone(held);
                body::boxed(KeptBody { n_left: held.n_bytes, held, at: 0 })
            }
        }
    }
}

// === impl Outgoing ===

impl Outgoing {
    pub(crate) fn new(held: Option<Held>, max_retained_bytes: usize) -> Self {
        match held {
            Some(held) if held.n_bytes > max_retained_bytes as u64 => Self::Once(held),
            held => Self::Replay(Replay(held.map(Arc::new))),
        }
    }

    /// The body as often as it is wanted, if it is kept.
    pub(crate) fn replay(&self) -> Option<Replay> {
        match self {
            Self::Replay(replay) => Some(replay.clone()),
            Self::Once(_) | Self::Returned(_) | Self::Gone => None,
        }
    }

    /// The body for one attempt; `None` when it is gone.
    pub(crate) fn take(&mut self) -> Option<Body> {
        match std::mem::replace(self, Self::Gone) {
            Self::Replay(replay) => {
                let body = replay.body();
                *self = Self::Replay(replay);
                Some(body)
            }
            Self::Once(held) => Some(body::boxed(OnceBody {
                n_left: held.n_bytes,
                chunks: held.chunks.into_iter(),
                _lease: held.lease,
            })),
            Self::Returned(body) => Some(body),
            Self::Gone => None,
        }
    }

    /// Whether there is something to send in another attempt.
    pub(crate) fn is_left(&self) -> bool {
        !matches!(self, Self::Gone)
    }

    /// An attempt gives back a body of which nothing was sent.
    pub(crate) fn put_back(&mut self, body: Body) {
        if matches!(self, Self::Gone) {
            *self = Self::Returned(body);
        }
    }
}

// === impl http_body::Body ===

impl http_body::Body for KeptBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(chunk) = self.held.chunks.get(self.at).cloned() else { return Poll::Ready(None) };
        self.at += 1;
        self.n_left -= chunk.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.n_left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.n_left)
    }
}

impl http_body::Body for OnceBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(chunk) = self.chunks.next() else { return Poll::Ready(None) };
        self.n_left -= chunk.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.n_left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.n_left)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use router_engine::BodyBudget;

    use super::*;

    fn outgoing(budget: &Arc<BodyBudget>, max_retained_bytes: usize) -> Outgoing {
        let mut lease = budget.lease();
        assert!(lease.grow(5));
        let chunks = vec![Bytes::from_static(b"ab"), Bytes::from_static(b"cde")];
        Outgoing::new(Some(Held::new(chunks, lease)), max_retained_bytes)
    }

    async fn text(body: Option<Body>) -> Bytes {
        body.unwrap().collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn a_kept_body_is_sent_again_and_gives_its_bytes_back_at_the_end() {
        let budget = BodyBudget::new(100);
        let mut outgoing = outgoing(&budget, 5);
        let first = outgoing.take();
        assert_eq!(http_body::Body::size_hint(first.as_ref().unwrap()).exact(), Some(5));
        assert_eq!(text(first).await, "abcde");
        assert_eq!(text(outgoing.take()).await, "abcde");
        assert_eq!(budget.held(), 5);
        let sending = outgoing.take();
        drop(outgoing);
        assert_eq!(budget.held(), 5, "somebody still sends it");
        drop(sending);
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn a_large_body_is_sent_once_unless_it_comes_back() {
        let budget = BodyBudget::new(100);
        let mut outgoing = outgoing(&budget, 4);
        assert!(outgoing.replay().is_none());
        let body = outgoing.take();
        assert!(!outgoing.is_left() && outgoing.take().is_none());
        outgoing.put_back(body.unwrap());
        assert_eq!(text(outgoing.take()).await, "abcde");
        assert_eq!(budget.held(), 0, "the bytes go with the body");
        assert!(outgoing.take().is_none());
    }

    #[tokio::test]
    async fn without_a_body_nothing_is_sent() {
        let mut outgoing = Outgoing::new(None, 0);
        let body = outgoing.take().unwrap();
        assert!(http_body::Body::is_end_stream(&body));
        assert!(outgoing.replay().is_some());
    }
}
