//! The engine of one server, with those who wait for it.

use std::{collections::BTreeMap, sync::Arc};

use router_core::time::Stamp;

use super::{exchange::Exchange, metrics::Latencies};
use crate::model::{
    AdapterId, Engine, EngineRequest, EngineSignals, Event, EventKind, Finished, Profile,
    ProfileError, Refusal, RequestId,
};

/// An engine, who waits for which of its requests, and how long things took. Short locks only.
#[derive(Debug)]
pub(crate) struct Cell {
    engine: Engine,
    /// Bounded by what the engine holds: its batch and its queue.
    waiters: BTreeMap<RequestId, Waiter>,
    pub(crate) latencies: Latencies,
}

#[derive(Debug)]
struct Waiter {
    exchange: Arc<Exchange>,
    choice: usize,
    last_token: Stamp,
    n_tokens: u32,
    token_events: bool,
}

impl Cell {
    pub(crate) fn new(profile: Profile, seed: u64) -> Result<Self, ProfileError> {
        let latencies = Latencies::new(profile.max_model_len);
        Ok(Self { engine: Engine::new(profile, seed)?, waiters: BTreeMap::new(), latencies })
    }

    pub(crate) fn submit(
        &mut self,
        now: Stamp,
        request: EngineRequest,
        exchange: &Arc<Exchange>,
        choice: usize,
    ) -> Result<RequestId, Refusal> {
        let token_events = request.token_events;
        let Self { engine, waiters, latencies } = self;
        let id = engine.submit(now, request, &mut |event| deliver(waiters, latencies, event))?;
        let exchange = Arc::clone(exchange);
        waiters.insert(id, Waiter { exchange, choice, last_token: now, n_tokens: 0, token_events });
        Ok(id)
    }

    /// Takes a request out; nothing happens when it has ended.
    pub(crate) fn cancel(&mut self, now: Stamp, id: RequestId) {
        let Self { engine, waiters, latencies } = self;
        engine.cancel(now, id, &mut |event| deliver(waiters, latencies, event));
        waiters.remove(&id);
    }

    /// Lets time pass; says when something happens next.
    pub(crate) fn advance(&mut self, now: Stamp) -> Option<Stamp> {
        let Self { engine, waiters, latencies } = self;
        engine.advance(now, &mut |event| deliver(waiters, latencies, event));
        engine.next_event()
    }

    pub(crate) fn signals(&mut self, now: Stamp) -> EngineSignals {
        self.advance(now);
        self.engine.signals()
    }

    pub(crate) fn set_prefix_caching(&mut self, now: Stamp, caching: bool) {
        let Self { engine, waiters, latencies } = self;
        engine.set_prefix_caching(now, caching, &mut |event| deliver(waiters, latencies, event));
    }

    pub(crate) fn profile(&self) -> &Profile {
        self.engine.profile()
    }

    pub(crate) fn set_costs(&mut self, now: Stamp, profile: &Profile) -> Result<(), ProfileError> {
        let Self { engine, waiters, latencies } = self;
        engine.set_costs(now, profile, &mut |event| deliver(waiters, latencies, event))
    }

    pub(crate) fn forget_adapter(&mut self, adapter: AdapterId) {
        self.engine.forget_adapter(adapter);
    }

    /// Requests that someone still waits for.
    pub(crate) fn n_waiters(&self) -> usize {
        self.waiters.len()
    }
}

fn deliver(waiters: &mut BTreeMap<RequestId, Waiter>, latencies: &mut Latencies, event: Event) {
    match event.kind {
        EventKind::FirstToken { cached_tokens } => {
            if let Some(waiter) = waiters.get_mut(&event.id) {
                waiter.last_token = event.at;
                waiter.n_tokens = 1;
                waiter.exchange.update(waiter.choice, |progress| {
                    progress.n_tokens = 1;
                    progress.cached_tokens = cached_tokens;
                });
            }
        }
        EventKind::Token { n_tokens } => {
            if let Some(waiter) = waiters.get_mut(&event.id) {
                latencies.between_tokens(event.at.since(waiter.last_token), 1);
                waiter.last_token = event.at;
                waiter.n_tokens = n_tokens;
                waiter.exchange.update(waiter.choice, |progress| progress.n_tokens = n_tokens);
            }
        }
        EventKind::Finished(end) => {
            let waiter = waiters.remove(&event.id);
            latencies.finished(&end, waiter.as_ref().is_some_and(|waiter| waiter.token_events));
            if let Some(waiter) = waiter {
                finish(&waiter, end);
            }
        }
    }
}

fn finish(waiter: &Waiter, end: Finished) {
    waiter.exchange.update(waiter.choice, |progress| {
        progress.n_tokens = end.output_tokens;
        progress.cached_tokens = end.cached_tokens;
        progress.end = Some(end);
    });
}
