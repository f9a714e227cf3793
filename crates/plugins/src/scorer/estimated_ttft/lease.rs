//! What one request holds on the endpoints that it was sent to, and what its answer teaches.

use std::sync::Arc;

use router_core::{Endpoint, EndpointIndex, EndpointSlot, Stamp};
use router_framework::{End, EndCause, Lease, MAX_TARGETS};
use router_rt::Clock;
use router_telemetry::router::EstimateMetrics;
use smallvec::SmallVec;

use super::{
    account::{Account, Answer, Entry},
    cost::{Job, cacheable},
    lost::Lost,
    popular::Popular,
    speed::{Expected, Hits, Pool},
};
use crate::producer::found::found_tokens;

/// State of one instance, which its leases outlive.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) accounts: EndpointSlot<Account>,
    pub(super) pool: Pool,
    pub(super) popular: Popular,
    pub(super) lost: Lost,
    pub(super) clock: Clock,
    pub(super) metrics: EstimateMetrics,
}

/// One request's entry in the account of one endpoint. Dropped, it takes itself out.
#[derive(Debug)]
struct Hold {
    shared: Arc<Shared>,
    endpoint: Arc<Endpoint>,
    entry: Option<Entry>,
}

/// All entries of one request.
#[derive(Debug)]
pub(super) struct EstimateLease {
    shared: Arc<Shared>,
    job: Job,
    streams: bool,
    primary: Option<Hold>,
    others: SmallVec<[Hold; 1]>,
    /// What the primary target is expected to have cached.
    cached: Expected,
    /// The same of the endpoints that the request may move to.
    fallbacks: SmallVec<[(EndpointIndex, Expected); MAX_TARGETS]>,
    /// What it asked for, by which it was counted as popular.
    beginning: Option<u64>,
    /// When the first byte of a streamed answer to that came, until it ends.
    writing: Option<Stamp>,
    /// Of the primary target: when it was sent there, and the predicted seconds to the first byte.
    predicted: (Stamp, f64),
    first_byte: Option<Stamp>,
}

impl Hold {
    /// Enters the request; also gives the predicted seconds to its first token.
    fn take(
        shared: &Arc<Shared>,
        endpoint: &Arc<Endpoint>,
        now: Stamp,
        job: &Job,
        streams: bool,
    ) -> (Self, f64) {
        let account = endpoint.slot(&shared.accounts);
        let taken = account.map(|account| {
            let load = account.load(now, &shared.pool.speed());
            (
                account.take(now, job, streams, &load),
                load.cost(job, &shared.pool.typical()).first_token,
            )
        });
        let (entry, predicted) = taken.unzip();
        let (shared, endpoint) = (Arc::clone(shared), Arc::clone(endpoint));
        (Self { shared, endpoint, entry }, predicted.unwrap_or(f64::NAN))
    }

    fn first_byte(&mut self, now: Stamp) {
        if let Some((account, entry)) =
            self.endpoint.slot(&self.shared.accounts).zip(self.entry.as_mut())
        {
            account.first_byte(now, entry);
        }
    }

    fn end(&mut self, now: Stamp, answer: Option<Answer>) {
        let Some(entry) = self.entry.take() else { return };
        let Some(account) = self.endpoint.slot(&self.shared.accounts) else { return };
        if let Some(speed) = account.end(now, &entry, answer, &self.shared.pool) {
            let spec = self.endpoint.spec();
            account.show(&speed, || self.shared.metrics.of_endpoint(&spec.name, &spec.namespace));
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.entry.is_some() {
            self.end(self.shared.clock.now(), None);
        }
    }
}

impl Drop for EstimateLease {
    fn drop(&mut self) {
        self.end_writing();
    }
}

impl EstimateLease {
    /// `beginning` is the hash by which the request was counted as popular.
    pub(super) fn new(
        shared: Arc<Shared>,
        job: Job,
        streams: bool,
        beginning: Option<u64>,
    ) -> Self {
        Self {
            shared,
            job,
            streams,
            primary: None,
            others: SmallVec::new(),
            cached: Expected::default(),
            fallbacks: SmallVec::new(),
            beginning,
            writing: None,
            predicted: (Stamp::ORIGIN, f64::NAN),
            first_byte: None,
        }
    }

