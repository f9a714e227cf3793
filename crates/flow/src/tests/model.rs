//! Flow control as one would write it without care for cost: one list of requests, looked through from the
//! beginning for every question. It checks what the real one says, effect by effect.

mod limits;
mod rooms;
mod said;
mod turns;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use router_core::{EndpointIndex, Stamp};

pub(super) use self::said::Said;
use self::{
    rooms::{Move, Subset},
    turns::Told,
};
use super::{
    model_limit::{Limits, Order, Place, eviction_order},
    model_policy::{FirstOf, Kind, Policy},
};
use crate::{
    Ask, BandTemplate, Config, Cost, Effect, Eviction, FlowControl, FlowId, Limit, PoolSignal,
    Refusal, SubsetId, SubsetSignal, Ticket, Usage,
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
    subset: Option<SubsetId>,
    placed_at: Option<EndpointIndex>,
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
    /// What the policy was told of the flows that wait.
    told: BTreeMap<String, Told>,
    /// Subsets (`None` is the pool) that had no room when the policy was asked last.
    held: Vec<Option<SubsetId>>,
}

pub(super) struct Model {
    setup: Setup,
    pub(super) requests: Vec<Request>,
    bands: Vec<Band>,
    signal: PoolSignal,
    flipped: Stamp,
    /// What came and went, unless the signal has it in it.
    moves: Vec<Move>,
    /// Those in use.
    subsets: Vec<Subset>,
    /// When a request of a band was let go last that is slowed down.
    slowed: Option<Stamp>,
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
            subsets: Vec::new(),
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
            told: BTreeMap::new(),
            held: Vec::new(),
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
            self.tell(gone.priority);
            self.leave_subsets();
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
        let subset = self.enter_subset(ask.subset.as_ref());
        let n_before = self.waiting_in(priority).count();
        let band = self.band(priority);
        band.flows.insert(flow.clone());
        if n_before == 0 {
            band.unserved_since = now;
        }
        self.requests.push(Request {
            id,
            ticket,
            at: At::Queue,
            priority,
            flow,
            subset,
            placed_at: None,
            bytes,
            enqueued: now,
            ttl,
            place,
            cost,
            dispatched: Stamp::ORIGIN,
            is_evictable: false,
        });
        self.tell(priority);
        self.drop_stranded(now, said);
        self.dispatch_all(now, said);
    }

    fn drop_stranded(&mut self, now: Stamp, said: &mut Said<'_>) {
        self.expect_drops(now, self.stranded(), Refusal::EvictedNoEndpoints, said);
    }

    /// Who has to go so that the request may come, and what is said to them.
    pub(super) fn cancel(&mut self, now: Stamp, id: u64, did: bool, said: &mut Said<'_>) {
        self.begin(now, said);
        let waits = self.waiting().any(|request| request.id == id);
        assert_eq!(did, waits);
        let gone = if waits { vec![id] } else { Vec::new() };
        self.expect_drops(now, gone, Refusal::EvictedContextCancelled, said);
        self.dispatch_all(now, said);
    }

    pub(super) fn signals(
        &mut self,
        now: Stamp,
        signal: PoolSignal,
        subsets: &[SubsetSignal],
        said: &mut Said<'_>,
    ) {
        self.begin(now, said);
        self.take_signals(now, signal, subsets);
        self.drop_stranded(now, said);
        self.dispatch_all(now, said);
    }

    pub(super) fn placed(
        &mut self,
        now: Stamp,
        id: u64,
        endpoint: Option<EndpointIndex>,
        said: &mut Said<'_>,
    ) {
        let known = self.requests.iter_mut().find(|request| request.id == id);
        if let Some(request) = known.filter(|request| request.at == At::Unplaced) {
            (request.at, request.placed_at) = (At::Prefill, endpoint);
            request.is_evictable = request.priority < 0;
            let cost = request.cost;
            self.came(now, (&cost, endpoint), true, 1);
            self.came(now, (&cost, endpoint), false, 1);
        }
        if self.waiting().any(|request| request.subset.is_some()) {
            self.begin(now, said);
            self.dispatch_all(now, said);
        }
    }

    pub(super) fn prefilled(&mut self, now: Stamp, id: u64, said: &mut Said<'_>) {
        let Some(request) = self.requests.iter_mut().find(|request| request.id == id) else {
            return;
        };
        if request.at != At::Prefill {
            return;
        }
        request.at = At::Decode;
        let (cost, endpoint) = (request.cost, request.placed_at);
        self.begin(now, said);
        self.came(now, (&cost, endpoint), true, -1);
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
            self.came(now, (&gone.cost, gone.placed_at), true, -1);
        }
        if gone.at != At::Unplaced {
            self.came(now, (&gone.cost, gone.placed_at), false, -1);
        }
        self.leave_subsets();
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

    // === Bookkeeping ===

    fn remove(&mut self, id: u64) -> Request {
        let at = self.requests.iter().position(|request| request.id == id);
        self.requests.remove(at.expect("a request that is known"))
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
    pub(super) fn check(&self, real: &FlowControl<u64>) {
        let (n_waiting, bytes) = (real.n_waiting(), real.waiting_bytes());
        let (n_in_flight, saturation) = (real.in_flight().requests, real.saturation());
        assert_eq!(n_waiting, self.waiting().count() as u64);
        assert_eq!(bytes, self.waiting().map(|request| request.bytes).sum::<u64>());
        assert_eq!(n_in_flight + n_waiting, self.requests.len() as u64);
        assert!((saturation - self.saturation()).abs() < 1e-6, "{saturation}");
        let n_placed = |id: &SubsetId| {
            let own = self.requests.iter().filter(|request| request.subset.as_ref() == Some(id));
            own.filter(|request| matches!(request.at, At::Prefill | At::Decode)).count() as u64
        };
        let mut in_use = real.subsets();
        assert_eq!(in_use.len(), self.subsets.len());
        for id in self.subset_ids() {
            let at = in_use.iter().position(|subset| subset.id == *id).expect("one in use");
            assert_eq!(in_use.swap_remove(at).n_placed, n_placed(id));
            let (said, expected) = (real.saturation_of(id), self.saturation_of(Some(id)));
            let is_same = said.zip(expected).map(|(said, expected)| (said - expected).abs() < 1e-6);
            assert_eq!((is_same.unwrap_or(true), said.is_some()), (true, expected.is_some()));
        }
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
