//! Flow control as one would write it without care for cost: one list of requests, looked through from the
//! beginning for every question. It checks what the real one says, effect by effect.

use std::{collections::BTreeSet, time::Duration};

use router_core::Stamp;

use super::{
    model_limit::{Limits, Order, Place, eviction_order},
    model_policy::{FirstOf, Kind, Policy},
};
use crate::{
    Ask, BandTemplate, Config, Cost, Effect, FlowId, Limit, PoolSignal, Refusal, Ticket, Usage,
};

/// What the real one is built with, and what the model has to know of it by name.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) config: Config,
    pub(super) fairness: Kind,
    pub(super) limits: Limits,
    pub(super) orders: Orders,
}

/// Orders of the bands that are configured, of others of negative priority, and of all others.
#[derive(Clone)]
pub(super) struct Orders {
    pub(super) bands: Vec<(i32, Order)>,
    pub(super) negative: Option<Order>,
    pub(super) rest: Order,
}

impl Orders {
    fn of(&self, priority: i32) -> Order {
        let own = self.bands.iter().find(|(of, _)| *of == priority).map(|(_, order)| *order);
        own.or(self.negative.filter(|_| priority < 0)).unwrap_or(self.rest)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum At {
    Queue,
    Unplaced,
    Prefill,
    Decode,
}

#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) ticket: Ticket,
    pub(super) at: At,
    priority: i32,
    flow: String,
    bytes: u64,
    enqueued: Stamp,
    ttl: Option<Duration>,
    place: Place,
    cost: Cost,
    dispatched: Stamp,
    is_evictable: bool,
}

struct Band {
    priority: i32,
    is_wanted: bool,
    served_turn: u64,
    unserved_since: Stamp,
    empty_since: Stamp,
    flows: BTreeSet<String>,
    policy: Policy,
}

pub(super) struct Model {
    setup: Setup,
    pub(super) requests: Vec<Request>,
    bands: Vec<Band>,
    signal: PoolSignal,
    flipped: Stamp,
    /// Requests and tokens that came to the prefill stage (true) or the other, and when, unless the signal
    /// has them in it.
    moves: Vec<(Stamp, bool, i64, i64)>,
    /// When a request of a band was let go last that is slowed down.
    slowed: Option<Stamp>,
    ceilings: Vec<f64>,
    earned: u64,
    turn: u64,
    outstanding: Vec<(u64, Stamp)>,
    cools_until: Stamp,
    is_stopped: bool,
    /// Requests that were answered or let go, each once.
    pub(super) n_ended: u64,
}

impl Model {
    pub(super) fn new(setup: &Setup) -> Self {
        let mut model = Self {
            slowed: None,
            setup: setup.clone(),
            requests: Vec::new(),
            bands: Vec::new(),
            signal: PoolSignal::empty(Stamp::ORIGIN),
            flipped: Stamp::ORIGIN,
            moves: Vec::new(),
            ceilings: Vec::new(),
            earned: 0,
            turn: 0,
            outstanding: Vec::new(),
            cools_until: Stamp::ORIGIN,
            is_stopped: false,
            n_ended: 0,
        };
        let configured: Vec<i32> = setup.config.bands.iter().map(|band| band.priority).collect();
        for priority in configured.into_iter().chain([0]) {
            model.add_band(priority, true, Stamp::ORIGIN);
        }
        model
    }

    fn add_band(&mut self, priority: i32, is_wanted: bool, now: Stamp) {
        if self.bands.iter().any(|band| band.priority == priority) {
            return;
        }
        let policy = Policy::new(self.setup.fairness.clone());
        self.bands.push(Band {
            priority,
            is_wanted,
            served_turn: 0,
            unserved_since: now,
            empty_since: now,
            flows: BTreeSet::new(),
            policy,
        });
        self.bands.sort_by_key(|band| -i64::from(band.priority));
    }

