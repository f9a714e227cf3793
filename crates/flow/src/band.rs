//! Priority bands: the flows of each, and who is first in them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use router_core::Stamp;

use crate::{
    config::{BandTemplate, Config},
    drain::DrainRate,
    guard::{GuardedFairness, PolicyFailure, PolicyKind, guarded},
    outcome::Limit,
    policy::{FairnessPolicy, FlowKey, Head, Rank, global_strict::GlobalStrict},
    request::{Cost, Entry, FlowId, Requests, State},
};

/// A band's dense number while it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BandKey(pub(crate) u32);

/// All requests of one priority.
pub(crate) struct Band {
    pub(crate) priority: i32,
    pub(crate) template: BandTemplate,
    /// Configured, or asked for by an objective: it stays though it has no flows.
    pub(crate) is_wanted: bool,
    pub(crate) n_waiting: u64,
    pub(crate) bytes: u64,
    pub(crate) drain: DrainRate,
    /// When a request of it was let go last, or began to wait after nobody had; while somebody waits.
    pub(crate) unserved_since: Stamp,
    /// Counts what is let go in all bands; the smaller the longer this band was not served.
    pub(crate) served_turn: u64,
    /// Since when it has no flows.
    pub(crate) empty_since: Stamp,
    fairness: GuardedFairness,
    /// What a policy said when it failed, until it is reported.
    pub(crate) failure: Option<PolicyFailure>,
    /// The queues of all flows, one after the other.
    queue: BTreeMap<QueueKey, u32>,
    /// Flows that wait, by how much.
    longest: BTreeSet<(u64, FlowKey)>,
    flows: Vec<Option<Flow>>,
    free: Vec<u32>,
    by_id: HashMap<FlowId, FlowKey>,
}

type QueueKey = (FlowKey, Rank, u64);

/// One fairness id within a band.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) id: FlowId,
    weight: f64,
    pub(crate) n_waiting: u32,
    pub(crate) n_running: u32,
    /// Its first request in the band's queue, so that asking for it is no search.
    first: Option<(Rank, u64, u32)>,
    pub(crate) idle_since: Stamp,
    /// It stands in the line of flows that may be forgotten.
    pub(crate) in_idle_line: bool,
    /// Requests that were let go, and the tokens of service that they took.
    pub(crate) n_served: u64,
    pub(crate) service: u64,
}

impl Flow {
    pub(crate) fn is_idle(&self) -> bool {
        self.n_waiting == 0 && self.n_running == 0
    }

    /// How much `n_waiting` requests are for this flow.
    fn length(&self, n_waiting: u32) -> u64 {
        length_of(n_waiting, self.weight)
    }
}

impl Band {
    pub(crate) fn new(priority: i32, template: BandTemplate, is_wanted: bool, now: Stamp) -> Self {
        Self {
            priority,
            is_wanted,
            n_waiting: 0,
            bytes: 0,
            drain: DrainRate::default(),
            unserved_since: now,
            served_turn: 0,
            empty_since: now,
            fairness: GuardedFairness::start(&*template.fairness),
            failure: None,
            template,
            queue: BTreeMap::new(),
            longest: BTreeSet::new(),
            flows: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
        }
    }

