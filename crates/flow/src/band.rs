//! Priority bands: the flows of each, and who is first in them.

mod bands;
mod restricted;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use router_core::Stamp;

use crate::{
    config::BandTemplate,
    drain::DrainRate,
    guard::{GuardedFairness, PolicyFailure, PolicyKind, guarded},
    outcome::Limit,
    policy::{FairnessPolicy, FlowKey, Head, Rank, global_strict::GlobalStrict},
    request::{Cost, Entry, FlowId, Requests, State},
    subset::{SubsetKey, WHOLE},
};

pub(crate) use self::bands::{Bands, template};
use self::restricted::{Restricted, first_in};

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
    /// The queues of all flows, one after the other: of each flow those of its requests that may go anywhere,
    /// then those of each subset.
    queue: BTreeMap<QueueKey, u32>,
    /// Requests that are restricted to a subset.
    restricted: Restricted,
    /// Flows of which the fairness policy knows a request that may go.
    n_offered: usize,
    /// Flows that wait, by how much.
    longest: BTreeSet<(u64, FlowKey)>,
    flows: Vec<Option<Flow>>,
    free: Vec<u32>,
    by_id: HashMap<FlowId, FlowKey>,
}

type QueueKey = (FlowKey, SubsetKey, Rank, u64);

/// A request in the order of its flow: its place, and where it is found.
type InLine = (Rank, u64, u32);

