//! What fairness costs in cached prefixes: twenty tenants whose prompts share prefixes, endpoints with small
//! caches, in virtual time.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;
use router_core::Stamp;

use crate::{
    Ask, BandTemplate, Config, Cost, Effect, FairnessPolicy, FlowControl, FlowId, PoolSignal,
    StageLoad, Ticket, Usage,
    policy::{deficit::Deficit, global_strict::GlobalStrict},
    snapshot::jain,
};

const N_ENDPOINTS: usize = 4;
const N_SLOTS: usize = 8;
/// Of one slot, prompt or output.
const TOKENS_PER_SECOND: f64 = 1_000.0;
/// Tokens that all requests of a tenant begin with, and then those of one session.
const SYSTEM: u32 = 800;
const SESSION: u32 = 1_200;
/// Tokens that no other request has.
const OWN: u32 = 400;
const PROMPT: u32 = SYSTEM + SESSION + OWN;
/// Tokens of service of a request, about; what a scheduler has learnt.
const MEAN_TOKENS: f64 = 1_300.0;
const N_SESSIONS: u32 = 6;
const SECONDS: u64 = 120;
const N_TENANTS: usize = 20;

/// A part of a prompt: a tenant's, or one of its sessions'.
type Part = (usize, Option<u32>);

struct Endpoint {
    n_running: usize,
    /// Waits at the endpoint itself.
    queue: VecDeque<(Ticket, usize)>,
    /// Parts in the cache, and when they were used last.
    cache: BTreeMap<Part, u64>,
}

impl Endpoint {
    fn cached(&self, tenant: usize, session: u32) -> u32 {
        match [(tenant, None), (tenant, Some(session))].map(|part| self.cache.contains_key(&part)) {
            [true, true] => SYSTEM + SESSION,
            [true, false] => SYSTEM,
            [false, _] => 0,
        }
    }

    /// The endpoint has computed the prompt, and forgets what was used longest ago.
    fn remember(&mut self, tenant: usize, session: u32, turn: u64, max_tokens: u32) {
        self.cache.insert((tenant, Some(session)), 2 * turn);
        self.cache.insert((tenant, None), 2 * turn + 1);
        let tokens = |part: &Part| if part.1.is_some() { SESSION } else { SYSTEM };
        while self.cache.keys().map(tokens).sum::<u32>() > max_tokens {
            let oldest = self.cache.iter().min_by_key(|(_, used)| **used);
            let oldest = *oldest.unwrap().0;
            self.cache.remove(&oldest);
        }
    }
}

#[derive(Clone, Copy)]
struct Request {
    tenant: usize,
    session: u32,
    output: u32,
    cached: u32,
    endpoint: usize,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive { tenant: usize },
    End { ticket: Ticket, request: usize },
}

struct World {
    flow: FlowControl<usize>,
    rng: Rng,
    now: Stamp,
    agenda: BinaryHeap<Reverse<(Stamp, u64, Event)>>,
    n_events: u64,
    endpoints: Vec<Endpoint>,
    max_tokens: u32,
    requests: Vec<Request>,
    /// Sessions of the tenant that sends half of all.
    n_first: u32,
    /// Tokens of service by tenant, and of those who asked for them.
    service: Vec<f64>,
    asked: Vec<f64>,
    /// Tokens of prompts by tenant, and those of them that came from a cache.
    prompt: Vec<f64>,
    cached: Vec<f64>,
}

#[derive(Debug)]
struct Result {
    /// Of service over each tenant's max-min share.
    jain: f64,
    cached_ratio: f64,
    /// Mean of the tenants' own ratios: the same whoever has how much of the service.
    tenants_ratio: f64,
    /// Tokens of service asked for over what the endpoints can do.
    load: f64,
}

impl World {
    fn new(
        fairness: Arc<dyn FairnessPolicy>,
        max_requests: u64,
        max_tokens: u32,
        n_first: u32,
        seed: u64,
    ) -> Self {
        let template = BandTemplate { max_requests, fairness, ..BandTemplate::default() };
        let empty = || Endpoint { n_running: 0, queue: VecDeque::new(), cache: BTreeMap::new() };
        Self {
            flow: FlowControl::new(Config { template, ..Config::default() }),
            rng: Rng::with_seed(seed),
            now: Stamp::ORIGIN,
            agenda: BinaryHeap::new(),
            n_events: 0,
            endpoints: (0..N_ENDPOINTS).map(|_| empty()).collect(),
            max_tokens,
            requests: Vec::new(),
            n_first,
            service: vec![0.0; N_TENANTS],
            asked: vec![0.0; N_TENANTS],
            prompt: vec![0.0; N_TENANTS],
            cached: vec![0.0; N_TENANTS],
        }
    }

