//! A routed request until its end: attempts, the response going by, and the release of every lease.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use router_core::{Endpoint, Rejection, Stamp, header::HeadPatch};
use router_framework::{
    End, EndCause, Lease, MAX_TARGETS, MetadataNumber, Progress, PromptInput, Request, ResponseCx,
    ResponseKind, ResponseParser,
};
use router_telemetry::router::{KnownBy, RequestSeries, RunningGuard};
use router_wire::response::{ModelRestore, Usage};
use smallvec::SmallVec;
use tracing::Span;

use crate::{
    decide::count_attempt,
    flow::{Eviction, Pass},
    isolate::isolated,
    observe::Point,
    record::Recorded,
    router::{ParserEntry, Router},
};

/// Pieces that one chunk of a response may turn into when the model name is restored in it.
pub type Chunks = SmallVec<[Bytes; 3]>;

/// One routed request. Dropping it ends the request as a client that went away.
pub struct Exchange {
    router: Arc<Router>,
    request: Arc<Request>,
    targets: SmallVec<[Arc<Endpoint>; MAX_TARGETS]>,
    /// Which target is being tried.
    at: usize,
    leases: Vec<Held>,
    series: Arc<RequestSeries>,
    running: Option<RunningGuard>,
    /// The request is in the counters that its model's name is on.
    is_counted: bool,
    /// The response names another model than the client asked for.
    restores: bool,
    /// The request's span, open until its end.
    span: Span,
    response: Option<Response>,
    recorded: Option<Recorded>,
    /// Its right to run, where flow control gave it one.
    pass: Option<Pass>,
    /// The error is in the counters already.
    error_counted: bool,
    ended: bool,
}

/// A lease, and which of the router's pre-request hooks took it.
pub(crate) struct Held {
    hook: usize,
    lease: Box<dyn Lease>,
}

/// What is known of the response.
struct Response {
    status: StatusCode,
    headers: HeaderMap,
    /// What the proxy says served, if it says.
    served: Option<String>,
    streaming: bool,
    reader: Option<Reader>,
    restore: Option<ModelRestore>,
    first_byte: Option<Stamp>,
    last_chunk: Stamp,
    n_bytes: u64,
    handled: std::time::Duration,
}

/// The parser at work on a response.
struct Reader {
    entry: Arc<ParserEntry>,
    parser: Box<dyn ResponseParser>,
    /// Time spent in the parser so far.
    parsing: std::time::Duration,
}

/// The head of a response as a driver sees it.
#[derive(Debug)]
pub struct ResponseHead<'a> {
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    /// `ip:port` that served, where the proxy reports it.
    pub served: Option<&'a str>,
    /// The proxy made the response itself because it could not reach the endpoint.
    pub from_proxy: bool,
}

/// Why an attempt failed before any response byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptFailure {
    /// No connection, or it broke before the response head.
    Unreachable,
    /// The endpoint answered 503.
    Unavailable,
    /// No response head in time.
    Timeout,
}

impl Exchange {
    pub(crate) fn new(
        router: Arc<Router>,
        request: Arc<Request>,
        targets: SmallVec<[Arc<Endpoint>; MAX_TARGETS]>,
        (leases, mut pass): (Vec<Held>, Option<Pass>),
        restores: bool,
        span: Span,
        now: Stamp,
    ) -> Self {
        let series = router.env.metrics.request(
            &request.model,
            &request.target_model,
            &request.fairness_id,
            request.priority,
        );
        let running = series.start_running();
        if let Some(first) = targets.first() {
            router.health.picked(first, now);
        }
        if let Some(pass) = &mut pass {
            pass.placed(targets.first().map(|endpoint| endpoint.index()));
        }
        router.n_in_flight.fetch_add(1, Ordering::Relaxed);
        let mut exchange = Self {
            router,
            request,
            targets,
            at: 0,
            leases,
            series,
            running,
            is_counted: false,
            restores,
            span,
            response: None,
            recorded: None,
            pass,
            error_counted: false,
            ended: false,
        };
        // Whether a client has made up the name of a model that is not known is for the endpoint to say, so the
        // request is counted later. Until then it runs under `other`.
        let Request { model, target_model, .. } = &*exchange.request;
        let (shown, shown_target) = (exchange.series.model(), exchange.series.target_model());
        if *shown == **model && *shown_target == **target_model {
            exchange.tally();
        }
        exchange
    }

