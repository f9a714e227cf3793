//! The flow controller: what happens comes in, what has to be done about it goes out.

mod dispatch;
mod look;
mod upkeep;

use std::time::Duration;

use router_core::{EndpointIndex, Stamp};

use crate::{
    band::{BandKey, Bands},
    config::Config,
    expiry::Expiry,
    guard::{GuardedLimit, PolicyFailure, PolicyKind, guarded},
    idle::IdleFlows,
    outcome::{Effect, Limit, Refusal},
    policy::{Arrival, Rank, Victim},
    pool::{InFlight, InStages, PoolSignal, PoolState},
    reclaim::Reclaim,
    request::{Ask, Cost, Entry, FlowId, Phase, Requests, Running, State, Ticket, Usage, Waiting},
    subset::{SubsetId, SubsetInUse, SubsetKey, SubsetSignal, Subsets},
    trickle::Earned,
};

/// Requests that one arrival may displace: one, unless the limit is in bytes and it is larger than others.
const MAX_DISPLACED: usize = 16;
/// Failures of policies that are kept until the next event reports them.
const MAX_FAILURES: usize = 16;

/// All queues and everything that is decided about them.
///
/// Every event takes the time at which it happens, which should not fall (a time before the last one counts
/// as the last one), and adds to `effects` what the driver has to do, in that order. `T` is what the driver
/// needs to find its request again; it is cloned, so make it a small handle.
///
/// All events take `O(log n)` for one request; one that lets several go or refuses several, as much for
/// each. Where requests that are restricted to subsets wait, events also look at each of these subsets, and
/// when one of them comes to have room or to have none, at each flow that waits for it.
pub struct FlowControl<T> {
    config: Config,
    requests: Requests<T>,
    bands: Bands,
    n_waiting: u64,
    bytes: u64,
    pool: PoolState,
    subsets: Subsets,
    limits: GuardedLimit,
    expiry: Expiry,
    idle: IdleFlows,
    earned: Earned,
    reclaim: Reclaim,
    /// When time alone may let somebody go.
    retry_at: Option<Stamp>,
    /// Somebody waits because their ceiling is reached.
    has_demand: bool,
    now: Stamp,
    /// Requests that arrived.
    seq: u64,
    /// Requests that were let go.
    turn: u64,
    is_stopped: bool,
    /// Of policies, until they are reported.
    failures: Vec<PolicyFailure>,
}

impl<T: Clone> FlowControl<T> {
    /// Nothing goes before the first [`signal`](Self::signal): until then the pool counts as empty.
    pub fn new(config: Config) -> Self {
        Self {
            requests: Requests::new(),
            bands: Bands::new(&config, Stamp::ORIGIN),
            n_waiting: 0,
            bytes: 0,
            pool: PoolState::new(),
            subsets: Subsets::new(config.bounds.max_subsets),
            limits: GuardedLimit::start(&*config.usage_limit),
            expiry: Expiry::default(),
            idle: IdleFlows::default(),
            earned: Earned::default(),
            reclaim: Reclaim::default(),
            retry_at: None,
            has_demand: false,
            now: Stamp::ORIGIN,
            seq: 0,
            turn: 0,
            is_stopped: false,
            failures: Vec::new(),
            config,
        }
    }

    /// A request wants to go. It waits, goes at once or is refused at once; the effects say which.
    pub fn arrive(
        &mut self,
        now: Stamp,
        ask: Ask,
        payload: T,
        effects: &mut Vec<Effect<T>>,
    ) -> Ticket {
        let now = self.begin(now, effects);
        self.seq += 1;
        let band = self.bands.for_priority(&self.config, ask.priority, now);
        let ticket = match self.admit(now, band, &ask, effects) {
            Err(refusal) => {
                let ticket = Ticket { seq: self.seq, at: u32::MAX };
                let drop = self.refuse(now, ticket, payload, band, Duration::ZERO, refusal);
                effects.push(drop);
                ticket
            }
            Ok(waiting) => {
                let ticket = Ticket { seq: self.seq, at: self.requests.next_place() };
                self.enqueue(now, band, &ask, payload, waiting);
                self.drop_if_stranded(now, ticket, effects);
                ticket
            }
        };
        // Also after a refusal: a band that did not exist before changes the ceilings of others.
        self.dispatch_all(now, effects);
        ticket
    }