    fn plan(&mut self, after: f64, event: Event) {
        self.n_events += 1;
        let at = self.now + Duration::from_secs_f64(after);
        self.agenda.push(Reverse((at, self.n_events, event)));
    }

    fn plan_arrival(&mut self, tenant: usize, per_second: f64) {
        // The first sends as much as all others together.
        let share = if tenant == 0 { 0.5 } else { 0.5 / (N_TENANTS - 1) as f64 };
        let gap = -(1.0 - self.rng.f64()).ln() / (share * per_second);
        self.plan(gap, Event::Arrive { tenant });
    }

    fn run(mut self, per_second: f64) -> Result {
        let mut effects = Vec::new();
        let load = StageLoad::counted(0, (N_ENDPOINTS * N_SLOTS) as u64);
        self.flow.signal(self.now, PoolSignal::of_pool(load, self.now), &mut effects);
        (0..N_TENANTS).for_each(|tenant| self.plan_arrival(tenant, per_second));
        let end = Stamp::ORIGIN + Duration::from_secs(SECONDS);
        while let Some(Reverse((now, _, event))) = self.agenda.pop().filter(|next| next.0.0 < end) {
            while let Some(due) = self.flow.next_deadline().filter(|due| *due <= now) {
                self.flow.wake(due, &mut effects);
            }
            self.now = now;
            match event {
                Event::Arrive { tenant } => {
                    self.plan_arrival(tenant, per_second);
                    let request = self.ask(tenant);
                    let ask = self.describe(&request);
                    self.asked[tenant] += ask.cost.service() as f64;
                    self.requests.push(request);
                    self.flow.arrive(now, ask, self.requests.len() - 1, &mut effects);
                }
                Event::End { ticket, request } => self.end(ticket, request, &mut effects),
            }
            for effect in std::mem::take(&mut effects) {
                if let Effect::Dispatch { ticket, payload, .. } = effect {
                    self.place(ticket, payload);
                }
            }
        }
        let shares = max_min(&self.asked, self.service.iter().sum());
        let ratios: Vec<f64> =
            self.service.iter().zip(shares).map(|(got, share)| got / share).collect();
        let capacity = SECONDS as f64 * (N_ENDPOINTS * N_SLOTS) as f64 * TOKENS_PER_SECOND;
        let own_ratios =
            self.cached.iter().zip(&self.prompt).map(|(cached, prompt)| cached / prompt);
        Result {
            jain: jain(&ratios),
            cached_ratio: self.cached.iter().sum::<f64>() / self.prompt.iter().sum::<f64>(),
            tenants_ratio: own_ratios.sum::<f64>() / N_TENANTS as f64,
            load: self.asked.iter().sum::<f64>() / capacity,
        }
    }

    fn ask(&mut self, tenant: usize) -> Request {
        let n = if tenant == 0 { self.n_first } else { N_SESSIONS };
        let (session, output) = (self.rng.u32(..n), self.rng.u32(50..=350));
        Request { tenant, session, output, cached: 0, endpoint: 0 }
    }

    /// What a router knows when it comes.
    fn describe(&self, request: &Request) -> Ask {
        let Request { tenant, session, .. } = *request;
        let known = self.endpoints.iter().map(|endpoint| endpoint.cached(tenant, session)).max();
        let cached = known.unwrap_or_default();
        let uncached = PROMPT - cached;
        Ask {
            flow: FlowId::from(format!("tenant-{tenant}").as_str()),
            received: self.now,
            cost: Cost { cached, uncached, output: 200 },
            ..Ask::default()
        }
    }

    /// Where its prompt would be computed first, as a scheduler does that estimates it.
    fn place(&mut self, ticket: Ticket, at: usize) {
        self.flow.placed(self.now, ticket, None, &mut Vec::new());
        let Request { tenant, session, .. } = self.requests[at];
        let until_computed = |endpoint: &Endpoint| {
            let n_before = (endpoint.n_running + endpoint.queue.len() + 1).saturating_sub(N_SLOTS);
            let uncached = PROMPT - endpoint.cached(tenant, session);
            n_before as f64 * MEAN_TOKENS / N_SLOTS as f64 + f64::from(uncached)
        };
        let order = |a: &usize, b: &usize| {
            let [a, b] = [a, b].map(|at| until_computed(&self.endpoints[*at]));
            a.total_cmp(&b)
        };
        let Some(best) = (0..N_ENDPOINTS).min_by(order) else { return };
        self.endpoints[best].queue.push_back((ticket, at));
        self.start(best);
    }