    fn template(&self, priority: i32) -> &BandTemplate {
        let config = &self.setup.config;
        let own = config.bands.iter().find(|band| band.priority == priority);
        let negative = config.negative_template.as_ref().filter(|_| priority < 0);
        own.map(|band| &band.template).or(negative).unwrap_or(&config.template)
    }

    fn band(&mut self, priority: i32) -> &mut Band {
        self.bands.iter_mut().find(|band| band.priority == priority).unwrap()
    }

    pub(super) fn waiting(&self) -> impl Iterator<Item = &Request> {
        self.requests.iter().filter(|request| request.at == At::Queue)
    }

    fn waiting_in(&self, priority: i32) -> impl Iterator<Item = &Request> {
        self.waiting().filter(move |request| request.priority == priority)
    }

    pub(super) fn saturation(&self) -> f64 {
        let of = |is_prefill: bool| {
            let load = if is_prefill { self.signal.prefill } else { self.signal.decode }?;
            let (mut requests, mut tokens) = (0, 0);
            for (_, stage, n_requests, n_tokens) in &self.moves {
                if *stage == is_prefill {
                    (requests, tokens) = (requests + n_requests, tokens + n_tokens);
                }
            }
            for request in self.requests.iter().filter(|request| request.at == At::Unplaced) {
                let (n_requests, n_tokens) = size(&request.cost, is_prefill);
                (requests, tokens) = (requests + n_requests, tokens + n_tokens);
            }
            let sum = requests as f64 * load.per_request + tokens as f64 * load.per_token;
            Some((load.saturation + sum).max(0.0))
        };
        [of(true), of(false)].into_iter().flatten().reduce(f64::max).unwrap_or(1.0)
    }

    /// When the wait of a request ends, as things are.
    fn deadline(&self, request: &Request) -> Stamp {
        let config = &self.setup.config;
        let budget = if self.signal.has_endpoints { request.ttl } else { config.no_endpoint_ttl };
        budget.map_or(Stamp::NEVER, |budget| request.enqueued.max(self.flipped) + budget)
    }

    /// When somebody's wait ends, if nothing happens.
    pub(super) fn next_expiry(&self) -> Option<Stamp> {
        let deadlines = self.waiting().map(|request| self.deadline(request));
        deadlines.filter(|deadline| *deadline != Stamp::NEVER).min()
    }

    // === The events ===

    /// Every event begins with those whose wait is over. The driver came in time, so nobody is late.
    pub(super) fn begin(&mut self, now: Stamp, said: &mut Said<'_>) {
        let due: Vec<u64> = self
            .waiting()
            .filter(|request| self.deadline(request) <= now)
            .inspect(|request| assert_eq!(self.deadline(request), now, "{request:?} is late"))
            .map(|request| request.id)
            .collect();
        let refusal = if self.signal.has_endpoints {
            Refusal::EvictedTtl
        } else {
            Refusal::EvictedNoEndpoints
        };
        self.expect_drops(now, due, refusal, said);
    }

    fn expect_one_drop(&mut self, now: Stamp, ids: &[u64], refusal: Refusal, said: &mut Said<'_>) {
        said.skip_gone(now, self);
        let next = said.peek();
        let id = ids.iter().find(|id| next == Some(**id)).expect("one of those that could go");
        self.expect_drops(now, vec![*id], refusal, said);
    }

    fn expect_drops(
        &mut self,
        now: Stamp,
        mut ids: Vec<u64>,
        refusal: Refusal,
        said: &mut Said<'_>,
    ) {
        while !ids.is_empty() {
            let effect = said.next(now, self);
            let Some(Effect::Drop {
                payload,
                refusal: given,
                ticket,
                priority,
                waited,
                retry_after,
            }) = effect
            else {
                panic!("{effect:?} instead of {refusal:?} for {ids:?}");
            };
            let at = ids.iter().position(|id| *id == payload).expect("one that is due");
            ids.swap_remove(at);
            assert_eq!(given, refusal);
            let gone = self.remove(payload);
            assert_eq!((ticket, priority), (gone.ticket, gone.priority));
            assert_eq!(waited, now.since(gone.enqueued));
            self.check_retry_after(retry_after);
            self.left_queue(now, &gone);
            self.n_ended += 1;
        }
    }