    /// Counts the request as what is known of its model by now, unless that is done.
    fn count(&mut self) {
        if self.is_counted {
            return;
        }
        let Request { model, target_model, fairness_id, priority, .. } = &*self.request;
        let metrics = &self.router.env.metrics;
        let series = metrics.request(model, target_model, fairness_id, *priority);
        if !Arc::ptr_eq(&series, &self.series) {
            self.running = series.start_running();
            self.series = series;
        }
        self.tally();
    }

    fn tally(&mut self) {
        self.is_counted = true;
        self.series.total().inc();
        self.series.request_size().observe(self.request.parsed.n_body_bytes as f64);
        count_attempt(&self.router, &self.series, self.targets.first().map(|first| &**first));
    }

    /// The head of a response has come, by which the endpoint may say that it knows the model.
    fn count_by(&mut self, head: &ResponseHead<'_>) {
        if !self.is_counted && !head.from_proxy && head.status.as_u16() < 400 {
            let models = &self.router.env.metrics.requests;
            let Request { model, target_model, .. } = &*self.request;
            models.know_model(target_model, KnownBy::Response);
            if model != target_model {
                models.know_model(model, KnownBy::Rewrite);
            }
        }
        self.count();
    }

    /// Lets go of the prompt: once the request is routed nobody reads it, and it keeps the body's memory.
    /// Nobody else may hold the request by then.
    pub(crate) fn forget_prompt(&mut self) {
        if let Some(request) = Arc::get_mut(&mut self.request) {
            request.parsed.prompts = PromptInput::Empty;
            request.parsed.features = Vec::new();
            request.parsed.model_editor = None;
        }
    }

    /// From here on the request is recorded.
    pub(crate) fn record(&mut self, recorded: Recorded) {
        self.recorded = Some(recorded);
    }

    pub fn request(&self) -> &Arc<Request> {
        &self.request
    }