    /// Lets the next of the endpoint's own queue run, where a slot is free.
    fn start(&mut self, place: usize) {
        let endpoint = &mut self.endpoints[place];
        if endpoint.n_running == N_SLOTS {
            return;
        }
        let Some((ticket, at)) = endpoint.queue.pop_front() else { return };
        let Request { tenant, session, output, .. } = self.requests[at];
        let cached = endpoint.cached(tenant, session);
        endpoint.n_running += 1;
        endpoint.remember(tenant, session, self.n_events, self.max_tokens);
        (self.requests[at].cached, self.requests[at].endpoint) = (cached, place);
        let seconds = f64::from(PROMPT - cached + output) / TOKENS_PER_SECOND;
        self.plan(seconds, Event::End { ticket, request: at });
    }

    fn end(&mut self, ticket: Ticket, at: usize, effects: &mut Vec<Effect<usize>>) {
        let Request { tenant, output, cached, endpoint, .. } = self.requests[at];
        self.endpoints[endpoint].n_running -= 1;
        self.start(endpoint);
        let used = Usage { prompt: PROMPT.into(), cached: cached.into(), output: output.into() };
        self.service[tenant] += used.service() as f64;
        self.prompt[tenant] += f64::from(PROMPT);
        self.cached[tenant] += f64::from(cached);
        self.flow.finished(self.now, ticket, Some(used), effects);
    }
}

/// What each would get if all that is left over was always shared by those who ask for more.
fn max_min(asked: &[f64], total: f64) -> Vec<f64> {
    let mut shares = vec![0.0; asked.len()];
    let mut order: Vec<usize> = (0..asked.len()).collect();
    order.sort_by(|a, b| asked[*a].total_cmp(&asked[*b]));
    let mut left = total;
    for (n_before, &at) in order.iter().enumerate() {
        shares[at] = asked[at].min(left / (asked.len() - n_before) as f64);
        left -= shares[at];
    }
    shares
}

/// First come first served, and deficit fairness.
fn both(max_requests: u64, max_tokens: u32, n_first: u32, per_second: f64) -> [Result; 2] {
    let fairness: [Arc<dyn FairnessPolicy>; 2] =
        [Arc::new(GlobalStrict), Arc::new(Deficit::default())];
    fairness
        .map(|fairness| World::new(fairness, max_requests, max_tokens, n_first, 0).run(per_second))
}

#[test]
fn twenty_tenants_get_their_max_min_share_and_keep_their_cached_prefixes() {
    // Who sends half of all has as many sessions as all others. At each size of the caches, arrivals are
    // about twice what the endpoints can do.
    let n_first = N_SESSIONS * (N_TENANTS as u32 - 1);
    for (max_tokens, per_second) in [(16_000, 42.0), (32_000, 48.0), (64_000, 70.0)] {
        for max_requests in [5_000, 100] {
            let [strict, fair] = both(max_requests, max_tokens, n_first, per_second);
            let what =
                format!("{max_tokens} tokens, {max_requests} requests: {strict:?}, {fair:?}");
            assert!(strict.load > 1.9 && fair.load > 1.9 && fair.load < 2.5, "{what}");
            assert!(fair.jain >= 0.95 && strict.jain < 0.5, "{what}");
            assert!(fair.cached_ratio >= 0.95 * strict.cached_ratio, "{what}");
        }
    }
}

/// Where one tenant sends half of all with few prompts, and caches hold less than half of what all send,
/// first come first served has more cached tokens, since half of what it serves is that tenant's. No fair
/// order has that mix; but no tenant's own requests find less.
#[test]
fn what_fairness_costs_in_cached_prefixes_is_the_mix_of_tenants_alone() {
    for max_tokens in [16_000, 32_000] {
        let [strict, fair] = both(5_000, max_tokens, N_SESSIONS, 70.0);
        let what = format!("{max_tokens} tokens: {strict:?}, {fair:?}");
        assert!(fair.jain >= 0.95, "{what}");
        assert!(fair.tenants_ratio >= 0.98 * strict.tenants_ratio, "{what}");
        assert!(fair.cached_ratio >= 0.7 * strict.cached_ratio, "{what}");
    }
    // Where caches hold all, nothing is lost.
    let [strict, fair] = both(5_000, 64_000, N_SESSIONS, 70.0);
    assert!(fair.cached_ratio >= 0.98 * strict.cached_ratio, "{strict:?}, {fair:?}");
}
