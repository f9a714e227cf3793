//! The body of a request on its way in: given to the engine as it comes, kept until the decision.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use router_core::{ErrorCode, Rejection};
use router_engine::{BodyFeed, Decision, Routed};
use router_rt::{Tasks, deadline};

use crate::{held::Held, idle::Idle, options::DiscardOptions, request::Hop};

/// Chunks below this size are put together into chunks of this size: a body of single bytes would
/// otherwise take many times its size.
const MIN_CHUNK_BYTES: usize = 4 << 10;

/// A body that is being read.
pub(crate) struct Intake {
    body: Incoming,
    feed: BodyFeed,
    chunks: Vec<Bytes>,
    /// Small chunks that wait for more.
    gathered: BytesMut,
    n_bytes: u64,
    state: Reading,
}

/// How far the body has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// Nobody has asked for it, so a client that waits for `100 Continue` still waits.
    Unasked,
    Coming,
    Ended,
    /// It broke, or stopped coming.
    Failed,
}

/// A request that is not routed.
pub(crate) struct Refused {
    pub(crate) rejection: Rejection,
    pub(crate) bytes_in: u64,
    /// What of the body is left and may still come.
    pub(crate) rest: Option<Rest>,
}

/// What is left of a body.
pub(crate) struct Rest {
    body: Incoming,
    was_asked_for: bool,
}

impl Rest {
    /// A body that nobody has read from.
    pub(crate) fn whole(body: Incoming) -> Self {
        Self { body, was_asked_for: false }
    }
}

enum Step {
    Decided(Box<Result<Routed, Rejection>>),
    Frame(Option<Result<Frame<Bytes>, hyper::Error>>),
    Stalled,
}

/// Reads a body until the request is routed.
pub(crate) async fn read(
    body: Incoming,
    mut feed: BodyFeed,
    mut decision: Decision,
    idle_limit: Duration,
    too_long: Option<Rejection>,
) -> Result<(Routed, Held), Refused> {
    if let Some(rejection) = too_long {
        feed.fail(rejection);
    }
    let mut intake = Intake::new(body, feed);
    let mut idle = Idle::new(Some(idle_limit));
    let decided = loop {
        match intake.step(&mut decision, &mut idle).await {
            Step::Decided(decided) => break *decided,
            Step::Frame(frame) => {
                idle.moved();
                intake.take(frame);
            }
            Step::Stalled => {
                let message = "the request body stopped coming";
                intake.fail(Rejection::new(ErrorCode::RequestTimeout, message));
            }
        }
    };
    match decided {
        Ok(routed) => Ok((routed, intake.into_held())),
        Err(rejection) => Err(intake.into_refused(rejection)),
    }
}

/// Why a body of the length that its head announces will not be read.
pub(crate) fn too_long(headers: &HeaderMap, max_bytes: usize) -> Option<Rejection> {
    let length = headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse::<u64>().ok()?;
    (length > max_bytes as u64).then(|| {
        let message = format!("request body is larger than {max_bytes} bytes");
        Rejection::new(ErrorCode::PayloadTooLarge, message)
    })
}

/// Reads what is left of a refused request's body and throws it away, so that a client that sends first
/// and reads later sees the answer, and so that the connection can be used again.
///
/// HTTP/2 needs none of that, and a client that waits for `100 Continue` is not asked for its body.
pub(crate) fn discard(rest: Rest, hop: Hop, options: DiscardOptions, tasks: &Tasks) {
    let Rest { body: rest, was_asked_for } = rest;
    let still_waits = hop.expects_continue && !was_asked_for;
    let is_over_limit = rest.size_hint().lower() > options.max_bytes;
    if !hop.is_http1 || still_waits || is_over_limit || rest.is_end_stream() {
        return;
    }
    tasks.spawn_cancellable("discard request body", async move {
        let mut rest = rest;
        let mut n_bytes = 0_u64;
        let to_the_end = async {
            while let Some(Ok(frame)) = rest.frame().await {
                n_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                if n_bytes > options.max_bytes {
                    break;
                }
            }
        };
        if let Err(elapsed) = deadline(options.timeout, to_the_end).await {
            tracing::debug!(%elapsed, "the rest of a refused body is not read");
        }
    });
}

impl Intake {
    fn new(body: Incoming, feed: BodyFeed) -> Self {
        Self {
            body,
            feed,
            chunks: Vec::new(),
            gathered: BytesMut::new(),
            n_bytes: 0,
            state: Reading::Unasked,
        }
    }

    /// The decision comes first: a refusal by the head alone leaves the body where it is.
    async fn step(&mut self, decision: &mut Decision, idle: &mut Idle) -> Step {
        poll_fn(|cx| {
            if let Poll::Ready(decided) = Pin::new(&mut *decision).poll(cx) {
                return Poll::Ready(Step::Decided(Box::new(decided)));
            }
            if matches!(self.state, Reading::Ended | Reading::Failed) {
                return Poll::Pending;
            }
            self.state = Reading::Coming;
            if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
                return Poll::Ready(Step::Frame(frame));
            }
            idle.poll_overdue(cx).map(|()| Step::Stalled)
        })
        .await
    }

    fn take(&mut self, frame: Option<Result<Frame<Bytes>, hyper::Error>>) {
        match frame {
            Some(Ok(frame)) => {
                // Trailers are dropped: the whole body is here, so it goes out with its length.
                let data = frame.into_data().unwrap_or_default();
                let is_last = self.body.is_end_stream();
                self.gather(data, is_last);
                if is_last {
                    self.end();
                }
            }
            None => {
                self.flush();
                self.end();
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "a request body broke off");
                self.fail(Rejection::bad_request("the request body broke off or is malformed"));
            }
        }
    }

    fn gather(&mut self, mut data: Bytes, is_last: bool) {
        self.n_bytes += data.len() as u64;
        let stands_alone = is_last && self.gathered.is_empty();
        if stands_alone || data.len() >= MIN_CHUNK_BYTES {
            self.flush();
            return self.push(data);
        }
        while !data.is_empty() {
            if self.gathered.is_empty() {
                self.gathered.reserve(MIN_CHUNK_BYTES);
            }
            let room = MIN_CHUNK_BYTES.saturating_sub(self.gathered.len());
            self.gathered.extend_from_slice(&data.split_to(room.min(data.len())));
            if self.gathered.len() >= MIN_CHUNK_BYTES {
                self.flush();
            }
        }
        if is_last {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if !self.gathered.is_empty() {
            let gathered = std::mem::take(&mut self.gathered).freeze();
            self.push(gathered);
        }
    }

    fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.feed.push(&chunk);
            self.chunks.push(chunk);
        }
    }

    fn end(&mut self) {
        self.state = Reading::Ended;
        self.feed.end();
    }

    fn fail(&mut self, rejection: Rejection) {
        self.state = Reading::Failed;
        self.feed.fail(rejection);
    }

    fn into_held(self) -> Held {
        Held::new(self.chunks, self.feed.into_lease())
    }

    fn into_refused(self, rejection: Rejection) -> Refused {
        let rest = match self.state {
            Reading::Unasked => Some(Rest::whole(self.body)),
            Reading::Coming => Some(Rest { body: self.body, was_asked_for: true }),
            Reading::Ended | Reading::Failed => None,
        };
        Refused { rejection, bytes_in: self.n_bytes, rest }
    }
}