    fn check_retry_after(&self, retry_after: Duration) {
        let bounds = &self.setup.config.bounds;
        assert!(retry_after >= bounds.min_retry_after && retry_after <= bounds.max_retry_after);
    }

    pub(super) fn arrive(
        &mut self,
        now: Stamp,
        id: u64,
        ask: &Ask,
        ticket: Ticket,
        said: &mut Said<'_>,
    ) {
        self.begin(now, said);
        let max_bands = self.setup.config.bounds.max_bands;
        if self.bands.len() < max_bands {
            self.add_band(ask.priority, false, now);
        }
        let own = self.bands.iter().find(|band| band.priority <= ask.priority);
        let priority = own.or(self.bands.last()).unwrap().priority;
        for _ in 0..16 {
            let Some((ids, refusal)) = self.displaced(priority, ask) else { break };
            self.expect_one_drop(now, &ids, refusal, said);
        }
        said.skip_gone(now, self);
        if let Some(refusal) = self.refusal(priority, ask.bytes) {
            let effect = said.next(now, self);
            let Some(Effect::Drop {
                ticket: of,
                payload,
                priority: band,
                waited,
                refusal: given,
                retry_after,
            }) = effect
            else {
                panic!("{effect:?} instead of {refusal:?}");
            };
            assert_eq!(
                (of, payload, band, waited, given),
                (ticket, id, priority, Duration::ZERO, refusal)
            );
            self.check_retry_after(retry_after);
            self.n_ended += 1;
            return self.dispatch_all(now, said);
        }
        let ttl = [self.setup.config.ttl, ask.ttl].into_iter().flatten().min();
        let Ask { cost, bytes, .. } = *ask;
        let place = self.setup.orders.of(priority).place(now, ttl, ask, id);
        let flow = ask.flow.as_str().to_owned();
        let n_before = self.waiting_in(priority).count();
        let begins = !self.waiting_in(priority).any(|other| other.flow == flow);
        let band = self.band(priority);
        band.flows.insert(flow.clone());
        if begins {
            band.policy.begins(&flow);
        }
        if n_before == 0 {
            band.unserved_since = now;
        }
        self.requests.push(Request {
            id,
            ticket,
            at: At::Queue,
            priority,
            flow,
            bytes,
            enqueued: now,
            ttl,
            place,
            cost,
            dispatched: Stamp::ORIGIN,
            is_evictable: false,
        });
        self.dispatch_all(now, said);
    }

