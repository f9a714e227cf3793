//! Who goes.

use super::*;

#[derive(Debug)]
enum Choice {
    Nobody,
    Blocked,
    /// As if it were the band at `as_if`.
    Band {
        at: usize,
        as_if: usize,
        earns: bool,
        spends: bool,
    },
    /// Either the first band or the one that earned a turn, by which of several flows the latter would serve.
    Either {
        first: usize,
        next: usize,
    },
}

/// What a policy was told of a flow that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told {
    Offered,
    Held,
}

impl Model {
    /// Looking asks every band whose turn it is.
    pub(in super::super) fn looked_at(&mut self, now: Stamp) {
        for at in 0..self.bands.len() {
            self.choices(now, at);
        }
    }

    pub(super) fn dispatch_all(&mut self, now: Stamp, said: &mut Said<'_>) {
        loop {
            let choice = self.choose(now);
            match choice {
                Choice::Nobody => return,
                Choice::Blocked => return self.expect_evictions(now, said),
                Choice::Band { .. } | Choice::Either { .. } => {
                    self.expect_dispatch(now, &choice, said);
                }
            }
        }
    }

    /// Whether somebody would go now, and nothing happens but that time has passed.
    pub(in super::super) fn would_dispatch(&mut self, now: Stamp) -> bool {
        matches!(self.choose(now), Choice::Band { .. } | Choice::Either { .. })
    }

    /// Whether somebody waits in the band for endpoints that have room, as if it were the one at `as_if`.
    fn may_go(&self, now: Stamp, at: usize, as_if: usize) -> bool {
        let mut waiting = self.waiting_in(self.bands[at].priority);
        waiting.any(|request| self.has_room(now, request.subset.as_ref(), as_if))
    }

    fn choose(&mut self, now: Stamp) -> Choice {
        if !self.signal.has_endpoints || self.waiting().next().is_none() {
            return Choice::Nobody;
        }
        let all = 0..self.bands.len();
        let trickle = self.setup.config.trickle;
        let Some(first) = all.clone().find(|&at| self.may_go(now, at, at)) else {
            let waiting = all.filter(|&at| self.may_go(now, at, 0));
            let longest = waiting.min_by_key(|&at| self.bands[at].unserved_since);
            let due =
                |at: usize| trickle.map(|trickle| self.bands[at].unserved_since + trickle.every);
            let overdue = longest.filter(|&at| due(at).is_some_and(|due| due <= now));
            return overdue.map_or(Choice::Blocked, |at| Choice::Band {
                at,
                as_if: 0,
                earns: false,
                spends: false,
            });
        };
        let of_first = Choice::Band { at: first, as_if: first, earns: false, spends: false };
        let Some(trickle) = trickle else { return of_first };
        let below = first + 1..self.bands.len();
        let may_go = below.clone().filter(|&at| self.may_go(now, at, first));
        let Some(next) = may_go.min_by_key(|&at| self.bands[at].served_turn) else {
            if below.into_iter().all(|at| self.waiting_in(self.bands[at].priority).count() == 0) {
                self.earned = 0;
            }
            return of_first;
        };
        // The tie of several that could be next does not matter here: the real one tells which it was.
        self.tell_rooms(now, next, first);
        let choices = self.choices(now, next);
        let prices: Vec<u64> =
            choices.iter().map(|flow| price(&self.first_of(next, flow).cost)).collect();
        let covers = |price: &u64| trickle.share_ppm > 0 && self.earned >= price * 1_000_000;
        if prices.iter().all(covers) {
            return Choice::Band { at: next, as_if: first, earns: false, spends: true };
        }
        assert!(!prices.iter().any(covers) || prices.len() > 1);
        if prices.iter().any(covers) {
            return Choice::Either { first, next };
        }
        Choice::Band { at: first, as_if: first, earns: true, spends: false }
    }