    /// The client of a request that waits went away. Gives whether it waited; one that runs is
    /// [`finished`](Self::finished).
    pub fn cancel(&mut self, now: Stamp, ticket: Ticket, effects: &mut Vec<Effect<T>>) -> bool {
        let now = self.begin(now, effects);
        let waits = |entry: &Entry<T>| matches!(entry.state, State::Waiting(_));
        let is_waiting = self.requests.find(ticket).is_some_and(waits);
        if is_waiting {
            self.drop_waiting(now, ticket.at, Refusal::EvictedContextCancelled, effects);
        }
        self.dispatch_all(now, effects);
        is_waiting
    }

    /// What is known of the pool has changed.
    pub fn signal(&mut self, now: Stamp, signal: PoolSignal, effects: &mut Vec<Effect<T>>) {
        self.signals(now, now, signal, [], effects);
    }

    /// What is known of the pool has changed, and of subsets that are in use, which were looked at when `taken`
    /// says. Nobody of a subset goes before its first signal. Who waits for a subset that has no endpoints while
    /// the pool has some is refused.
    pub fn signals(
        &mut self,
        now: Stamp,
        taken: Stamp,
        signal: PoolSignal,
        subsets: impl IntoIterator<Item = SubsetSignal>,
        effects: &mut Vec<Effect<T>>,
    ) {
        let now = self.begin(now, effects);
        self.pool.set_signal(now, signal);
        subsets.into_iter().for_each(|signal| self.subsets.set_signal(now, taken, signal));
        self.subsets.settle(self.pool.signal().as_of);
        self.drop_stranded(now, effects);
        self.dispatch_all(now, effects);
    }

    /// The first that is known of these subsets. Where something is known of one already, that is younger.
    pub fn first_signals(
        &mut self,
        now: Stamp,
        taken: Stamp,
        subsets: impl IntoIterator<Item = SubsetSignal>,
        effects: &mut Vec<Effect<T>>,
    ) {
        let now = self.begin(now, effects);
        for signal in subsets {
            if self.subsets.is_unknown(&signal.id) {
                self.subsets.set_signal(now, taken, signal);
            }
        }
        self.drop_stranded(now, effects);
        self.dispatch_all(now, effects);
    }

    /// An endpoint, which may be named, knows of the request now, so that signals taken from here on have it
    /// in them.
    pub fn placed(
        &mut self,
        now: Stamp,
        ticket: Ticket,
        endpoint: Option<EndpointIndex>,
        effects: &mut Vec<Effect<T>>,
    ) {
        self.place(now.max(self.now), ticket, endpoint);
        // It is not on its way to the other endpoints any more.
        if self.subsets.anybody_waits() {
            let now = self.begin(now, effects);
            self.dispatch_all(now, effects);
        }
    }

    fn place(&mut self, now: Stamp, ticket: Ticket, endpoint: Option<EndpointIndex>) {
        let Some(Entry { band, subset, cost, state: State::Running(running), .. }) =
            self.requests.find_mut(ticket)
        else {
            return;
        };
        if running.phase != Phase::Unplaced {
            return;
        }
        (running.phase, running.endpoint) = (Phase::Prefill, endpoint);
        self.pool.placed(now, cost);
        self.subsets.placed(now, *subset, endpoint, cost);
        if let (Some(eviction), Some(band)) = (&self.config.eviction, self.bands.get(*band)) {
            let (priority, dispatched) = (band.priority, running.dispatched);
            let victim = Victim { priority, dispatched, cost: *cost };
            match guarded(|| self.reclaim.rank(eviction, &victim)) {
                Ok(rank) => {
                    running.evictable = rank;
                    self.reclaim.placed(ticket, priority, rank);
                }
                Err(said) => self.note(PolicyFailure::new(PolicyKind::Eviction, said)),
            }
        }
    }

