//! One run: a trace against the real router and simulated servers, in virtual time.
//!
//! The router is the one of production: the same engine, plugins and configuration documents, under a paused
//! clock of the run's own. Requests enter behind the parsers, since a trace has no text; answers pass the
//! response hooks with their first token and with their end, whose usage is what a real server reports. All
//! that happens is one agenda of events with nanosecond stamps, so one seed gives one course, to the bit.

use std::{
    collections::BTreeMap, future::poll_fn, pin::Pin, sync::Arc, task::Poll, time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::StatusCode;
use router_core::{ErrorCode, Rejection, Stamp};
use router_engine::{AttemptFailure, Exchange, Routed, Router, Settings};
use router_framework::{EndCause, Registry};
use router_rt::{Clock, Seeds, Tasks};
use xxhash_rust::xxh64::Xxh64;

use self::{
    agenda::{Agenda, Due},
    arrivals::Successors,
    request::Requests,
    server::{Flight, Server},
};
use super::{
    outcome::{Fate, Obstacle, Outcome, RequestOutcome},
    pool::Pool,
    trace::{Start, Trace, TraceRequest},
};
use crate::model::{Event, EventKind, Finished, ProfileError, Refusal, RequestId};

mod agenda;
mod arrivals;
mod choice;
mod members;
mod progress;
mod request;
pub(super) mod router;
mod server;
pub(super) mod virtual_time;

pub use self::{progress::Progress, router::Configuration};

/// So long a decision is waited for after everything else has come to its end.
const PATIENCE: Duration = Duration::from_hours(1);
/// The latest that a request may arrive, in virtual time. Servers are scraped all the while, so that a year would
/// take hours.
pub const MAX_ARRIVAL: Duration = Duration::from_hours(31 * 24);
/// A run goes on for so long after its last arrival, or for as long again as it took until then. Whatever has
/// not ended by then is counted as unfinished: servers that are so far behind would not catch up.
pub const MAX_DRAIN: Duration = Duration::from_hours(24);
/// By how much a seed moves arrivals at most, unless told otherwise.
pub const DEFAULT_JITTER: Duration = Duration::from_secs(1);

/// What a run is made of, besides its seed.
#[derive(Clone, Debug)]
pub struct Setup {
    pub trace: Arc<Trace>,
    pub pool: Arc<Pool>,
    pub configuration: Configuration,
    /// The plugin types that the configuration may name.
    pub registry: Registry,
    pub options: Options,
}

/// How the trace is played.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Load factor: times of arrival are divided by it. Think times stay, since people and tools do not hurry.
    pub speed: f64,
    /// Arrivals with a time of their own come later by up to this, as the seed says.
    pub jitter: Duration,
    /// Plugin types that are experiments may be used.
    pub allow_experimental: bool,
}

/// Why there is no run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// With every error of the document and its place.
    #[error("the configuration cannot be used\n{0}")]
    Configuration(String),
    #[error("the trace cannot be played: {0}")]
    Trace(String),
    #[error("server {name} cannot run: {source}")]
    Server { name: Arc<str>, source: ProfileError },
    #[error("a load factor must be above zero, not {0}")]
    Speed(f64),
    #[error(
        "at load {speed} the last request arrives after {} and {} is the most: play it at a higher --load, its \
         first requests alone (--limit), or with shorter times to think and less --jitter",
        days(*arrival),
        days(MAX_ARRIVAL)
    )]
    TooLong { speed: f64, arrival: Duration },
    #[error("the router cannot be built: {0}")]
    Router(String),
    #[error("cannot start a runtime: {0}")]
    Runtime(#[source] std::io::Error),
}

/// A length of time for people.
fn days(length: Duration) -> String {
    format!("{:.0} days", (length.as_secs_f64() / 86_400.0).ceil())
}

/// Plays a trace once, on the calling thread. `progress` tells others how far it is.
pub fn play(setup: &Setup, seed: u64, progress: &Progress) -> Result<Outcome, RunError> {
    Ok(play_and_look(setup, seed, progress, |_, _| ())?.0)
}