    /// Who has to go so that the request may come, and what is said to them.
    fn displaced(&self, priority: i32, ask: &Ask) -> Option<(Vec<u64>, Refusal)> {
        let limit = self.limit(priority, ask.bytes).filter(|_| !self.is_stopped)?;
        let (config, template) = (&self.setup.config, self.template(priority));
        if ask.bytes > template.max_bytes || config.max_bytes.is_some_and(|max| ask.bytes > max) {
            return None;
        }
        let weight = |flow: &str| template.fairness.weight(&FlowId::from(flow));
        let length = |priority: i32, flow: &str, more: usize| {
            let n = self.waiting_in(priority).filter(|request| request.flow == flow).count() + more;
            (n as f64 * 1_000.0 / weight(flow)) as u64
        };
        // Of flows with as many, any.
        let last_of_longest = |priority: i32, least: u64| {
            let flows: BTreeSet<&String> =
                self.waiting_in(priority).map(|request| &request.flow).collect();
            let most = flows.iter().map(|flow| length(priority, flow, 0)).max()?;
            let longest = flows.iter().filter(|flow| length(priority, flow, 0) == most);
            let last = |flow: &&&String| {
                let own = self.waiting_in(priority).filter(|request| request.flow == ***flow);
                own.max_by_key(|request| request.place).map(|request| request.id)
            };
            (most > least)
                .then(|| longest.clone().filter_map(|flow| last(&flow)).collect::<Vec<_>>())
        };
        let shed = self
            .bands
            .iter()
            .rev()
            .map(|band| band.priority)
            .find(|&other| other < priority.min(0) && self.waiting_in(other).next().is_some());
        let shed = shed.filter(|_| matches!(limit, Limit::GlobalBytes | Limit::GlobalRequests));
        let own = template.fairness.drops_from_longest();
        let ids = shed.and_then(|shed| last_of_longest(shed, 0)).or_else(|| {
            let least = length(priority, ask.flow.as_str(), 1);
            own.then(|| last_of_longest(priority, least)).flatten()
        })?;
        let refusal = if self.signal.has_endpoints {
            Refusal::EvictedCapacity(limit)
        } else {
            Refusal::EvictedNoEndpoints
        };
        Some((ids, refusal))
    }

    fn refusal(&self, priority: i32, bytes: u64) -> Option<Refusal> {
        if self.is_stopped {
            return Some(Refusal::RejectedOther);
        }
        let limit = self.limit(priority, bytes)?;
        Some(if self.signal.has_endpoints {
            Refusal::RejectedCapacity(limit)
        } else {
            Refusal::RejectedNoEndpoints(limit)
        })
    }

    /// The first limit that a request of so many bytes would exceed.
    fn limit(&self, priority: i32, bytes: u64) -> Option<Limit> {
        let config = &self.setup.config;
        let all: u64 = self.waiting().map(|request| request.bytes).sum();
        let own: u64 = self.waiting_in(priority).map(|request| request.bytes).sum();
        let template = self.template(priority);
        let limits = [
            (config.max_bytes.is_some_and(|max| all + bytes > max), Limit::GlobalBytes),
            (
                config.max_requests.is_some_and(|max| self.waiting().count() as u64 + 1 > max),
                Limit::GlobalRequests,
            ),
            (own + bytes > template.max_bytes, Limit::BandBytes),
            (
                self.waiting_in(priority).count() as u64 + 1 > template.max_requests,
                Limit::BandRequests,
            ),
        ];
        limits.into_iter().find(|(is_over, _)| *is_over).map(|(_, limit)| limit)
    }

    pub(super) fn cancel(&mut self, now: Stamp, id: u64, did: bool, said: &mut Said<'_>) {
        self.begin(now, said);
        let waits = self.waiting().any(|request| request.id == id);
        assert_eq!(did, waits);
        let gone = if waits { vec![id] } else { Vec::new() };
        self.expect_drops(now, gone, Refusal::EvictedContextCancelled, said);
        self.dispatch_all(now, said);
    }

    pub(super) fn signal(&mut self, now: Stamp, signal: PoolSignal, said: &mut Said<'_>) {
        self.begin(now, said);
        if signal.has_endpoints != self.signal.has_endpoints {
            self.flipped = now;
        }
        let as_of = signal.as_of.min(now).max(self.signal.as_of);
        self.signal = PoolSignal { as_of, ..signal };
        self.moves.retain(|(at, _, _, _)| *at > as_of);
        self.dispatch_all(now, said);
    }

    pub(super) fn placed(&mut self, now: Stamp, id: u64) {
        let Some(request) = self.requests.iter_mut().find(|request| request.id == id) else {
            return;
        };
        if request.at != At::Unplaced {
            return;
        }
        request.at = At::Prefill;
        request.is_evictable = request.priority < 0;
        let cost = request.cost;
        self.came(now, &cost, true, 1);
        self.came(now, &cost, false, 1);
    }

