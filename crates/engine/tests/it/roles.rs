//! Roles that tests play: plugins that panic, refuse, or write down what happens to them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE};
use parking_lot::Mutex;
use router_core::{Endpoint, Position, Rejection, Stamp, header::HeadPatch};
use router_engine::{Exchange, ResponseHead};
use router_framework::{
    Admitter, BodyParser, Cycle, DataProducer, DumpState, End, EndpointListener, Filter,
    FilterKind, Identity, Lease, Loaded, MAX_TARGETS, MetadataNumber, Outcome, ParsedRequest,
    Parser, Picker, PoolView, PreRequest, Produced, ProfileHandler, ProfileIndex, Progress,
    Request, RequestCx, RequestHead, RequestHeaderHook, ResponseBodyHook, ResponseCx,
    ResponseHeaderHook, ResponseKind, ResponseParser, Saturation, SaturationDetector, Scorer,
    Screener,
};
use router_rt::Rng;
use router_testkit::router::{RouterBuilder, named};
use router_wire::response::Usage;
use smallvec::SmallVec;

/// One profile that goes by queue length.
pub(crate) const BY_QUEUE: &str = "
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 1}
";

pub(crate) const CHAT_PATH: &str = "/v1/chat/completions";
pub(crate) const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hello"}]}"#;

/// Three endpoints with a queue each, so that `e0` is best and `e2` is worst.
pub(crate) fn by_queue() -> RouterBuilder {
    RouterBuilder::new(BY_QUEUE).endpoints(3)
}

/// Sees to it that the first endpoint has the shortest queue, the second the next, and so on.
pub(crate) fn queues(world: &router_testkit::router::TestRouter) {
    for at in 0..world.datastore().snapshot().len() {
        world.publish(at, |signals| signals.waiting = at as f64);
    }
}

/// Takes part in every role and panics in all of them.
pub(crate) struct Panics;

impl Scorer for Panics {
    fn score(&self, _: &RequestCx<'_>, _: &[Position], out: &mut [f64]) {
        out.fill(1.0);
        panic!("scorer");
    }
}

impl Filter for Panics {
    fn kind(&self) -> FilterKind {
        FilterKind::Capacity
    }

    fn filter(&self, _: &RequestCx<'_>, positions: &mut Vec<Position>) {
        positions.clear();
        panic!("filter");
    }
}

impl Picker for Panics {
    fn n_shown(&self) -> usize {
        1
    }

    fn pick(
        &self,
        _: &RequestCx<'_>,
        scored: &[(Position, f64)],
        _: &mut Rng,
        _: usize,
        ranked: &mut SmallVec<[Position; MAX_TARGETS]>,
    ) {
        ranked.extend(scored.last().map(|(position, _)| *position));
        panic!("picker");
    }
}

impl ProfileHandler for Panics {
    fn next(
        &self,
        _: &RequestCx<'_>,
        _: &Cycle<'_>,
    ) -> Result<SmallVec<[ProfileIndex; 4]>, Rejection> {
        panic!("profile handler");
    }

    fn primary(&self, _: &RequestCx<'_>, _: &Cycle<'_>) -> Result<ProfileIndex, Rejection> {
        panic!("profile handler");
    }
}

impl Screener for Panics {
    fn screen(&self, _: &RequestCx<'_>, _: &mut Rng, _: &mut [bool]) {
        panic!("screener");
    }
}

impl Admitter for Panics {
    fn admit(&self, _: &RequestCx<'_>, _: &mut Rng) -> Result<(), Rejection> {
        panic!("admitter");
    }
}

impl DataProducer for Panics {
    fn produce<'a>(&'a self, _: &RequestCx<'a>) -> Produced<'a> {
        panic!("producer");
    }
}

/// Promises a value and panics on the way.
pub(crate) struct PanicsLater;

impl DataProducer for PanicsLater {
    fn produce<'a>(&'a self, _: &RequestCx<'a>) -> Produced<'a> {
        Produced::Later(Box::pin(async {
            tokio::task::yield_now().await;
            panic!("producer, later");
        }))
    }
}

impl RequestHeaderHook for Panics {
    fn on_request_headers(&self, _: &RequestHead, _: &mut Identity) -> Result<(), Rejection> {
        panic!("request header hook");
    }
}