    /// The policy hears who may go, as far as that has changed since it was asked last.
    fn tell_rooms(&mut self, now: Stamp, at: usize, as_if: usize) {
        let mut subsets: Vec<Option<SubsetId>> = Vec::new();
        for request in self.waiting_in(self.bands[at].priority) {
            if !subsets.contains(&request.subset) {
                subsets.push(request.subset.clone());
            }
        }
        let full = subsets.into_iter().filter(|id| !self.has_room(now, id.as_ref(), as_if));
        self.bands[at].held = full.collect();
        self.tell(self.bands[at].priority);
    }

    /// The policy hears which flows wait, and which of them are held.
    pub(super) fn tell(&mut self, priority: i32) {
        let mut told = BTreeMap::new();
        let held = self.band(priority).held.clone();
        for request in self.waiting_in(priority) {
            let state = if held.contains(&request.subset) { Told::Held } else { Told::Offered };
            let known = told.entry(request.flow.clone()).or_insert(state);
            if state == Told::Offered {
                *known = state;
            }
        }
        // What nobody waits for is not held.
        let waited: Vec<_> =
            self.waiting_in(priority).map(|request| request.subset.clone()).collect();
        let band = self.band(priority);
        band.held.retain(|subset| waited.contains(subset));
        for flow in band.told.keys().filter(|flow| !told.contains_key(*flow)) {
            band.policy.gone(flow);
        }
        // Who came first, of those who are offered, is told of first.
        let came = |flow: &String| {
            let own = self.waiting_in(priority).filter(|request| request.flow == *flow);
            let offered = own.filter(|request| !held.contains(&request.subset));
            offered.min_by_key(|request| request.place).map(|request| request.id)
        };
        let mut in_order: Vec<(&String, &Told)> = told.iter().collect();
        in_order.sort_by_key(|(flow, _)| came(flow));
        let band = self.band(priority);
        for (flow, state) in in_order {
            match (band.told.get(flow), state) {
                (Some(before), now) if before == now => {}
                (Some(Told::Held), _) => band.policy.resumes(flow),
                (Some(Told::Offered), _) => band.policy.held(flow, false),
                (None, Told::Offered) => band.policy.begins(flow),
                (None, Told::Held) => band.policy.held(flow, true),
            }
        }
        if told.is_empty() {
            band.policy.nobody_waits();
        }
        band.told = told;
    }

    /// Of each flow the first request that is not held.
    fn firsts(&self, at: usize) -> Vec<FirstOf> {
        let band = &self.bands[at];
        let mut firsts: Vec<FirstOf> = Vec::new();
        let mut waiting: Vec<&Request> = self.waiting_in(band.priority).collect();
        waiting.sort_by_key(|request| request.place);
        for request in waiting.into_iter().filter(|request| !band.held.contains(&request.subset)) {
            if firsts.iter().any(|first| first.flow == request.flow) {
                continue;
            }
            let Request { place, enqueued, cost, .. } = *request;
            firsts.push(FirstOf { flow: request.flow.clone(), place, enqueued, cost });
        }
        firsts
    }

    fn choices(&mut self, now: Stamp, at: usize) -> Vec<String> {
        let firsts = self.firsts(at);
        if firsts.is_empty() { Vec::new() } else { self.bands[at].policy.choices(now, &firsts) }
    }

    fn first_of(&self, at: usize, flow: &str) -> FirstOf {
        self.firsts(at).into_iter().find(|first| first.flow == flow).unwrap()
    }

