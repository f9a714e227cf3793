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

/// What a parser may hold without being counted, as part of what every open request costs.
const FREE_PARSER_BYTES: usize = 4 * 1024;

/// Takes a request body as it comes. Errors do not show here: they end the [`Decision`](crate::Decision),
/// and whatever is pushed after that is ignored.
pub struct BodyFeed {
    state: State,
    /// Covers the bytes of the body, which the driver holds, and what the parser holds besides.
    lease: BodyLease,
    n_bytes: usize,
    /// The parser's part of the lease.
    n_parser_bytes: usize,
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
            n_bytes: 0,
            n_parser_bytes: 0,
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
        if self.count(chunk.len()) {
            self.scan(chunk);
        }
    }

    /// Counts bytes that have come and that the driver holds until it gives them to [`BodyFeed::scan`]. False
    /// when they are not wanted any more.
    pub fn count(&mut self, n_bytes: usize) -> bool {
        if matches!(self.state, State::Done) {
            return false;
        }
        if self.n_bytes.saturating_add(n_bytes) > self.max_bytes {
            let limit = self.max_bytes;
            let message = format!("request body is larger than {limit} bytes");
            self.fail(Rejection::new(ErrorCode::PayloadTooLarge, message));
            return false;
        }
        if !self.lease.grow(n_bytes) {
            self.fail(no_room());
            return false;
        }
        self.n_bytes += n_bytes;
        true
    }

    /// Reads the next of the bytes that were counted. The parser shares their memory.
    pub fn scan(&mut self, chunk: &Bytes) {
        let State::Reading { entry, parser, parsing, .. } = &mut self.state else { return };
        let (pushed, took) = entry.timed.run(Point::RequestParsing, || {
            parser.push(chunk)?;
            Ok(parser.held_bytes())
        });
        *parsing += took;
        match pushed {
            Some(Ok(n_parser_bytes)) => self.count_parser(n_parser_bytes),
            Some(Err(rejection)) => self.fail(rejection),
            None => self.fail(Rejection::internal("the parser panicked")),
        }
    }

    /// The lease keeps the most that the parser has held: what it found lives as long as the body does.
    fn count_parser(&mut self, n_parser_bytes: usize) {
        let n_counted = n_parser_bytes.saturating_sub(FREE_PARSER_BYTES);
        let n_more = n_counted.saturating_sub(self.n_parser_bytes);
        if n_more > 0 && !self.lease.grow(n_more) {
            return self.fail(no_room());
        }
        self.n_parser_bytes += n_more;
    }

    /// The body has ended, by its end-of-stream mark or by trailers.
    pub fn end(&mut self) {
        if let State::Reading { entry, parser, parsing, verdict } =
            std::mem::replace(&mut self.state, State::Done)
        {
            let n_body_bytes = self.n_bytes;
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
        self.n_bytes
    }

    /// The lease on the bytes, to be kept for as long as the driver holds the body. The request is routed or
    /// refused by then, so what the parser found is no longer there.
    pub fn into_lease(mut self) -> BodyLease {
        self.lease.shrink(self.n_parser_bytes);
        self.lease
    }
}

fn no_room() -> Rejection {
    let message = "too many request bytes are held, try again later";
    Rejection::new(ErrorCode::ServiceUnavailable, message)
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