    /// The endpoint that is being tried, or that serves.
    pub fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        self.targets.get(self.at)
    }

    /// Whether everything that the request held has been released.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// The attempt at the current endpoint failed before any response byte. Gives the next endpoint to
    /// try, with the leases moved to it; `None` when there is none left.
    pub fn attempt_failed(&mut self, failure: AttemptFailure) -> Option<Arc<Endpoint>> {
        let now = self.router.clock().now();
        if let Some(endpoint) = self.targets.get(self.at) {
            match failure {
                AttemptFailure::Unreachable => self.router.health.unreachable(endpoint, now),
                // Slow is not dead: only several in a row take the endpoint out.
                AttemptFailure::Unavailable | AttemptFailure::Timeout => {
                    self.router.health.answered(endpoint, 503, now)
                }
            }
        }
        let tried = self.at;
        let next = (tried + 1..self.targets.len())
            .find(|&at| {
                self.targets.get(at).is_some_and(|e| self.router.health.out(e, now).is_none())
            })
            .or_else(|| (tried + 1 < self.targets.len()).then_some(tried + 1));
        if let Some(next) = next {
            self.move_to(next, now);
        }
        let next = next.and_then(|next| self.targets.get(next)).cloned();
        if let Some(recorded) = &mut self.recorded {
            recorded.failed(now, failure, next.as_deref());
        }
        next
    }

    /// The request goes to this endpoint, whatever was decided: in a recording, it did.
    pub fn redirect(&mut self, endpoint: &Arc<Endpoint>) {
        let known = self.targets.iter().position(|target| Arc::ptr_eq(target, endpoint));
        let at = known.unwrap_or_else(|| {
            self.targets.push(Arc::clone(endpoint));
            self.targets.len() - 1
        });
        if at != self.at {
            self.move_to(at, self.router.clock().now());
        }
    }

    fn move_to(&mut self, at: usize, now: Stamp) {
        self.at = at;
        let Some(endpoint) = self.targets.get(at).cloned() else { return };
        self.router.health.picked(&endpoint, now);
        for lease in &mut self.leases {
            lease.call(&self.router, Point::PreRequest, |lease| lease.moved(&endpoint, now));
        }
    }

    /// The head of the response came. Gives what to change in it for the client.
    pub fn on_headers(&mut self, head: &ResponseHead<'_>) -> HeadPatch {
        let started = self.router.clock().now();
        self.count_by(head);
        self.note_served(head, started);
        if let Some(recorded) = &self.recorded {
            recorded.head(started, head);
        }
        if let Some(endpoint) = self.endpoint() {
            if head.from_proxy {
                self.router.health.unreachable(endpoint, started);
            } else {
                self.router.health.answered(endpoint, head.status.as_u16(), started);
            }
        }
        let kind = response_kind(head.headers);
        let streaming = self.request.parsed.stream || kind == ResponseKind::Events;
        // Bytes under a content coding can be passed on, not read.
        let readable = !head.headers.contains_key(http::header::CONTENT_ENCODING);
        let reader = (readable && !self.request.parsed.skip_response && !head.from_proxy)
            .then(|| self.router.parsers().find(self.request.head.path()))
            .flatten()
            .and_then(|entry| Reader::begin(entry, &self.request, kind));
        let restore = (self.restores && readable)
            .then(|| ModelRestore::new(&self.request.target_model, &self.request.model));
        let mut patch = HeadPatch::default();
        if restore.is_some() && head.headers.contains_key(http::header::CONTENT_LENGTH) {
            patch.remove(http::header::CONTENT_LENGTH);
        }
        let response = Response {
            status: head.status,
            headers: if self.needs_headers() { head.headers.clone() } else { HeaderMap::new() },
            served: head.served.map(str::to_owned),
            streaming,
            reader,
            restore,
            first_byte: None,
            last_chunk: started,
            n_bytes: 0,
            handled: std::time::Duration::ZERO,
        };
        self.response = Some(response);
        self.run_header_hooks(&mut patch, started);
        if let Some(response) = &mut self.response {
            response.handled = self.router.clock().now().since(started);
        }
        patch
    }

    fn needs_headers(&self) -> bool {
        !self.router.response_headers.is_empty() || !self.router.response_bodies.is_empty()
    }

    fn run_header_hooks(&mut self, patch: &mut HeadPatch, now: Stamp) {
        let Some((response, endpoint)) = self.response.as_ref().zip(self.endpoint()) else {
            return;
        };
        let cx = response.cx(&self.request, endpoint, now);
        for hook in &self.router.response_headers {
            hook.call(Point::ResponseReceived, |hook| hook.on_response_headers(&cx, patch));
        }
    }

    /// Corrects the accounting when the proxy says that another endpoint served than the one expected
    /// (defects A.1#13 and A.3#27).
    fn note_served(&mut self, head: &ResponseHead<'_>, now: Stamp) {
        let Some(served) = head.served else { return };
        if self.endpoint().is_some_and(|endpoint| endpoint.authority() == served) {
            return;
        }
        if let Some(at) = self.targets.iter().position(|endpoint| endpoint.authority() == served) {
            return self.move_to(at, now);
        }
        let snapshot = self.router.datastore.snapshot();
        if let Some(endpoint) =
            snapshot.endpoints().iter().find(|endpoint| endpoint.authority() == served)
        {
            self.targets.push(Arc::clone(endpoint));
            self.move_to(self.targets.len() - 1, now);
        }
    }

    /// Bytes of the response body went by. Gives what the client gets for them: the same bytes, unless the
    /// model name is restored in them.
    pub fn on_chunk(&mut self, chunk: Bytes) -> Chunks {
        let now = self.router.clock().now();
        let Some(response) = &mut self.response else { return SmallVec::from_iter([chunk]) };
        response.n_bytes += chunk.len() as u64;
        if response.first_byte.is_none() {
            if !chunk.is_empty() {
                response.first_byte = Some(now);
                self.series
                    .ttft(response.streaming)
                    .observe_duration(now.since(self.request.head.received));
                for lease in &mut self.leases {
                    let point = Point::ResponseStreaming;
                    lease.call(&self.router, point, |lease| lease.first_byte(now));
                }
                if let Some(pass) = &self.pass {
                    pass.first_byte();
                }
                if let Some(recorded) = &self.recorded {
                    recorded.first_byte(now);
                }
            }
        } else if response.streaming && !chunk.is_empty() {
            self.series.streaming_itl().observe_duration(now.since(response.last_chunk));
        }
        response.last_chunk = now;
        response.read(|parser| parser.push(&chunk));
        self.run_chunk_hooks(now);
        let Some(response) = &mut self.response else { return SmallVec::from_iter([chunk]) };
        let out = match &mut response.restore {
            Some(restore) => restore.push(chunk).into_iter().collect(),
            None => SmallVec::from_iter([chunk]),
        };
        response.handled += self.router.clock().now().since(now);
        out
    }

    fn run_chunk_hooks(&self, now: Stamp) {
        if self.router.response_bodies.is_empty() {
            return;
        }
        let Some((response, endpoint)) = self.response.as_ref().zip(self.endpoint()) else {
            return;
        };
        let cx = response.cx(&self.request, endpoint, now);
        let metrics = &self.router.env.metrics;
        let seen = response.reader.as_ref().and_then(|Reader { entry, parser, .. }| {
            let point = Point::ResponseParsing.as_str();
            isolated(metrics, entry.timed.ident(), point, || (parser.n_events(), parser.usage()))
        });
        let (n_events, usage) = seen.unwrap_or_default();
        let progress = Progress {
            n_bytes: response.n_bytes,
            n_events,
            usage,
            elapsed: now.since(self.request.head.received),
        };
        for hook in &self.router.response_bodies {
            hook.call(Point::ResponseStreaming, |hook| hook.on_chunk(&cx, &progress));
        }
    }

    /// Bytes that the restoring of the model name still held back; to be sent before the body's end.
    pub fn finish_body(&mut self) -> Chunks {
        let restore = self.response.as_mut().and_then(|response| response.restore.take());
        restore.map(|mut restore| restore.end().into_iter().collect()).unwrap_or_default()
    }

    /// The request has ended. Releases everything, once; later calls do nothing.
    pub fn end(&mut self, cause: EndCause) -> Vec<MetadataNumber> {
        if self.ended {
            return Vec::new();
        }
        let usage = self.response.as_mut().and_then(Response::finish_reading);
        self.end_with(cause, usage)
    }

    /// Like [`end`](Self::end), where the usage is known from elsewhere: a recording has no body to read.
    pub fn end_with(&mut self, cause: EndCause, usage: Option<Usage>) -> Vec<MetadataNumber> {
        let mut metadata = Vec::new();
        if std::mem::replace(&mut self.ended, true) {
            return metadata;
        }
        self.router.n_in_flight.fetch_sub(1, Ordering::Relaxed);
        self.count();
        self.running = None;
        let now = self.router.clock().now();
        if let (None, Some(endpoint)) = (&self.response, self.targets.get(self.at)) {
            self.router.health.abandoned(endpoint, now);
        }
        let end = End {
            cause,
            status: self.response.as_ref().map(|response| response.status),
            usage,
            at: now,
        };
        let motion = self.pass.as_ref().map(Pass::moving);
        for mut lease in self.leases.drain(..) {
            lease.call(&self.router, Point::ResponseStreaming, |lease| lease.end(&end));
        }
        if let Some(mut pass) = self.pass.take() {
            pass.end(used(&end));
        }
        drop(motion);
        if let Some(endpoint) = self.targets.get(self.at) {
            for hook in &self.router.response_bodies {
                hook.call(Point::ResponseStreaming, |hook| {
                    hook.on_end(&self.request, endpoint, &end, &mut metadata)
                });
            }
        }
        self.observe_end(&end);
        self.record_end(&end);
        metadata
    }

    /// What tells whether the request has to make room for a more important one; `None` where nobody ever has
    /// to.
    pub fn eviction(&self) -> Option<Eviction> {
        self.pass.as_ref().and_then(Pass::eviction)
    }

    /// The request makes room: it ends. Gives the answer for its client, if that can still be told.
    pub fn evict(&mut self) -> Rejection {
        let rejection = self.pass.as_ref().map_or_else(Rejection::evicted, Pass::evicted);
        self.end(EndCause::Evicted);
        rejection
    }

    fn record_end(&mut self, end: &End) {
        let Some(recorded) = self.recorded.take() else { return };
        let n_events = self.response.as_mut().and_then(|response| response.read(|p| p.n_events()));
        let first_byte = self.response.as_ref().and_then(|response| response.first_byte);
        let endpoint = self.targets.get(self.at);
        recorded.ended(end, endpoint.map(|e| &**e), first_byte, n_events.unwrap_or_default());
    }

    /// Says when the client may come again, where that is not said and makes sense.
    pub fn say_when(&self, rejection: &mut Rejection) {
        self.router.say_when(rejection, self.request.priority);
    }

    /// The request could not be served by any endpoint: counts the error and ends.
    pub fn reject(&mut self, rejection: &Rejection) {
        if !self.ended {
            self.count();
            self.series.error(rejection.code.label()).inc();
            self.error_counted = true;
        }
        self.end(EndCause::Error);
    }

    fn observe_end(&self, end: &End) {
        let series = &self.series;
        let error = match end.cause {
            EndCause::Natural => {
                end.status.filter(|status| status.as_u16() >= 400).map(|_| "ModelServerError")
            }
            EndCause::ClientDisconnect => Some("ClientDisconnect"),
            EndCause::Evicted => Some("Evicted"),
            EndCause::Error => Some("ModelServerError"),
        };
        if let Some(error) = error {
            self.span.record("otel.status_code", "ERROR");
            if !self.error_counted {
                series.error(error).inc();
            }
        }
        let Some(response) = &self.response else { return };
        self.router
            .env
            .metrics
            .requests
            .response_processing_duration
            .observe_duration(response.handled);
        if end.cause != EndCause::Natural {
            return;
        }
        let took = end.at.since(self.request.head.received);
        series.duration().observe_duration(took);
        series.response_size().observe(response.n_bytes as f64);
        let Some(usage) = end.usage else { return };
        if usage.prompt_tokens > 0 {
            series.input_tokens().observe(usage.prompt_tokens as f64);
        }
        if let Some(cached) = usage.cached_tokens {
            series.cached_tokens().observe(cached as f64);
        }
        if usage.completion_tokens > 0 {
            let n_tokens = usage.completion_tokens as f64;
            series.output_tokens().observe(n_tokens);
            series.ntpot().observe(took.as_secs_f64() / n_tokens);
            if let Some(first) =
                response.first_byte.filter(|_| response.streaming && usage.completion_tokens > 1)
            {
                series
                    .streaming_tpot()
                    .observe(end.at.since(first).as_secs_f64() / (n_tokens - 1.0));
            }
        }
    }

    /// Gives back leases of a request that was not routed in the end.
    pub(crate) fn release(router: &Router, leases: Vec<Held>, now: Stamp) {
        let end = End { cause: EndCause::Error, status: None, usage: None, at: now };
        for mut lease in leases {
            lease.call(router, Point::PreRequest, |lease| lease.end(&end));
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.end(EndCause::ClientDisconnect);
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("request", &self.request.external_id)
            .field("targets", &self.targets)
            .finish_non_exhaustive()
    }
}