    fn came(&mut self, now: Stamp, cost: &Cost, is_prefill: bool, sign: i64) {
        let (requests, tokens) = size(cost, is_prefill);
        self.moves.push((now, is_prefill, sign * requests, sign * tokens));
    }

    pub(super) fn prefilled(&mut self, now: Stamp, id: u64, said: &mut Said<'_>) {
        let Some(request) = self.requests.iter_mut().find(|request| request.id == id) else {
            return;
        };
        if request.at != At::Prefill {
            return;
        }
        request.at = At::Decode;
        let cost = request.cost;
        self.begin(now, said);
        self.came(now, &cost, true, -1);
        self.dispatch_all(now, said);
    }

    pub(super) fn finished(
        &mut self,
        now: Stamp,
        id: u64,
        used: Option<Usage>,
        did: bool,
        said: &mut Said<'_>,
    ) {
        let runs = self.requests.iter().any(|request| request.id == id && request.at != At::Queue);
        assert_eq!(did, runs);
        if !runs {
            return;
        }
        self.begin(now, said);
        let gone = self.remove(id);
        if gone.at == At::Prefill {
            self.came(now, &gone.cost, true, -1);
        }
        if gone.at != At::Unplaced {
            self.came(now, &gone.cost, false, -1);
        }
        if let Some(at) = self.outstanding.iter().position(|(victim, _)| *victim == id) {
            self.outstanding.remove(at);
            let grace = self.setup.config.eviction.as_ref().unwrap().grace;
            self.cools_until = now + grace;
        }
        self.band(gone.priority).policy.settled(now, &gone.flow, &gone.cost, used);
        said.skip_gone(now, self);
        self.dispatch_all(now, said);
    }

    pub(super) fn wake(&mut self, now: Stamp, said: &mut Said<'_>) {
        self.begin(now, said);
        if let Some(eviction) = self.setup.config.eviction.clone() {
            let n_before = self.outstanding.len();
            self.outstanding.retain(|(_, issued)| *issued + eviction.confirm_within > now);
            if self.outstanding.len() < n_before {
                self.cools_until = now + eviction.grace;
            }
        }
        said.skip_gone(now, self);
        let idle = self.setup.config.bounds.band_idle;
        self.bands.retain(|band| {
            band.is_wanted || !band.flows.is_empty() || band.empty_since + idle > now
        });
        self.dispatch_all(now, said);
    }

    pub(super) fn provision(&mut self, now: Stamp, priorities: &[i32], said: &mut Said<'_>) {
        self.begin(now, said);
        for &priority in priorities {
            if self.bands.len() < self.setup.config.bounds.max_bands {
                self.add_band(priority, true, now);
            }
        }
        let configured: Vec<i32> = self.setup.config.bands.iter().map(|b| b.priority).collect();
        for band in &mut self.bands {
            let is_wanted = band.priority == 0
                || configured.contains(&band.priority)
                || priorities.contains(&band.priority);
            if band.is_wanted && !is_wanted {
                band.empty_since = band.empty_since.max(now);
            }
            band.is_wanted = is_wanted;
        }
        self.dispatch_all(now, said);
    }

    pub(super) fn shut_down(&mut self, now: Stamp, said: &mut Said<'_>) {
        self.begin(now, said);
        self.is_stopped = true;
        let ids = self.waiting().map(|request| request.id).collect();
        self.expect_drops(now, ids, Refusal::EvictedOther, said);
    }

    /// Looking asks every band whose turn it is.
    pub(super) fn looked_at(&mut self, now: Stamp) {
        for at in 0..self.bands.len() {
            self.choices(now, at);
        }
    }

    // === Who goes ===

    fn dispatch_all(&mut self, now: Stamp, said: &mut Said<'_>) {
        loop {
            match self.choose(now) {
                Choice::Nobody => return,
                Choice::Blocked { priority, saturation, ceiling } => {
                    return self.expect_evictions(now, priority, saturation, ceiling, said);
                }
                Choice::Band { at, earns, spends } => {
                    self.expect_dispatch(now, at, earns, spends, said);
                }
            }
        }
    }