impl PreRequest for Panics {
    fn pre_request(
        &self,
        _: &RequestCx<'_>,
        _: &Outcome,
        patch: &mut HeadPatch,
    ) -> Result<Option<Box<dyn Lease>>, Rejection> {
        patch.set(http::header::FROM, HeaderValue::from_static("half-way"));
        panic!("pre-request hook");
    }
}

impl ResponseHeaderHook for Panics {
    fn on_response_headers(&self, _: &ResponseCx<'_>, _: &mut HeadPatch) {
        panic!("response header hook");
    }
}

impl ResponseBodyHook for Panics {
    fn on_chunk(&self, _: &ResponseCx<'_>, _: &Progress) {
        panic!("response body hook");
    }

    fn on_end(&self, _: &Request, _: &Arc<Endpoint>, _: &End, _: &mut Vec<MetadataNumber>) {
        panic!("response body hook, at the end");
    }
}

impl SaturationDetector for Panics {
    fn saturation(&self, _: &PoolView<'_>) -> Saturation {
        panic!("detector");
    }
}

impl EndpointListener for Panics {
    fn added(&self, _: &Arc<Endpoint>) {
        panic!("listener");
    }

    fn removed(&self, _: &Arc<Endpoint>) {
        panic!("listener");
    }
}

impl DumpState for Panics {
    fn dump(&self) -> serde_json::Value {
        panic!("dump");
    }
}

/// Reads every path and panics where it is told to.
pub(crate) struct BadParser {
    pub(crate) at: &'static str,
}

struct BadBody {
    at: &'static str,
}

struct BadResponse {
    at: &'static str,
}

impl Parser for BadParser {
    fn suffixes(&self) -> &'static [&'static str] {
        &[]
    }

    fn protocols(&self) -> &'static [&'static str] {
        &[]
    }

    fn begin(&self, _: &RequestHead) -> Result<Box<dyn BodyParser>, Rejection> {
        assert_ne!(self.at, "begin");
        Ok(Box::new(BadBody { at: self.at }))
    }

    fn response(&self, _: &RequestHead, _: ResponseKind) -> Option<Box<dyn ResponseParser>> {
        assert_ne!(self.at, "response");
        Some(Box::new(BadResponse { at: self.at }))
    }
}

impl BodyParser for BadBody {
    fn push(&mut self, _: &Bytes) -> Result<(), Rejection> {
        assert_ne!(self.at, "push");
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<ParsedRequest, Rejection> {
        assert_ne!(self.at, "finish");
        Ok(ParsedRequest::default())
    }
}

impl ResponseParser for BadResponse {
    fn push(&mut self, _: &[u8]) {
        assert_ne!(self.at, "response chunk");
    }

    fn usage(&self) -> Option<Usage> {
        assert_ne!(self.at, "usage");
        None
    }

    fn n_events(&self) -> u64 {
        assert_ne!(self.at, "events");
        0
    }
}

/// Refuses with one rejection, in every role that can.
pub(crate) struct Refuses(pub(crate) Rejection);

impl Admitter for Refuses {
    fn admit(&self, _: &RequestCx<'_>, _: &mut Rng) -> Result<(), Rejection> {
        Err(self.0.clone())
    }
}

impl RequestHeaderHook for Refuses {
    fn on_request_headers(&self, _: &RequestHead, _: &mut Identity) -> Result<(), Rejection> {
        Err(self.0.clone())
    }
}

impl PreRequest for Refuses {
    fn pre_request(
        &self,
        _: &RequestCx<'_>,
        _: &Outcome,
        _: &mut HeadPatch,
    ) -> Result<Option<Box<dyn Lease>>, Rejection> {
        Err(self.0.clone())
    }
}

/// Says that the pool is as full as this.
pub(crate) struct Full(pub(crate) f64);

impl SaturationDetector for Full {
    fn saturation(&self, _: &PoolView<'_>) -> Saturation {
        Saturation { value: self.0, n_stale: 0 }
    }
}

/// Keeps nothing, for a reason.
pub(crate) struct KeepsNothing(pub(crate) FilterKind);

impl Filter for KeepsNothing {
    fn kind(&self) -> FilterKind {
        self.0
    }