impl Held {
    /// `hook` is the place of who took it among the router's pre-request hooks.
    pub(crate) fn new(hook: usize, lease: Box<dyn Lease>) -> Self {
        Self { hook, lease }
    }

    fn call(&mut self, router: &Router, point: Point, call: impl FnOnce(&mut dyn Lease)) {
        if let Some(hook) = router.pre_requests.get(self.hook) {
            let lease = &mut *self.lease;
            isolated(&router.env.metrics, hook.ident(), point.as_str(), || call(lease));
        }
    }
}

impl Reader {
    /// `None` when there is nothing to learn from the response.
    fn begin(entry: &Arc<ParserEntry>, request: &Request, kind: ResponseKind) -> Option<Self> {
        let (parser, parsing) = entry
            .timed
            .run(Point::ResponseParsing, || entry.timed.inner().response(&request.head, kind));
        Some(Self { entry: Arc::clone(entry), parser: parser.flatten()?, parsing })
    }
}

impl Response {
    /// Lets the parser work; one that panics reads no further.
    fn read<T>(&mut self, work: impl FnOnce(&mut dyn ResponseParser) -> T) -> Option<T> {
        let reader = self.reader.as_mut()?;
        let parser = &mut *reader.parser;
        let (done, took) = reader.entry.timed.run(Point::ResponseParsing, || work(parser));
        reader.parsing += took;
        if done.is_none() {
            self.reader = None;
        }
        done
    }