/// Plays a trace once and lets `look` see the router at the end, with the registry of its metrics.
pub fn play_and_look<T>(
    setup: &Setup,
    seed: u64,
    progress: &Progress,
    look: impl FnOnce(&Router, &router_telemetry::Registry) -> T,
) -> Result<(Outcome, T), RunError> {
    let Options { speed, jitter, .. } = setup.options;
    if !(speed > 0.0 && speed.is_finite()) {
        return Err(RunError::Speed(speed));
    }
    setup.trace.check().map_err(RunError::Trace)?;
    let last = arrivals::last(&setup.trace, speed, jitter);
    let arrival = last.since(Stamp::ORIGIN);
    if arrival > MAX_ARRIVAL {
        return Err(RunError::TooLong { speed, arrival });
    }
    let until = last + arrival.max(MAX_DRAIN);
    let n_scrapes = setup.pool.scrape.interval.map_or(0, |interval| {
        setup.pool.servers.len() as u64 * (arrival.as_nanos() / interval.as_nanos().max(1)) as u64
    });
    progress.begin(setup.trace.requests.len(), n_scrapes, last, until);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(RunError::Runtime)?;
    runtime.block_on(async {
        let mut replay = Replay::new(setup, seed, until, progress)?;
        replay.run().await?;
        let seen = look(&replay.router, &replay.metrics);
        Ok((replay.into_outcome(), seen))
    })
}

/// A run under way.
struct Replay<'a> {
    setup: &'a Setup,
    progress: &'a Progress,
    /// When it is stopped.
    until: Stamp,
    seeds: Seeds,
    router: Arc<Router>,
    metrics: router_telemetry::Registry,
    clock: Clock,
    requests: Requests,
    adapters: Vec<Arc<str>>,
    successors: Successors,
    servers: Vec<Server>,
    by_authority: BTreeMap<Arc<str>, u32>,
    agenda: Agenda,
    /// Requests that run where requests may be evicted, each until it is.
    evictions: FuturesUnordered<BoxFuture<'static, (u32, RequestId)>>,
    /// Requests that the router has not decided yet.
    deciding: FuturesUnordered<BoxFuture<'static, Decided>>,
    outcomes: Vec<RequestOutcome>,
    /// When waiting for decisions ends, if nothing else happens.
    patient_until: Stamp,
    /// Requests that have not ended.
    n_open: usize,
    decisions: Xxh64,
    ended: Stamp,
    /// Events of an engine, kept for its memory.
    events: Vec<Event>,
    /// The router's own.
    _tasks: Tasks,
}

/// What the router decided about a request.
type Decided = (u32, Result<Routed, Rejection>);

impl Default for Options {
    fn default() -> Self {
        Self { speed: 1.0, jitter: DEFAULT_JITTER, allow_experimental: false }
    }
}

// === impl Replay ===

impl<'a> Replay<'a> {
    /// Must be made on the runtime whose clock the run goes by.
    fn new(
        setup: &'a Setup,
        seed: u64,
        until: Stamp,
        progress: &'a Progress,
    ) -> Result<Self, RunError> {
        let Setup { trace, pool, configuration, registry, options } = setup;
        let seeds = Seeds::new(seed);
        let defaults = Settings::default();
        let settings = Settings {
            pool_name: "replay".to_owned(),
            seed,
            refresh_interval: pool.scrape.interval.unwrap_or(defaults.refresh_interval),
            ..defaults
        };
        let clock = router::clock();
        let (router, metrics) = router::build(
            configuration,
            registry,
            options.allow_experimental,
            settings,
            clock,
            None,
        )?;
        router.datastore().set_objectives(request::objectives(trace));
        let tasks = Tasks::new();
        if let Some(flow) = router.flow() {
            let alarm = flow.run(router.datastore().changes());
            drop(tasks.spawn_cancellable("flow control", alarm));
        }
        let requests = Requests::of(trace);
        let engine_seeds = seeds.family("engines");
        let servers: Result<Vec<Server>, RunError> = pool
            .servers
            .iter()
            .enumerate()
            .map(|(at, kind)| {
                Server::new(at, kind, trace.block_tokens, &engine_seeds)
                    .map_err(|source| RunError::Server { name: Arc::clone(&kind.name), source })
            })
            .collect();
        let mut replay = Self {
            setup,
            progress,
            until,
            clock: *router.clock(),
            router,
            metrics,
            adapters: requests.adapter_names(),
            requests,
            successors: Successors::of(trace),
            servers: servers?,
            by_authority: BTreeMap::new(),
            agenda: Agenda::default(),
            evictions: FuturesUnordered::new(),
            deciding: FuturesUnordered::new(),
            _tasks: tasks,
            outcomes: Vec::with_capacity(trace.requests.len()),
            patient_until: Stamp::ORIGIN + PATIENCE,
            n_open: trace.requests.len(),
            decisions: Xxh64::new(0),
            ended: Stamp::ORIGIN,
            events: Vec::new(),
            seeds,
        };
        replay.plan();
        Ok(replay)
    }