    pub(crate) fn n_flows(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn flow(&self, key: FlowKey) -> Option<&Flow> {
        self.flows.get(key.index())?.as_ref()
    }

    pub(crate) fn flow_mut(&mut self, key: FlowKey) -> Option<&mut Flow> {
        self.flows.get_mut(key.index())?.as_mut()
    }

    pub(crate) fn flows(&self) -> impl Iterator<Item = (FlowKey, &Flow)> {
        self.flows
            .iter()
            .enumerate()
            .filter_map(|(at, flow)| Some((FlowKey(at as u32), flow.as_ref()?)))
    }

    pub(crate) fn fairness(&mut self) -> &mut GuardedFairness {
        &mut self.fairness
    }

    /// The band's own limit that a request of so many bytes would exceed.
    pub(crate) fn exceeded(&self, bytes: u64) -> Option<Limit> {
        if self.bytes.saturating_add(bytes) > self.template.max_bytes {
            Some(Limit::BandBytes)
        } else if self.n_waiting >= self.template.max_requests {
            Some(Limit::BandRequests)
        } else {
            None
        }
    }

    /// The flow of this id, which is known from now on.
    pub(crate) fn join(&mut self, id: &FlowId) -> FlowKey {
        if let Some(&key) = self.by_id.get(id) {
            return key;
        }
        let key = FlowKey(self.free.pop().unwrap_or(self.flows.len() as u32));
        let flow = Flow {
            id: id.clone(),
            weight: self.weight(id),
            n_waiting: 0,
            n_running: 0,
            first: None,
            idle_since: Stamp::ORIGIN,
            in_idle_line: false,
            n_served: 0,
            service: 0,
        };
        match self.flows.get_mut(key.index()) {
            Some(place) => *place = Some(flow),
            None => self.flows.push(Some(flow)),
        }
        self.by_id.insert(id.clone(), key);
        self.fairness.join(key, id);
        key
    }

    pub(crate) fn forget(&mut self, now: Stamp, key: FlowKey) -> Option<FlowId> {
        let flow = self.flows.get_mut(key.index())?.take()?;
        self.free.push(key.0);
        self.by_id.remove(&flow.id);
        self.fairness.forget(key);
        if self.by_id.is_empty() {
            self.empty_since = now;
            (self.flows, self.free, self.by_id) = Default::default();
            self.fairness = GuardedFairness::start(&*self.template.fairness);
        }
        Some(flow.id)
    }

    /// Who is first in the flow.
    fn head<T>(&self, key: FlowKey, requests: &Requests<T>) -> Option<Head> {
        self.first_of(key).and_then(|at| head_of(requests.get(at)?))
    }

    /// The request that is first in the flow.
    pub(crate) fn first_of(&self, key: FlowKey) -> Option<u32> {
        let (_, _, at) = self.flow(key)?.first?;
        Some(at)
    }

    /// The first request of the flow is another.
    fn find_first(&mut self, key: FlowKey) {
        let next = self.queue.range((key, Rank::default(), 0)..).next();
        let first = next.filter(|((flow, _, _), _)| *flow == key);
        let first = first.map(|((_, rank, seq), at)| (*rank, *seq, *at));
        if let Some(flow) = self.flow_mut(key) {
            flow.first = first;
        }
    }

    /// Puts the request at `at` into its flow's queue.
    pub(crate) fn enqueue<T>(&mut self, now: Stamp, at: u32, entry: &Entry<T>) {
        let Some(head) = head_of(entry) else { return };
        if self.n_waiting == 0 {
            self.unserved_since = now;
            self.drain.set_busy(now, true);
        }
        self.n_waiting += 1;
        self.bytes += entry.bytes;
        self.count(entry.flow, |n_waiting| n_waiting + 1);
        self.queue.insert((entry.flow, head.rank, head.seq), at);
        let Some(flow) = self.flow_mut(entry.flow) else { return };
        if flow.first.is_none_or(|(rank, seq, _)| (head.rank, head.seq) < (rank, seq)) {
            flow.first = Some((head.rank, head.seq, at));
            self.fairness.offer(entry.flow, &head);
        }
    }

    /// The request that the fairness policy would let go next.
    pub(crate) fn peek(&mut self) -> Option<(FlowKey, u32)> {
        let chosen = self.choose();
        if chosen.is_some() || self.n_waiting == 0 {
            return chosen;
        }
        self.replace_fairness();
        self.choose()
    }

    fn choose(&mut self) -> Option<(FlowKey, u32)> {
        let flow = self.fairness.next()?;
        Some((flow, self.first_of(flow)?))
    }

    /// The policy has failed: the band is one queue for all until nothing is known of its flows any more.
    fn replace_fairness(&mut self) {
        let mut one_queue = GlobalStrict.start();
        for (key, flow) in self.flows() {
            if let Some((rank, seq, _)) = flow.first {
                let (enqueued, cost) = (Stamp::ORIGIN, Cost::default());
                one_queue.offer(key, &Head { rank, seq, enqueued, cost });
            }
        }
        let said = self.fairness.replace(one_queue);
        self.failure = Some(PolicyFailure::new(PolicyKind::Fairness, said));
    }

    fn weight(&self, id: &FlowId) -> f64 {
        let weight = guarded(|| self.template.fairness.weight(id));
        weight.ok().filter(|weight| weight.is_finite() && *weight > 0.0).unwrap_or(1.0)
    }

    /// Whether it makes room for a flow with few requests by refusing one of the flow with the most.
    pub(crate) fn drops_from_longest(&self) -> bool {
        guarded(|| self.template.fairness.drops_from_longest()).unwrap_or(false)
    }

    /// Takes the first request of the flow out to let it go.
    pub(crate) fn dispatch<T>(&mut self, now: Stamp, key: FlowKey, requests: &Requests<T>) {
        let Some(entry) = self.first_of(key).and_then(|at| requests.get(at)) else { return };
        let Some(sent) = head_of(entry) else { return };
        self.take_out(now, entry, &sent);
        let next = self.head(key, requests);
        self.fairness.dispatched(key, &sent, next.as_ref());
        self.unserved_since = now;
        self.drain.departed(now);
        if let Some(flow) = self.flow_mut(key) {
            flow.n_running += 1;
            flow.n_served += 1;
        }
    }

    /// Takes a request out that will not be served.
    pub(crate) fn drop_out<T>(
        &mut self,
        now: Stamp,
        at: u32,
        entry: &Entry<T>,
        requests: &Requests<T>,
    ) {
        let Some(gone) = head_of(entry) else { return };
        let was_first = self.first_of(entry.flow) == Some(at);
        self.take_out(now, entry, &gone);
        if !was_first {
            return;
        }
        match self.head(entry.flow, requests) {
            Some(head) => self.fairness.offer(entry.flow, &head),
            None => self.fairness.withdraw(entry.flow),
        }
    }

    /// Changes how many requests of the flow wait.
    fn count(&mut self, key: FlowKey, change: impl FnOnce(u32) -> u32) {
        let Some(flow) = self.flows.get_mut(key.index()).and_then(Option::as_mut) else { return };
        if flow.n_waiting > 0 {
            self.longest.remove(&(flow.length(flow.n_waiting), key));
        }
        flow.n_waiting = change(flow.n_waiting);
        if flow.n_waiting > 0 {
            self.longest.insert((flow.length(flow.n_waiting), key));
        }
    }

    /// The last request of the flow that has the most waiting.
    pub(crate) fn last_of_longest(&self) -> Option<u32> {
        let (_, key) = self.longest.last()?;
        let ((flow, _, _), at) =
            self.queue.range(..(FlowKey(key.0 + 1), Rank::default(), 0)).next_back()?;
        (flow == key).then_some(*at)
    }

    /// The same, if that flow has more waiting than this one would have with another request.
    pub(crate) fn last_of_longer(&self, id: &FlowId) -> Option<u32> {
        let (length, _) = *self.longest.last()?;
        let own = match self.by_id.get(id).and_then(|key| self.flow(*key)) {
            Some(flow) => flow.length(flow.n_waiting + 1),
            None => length_of(1, self.weight(id)),
        };
        if length > own { self.last_of_longest() } else { None }
    }

    fn take_out<T>(&mut self, now: Stamp, entry: &Entry<T>, gone: &Head) {
        self.queue.remove(&(entry.flow, gone.rank, gone.seq));
        let first = self.flow(entry.flow).and_then(|flow| flow.first);
        if first.is_some_and(|(rank, seq, _)| (rank, seq) == (gone.rank, gone.seq)) {
            self.find_first(entry.flow);
        }
        self.n_waiting -= 1;
        self.bytes -= entry.bytes;
        self.count(entry.flow, |n_waiting| n_waiting - 1);
        if self.n_waiting == 0 {
            self.drain.set_busy(now, false);
        }
    }

    /// What the request that the fairness policy would let go next is expected to need.
    pub(crate) fn next_cost<T>(&mut self, requests: &Requests<T>) -> Option<Cost> {
        self.peek().and_then(|(_, at)| Some(requests.get(at)?.cost))
    }
}

/// Waiting requests over weight, to the thousandth.
fn length_of(n_waiting: u32, weight: f64) -> u64 {
    (f64::from(n_waiting) * 1_000.0 / weight) as u64
}

fn head_of<T>(entry: &Entry<T>) -> Option<Head> {
    let State::Waiting(waiting) = &entry.state else { return None };
    let Entry { seq, enqueued, cost, .. } = *entry;
    Some(Head { rank: waiting.rank, seq, enqueued, cost })
}

/// All bands, and their order.
pub(crate) struct Bands {
    known: Vec<Option<Band>>,
    /// Keys of the bands, the most important first.
    order: Vec<BandKey>,
    /// Priorities in the same order.
    priorities: Vec<i32>,
}

impl Bands {
    pub(crate) fn new(config: &Config, now: Stamp) -> Self {
        let mut bands = Self { known: Vec::new(), order: Vec::new(), priorities: Vec::new() };
        for band in &config.bands {
            bands.add(band.priority, band.template.clone(), true, now);
        }
        if bands.find(0).is_none() {
            bands.add(0, config.template.clone(), true, now);
        }
        bands
    }