    /// The first token of the request's answer came: its prompt is computed.
    pub fn prefilled(&mut self, now: Stamp, ticket: Ticket, effects: &mut Vec<Effect<T>>) {
        let Some(Entry { cost, state: State::Running(running), .. }) =
            self.requests.find_mut(ticket)
        else {
            return;
        };
        if running.phase != Phase::Prefill {
            return;
        }
        running.phase = Phase::Decode;
        let (cost, endpoint) = (*cost, running.endpoint);
        let now = self.begin(now, effects);
        self.pool.prefilled(now, &cost);
        self.subsets.prefilled(now, endpoint, &cost);
        self.dispatch_all(now, effects);
    }

    /// A request that was let go has ended, whatever ended it. `used` is what it took, where that is known.
    /// Gives whether it ran.
    pub fn finished(
        &mut self,
        now: Stamp,
        ticket: Ticket,
        used: Option<Usage>,
        effects: &mut Vec<Effect<T>>,
    ) -> bool {
        let Some(&Entry {
            band: band_key,
            flow: flow_key,
            subset,
            cost,
            state: State::Running(running),
            ..
        }) = self.requests.find(ticket)
        else {
            return false;
        };
        let now = self.begin(now, effects);
        self.requests.remove(ticket.at);
        self.end(now, subset, &running, &cost);
        if let Some(band) = self.bands.get_mut(band_key) {
            if let Some(eviction) = &self.config.eviction {
                let rank = running.evictable;
                self.reclaim.ended(now, eviction, ticket, band.priority, rank);
            }
            if let Some(flow) = band.flow_mut(flow_key) {
                flow.n_running -= 1;
                let service = used.map_or_else(|| cost.service(), |used| used.service());
                flow.service = flow.service.saturating_add(service);
            }
            band.fairness().settled(now, flow_key, &cost, used.as_ref());
        }
        self.rest_if_idle(now, band_key, flow_key, effects);
        self.dispatch_all(now, effects);
        true
    }

    /// A request that ran takes no room any more.
    fn end(&mut self, now: Stamp, subset: SubsetKey, running: &Running, cost: &Cost) {
        let endpoint = running.endpoint;
        if running.phase == Phase::Prefill {
            self.pool.prefilled(now, cost);
            self.subsets.prefilled(now, endpoint, cost);
        }
        if running.phase == Phase::Unplaced {
            self.pool.unplaced_ended(cost);
            self.subsets.unplaced_ended(subset, cost);
        } else {
            self.pool.ended(now, cost);
            self.subsets.ended(now, subset, endpoint, cost);
        }
        self.subsets.leave(subset);
    }

    /// Time has passed; call this when [`next_deadline`](Self::next_deadline) has come.
    pub fn wake(&mut self, now: Stamp, effects: &mut Vec<Effect<T>>) {
        let now = self.begin(now, effects);
        if let Some(eviction) = &self.config.eviction {
            self.reclaim.time_out(now, eviction);
        }
        self.collect(now, effects);
        self.dispatch_all(now, effects);
    }

    /// Bands of these priorities exist from now on, besides those that are configured; others go when nobody
    /// has used them for a while.
    pub fn provision(&mut self, now: Stamp, priorities: &[i32], effects: &mut Vec<Effect<T>>) {
        let now = self.begin(now, effects);
        self.set_wanted(now, priorities);
        self.dispatch_all(now, effects);
    }