    /// Whether somebody would go now, and nothing happens but that time has passed.
    pub(super) fn would_dispatch(&mut self, now: Stamp) -> bool {
        matches!(self.choose(now), Choice::Band { .. })
    }

    fn choose(&mut self, now: Stamp) -> Choice {
        if !self.signal.has_endpoints || self.waiting().next().is_none() {
            return Choice::Nobody;
        }
        let saturation = self.saturation();
        self.ask_limits(now, saturation);
        let waits = |model: &Self, at: usize| {
            model.bands.get(at).is_some_and(|band| model.waiting_in(band.priority).next().is_some())
        };
        let waiting: Vec<usize> = (0..self.bands.len()).filter(|&at| waits(self, at)).collect();
        let first = waiting[0];
        let (priority, ceiling) = (self.bands[first].priority, self.ceilings[first]);
        let trickle = self.setup.config.trickle;
        if saturation < ceiling {
            let Some(trickle) = trickle else {
                return Choice::Band { at: first, earns: false, spends: false };
            };
            let below = waiting.iter().skip(1).copied();
            let Some(next) = below.min_by_key(|&at| self.bands[at].served_turn) else {
                self.earned = 0;
                return Choice::Band { at: first, earns: false, spends: false };
            };
            // The tie of several that could be next does not matter here: the real one tells which it was.
            let choices = self.choices(now, next);
            let prices = choices.iter().map(|flow| price(&self.first_of(next, flow).cost));
            let prices: Vec<u64> = prices.collect();
            let covers = |price: &u64| trickle.share_ppm > 0 && self.earned >= price * 1_000_000;
            if prices.iter().all(covers) {
                return Choice::Band { at: next, earns: false, spends: true };
            }
            assert!(!prices.iter().any(covers) || prices.len() > 1);
            if prices.iter().any(covers) {
                return Choice::Band { at: OPEN, earns: true, spends: true };
            }
            return Choice::Band { at: first, earns: true, spends: false };
        }
        if let Some(trickle) = trickle.filter(|_| saturation < self.ceilings[0]) {
            let longest = waiting.iter().copied().min_by_key(|&at| self.bands[at].unserved_since);
            if let Some(at) =
                longest.filter(|&at| self.bands[at].unserved_since + trickle.every <= now)
            {
                return Choice::Band { at, earns: false, spends: false };
            }
        }
        Choice::Blocked { priority, saturation, ceiling }
    }

    fn ask_limits(&mut self, now: Stamp, saturation: f64) {
        let priorities: Vec<i32> = self.bands.iter().map(|band| band.priority).collect();
        self.ceilings.resize(priorities.len(), 1.0);
        for (at, ceiling) in self.ceilings.iter_mut().enumerate() {
            let (limits, slowed) = (self.setup.limits, self.slowed);
            *ceiling = limits.ceiling(now, slowed, saturation, &priorities, at);
        }
        for at in 1..self.ceilings.len() {
            self.ceilings[at] = self.ceilings[at].min(self.ceilings[at - 1]);
        }
    }

    fn firsts(&self, priority: i32) -> Vec<FirstOf> {
        let mut firsts: Vec<FirstOf> = Vec::new();
        let mut waiting: Vec<&Request> = self.waiting_in(priority).collect();
        waiting.sort_by_key(|request| request.place);
        for request in waiting {
            if firsts.iter().any(|first| first.flow == request.flow) {
                continue;
            }
            let Request { place, enqueued, cost, .. } = *request;
            firsts.push(FirstOf { flow: request.flow.clone(), place, enqueued, cost });
        }
        firsts
    }

    fn choices(&mut self, now: Stamp, at: usize) -> Vec<String> {
        let firsts = self.firsts(self.bands[at].priority);
        if firsts.is_empty() { Vec::new() } else { self.bands[at].policy.choices(now, &firsts) }
    }

