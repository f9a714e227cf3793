//! The way of a request body into the pipeline.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use router_core::{ErrorCode, Rejection, header};
use router_framework::{BodyParser, ParsedRequest, RequestHead, SubsetHint};
use tokio::sync::oneshot;

use crate::{
    budget::BodyLease,
    observe::Point,
    router::{ParserEntry, Router},
};

/// Takes a request body as it comes. Errors do not show here: they end the [`Decision`](crate::Decision),
/// and whatever is pushed after that is ignored.
pub struct BodyFeed {
    state: State,
    lease: BodyLease,
    max_bytes: usize,
    subset: Option<SubsetHint>,
}

enum State {
    Reading {
        entry: Arc<ParserEntry>,
        parser: Box<dyn BodyParser>,
        /// Time spent in the parser so far.
        parsing: Duration,
        verdict: oneshot::Sender<Verdict>,
    },
    Done,
}

/// What the body turned out to be.
pub(crate) type Verdict = Result<Parsed, Rejection>;

/// A request that has been read to its end.
pub(crate) struct Parsed {
    pub(crate) request: ParsedRequest,
    /// Restriction of the candidates that came after the head.
    pub(crate) subset: Option<SubsetHint>,
}

impl BodyFeed {
    /// Starts on the body of the request with this head; the verdict comes through the receiver.
    pub(crate) fn start(router: &Router, head: &RequestHead) -> (Self, oneshot::Receiver<Verdict>) {
        let (verdict, receiver) = oneshot::channel();
        let mut feed = Self {
            state: State::Done,
            lease: router.budget().lease(),
            max_bytes: router.settings().max_body_bytes,
            subset: None,
        };
        if head.end_of_stream {
            // A request without a body goes through the pipeline with an empty prompt (design §9).
            let _receiver_may_be_gone =
                verdict.send(Ok(Parsed { request: ParsedRequest::default(), subset: None }));
            return (feed, receiver);
        }
        match begin(router.parsers().find(head.path()), head) {
            Ok((entry, parser)) => {
                feed.state = State::Reading { entry, parser, parsing: Duration::ZERO, verdict };
            }
            Err(rejection) => {
                let _receiver_may_be_gone = verdict.send(Err(rejection));
            }
        }
        (feed, receiver)
    }

    /// Takes the next bytes.
    pub fn push(&mut self, chunk: &Bytes) {
        if matches!(self.state, State::Done) {
            return;
        }
        if self.lease.n_bytes().saturating_add(chunk.len()) > self.max_bytes {
            let limit = self.max_bytes;
            let message = format!("request body is larger than {limit} bytes");
            return self.fail(Rejection::new(ErrorCode::PayloadTooLarge, message));
        }
        if !self.lease.grow(chunk.len()) {
            let message = "too many request bytes are held, try again later";
            return self.fail(Rejection::new(ErrorCode::ServiceUnavailable, message));
        }
        let State::Reading { entry, parser, parsing, .. } = &mut self.state else { return };
        let (pushed, took) = entry.timed.run(Point::RequestParsing, || parser.push(chunk));
        *parsing += took;
        match pushed {
            Some(Ok(())) => {}
            Some(Err(rejection)) => self.fail(rejection),
            None => self.fail(Rejection::internal("the parser panicked")),
        }
    }

    /// The body has ended, by its end-of-stream mark or by trailers.
    pub fn end(&mut self) {
        if let State::Reading { entry, parser, parsing, verdict } =
            std::mem::replace(&mut self.state, State::Done)
        {
            let n_body_bytes = self.lease.n_bytes();
            let (parsed, took) = entry.timed.run(Point::RequestParsing, || parser.finish());
            entry.timed.observe(Point::RequestParsing, parsing + took);
            let parsed = parsed
                .unwrap_or_else(|| Err(Rejection::internal("the parser panicked")))
                .map(|parsed| Parsed {
                    request: ParsedRequest { n_body_bytes, ..parsed },
                    subset: self.subset.take(),
                });
            let _receiver_may_be_gone = verdict.send(parsed);
        }
    }

    /// Restricts the candidates, where the proxy says so only after the head; the first restriction counts.
    pub fn restrict(&mut self, subset: SubsetHint) {
        self.subset.get_or_insert(subset);
    }

    /// Ends the request with an error that the driver found, such as a body that stopped coming.
    pub fn fail(&mut self, rejection: Rejection) {
        if let State::Reading { verdict, .. } = std::mem::replace(&mut self.state, State::Done) {
            let _receiver_may_be_gone = verdict.send(Err(rejection));
        }
    }

    /// Bytes taken so far.
    pub fn n_bytes(&self) -> usize {
        self.lease.n_bytes()
    }

    /// The lease on the bytes, to be kept for as long as the driver holds the body.
    pub fn into_lease(self) -> BodyLease {
        self.lease
    }
}

fn begin(
    entry: Option<&Arc<ParserEntry>>,
    head: &RequestHead,
) -> Result<(Arc<ParserEntry>, Box<dyn BodyParser>), Rejection> {
    let Some(entry) = entry else {
        let message = format!("no parser registered matching path suffix for: {}", head.path());
        return Err(Rejection::new(ErrorCode::NotFound, message));
    };
    let encoding = header::text(&head.headers, &http::header::CONTENT_ENCODING, None);
    if !entry.is_fallback && encoding.is_some_and(|coding| !coding.eq_ignore_ascii_case("identity"))
    {
        let message =
            "encoded request bodies are not supported, send the body without content-encoding";
        return Err(Rejection::new(ErrorCode::UnsupportedMediaType, message));
    }
    let (parser, _) = entry.timed.run(Point::RequestParsing, || entry.timed.inner().begin(head));
    let parser = parser.unwrap_or_else(|| Err(Rejection::internal("the parser panicked")))?;
    Ok((Arc::clone(entry), parser))
}