    /// What the response said that it used. The time that reading took is recorded once per response.
    fn finish_reading(&mut self) -> Option<Usage> {
        let usage = self.read(|parser| {
            parser.end();
            parser.usage()
        });
        if let Some(reader) = &self.reader {
            reader.entry.timed.observe(Point::ResponseParsing, reader.parsing);
        }
        usage.flatten()
    }

    fn cx<'a>(
        &'a self,
        request: &'a Request,
        endpoint: &'a Arc<Endpoint>,
        now: Stamp,
    ) -> ResponseCx<'a> {
        ResponseCx {
            request,
            endpoint,
            served: self.served.as_deref(),
            status: self.status,
            headers: &self.headers,
            now,
        }
    }
}

/// What flow control is told of the end; `None` where it is not known what was computed.
fn used(end: &End) -> Option<router_flow::Usage> {
    if let Some(usage) = &end.usage {
        let cached = usage.cached_tokens.unwrap_or_default();
        let (prompt, output) = (usage.prompt_tokens, usage.completion_tokens);
        return Some(router_flow::Usage { prompt, cached, output });
    }
    // An error without a response, and one that a server answers with, cost nothing to speak of.
    let is_refused = end.status.is_some_and(|status| status.as_u16() >= 400);
    let is_unserved = end.status.is_none() && end.cause == EndCause::Error;
    (is_refused || is_unserved).then(router_flow::Usage::default)
}

fn response_kind(headers: &HeaderMap) -> ResponseKind {
    let content_type =
        headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if content_type.is_some_and(|value| {
        value.trim_start().to_ascii_lowercase().starts_with("text/event-stream")
    }) {
        ResponseKind::Events
    } else {
        ResponseKind::Json
    }
}