    fn first_of(&self, at: usize, flow: &str) -> FirstOf {
        let firsts = self.firsts(self.bands[at].priority);
        firsts.into_iter().find(|first| first.flow == flow).unwrap()
    }

    fn expect_dispatch(
        &mut self,
        now: Stamp,
        at: usize,
        earns: bool,
        spends: bool,
        said: &mut Said<'_>,
    ) {
        let effect = said.next(now, self);
        let Some(Effect::Dispatch { ticket, payload, priority, waited }) = effect else {
            panic!("{effect:?} instead of a dispatch of band {at} at {}", self.saturation());
        };
        let of = self.bands.iter().position(|band| band.priority == priority).unwrap();
        assert!(at == OPEN || of == at, "{priority} out of turn");
        let saturation = self.saturation();
        let is_first = self.waiting().all(|request| request.priority <= priority);
        let (earns, spends) = if at == OPEN { (is_first, !is_first) } else { (earns, spends) };
        let choices = self.choices(now, of);
        let request = self.requests.iter().find(|request| request.id == payload).unwrap().clone();
        let (flow, fairness) = (&request.flow, &self.setup.fairness);
        assert!(choices.contains(flow), "{flow} instead of {choices:?} by {fairness:?}");
        assert_eq!(self.first_of(of, &request.flow).place, request.place);
        assert_eq!((ticket, waited), (request.ticket, now.since(request.enqueued)));
        if earns && let Some(trickle) = self.setup.config.trickle {
            self.earned += price(&request.cost) * u64::from(trickle.share_ppm);
        } else if spends {
            self.earned -= price(&request.cost) * 1_000_000;
        }
        let known = self.requests.iter_mut().find(|request| request.id == payload).unwrap();
        (known.at, known.dispatched) = (At::Unplaced, now);
        self.turn += 1;
        let turn = self.turn;
        let anyone_waits = self.waiting_in(priority).next().is_some();
        let band = self.band(priority);
        (band.served_turn, band.unserved_since) = (turn, now);
        band.policy.dispatched(&request.flow, &request.cost, anyone_waits);
        if self.setup.limits.slows(saturation, self.bands.len(), of) {
            self.slowed = Some(now);
        }
        self.n_ended += 1;
    }

    fn expect_evictions(
        &mut self,
        now: Stamp,
        priority: i32,
        saturation: f64,
        ceiling: f64,
        said: &mut Said<'_>,
    ) {
        let Some(eviction) = self.setup.config.eviction.clone() else { return };
        if !self.outstanding.is_empty() || now < self.cools_until || ceiling <= 0.0 {
            return;
        }
        let n_running = self.requests.iter().filter(|request| request.at != At::Queue).count();
        let credit = saturation / n_running.max(1) as f64;
        let n_needed = ((saturation - ceiling) / credit).ceil().max(1.0) as usize;
        let mut victims: Vec<&mut Request> = self
            .requests
            .iter_mut()
            .filter(|request| request.is_evictable && request.priority < priority)
            .collect();
        victims.sort_by_key(|request| {
            eviction_order(request.priority, request.dispatched, request.id)
        });
        let mut expected = Vec::new();
        for victim in victims.into_iter().take(n_needed.min(eviction.max_at_once)) {
            victim.is_evictable = false;
            expected.push((victim.ticket, victim.id));
        }
        for (ticket, id) in expected {
            self.outstanding.push((id, now));
            let effect = said.next(now, self);
            assert_eq!(effect, Some(Effect::Evict { ticket, payload: id, demand: priority }));
        }
    }

    // === Bookkeeping ===

    fn remove(&mut self, id: u64) -> Request {
        let at = self.requests.iter().position(|request| request.id == id);
        self.requests.remove(at.expect("a request that is known"))
    }