    /// Fills the agenda with all that is known beforehand.
    fn plan(&mut self) {
        let Setup { trace, pool, options, .. } = self.setup;
        let mut rng = self.seeds.family("arrivals").rng(0);
        for (at, request) in trace.requests.iter().enumerate() {
            let arriving = RequestOutcome::arriving(Stamp::ORIGIN, request.prompt_tokens);
            self.outcomes.push(RequestOutcome { fate: Fate::Unfinished, ..arriving });
            if let Start::At(start) = request.start {
                let arrival = arrivals::arrival(start, options.speed, options.jitter, &mut rng);
                self.agenda.add(arrival, Due::Arrival(at as u32));
            }
        }
        for (at, event) in pool.events.iter().enumerate() {
            self.agenda.add(event.at, Due::Change(at as u32));
        }
        let mut rng = self.seeds.family("scrapes").rng(0);
        for at in 0..self.servers.len() {
            // Scrapes of many servers are spread over the interval, as a router that has run for long has them.
            if let Some(interval) = pool.scrape.interval {
                let phase = interval.mul_f64(rng.f64());
                self.agenda.add(Stamp::ORIGIN + phase, Due::Scrape(at as u32));
            }
            self.servers[at].is_member = pool.is_member_at_start(at);
        }
        self.publish_members(Stamp::ORIGIN);
    }

    async fn run(&mut self) -> Result<(), RunError> {
        while self.n_open > 0 {
            self.evict();
            if !self.deciding.is_empty() {
                if !self.wait_or_decide().await? {
                    break;
                }
            } else if !self.agenda.is_idle()
                && self.next_in_time().is_some()
                && let Some((at, due)) = self.agenda.take()
            {
                self.happen(at, due).await?;
            } else {
                break;
            }
        }
        self.stop();
        Ok(())
    }

    /// When the next thing is due, if that is before the run is stopped.
    fn next_in_time(&self) -> Option<Stamp> {
        self.agenda.next().filter(|next| *next <= self.until)
    }

    /// Leaves what servers are still busy with.
    fn stop(&mut self) {
        let now = self.clock.now().max(self.until);
        let flights =
            self.servers.iter_mut().flat_map(|server| std::mem::take(&mut server.flights));
        for (_, Flight { request, .. }) in flights {
            let outcome = &mut self.outcomes[request as usize];
            (outcome.fate, outcome.ended) = (Fate::Unfinished, now);
            self.ended = now;
        }
        (0..self.n_open).for_each(|_| self.progress.end_one());
    }

    fn into_outcome(self) -> Outcome {
        Outcome {
            requests: self.outcomes,
            servers: self.setup.pool.servers.iter().map(|kind| Arc::clone(&kind.name)).collect(),
            decisions: self.decisions.digest(),
            ended: self.ended,
        }
    }

    /// Takes whatever comes first: a decision, or what is due next. False when nothing will come any more.
    async fn wait_or_decide(&mut self) -> Result<bool, RunError> {
        let now = self.clock.now();
        let next = self.next_in_time();
        if !self.agenda.is_idle() && next.is_some() {
            self.patient_until = now + PATIENCE;
        }
        let until = next.unwrap_or(self.patient_until);
        tokio::select! {
            biased;
            Some((request, decided)) = self.deciding.next() => {
                let now = self.clock.now();
                self.patient_until = now + PATIENCE;
                self.dispatch(request, decided, now);
                return Ok(true);
            }
            () = virtual_time::pass(self.clock, until) => {}
        }
        if until >= self.patient_until {
            return Ok(false);
        }
        if let Some((at, due)) = self.agenda.take() {
            self.happen(at, due).await?;
        }
        Ok(true)
    }