    fn expect_dispatch(&mut self, now: Stamp, choice: &Choice, said: &mut Said<'_>) {
        let effect = said.next(now, self);
        let Some(Effect::Dispatch { ticket, payload, priority, waited }) = effect else {
            panic!("{effect:?} instead of {choice:?} at {}", self.saturation());
        };
        let of = self.bands.iter().position(|band| band.priority == priority).unwrap();
        let (as_if, earns, spends) = match *choice {
            Choice::Band { at, as_if, earns, spends } if at == of => (as_if, earns, spends),
            Choice::Either { first, .. } if first == of => (first, true, false),
            Choice::Either { first, next } if next == of => (first, false, true),
            _ => panic!("{priority} out of turn: {choice:?}"),
        };
        self.tell_rooms(now, of, as_if);
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
        let saturation = self.saturation_of(request.subset.as_ref()).unwrap();
        if self.setup.limits.slows(saturation, self.bands.len(), of) {
            self.slowed = Some(now);
        }
        let known = self.requests.iter_mut().find(|request| request.id == payload).unwrap();
        (known.at, known.dispatched) = (At::Unplaced, now);
        self.turn += 1;
        let turn = self.turn;
        let band = self.band(priority);
        (band.served_turn, band.unserved_since) = (turn, now);
        band.policy.dispatched(&request.flow, &request.cost);
        self.tell(priority);
        self.n_ended += 1;
    }

    fn expect_evictions(&mut self, now: Stamp, said: &mut Said<'_>) {
        let Some(eviction) = self.setup.config.eviction.clone() else { return };
        if !self.outstanding.is_empty() || now < self.cools_until {
            return;
        }
        let evicted = said.evictions(now, self);
        for (at, band) in self.bands.iter().enumerate() {
            let mut ids: Vec<Option<&SubsetId>> = Vec::new();
            for request in self.waiting_in(band.priority) {
                if !ids.contains(&request.subset.as_ref()) {
                    ids.push(request.subset.as_ref());
                }
            }
            let victims = |(id, (saturation, ceilings)): (_, (f64, Vec<f64>))| {
                (id, self.victims((saturation, ceilings[at]), band.priority, id, &eviction))
            };
            let could =
                ids.iter().filter_map(|id| Some((*id, self.ceilings(now, *id)?))).map(victims);
            let mut could: Vec<_> = could.filter(|(_, victims)| !victims.is_empty()).collect();
            // The pool goes first, subsets in any order.
            if could.iter().any(|(id, _)| id.is_none()) {
                could.retain(|(id, _)| id.is_none());
            }
            if !could.is_empty() {
                let is_it = |(_, victims): &(_, Vec<_>)| *victims == evicted;
                assert!(could.iter().any(is_it), "{evicted:?} instead of one of {could:?}");
                return self.evict(now, &evicted);
            }
        }
        assert_eq!(evicted, []);
    }

    fn evict(&mut self, now: Stamp, evicted: &[(Ticket, u64, i32)]) {
        for (_, id, _) in evicted {
            self.outstanding.push((*id, now));
            let request = self.requests.iter_mut().find(|request| request.id == *id).unwrap();
            request.is_evictable = false;
        }
    }

    /// Who has to make room, of those that run where it is wanted.
    fn victims(
        &self,
        (saturation, ceiling): (f64, f64),
        priority: i32,
        subset: Option<&SubsetId>,
        eviction: &Eviction,
    ) -> Vec<(Ticket, u64, i32)> {
        if ceiling <= 0.0 {
            return Vec::new();
        }
        let n_running = self.requests.iter().filter(|request| request.at != At::Queue).count();
        let n_running = (n_running as f64 * self.share_of(subset)).max(1.0);
        let credit = saturation / n_running;
        let n_needed = ((saturation - ceiling).max(0.0) / credit).ceil().max(1.0) as usize;
        let helps = |request: &&Request| {
            let is_there = self.is_in(request.placed_at, subset);
            request.is_evictable && request.priority < priority && is_there
        };
        let mut victims: Vec<&Request> = self.requests.iter().filter(helps).collect();
        victims.sort_by_key(|request| {
            eviction_order(request.priority, request.dispatched, request.id)
        });
        victims.truncate(n_needed.min(eviction.max_at_once));
        victims.iter().map(|request| (request.ticket, request.id, priority)).collect()
    }
}

fn price(cost: &Cost) -> u64 {
    u64::from(cost.uncached + cost.output).max(1)
}