    fn filter(&self, _: &RequestCx<'_>, positions: &mut Vec<Position>) {
        positions.clear();
    }
}

/// Takes a lease for every request and writes down what becomes of it.
#[derive(Default)]
pub(crate) struct Ledger {
    next: AtomicU64,
    leases: Mutex<BTreeMap<u64, Vec<String>>>,
}

struct Entry {
    ledger: Arc<Ledger>,
    id: u64,
}

impl Ledger {
    /// Puts the ledger into a configuration as the last of its pre-request hooks.
    pub(crate) fn join(self: &Arc<Self>) -> impl FnOnce(&mut Loaded) + use<> {
        let hook: Arc<dyn PreRequest> = Arc::new(LedgerHook(Arc::clone(self)));
        move |loaded| loaded.pre_requests.push(named("ledger", hook))
    }

    /// What happened to the lease that was taken `at`th, the taking included.
    pub(crate) fn story(&self, at: u64) -> Vec<String> {
        self.leases.lock().get(&at).cloned().unwrap_or_default()
    }

    pub(crate) fn n_taken(&self) -> usize {
        self.leases.lock().len()
    }

    /// Leases that have not ended, or that have ended more than once.
    pub(crate) fn unsound(&self) -> Vec<Vec<String>> {
        let n_ends =
            |story: &[String]| story.iter().filter(|line| line.starts_with("end ")).count();
        self.leases.lock().values().filter(|story| n_ends(story) != 1).cloned().collect()
    }
}

struct LedgerHook(Arc<Ledger>);

impl PreRequest for LedgerHook {
    fn pre_request(
        &self,
        cx: &RequestCx<'_>,
        outcome: &Outcome,
        _: &mut HeadPatch,
    ) -> Result<Option<Box<dyn Lease>>, Rejection> {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let target = outcome.target(cx).map_or("nowhere", |endpoint| endpoint.name());
        self.0.leases.lock().insert(id, vec![format!("taken {target}")]);
        Ok(Some(Box::new(Entry { ledger: Arc::clone(&self.0), id })))
    }
}

impl Entry {
    fn write(&self, line: String) {
        if let Some(story) = self.ledger.leases.lock().get_mut(&self.id) {
            story.push(line);
        }
    }
}

impl Lease for Entry {
    fn moved(&mut self, endpoint: &Arc<Endpoint>, _: Stamp) {
        self.write(format!("moved {}", endpoint.name()));
    }

    fn first_byte(&mut self, _: Stamp) {
        self.write("first byte".to_owned());
    }

    fn end(&mut self, end: &End) {
        let status = end.status.map_or_else(|| "-".to_owned(), |status| status.as_str().to_owned());
        self.write(format!("end {} {status}", end.cause.as_str()));
    }
}

/// A lease that panics whatever happens to it.
pub(crate) struct BadLease;

impl PreRequest for BadLease {
    fn pre_request(
        &self,
        _: &RequestCx<'_>,
        _: &Outcome,
        _: &mut HeadPatch,
    ) -> Result<Option<Box<dyn Lease>>, Rejection> {
        Ok(Some(Box::new(Self)))
    }
}

impl Lease for BadLease {
    fn moved(&mut self, _: &Arc<Endpoint>, _: Stamp) {
        panic!("lease, moved");
    }

    fn first_byte(&mut self, _: Stamp) {
        panic!("lease, first byte");
    }

    fn end(&mut self, _: &End) {
        panic!("lease, end");
    }
}

/// The head of a response comes.
pub(crate) fn respond(exchange: &mut Exchange, status: u16, content_type: &str) -> HeadPatch {
    respond_as(exchange, status, content_type, None)
}

/// The head of a response comes, and the proxy says who served.
pub(crate) fn respond_as(
    exchange: &mut Exchange,
    status: u16,
    content_type: &str,
    served: Option<&str>,
) -> HeadPatch {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap());
    headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from_static("2"));
    let status = StatusCode::from_u16(status).unwrap();
    exchange.on_headers(&ResponseHead { status, headers: &headers, served, from_proxy: false })
}

/// Bytes of the response go by; gives those that the client gets.
pub(crate) fn chunk(exchange: &mut Exchange, bytes: impl Into<Bytes>) -> Vec<u8> {
    exchange.on_chunk(bytes.into()).concat()
}

/// The model server answers in full.
pub(crate) fn complete(exchange: &mut Exchange, status: u16, body: &'static str) {
    respond(exchange, status, "application/json");
    chunk(exchange, body);
    exchange.finish_body();
    exchange.end(router_framework::EndCause::Natural);
}