    /// Stops the requests that have to make room.
    fn evict(&mut self) {
        while let Some(Some((at, id))) = self.evictions.next().now_or_never() {
            let now = self.clock.now();
            let Some(flight) = self.server(at).flights.remove(&id) else { continue };
            let mut events = std::mem::take(&mut self.events);
            self.server(at).engine.cancel(now, id, &mut |event| events.push(event));
            self.take(at, events);
            self.reschedule(at);
            let Flight { request, mut exchange } = flight;
            let rejection = exchange.evict();
            self.outcome(request).obstacle = rejection.reason.map(Obstacle::Dropped);
            self.end(request, Fate::Rejected(rejection.code), now);
        }
    }

    async fn happen(&mut self, at: Stamp, due: Due) -> Result<(), RunError> {
        self.progress.pass(at);
        match due {
            Due::Engine(server) => {
                if self.server(server).due != Some(at) {
                    return Ok(());
                }
                virtual_time::jump(self.clock, at).await;
                self.advance(server, at);
            }
            Due::Change(event) => {
                virtual_time::jump(self.clock, at).await;
                self.change(event as usize, at)?;
            }
            // The router reads no clock here.
            Due::Scrape(server) => self.scrape(server, at),
            Due::Publish(server) => self.publish(server, at),
            Due::Arrival(request) => {
                virtual_time::jump(self.clock, at).await;
                self.arrive(request, at).await;
            }
        }
        Ok(())
    }

    // Indices of servers and requests come from the pool and the trace of this run, which do not change.
    fn server(&mut self, at: u32) -> &mut Server {
        &mut self.servers[at as usize]
    }