/// One fairness id within a band.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) id: FlowId,
    weight: f64,
    pub(crate) n_waiting: u32,
    pub(crate) n_running: u32,
    /// Of these, the ones that are restricted to a subset.
    n_restricted: u32,
    /// The first of the others, so that asking for it is no search.
    first_free: Option<InLine>,
    /// What the fairness policy was offered.
    first: Option<InLine>,
    /// The fairness policy was told to pass it over.
    is_held: bool,
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
            restricted: Restricted::default(),
            n_offered: 0,
            longest: BTreeSet::new(),
            flows: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
        }
    }

    pub(crate) fn n_flows(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn knows(&self, id: &FlowId) -> bool {
        self.by_id.contains_key(id)
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
            n_restricted: 0,
            first_free: None,
            first: None,
            is_held: false,
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

    /// The request of the flow that the fairness policy knows of.
    pub(crate) fn first_of(&self, key: FlowKey) -> Option<u32> {
        let (_, _, at) = self.flow(key)?.first?;
        Some(at)
    }

    /// The first request of the flow, whether it may go or not.
    pub(crate) fn first_in_line(&self, key: FlowKey) -> Option<u32> {
        let flow = self.flow(key)?;
        let restricted = first_in(&self.restricted.in_line, key);
        let (_, _, at) = flow.first_free.into_iter().chain(restricted).min()?;
        Some(at)
    }

    /// The first request of the flow that may go, by what the fairness policy was told of the subsets.
    fn best_of(&self, key: FlowKey) -> Option<InLine> {
        let flow = self.flow(key)?;
        let free = flow.first_free.filter(|_| !self.restricted.held.contains(&WHOLE));
        if flow.n_restricted == 0 {
            return free;
        }
        free.into_iter().chain(first_in(&self.restricted.ready, key)).min()
    }

    /// The first of the flow's requests for the subset.
    fn first_for(&self, key: FlowKey, subset: SubsetKey) -> Option<InLine> {
        let next = self.queue.range((key, subset, Rank::default(), 0)..).next();
        let next = next.filter(|((flow, of, _, _), _)| (*flow, *of) == (key, subset));
        next.map(|((_, _, rank, seq), at)| (*rank, *seq, *at))
    }

    /// Puts the request at `at` into its queue.
    pub(crate) fn enqueue<T>(&mut self, now: Stamp, at: u32, requests: &Requests<T>) {
        let Some(entry) = requests.get(at) else { return };
        let Some(head) = head_of(entry) else { return };
        if self.n_waiting == 0 {
            self.unserved_since = now;
            self.drain.set_busy(now, true);
        }
        self.n_waiting += 1;
        self.bytes += entry.bytes;
        self.count(entry.flow, |n_waiting| n_waiting + 1);
        let place = (head.rank, head.seq, at);
        self.queue.insert((entry.flow, entry.subset, head.rank, head.seq), at);
        if entry.subset == WHOLE {
            let Some(flow) = self.flow_mut(entry.flow) else { return };
            flow.first_free = flow.first_free.into_iter().chain([place]).min();
        } else {
            self.enqueue_restricted(entry.flow, entry.subset, place);
        }
        self.tell(entry.flow, requests);
    }

    /// Tells the fairness policy of the flow's first request that may go, if it is another.
    fn tell<T>(&mut self, key: FlowKey, requests: &Requests<T>) {
        let best = self.best_of(key);
        let head = best.and_then(|(_, _, at)| head_of(requests.get(at)?));
        let Some(flow) = self.flows.get_mut(key.index()).and_then(Option::as_mut) else { return };
        let (known, was_held) = (flow.first, flow.is_held);
        flow.first = best;
        flow.is_held = best.is_none() && flow.n_waiting > 0;
        let is_held = flow.is_held;
        self.n_offered =
            self.n_offered + usize::from(best.is_some()) - usize::from(known.is_some());
        match head {
            Some(head) if best != known => self.fairness.offer(key, &head),
            Some(_) => {}
            None if is_held && !was_held => self.fairness.hold(key),
            None if !is_held && (was_held || known.is_some()) => self.fairness.withdraw(key),
            None => {}
        }
    }

    /// Whether somebody waits for the subset.
    pub(crate) fn waits_for(&self, subset: SubsetKey) -> bool {
        self.restricted.subsets.contains_key(&subset)
    }

    /// Whether somebody waits who may go anywhere.
    pub(crate) fn waits_freely(&self) -> bool {
        self.n_waiting > self.restricted.n_waiting
    }

    /// Subsets that somebody waits for, the whole pool as the first.
    pub(crate) fn subsets(&self) -> impl Iterator<Item = SubsetKey> {
        let whole = self.waits_freely().then_some(WHOLE);
        whole.into_iter().chain(self.restricted.subsets.keys().copied())
    }

    /// The request that the fairness policy would let go next.
    pub(crate) fn peek(&mut self) -> Option<(FlowKey, u32)> {
        if self.n_offered == 0 {
            return None;
        }
        let chosen = self.choose();
        if chosen.is_some() {
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

    /// Takes the request of the flow that the fairness policy knows of out to let it go.
    pub(crate) fn dispatch<T>(&mut self, now: Stamp, key: FlowKey, requests: &Requests<T>) {
        let Some(at) = self.first_of(key) else { return };
        let Some(entry) = requests.get(at) else { return };
        let Some(sent) = head_of(entry) else { return };
        self.take_out(now, at, entry, &sent);
        let best = self.best_of(key);
        // Where others of the flow wait, but none may go, the policy hears of the first before it passes it over.
        let next = best.map(|(_, _, at)| at).or_else(|| self.first_in_line(key));
        let next = next.and_then(|at| head_of(requests.get(at)?));
        self.fairness.dispatched(key, &sent, next.as_ref());
        self.unserved_since = now;
        self.drain.departed(now);
        let Some(flow) = self.flows.get_mut(key.index()).and_then(Option::as_mut) else { return };
        flow.first = best;
        flow.is_held = best.is_none() && next.is_some();
        flow.n_running += 1;
        flow.n_served += 1;
        self.n_offered -= usize::from(best.is_none());
        if flow.is_held {
            self.fairness.hold(key);
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
        self.take_out(now, at, entry, &gone);
        self.tell(entry.flow, requests);
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
        let (_, key) = *self.longest.last()?;
        let free = self.queue.range(..(key, WHOLE.next(), Rank::default(), 0)).next_back();
        let free = free.filter(|((flow, _, _, _), _)| *flow == key);
        let free = free.map(|((_, _, rank, seq), at)| (*rank, *seq, *at));
        let after = (FlowKey(key.0 + 1), InLine::default());
        let restricted = self.restricted.in_line.range(..after).next_back();
        let restricted = restricted.filter(|(flow, _)| *flow == key).map(|(_, place)| *place);
        let (_, _, at) = free.into_iter().chain(restricted).max()?;
        Some(at)
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

    fn take_out<T>(&mut self, now: Stamp, at: u32, entry: &Entry<T>, gone: &Head) {
        let Entry { flow: key, subset, bytes, .. } = *entry;
        let place = (gone.rank, gone.seq, at);
        if subset == WHOLE {
            self.queue.remove(&(key, subset, gone.rank, gone.seq));
            if self.flow(key).is_some_and(|flow| flow.first_free == Some(place)) {
                let first = self.first_for(key, WHOLE);
                if let Some(flow) = self.flow_mut(key) {
                    flow.first_free = first;
                }
            }
        } else {
            self.take_out_restricted(key, subset, place);
        }
        self.n_waiting -= 1;
        self.bytes -= bytes;
        self.count(key, |n_waiting| n_waiting - 1);
        if !self.waits_freely() {
            self.restricted.held.remove(&WHOLE);
        }
        if self.n_waiting == 0 {
            self.drain.set_busy(now, false);
        }
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
