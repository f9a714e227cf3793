//! The router: a loaded configuration at work, and the two calls with which a request enters it.

use std::{
    fmt,
    future::Future,
    ops::Range,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use router_core::{Column, Endpoint, EndpointSlot, Rejection, header::HeadPatch};
use router_framework::{
    Admitter, DataProducer, DumpState, Freshness, Loaded, MAX_TARGETS, ParsedRequest, Parser,
    PreRequest, Read, RequestHead, RequestHeaderHook, ResponseBodyHook, ResponseHeaderHook,
    SaturationDetector, Screener, SubsetHint,
    keys::{HashedPrompts, PrefixMatch, TokenizedPrompt},
    loader::{Ident, SourceBinding},
};
use router_rt::{Clock, Seeds};
use router_telemetry::RouterMetrics;
use smallvec::SmallVec;

use crate::{
    admission,
    budget::BodyBudget,
    datastore::Datastore,
    decide,
    exchange::Exchange,
    explain::DecisionLog,
    feed::BodyFeed,
    flow::FlowController,
    health::HealthBook,
    isolate::isolated,
    observe::{Point, Timed, Timer},
    queue::Queues,
    record::Record,
    scheduler::{Profile, Scheduler},
    settings::Settings,
};

/// What a router is built with besides its configuration.
#[derive(Clone)]
pub struct RouterEnv {
    pub clock: Clock,
    pub metrics: Arc<RouterMetrics>,
    pub settings: Settings,
}

/// One loaded configuration and everything that it decides with.
pub struct Router {
    pub(crate) env: RouterEnv,
    pub(crate) seeds: Seeds,
    pub(crate) freshness: Freshness,
    pub(crate) datastore: Arc<Datastore>,
    pub(crate) health: HealthBook,
    pub(crate) budget: Arc<BodyBudget>,
    pub(crate) decisions: DecisionLog,
    pub(crate) record: Option<Record>,
    pub(crate) parsers: ParserTable,
    pub(crate) request_headers: Vec<Timed<dyn RequestHeaderHook>>,
    pub(crate) screeners: Vec<Timed<dyn Screener>>,
    pub(crate) producers: Vec<Timed<dyn DataProducer>>,
    pub(crate) admitters: Vec<Timed<dyn Admitter>>,
    pub(crate) scheduler: Scheduler,
    pub(crate) pre_requests: Vec<Timed<dyn PreRequest>>,
    pub(crate) response_headers: Vec<Timed<dyn ResponseHeaderHook>>,
    pub(crate) response_bodies: Vec<Timed<dyn ResponseBodyHook>>,
    pub(crate) detector: Timed<dyn SaturationDetector>,
    /// Where requests wait; `None` while flow control is off.
    pub(crate) queues: Option<Queues>,
    pub(crate) sources: Vec<SourceBinding>,
    pub(crate) prefix_match: Read<Column<PrefixMatch>>,
    pub(crate) tokenized_prompt: Read<TokenizedPrompt>,
    pub(crate) prompt_blocks: Read<Arc<HashedPrompts>>,
    pub(crate) n_request_slots: usize,
    /// Requests that were routed and have not ended.
    pub(crate) n_in_flight: AtomicU64,
    dumps: Vec<(Ident, Option<Arc<dyn DumpState>>)>,
    next_id: AtomicU64,
}

/// Where a request goes and what changes on the way.
pub struct Routed {
    /// Candidates best first; the first is the one that the leases are on.
    pub targets: SmallVec<[Arc<Endpoint>; MAX_TARGETS]>,
    /// The destination header's value: one `ip:port`, or several where the picker shows several.
    pub destination: String,
    /// Headers to set and to remove on the request, the destination excluded.
    pub head_patch: HeadPatch,
    pub body_plan: BodyPlan,
    /// Scores of all candidates of the primary profile, when they are to be emitted.
    pub scores: Option<Vec<(Arc<str>, f64)>>,
    /// The request's life from here on. Dropping it ends the request.
    pub exchange: Exchange,
}

impl fmt::Debug for Routed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routed")
            .field("targets", &self.targets)
            .field("head_patch", &self.head_patch)
            .field("body_plan", &self.body_plan)
            .finish_non_exhaustive()
    }
}

/// What a recorded request was when it was decided first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// Its random choices follow from it.
    pub id: u64,
    /// Of its objective.
    pub priority: i32,
}

/// What happens to the body on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyPlan {
    /// As it came.
    Pass,
    /// The bytes of `span` are replaced; everything else stays as it came.
    Splice { span: Range<usize>, replacement: Bytes },
}

/// A decision under way. Dropping it cancels the request.
#[must_use = "a decision does nothing unless awaited"]
pub struct Decision(Pin<Box<dyn Future<Output = Result<Routed, Rejection>> + Send>>);