    /// The end: everybody who waits is told to come again elsewhere, and so is everybody who comes later.
    /// What runs goes on.
    pub fn shut_down(&mut self, now: Stamp, effects: &mut Vec<Effect<T>>) {
        let now = self.begin(now, effects);
        self.is_stopped = true;
        while let Some(at) = self.requests.oldest() {
            self.drop_waiting(now, at, Refusal::EvictedOther, effects);
        }
    }

    /// When [`wake`](Self::wake) has to be called, if nothing else happens before; `None` while time alone
    /// changes nothing.
    pub fn next_deadline(&self) -> Option<Stamp> {
        let eviction = self.config.eviction.as_ref();
        [
            self.expires_next(),
            self.retry_at,
            eviction.and_then(|policy| self.reclaim.due(self.now, policy, self.has_demand)),
            self.idle.due(&self.config.bounds),
            self.next_band_collection(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Requests that wait.
    pub fn n_waiting(&self) -> u64 {
        self.n_waiting
    }

    /// Bytes of the bodies of requests that wait.
    #[cfg(test)]
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.bytes
    }

    /// Requests that were let go and have not ended.
    pub fn in_flight(&self) -> InFlight {
        self.pool.in_flight()
    }

    /// The same by stages.
    pub fn in_stages(&self) -> InStages {
        self.pool.in_stages()
    }

    /// Requests of a subset that endpoints know of.
    pub fn n_placed_of(&self, subset: &SubsetId) -> u64 {
        self.subsets.find(subset).map_or(0, |subset| subset.n_placed)
    }

    /// How full the pool is: the last signal, with what came and went since.
    #[cfg(test)]
    pub(crate) fn saturation(&self) -> f64 {
        self.pool.saturation()
    }

    /// The same for a subset; `None` where it is not in use, or no signal of it has come.
    #[cfg(test)]
    pub(crate) fn saturation_of(&self, subset: &SubsetId) -> Option<f64> {
        self.subsets.find(subset)?.saturation(&self.pool)
    }

    /// Subsets of which a request waits or runs, and so a signal is wanted.
    pub fn subsets(&self) -> Vec<SubsetInUse> {
        self.subsets.in_use().collect()
    }

    /// Of these, the ones of which no signal has come yet.
    pub fn unknown_subsets(&self) -> Vec<SubsetInUse> {
        self.subsets.unknown().collect()
    }

    /// What was said of the pool last.
    pub fn pool_signal(&self) -> &PoolSignal {
        self.pool.signal()
    }

    /// Whether a flow of the band for this priority is remembered. When it is not any more, the effects say so.
    pub fn knows(&self, priority: i32, flow: &FlowId) -> bool {
        let band = self.bands.serving(priority).and_then(|key| self.bands.get(key));
        band.is_some_and(|band| band.knows(flow))
    }

    /// Whether there is a subset in use of which no signal has come yet, so that nobody of it goes.
    pub fn lacks_signals(&self) -> bool {
        self.subsets.lack_signals()
    }

    /// A policy has failed, which the next event reports.
    fn note(&mut self, failure: PolicyFailure) {
        if self.failures.len() < MAX_FAILURES {
            self.failures.push(failure);
        }
    }

    /// Where the request stands in its queue, or why it does not.
    fn admit(
        &mut self,
        now: Stamp,
        key: BandKey,
        ask: &Ask,
        effects: &mut Vec<Effect<T>>,
    ) -> Result<Waiting, Refusal> {
        if self.is_stopped {
            return Err(Refusal::RejectedOther);
        }
        let ttl = [self.config.ttl, ask.ttl].into_iter().flatten().min();
        let Ask { received, ttft_slo, cost, .. } = *ask;
        let arrival = Arrival { received, enqueued: now, ttl, ttft_slo, cost };
        let rank = self.rank(key, &arrival).ok_or(Refusal::RejectedInternal)?;
        self.make_room(now, key, ask, effects)?;
        let expires = ttl.map_or(Stamp::NEVER, |ttl| now + ttl);
        Ok(Waiting::new(rank, ttl, expires))
    }

    fn rank(&mut self, key: BandKey, arrival: &Arrival) -> Option<Rank> {
        let band = self.bands.get(key)?;
        match guarded(|| band.template.ordering.rank(arrival)) {
            Ok(rank) => Some(rank),
            Err(said) => {
                self.note(PolicyFailure::new(PolicyKind::Ordering, said));
                None
            }
        }
    }

    /// Sees to it that the request fits, or says why it does not.
    fn make_room(
        &mut self,
        now: Stamp,
        band: BandKey,
        ask: &Ask,
        effects: &mut Vec<Effect<T>>,
    ) -> Result<(), Refusal> {
        let has_endpoints = self.pool.has_endpoints();
        for _ in 0..MAX_DISPLACED {
            let Some(limit) = self.limit_for(band, ask.bytes) else { return Ok(()) };
            let Some(at) = self.displaced_by(band, ask, limit) else { break };
            let refusal = if has_endpoints {
                Refusal::EvictedCapacity(limit)
            } else {
                Refusal::EvictedNoEndpoints
            };
            self.drop_waiting(now, at, refusal, effects);
        }
        match self.limit_for(band, ask.bytes) {
            None => Ok(()),
            Some(limit) if has_endpoints => Err(Refusal::RejectedCapacity(limit)),
            Some(limit) => Err(Refusal::RejectedNoEndpoints(limit)),
        }
    }

    /// The limit that a request of so many bytes would exceed.
    fn limit_for(&self, band: BandKey, bytes: u64) -> Option<Limit> {
        self.exceeded(bytes).or_else(|| self.bands.get(band)?.exceeded(bytes))
    }

    /// The request that has to go so that this one may come: at a limit for all, sheddable work that is less
    /// important; else, where the fairness policy wants it, work of a flow that has more.
    fn displaced_by(&self, key: BandKey, ask: &Ask, limit: Limit) -> Option<u32> {
        let band = self.bands.get(key)?;
        let max_bytes = self.config.max_bytes.unwrap_or(u64::MAX).min(band.template.max_bytes);
        if ask.bytes > max_bytes {
            return None;
        }
        let is_for_all = matches!(limit, Limit::GlobalBytes | Limit::GlobalRequests);
        let sheddable = self
            .bands
            .iter()
            .filter(|(_, _, other)| other.priority < band.priority.min(0) && other.n_waiting > 0)
            .last()
            .filter(|_| is_for_all)
            .and_then(|(_, _, other)| other.last_of_longest());
        let from_longest =
            || band.drops_from_longest().then(|| band.last_of_longer(&ask.flow)).flatten();
        sheddable.or_else(from_longest)
    }

    fn exceeded(&self, bytes: u64) -> Option<Limit> {
        let is_over = |used: u64, more: u64, limit: Option<u64>| {
            limit.is_some_and(|limit| used.saturating_add(more) > limit)
        };
        if is_over(self.bytes, bytes, self.config.max_bytes) {
            Some(Limit::GlobalBytes)
        } else if is_over(self.n_waiting, 1, self.config.max_requests) {
            Some(Limit::GlobalRequests)
        } else {
            None
        }
    }

    fn enqueue(&mut self, now: Stamp, key: BandKey, ask: &Ask, payload: T, waiting: Waiting) {
        let Some(band) = self.bands.get_mut(key) else { return };
        let (cost, bytes, expires) = (ask.cost, ask.bytes, waiting.expires);
        let at = self.requests.next_place();
        self.requests.push(Entry {
            seq: self.seq,
            payload,
            band: key,
            flow: band.join(&ask.flow),
            subset: self.subsets.enter(now, ask.subset.as_ref()),
            bytes,
            enqueued: now,
            cost,
            state: State::Waiting(waiting),
        });
        self.expiry.insert(expires, at);
        band.enqueue(now, at, &self.requests);
        self.n_waiting += 1;
        self.bytes += bytes;
    }
}