    fn left_queue(&mut self, _: Stamp, gone: &Request) {
        if self.waiting_in(gone.priority).next().is_none() {
            self.band(gone.priority).policy.nobody_waits();
        }
    }

    fn is_idle(&self, priority: i32, flow: &str) -> bool {
        !self.requests.iter().any(|request| request.priority == priority && request.flow == flow)
    }

    /// The real one has forgotten a flow.
    fn flow_gone(&mut self, now: Stamp, priority: i32, flow: &str) {
        assert!(self.is_idle(priority, flow), "{flow} is not idle");
        let fairness = self.setup.fairness.clone();
        let band = self.band(priority);
        assert!(band.flows.remove(flow), "{flow} was not known");
        band.policy.forget(flow);
        if band.flows.is_empty() {
            band.empty_since = now;
            band.policy = Policy::new(fairness);
        }
    }

    /// What has to be true at any time.
    pub(super) fn check(&self, n_waiting: u64, bytes: u64, n_in_flight: u64, saturation: f64) {
        assert_eq!(n_waiting, self.waiting().count() as u64);
        assert_eq!(bytes, self.waiting().map(|request| request.bytes).sum::<u64>());
        assert_eq!(n_in_flight + n_waiting, self.requests.len() as u64);
        assert!((saturation - self.saturation()).abs() < 1e-6, "{saturation}");
        let idle = |band: &Band| {
            band.flows.iter().filter(|flow| self.is_idle(band.priority, flow)).count()
        };
        let n_idle: usize = self.bands.iter().map(idle).sum();
        assert!(n_idle <= self.setup.config.bounds.max_idle_flows, "{n_idle} idle flows");
    }

    /// When nobody has asked for anything for long.
    pub(super) fn check_forgotten(&self) {
        assert!(self.requests.is_empty() && self.bands.iter().all(|band| band.flows.is_empty()));
        assert!(self.bands.iter().all(|band| band.is_wanted));
    }
}

/// Either the first band or the one that earned a turn, by which of several flows the latter would serve.
const OPEN: usize = usize::MAX;

#[derive(Debug)]
enum Choice {
    Nobody,
    Blocked { priority: i32, saturation: f64, ceiling: f64 },
    Band { at: usize, earns: bool, spends: bool },
}

/// What the real one said about one event.
pub(super) struct Said<'a> {
    effects: std::slice::Iter<'a, Effect<u64>>,
}

impl<'a> Said<'a> {
    pub(super) fn new(effects: &'a [Effect<u64>]) -> Self {
        Self { effects: effects.iter() }
    }

    /// The next that is not about a forgotten flow; those may come at any place.
    fn next(&mut self, now: Stamp, model: &mut Model) -> Option<Effect<u64>> {
        self.skip_gone(now, model);
        self.effects.next().cloned()
    }

    /// Whom the next effect is about.
    fn peek(&self) -> Option<u64> {
        match self.effects.as_slice().first()? {
            Effect::Drop { payload, .. } => Some(*payload),
            _ => None,
        }
    }

    pub(super) fn skip_gone(&mut self, now: Stamp, model: &mut Model) {
        while let Some(Effect::FlowGone { priority, flow }) = self.effects.as_slice().first() {
            model.flow_gone(now, *priority, flow.as_str());
            self.effects.next();
        }
    }

    /// Nothing was said that the model would not have said.
    pub(super) fn end(mut self, now: Stamp, model: &mut Model) {
        let rest = self.next(now, model);
        assert!(rest.is_none(), "{rest:?} too much, at saturation {}", model.saturation());
    }
}

fn size(cost: &Cost, is_prefill: bool) -> (i64, i64) {
    let tokens = if is_prefill { cost.uncached } else { cost.cached + cost.uncached + cost.output };
    (1, i64::from(tokens))
}

fn price(cost: &Cost) -> u64 {
    u64::from(cost.uncached + cost.output).max(1)
}