impl Future for Decision {
    type Output = Result<Routed, Rejection>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl Router {
    pub fn new(loaded: Loaded, env: RouterEnv) -> Arc<Self> {
        Self::recorded(loaded, env, None)
    }

    /// A router whose traffic is recorded, if there is something to record into.
    pub fn recorded(loaded: Loaded, env: RouterEnv, record: Option<Record>) -> Arc<Self> {
        let settings = &env.settings;
        let health_slot = EndpointSlot::bound(loaded.n_endpoint_slots);
        let timed = Timer { clock: env.clock, metrics: Arc::clone(&env.metrics) };
        let profiles: Vec<Profile> = loaded
            .profiles
            .into_iter()
            .map(|profile| Profile {
                name: profile.name,
                filters: timed.all(profile.filters, Point::Filter),
                scorers: profile
                    .scorers
                    .into_iter()
                    .map(|(s, weight)| (timed.at(s, &[Point::Scorer]), weight))
                    .collect(),
                picker: timed.at(profile.picker, &[Point::Picker]),
            })
            .collect();
        let dumps = loaded
            .plugins
            .iter()
            .map(|plugin| (plugin.ident.clone(), plugin.instance.dump.clone()))
            .collect();
        let freshness = Freshness::new(
            settings.staleness_threshold,
            slowest_interval(&loaded.sources, settings, &env.metrics),
        );
        let datastore = Arc::new(Datastore::new(
            loaded.n_endpoint_slots + 1,
            loaded.listeners,
            Arc::clone(&env.metrics),
            record.clone(),
        ));
        let health = HealthBook::new(health_slot, settings.health.clone());
        let pool = (&datastore, &health, freshness);
        let queues = loaded.flow.map(|flow| Queues::new(flow, &env, loaded.detector.clone(), pool));
        Arc::new(Self {
            seeds: Seeds::new(settings.seed),
            freshness,
            datastore,
            record,
            health,
            budget: BodyBudget::new(settings.max_buffered_bytes),
            decisions: DecisionLog::new(settings.decisions.clone()),
            parsers: ParserTable::new(
                loaded
                    .parsers
                    .into_iter()
                    .map(|p| timed.at(p, &[Point::RequestParsing, Point::ResponseParsing]))
                    .collect(),
            ),
            request_headers: timed.all(loaded.request_headers, Point::RequestHeader),
            screeners: timed.all(loaded.screeners, Point::Screener),
            producers: timed.all(loaded.producers, Point::DataProducer),
            admitters: timed.all(loaded.admitters, Point::Admission),
            scheduler: Scheduler {
                handler: timed.at(
                    loaded.profile_handler,
                    &[Point::ProfilePicker, Point::ProcessProfilesResults],
                ),
                names: profiles.iter().map(|profile| Arc::clone(&profile.name)).collect(),
                profiles,
            },
            pre_requests: timed.all(loaded.pre_requests, Point::PreRequest),
            response_headers: timed.all(loaded.response_headers, Point::ResponseReceived),
            response_bodies: timed.all(loaded.response_bodies, Point::ResponseStreaming),
            detector: timed.at(loaded.detector, &[]),
            queues,
            sources: loaded.sources,
            prefix_match: loaded.prefix_match,
            tokenized_prompt: loaded.tokenized_prompt,
            prompt_blocks: loaded.prompt_blocks,
            n_request_slots: loaded.n_request_slots,
            n_in_flight: AtomicU64::new(0),
            dumps,
            next_id: AtomicU64::new(1),
            env,
        })
    }

    /// Starts a request. The body goes into the feed, before and while the decision is awaited; the
    /// decision needs the feed's end.
    pub fn begin(self: &Arc<Self>, head: RequestHead) -> (BodyFeed, Decision) {
        let (feed, verdict) = BodyFeed::start(self, &head);
        let router = Arc::clone(self);
        let decision = async move {
            let mut head = head;
            let parsed = match verdict.await {
                Ok(Ok(parsed)) => {
                    if let (Some(subset), SubsetHint::All) = (parsed.subset, &head.subset) {
                        head.subset = subset;
                    }
                    Ok(parsed.request)
                }
                Ok(Err(rejection)) => Err(rejection),
                Err(_feed_dropped) => {
                    Err(Rejection::bad_request("the request body ended too early"))
                }
            };
            // The decision's own state is large, and most of a request's time goes before it.
            Box::pin(decide::decide(router, head, parsed, None)).await
        };
        (feed, Decision(Box::pin(decision)))
    }

    /// Starts a request whose body has been parsed elsewhere, such as one of a trace without text.
    pub fn begin_parsed(self: &Arc<Self>, head: RequestHead, parsed: ParsedRequest) -> Decision {
        Decision(Box::pin(decide::decide(Arc::clone(self), head, Ok(parsed), None)))
    }

    /// Starts a recorded request, with the random choices that it had then.
    pub fn begin_again(
        self: &Arc<Self>,
        head: RequestHead,
        parsed: ParsedRequest,
        again: Again,
    ) -> Decision {
        Decision(Box::pin(decide::decide(Arc::clone(self), head, Ok(parsed), Some(again))))
    }

    pub fn datastore(&self) -> &Arc<Datastore> {
        &self.datastore
    }

    pub fn health(&self) -> &HealthBook {
        &self.health
    }

    pub fn budget(&self) -> &Arc<BodyBudget> {
        &self.budget
    }

    pub fn decisions(&self) -> &DecisionLog {
        &self.decisions
    }

    /// The queues; `None` while flow control is off. Whoever puts the router to work lets them
    /// [`run`](FlowController::run).
    pub fn flow(&self) -> Option<&Arc<FlowController>> {
        self.queues.as_ref().map(|queues| &queues.flow)
    }

    /// Signals of endpoints have changed otherwise than by a scrape of this router.
    pub fn signals_changed(&self) {
        if let Some(flow) = self.flow() {
            flow.signals_changed();
        }
    }

    /// Says when a refused client may come again, where that is not said and makes sense.
    pub fn say_when(&self, rejection: &mut Rejection, priority: i32) {
        if matches!(rejection.code.http_status(), 429 | 503) && rejection.retry_after.is_none() {
            let after = self.flow().map(|flow| flow.retry_after(priority));
            rejection.retry_after = Some(after.unwrap_or(admission::RETRY_AFTER));
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.env.settings
    }

    pub fn clock(&self) -> &Clock {
        &self.env.clock
    }

    pub fn metrics(&self) -> &Arc<RouterMetrics> {
        &self.env.metrics
    }

    /// State of every plugin that can show it, for `GET /debug/plugins/state`.
    pub fn plugin_state(&self) -> serde_json::Value {
        let plugins = self.dumps.iter().map(|(ident, dump)| {
            let Ident { name, plugin_type } = ident;
            let mut entry = serde_json::json!({ "name": &**name, "type": &**plugin_type });
            let (key, value) = match dump {
                Some(dump) => match isolated(&self.env.metrics, ident, "DumpState", || dump.dump())
                {
                    Some(state) => ("state", state),
                    None => ("message", "plugin panicked".into()),
                },
                None => ("message", "plugin does not support state collection".into()),
            };
            if let Some(fields) = entry.as_object_mut() {
                fields.insert(key.to_owned(), value);
            }
            (name.to_string(), entry)
        });
        let timestamp = self.env.clock.unix_now().as_secs_f64();
        serde_json::json!({ "timestamp": timestamp, "plugins": plugins.collect::<serde_json::Map<_, _>>() })
    }

    pub(crate) fn parsers(&self) -> &ParserTable {
        &self.parsers
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}

/// The longest time between two scrapes of the same endpoint by any source.
fn slowest_interval(
    sources: &[SourceBinding],
    settings: &Settings,
    metrics: &RouterMetrics,
) -> std::time::Duration {
    let own = sources.iter().filter_map(|SourceBinding { source, .. }| {
        isolated(metrics, &source.ident, "DataSource", || source.role.interval()).flatten()
    });
    own.fold(settings.refresh_interval, std::time::Duration::max)
}

/// Parsers by path suffix.
pub(crate) struct ParserTable {
    entries: Vec<Arc<ParserEntry>>,
}

/// One parser of the configuration.
pub(crate) struct ParserEntry {
    pub(crate) timed: Timed<dyn Parser>,
    suffixes: Vec<&'static str>,
    pub(crate) is_fallback: bool,
}

impl ParserTable {
    /// Of several parsers without suffixes the first is the fallback and the others are not used.
    fn new(parsers: Vec<Timed<dyn Parser>>) -> Self {
        let mut entries: Vec<Arc<ParserEntry>> = Vec::new();
        for timed in parsers {
            let suffixes: Vec<_> =
                timed.inner().suffixes().iter().map(|suffix| suffix.trim_matches('/')).collect();
            let is_fallback = suffixes.is_empty();
            if is_fallback && entries.iter().any(|entry| entry.is_fallback) {
                let parser = &*timed.ident().name;
                tracing::warn!(parser, "a second fallback parser is never used");
                continue;
            }
            entries.push(Arc::new(ParserEntry { timed, suffixes, is_fallback }));
        }
        Self { entries }
    }

    /// The parser with the longest matching suffix, of equal ones the first; else the fallback.
    pub(crate) fn find(&self, path: &str) -> Option<&Arc<ParserEntry>> {
        let path = path.trim();
        let path = path.strip_suffix('/').unwrap_or(path);
        let by_suffix = self
            .entries
            .iter()
            // The last of equal ones is what `max_by_key` gives.
            .rev()
            .flat_map(|entry| entry.suffixes.iter().map(move |suffix| (entry, *suffix)))
            .filter(|(_, suffix)| ends_with_segments(path, suffix))
            .max_by_key(|(_, suffix)| suffix.len());
        by_suffix
            .map(|(entry, _)| entry)
            .or_else(|| self.entries.iter().find(|entry| entry.is_fallback))
    }
}

/// Whether `suffix` is the end of `path` and begins at a segment (defect A.2#17 of `spec/request-path.md`).
fn ends_with_segments(path: &str, suffix: &str) -> bool {
    path.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a17_a_suffix_matches_whole_segments_only() {
        let check =
            |path, suffix, matches| assert_eq!(ends_with_segments(path, suffix), matches, "{path}");
        check("/v1/completions", "completions", true);
        check("completions", "completions", true);
        check("/x/mycompletions", "completions", false);
        check("/v1/chat/completions", "chat/completions", true);
        check("/v1/notchat/completions", "chat/completions", false);
    }
}