    pub(crate) fn get(&self, key: BandKey) -> Option<&Band> {
        self.known.get(key.0 as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: BandKey) -> Option<&mut Band> {
        self.known.get_mut(key.0 as usize)?.as_mut()
    }

    pub(crate) fn priorities(&self) -> &[i32] {
        &self.priorities
    }

    /// The bands, the most important first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, BandKey, &Band)> {
        let in_order = self.order.iter().enumerate();
        in_order.filter_map(|(at, &key)| Some((at, key, self.get(key)?)))
    }

    pub(crate) fn find(&self, priority: i32) -> Option<BandKey> {
        let at = self.position(priority).ok()?;
        self.order.get(at).copied()
    }

    fn position(&self, priority: i32) -> Result<usize, usize> {
        self.priorities.binary_search_by(|known| priority.cmp(known))
    }

    pub(crate) fn add(
        &mut self,
        priority: i32,
        template: BandTemplate,
        is_wanted: bool,
        now: Stamp,
    ) -> Option<BandKey> {
        let at = self.position(priority).err()?;
        let band = Band::new(priority, template, is_wanted, now);
        let free = self.known.iter().position(Option::is_none).unwrap_or(self.known.len());
        match self.known.get_mut(free) {
            Some(place) => *place = Some(band),
            None => self.known.push(Some(band)),
        }
        let key = BandKey(free as u32);
        self.order.insert(at, key);
        self.priorities.insert(at, priority);
        Some(key)
    }

    pub(crate) fn remove(&mut self, key: BandKey) {
        if let Some(at) = self.order.iter().position(|&known| known == key) {
            self.order.remove(at);
            self.priorities.remove(at);
        }
        if let Some(place) = self.known.get_mut(key.0 as usize) {
            *place = None;
        }
    }

    /// The band for a request of this priority: its own, which is made where that is possible; else the next
    /// less important one, so that nobody is served before their turn; else the least important of all.
    pub(crate) fn for_priority(&mut self, config: &Config, priority: i32, now: Stamp) -> BandKey {
        let at = self.position(priority);
        let found = match at {
            Err(_) if self.order.len() < config.bounds.max_bands => {
                self.add(priority, template(config, priority), false, now)
            }
            Ok(at) | Err(at) => self.order.get(at).or_else(|| self.order.last()).copied(),
        };
        // The band that was made first is never removed.
        found.unwrap_or(BandKey(0))
    }
}

/// What a band is like that is not configured.
pub(crate) fn template(config: &Config, priority: i32) -> BandTemplate {
    let negative = config.negative_template.as_ref().filter(|_| priority < 0);
    negative.unwrap_or(&config.template).clone()
}