    fn request(&self, at: u32) -> &'a TraceRequest {
        &self.setup.trace.requests[at as usize]
    }

    fn outcome(&mut self, at: u32) -> &mut RequestOutcome {
        &mut self.outcomes[at as usize]
    }

    /// Whether something of the answer has come out of the server.
    fn has_begun(&self, at: u32) -> bool {
        self.request(at).streams && self.outcomes[at as usize].first_token.is_some()
    }

    async fn arrive(&mut self, at: u32, now: Stamp) {
        let request = self.request(at);
        *self.outcome(at) = RequestOutcome::arriving(now, request.prompt_tokens);
        let (head, parsed) = self.requests.begin(request, now);
        let mut decision = self.router.begin_parsed(head, parsed);
        let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut decision).poll(cx))).await;
        match polled {
            Poll::Ready(decided) => self.dispatch(at, decided, now),
            Poll::Pending => self.deciding.push(async move { (at, decision.await) }.boxed()),
        }
    }

    fn dispatch(&mut self, request: u32, decided: Result<Routed, Rejection>, now: Stamp) {
        match decided {
            Ok(routed) => self.send(request, routed.exchange, now),
            Err(rejection) => {
                self.note_decision(request, u64::from(rejection.code.http_status()) << 32, now);
                self.outcome(request).obstacle = rejection.reason.map(Obstacle::Dropped);
                self.end(request, Fate::Rejected(rejection.code), now);
            }
        }
    }

    /// Sends a request to the endpoint that is its turn, and to the next ones where it is refused.
    fn send(&mut self, request: u32, mut exchange: Exchange, now: Stamp) {
        loop {
            let target = exchange.endpoint().map(|endpoint| endpoint.shared_authority());
            let target = target.and_then(|authority| self.by_authority.get(authority)).copied();
            let Some(at) = target else { return self.unserved(request, exchange, now) };
            self.note_decision(request, u64::from(at), now);
            let outcome = self.outcome(request);
            outcome.server = Some(at);
            outcome.sent = Some(now);
            outcome.n_attempts += 1;
            let submitted = self.submit(at, request, now);
            let obstacle = |refusal: Option<Refusal>| {
                refusal.map_or(Obstacle::NobodyListens, Obstacle::Server)
            };
            self.outcome(request).obstacle = submitted.err().map(obstacle);
            let failure = match submitted {
                Ok(id) => {
                    if let Some(eviction) = exchange.eviction() {
                        self.evictions.push(eviction.map(move |()| (at, id)).boxed());
                    }
                    self.server(at).flights.insert(id, Flight { request, exchange });
                    return self.reschedule(at);
                }
                Err(Some(Refusal::QueueFull { .. })) => AttemptFailure::Unavailable,
                Err(None) => AttemptFailure::Unreachable,
                Err(Some(_never_fits)) => {
                    let asked = self.request(request);
                    exchange
                        .on_headers(&self.requests.response_head(asked, StatusCode::BAD_REQUEST));
                    exchange.end(EndCause::Natural);
                    return self.end(request, Fate::Invalid, now);
                }
            };
            if exchange.attempt_failed(failure).is_none() {
                return self.unserved(request, exchange, now);
            }
        }
    }

    fn unserved(&mut self, request: u32, mut exchange: Exchange, now: Stamp) {
        let message = "no model server takes the request";
        exchange.reject(&Rejection::new(ErrorCode::ServiceUnavailable, message));
        self.end(request, Fate::Unserved, now);
    }

    /// Gives a request to a server's engine; `None` where nobody listens.
    fn submit(&mut self, at: u32, request: u32, now: Stamp) -> Result<RequestId, Option<Refusal>> {
        let engine_request = self.requests.engine_request(self.request(request));
        if self.outcome(request).n_attempts == 1 {
            self.outcome(request).choice = Some(self.choice(at, &engine_request, now));
        }
        let mut events = std::mem::take(&mut self.events);
        let server = self.server(at);
        let submitted = if server.is_down(now) {
            Err(None)
        } else {
            let mut sink = |event| events.push(event);
            server.engine.submit(now, engine_request, &mut sink).map_err(Some)
        };
        self.take(at, events);
        submitted
    }

    /// Lets a server's engine do what is due.
    fn advance(&mut self, at: u32, now: Stamp) {
        let mut events = std::mem::take(&mut self.events);
        self.server(at).engine.advance(now, &mut |event| events.push(event));
        self.take(at, events);
        self.reschedule(at);
    }

    /// Puts the engine's next event on the agenda; an older plan no longer counts.
    fn reschedule(&mut self, at: u32) {
        let server = self.server(at);
        let due = server.engine.next_event();
        if due != server.due {
            server.due = due;
            if let Some(due) = due {
                self.agenda.add(due, Due::Engine(at));
            }
        }
    }

    /// Tells the router what happened at a server.
    fn take(&mut self, at: u32, mut events: Vec<Event>) {
        for event in events.drain(..) {
            match event.kind {
                EventKind::FirstToken { cached_tokens } => {
                    self.first_token(at, event, cached_tokens);
                }
                EventKind::Finished(end) => self.finished(at, event, &end),
                EventKind::Token { .. } => {}
            }
        }
        self.events = events;
    }

    fn first_token(&mut self, at: u32, event: Event, cached_tokens: u32) {
        let Self { setup, servers, requests, outcomes, .. } = self;
        let Some(flight) = servers[at as usize].flights.get_mut(&event.id) else { return };
        let outcome = &mut outcomes[flight.request as usize];
        outcome.first_token = Some(event.at);
        outcome.cached_tokens = cached_tokens;
        let request = &setup.trace.requests[flight.request as usize];
        if request.streams {
            flight.exchange.on_headers(&requests.response_head(request, StatusCode::OK));
            flight.exchange.on_chunk(request::first_chunk());
        }
    }

    fn finished(&mut self, at: u32, event: Event, end: &Finished) {
        let Some(flight) = self.server(at).flights.remove(&event.id) else { return };
        let Flight { request, mut exchange } = flight;
        let asked = self.request(request);
        if !self.has_begun(request) {
            exchange.on_headers(&self.requests.response_head(asked, StatusCode::OK));
        }
        exchange.on_chunk(request::last_chunk(asked, end));
        exchange.end(EndCause::Natural);
        let outcome = self.outcome(request);
        outcome.first_token.get_or_insert(end.timings.first_token);
        outcome.cached_tokens = end.cached_tokens;
        outcome.output_tokens = end.output_tokens;
        self.end(request, Fate::Served, event.at);
    }

    /// A request has come to its end; those that waited for it get their time. Whatever became of it: who asks
    /// is still there, and goes on.
    fn end(&mut self, request: u32, fate: Fate, now: Stamp) {
        let outcome = self.outcome(request);
        outcome.fate = fate;
        outcome.ended = now;
        self.ended = self.ended.max(now);
        self.n_open = self.n_open.saturating_sub(1);
        self.progress.end_one();
        for at in self.successors.of_request(request) {
            if let Start::After { think, .. } = self.setup.trace.requests[at as usize].start {
                self.agenda.add(now + think, Due::Arrival(at));
            }
        }
    }

    fn note_decision(&mut self, request: u32, what: u64, now: Stamp) {
        for word in [u64::from(request), what, now.as_nanos()] {
            self.decisions.update(&word.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