    /// The request where this is expected in the cache.
    fn believed(&self, cached: Expected) -> Job {
        let cached = self.shared.pool.typical().believed(cached, self.job.prompt);
        Job { cached, ..self.job }
    }

    /// Enters the request at its primary target.
    pub(super) fn primary(&mut self, endpoint: &Arc<Endpoint>, cached: Expected, now: Stamp) {
        let job = self.believed(cached);
        // Where it comes late, nothing can be seen of its first token.
        let shows = self.streams && self.first_byte.is_none();
        let (hold, predicted) = Hold::take(&self.shared, endpoint, now, &job, shows);
        self.primary = Some(hold);
        self.cached = cached;
        self.predicted = (now, predicted);
        self.shared.metrics.predicted.observe(predicted);
    }

    /// Enters the request at the target of another profile.
    pub(super) fn other(&mut self, endpoint: &Arc<Endpoint>, cached: Expected, now: Stamp) {
        let job = self.believed(cached);
        self.others.push(Hold::take(&self.shared, endpoint, now, &job, self.streams).0);
    }

    /// An endpoint that the request may move to.
    pub(super) fn fallback(&mut self, endpoint: &Endpoint, cached: Expected) {
        self.fallbacks.push((endpoint.index(), cached));
    }

    fn begin_writing(&mut self, now: Stamp) {
        let is_first = self.streams && self.writing.is_none();
        if let Some(beginning) = self.beginning.filter(|_| is_first) {
            self.shared.popular.begin(beginning, self.job.n_answers, now);
            self.writing = Some(now);
        }
    }

    fn end_writing(&mut self) {
        if let Some((beginning, begun)) = self.beginning.zip(self.writing.take()) {
            self.shared.popular.end(beginning, self.job.n_answers, begun);
        }
    }

    fn end_others(&mut self, now: Stamp) {
        self.others.drain(..).for_each(|mut other| other.end(now, None));
    }

    fn answer(&self, end: &End) -> Answer {
        let found = end.usage.and_then(|usage| found_tokens(&usage, self.job.prompt));
        Answer {
            n_tokens: end.usage.map(|usage| usage.completion_tokens),
            prompt: end.usage.map(|usage| usage.prompt_tokens),
            // No more than the prompt without its last token, whatever the model server says.
            hits: found.map(|found| Hits {
                expected: self.cached,
                found: cacheable(found, self.job.prompt),
            }),
        }
    }

    /// Compares what was predicted with what came.
    fn observe(&self) {
        let (sent, predicted) = self.predicted;
        let Some(first_byte) = self.first_byte.filter(|_| self.streams) else { return };
        let seconds = first_byte.since(sent).as_secs_f64();
        if predicted > 0.0 {
            self.shared.metrics.error_ratio.observe(seconds / predicted);
        }
    }
}

impl Lease for EstimateLease {
    fn moved(&mut self, endpoint: &Arc<Endpoint>, now: Stamp) {
        // What it had there is given back before it counts anew.
        let Some(mut before) = self.primary.take() else { return };
        before.end(now, None);
        let known = self.fallbacks.iter().find(|(index, _)| *index == endpoint.index());
        let cached = known.map_or(Expected::default(), |(_, cached)| *cached);
        self.primary(endpoint, cached, now);
        if self.first_byte.is_some()
            && let Some(primary) = &mut self.primary
        {
            primary.first_byte(now);
        }
    }

    fn first_byte(&mut self, now: Stamp) {
        self.first_byte = Some(now);
        self.begin_writing(now);
        self.end_others(now);
        if let Some(primary) = &mut self.primary {
            primary.first_byte(now);
        }
    }

    fn end(&mut self, end: &End) {
        self.end_writing();
        self.end_others(end.at);
        let Some(mut primary) = self.primary.take() else { return };
        let is_good =
            end.cause == EndCause::Natural && end.status.is_some_and(|status| status.is_success());
        let answer = is_good.then(|| self.answer(end));
        if is_good {
            self.observe();
        }
        primary.end(end.at, answer);
    }
}
