//! Letting requests go: all that fit, in one go.

use router_core::Stamp;

use super::FlowControl;
use crate::{
    band::{Band, BandKey},
    outcome::Effect,
    policy::{FlowKey, LimitCx},
    reclaim::Demand,
    request::{Entry, Phase, Running, State, Ticket},
    subset::{Judged, SubsetKey, WHOLE},
};

/// Bands and subsets for which it is looked for something to evict, of those that wait.
const MAX_DEMANDS: usize = 64;

/// A band whose turn it is.
#[derive(Clone, Copy)]
struct Turn {
    band: BandKey,
    /// Its position among all bands.
    position: usize,
    /// Its requests may go where there is room for the band at this position.
    as_if: usize,
    why: Why,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It is the most important one that waits. `earns`: others wait below it.
    First { earns: bool },
    /// Those above have earned it a turn.
    Earned,
    /// It has waited at its ceiling for long enough.
    Overdue,
}

impl<T: Clone> FlowControl<T> {
    /// Lets go all that fit: the end of every event.
    pub(super) fn dispatch_all(&mut self, now: Stamp, effects: &mut Vec<Effect<T>>) {
        self.dispatch_while_open(now, effects);
        if let Some(failure) = self.limits.take_failure() {
            self.note(failure);
        }
        effects.extend(self.failures.drain(..).map(Effect::PolicyFailed));
    }

    fn dispatch_while_open(&mut self, now: Stamp, effects: &mut Vec<Effect<T>>) {
        (self.retry_at, self.has_demand) = (None, false);
        while self.n_waiting > 0 && self.pool.has_endpoints() {
            let Some(turn) = self.choose(now, effects) else { return };
            if !self.dispatch(now, turn, effects) {
                return;
            }
        }
    }

    /// The band that may let a request go, if there is one.
    fn choose(&mut self, now: Stamp, effects: &mut Vec<Effect<T>>) -> Option<Turn> {
        let reopens = self.judge(now);
        let first = self.bands.iter().find(|&(position, _, band)| self.may_go(band, position));
        if let Some((position, band, _)) = first {
            let why = Why::First { earns: false };
            return Some(self.share(Turn { band, position, as_if: position, why }));
        }
        if let Some(turn) = self.overdue(now) {
            return Some(turn);
        }
        self.retry_at = [reopens, self.retry_at].into_iter().flatten().min();
        self.has_demand = true;
        self.reclaim(now, effects);
        None
    }

    /// Whether somebody of the band waits for endpoints that have room for the band at this position.
    fn may_go(&self, band: &Band, position: usize) -> bool {
        let has_room = |subset: &SubsetKey| self.subsets.has_room(*subset, position);
        (band.waits_freely() && has_room(&WHOLE))
            || self.subsets.open.iter().any(|subset| band.waits_for(*subset) && has_room(subset))
    }

    /// Looks how full the pool and all subsets are that somebody waits for, and asks up to where they may be
    /// filled. Gives when time alone may change the answer.
    pub(super) fn judge(&mut self, now: Stamp) -> Option<Stamp> {
        let mut reopens = None;
        if self.subsets.anybody_waits() {
            let waiting: Vec<SubsetKey> = self.subsets.waiting().collect();
            self.subsets.open.clear();
            for subset in waiting {
                reopens = [reopens, self.ask_limits(now, subset)].into_iter().flatten().min();
                if self.subsets.has_room(subset, 0) {
                    self.subsets.open.push(subset);
                }
            }
        }
        // The pool comes last, so that a usage limit that remembers what it said does so where it is alone.
        [reopens, self.ask_limits(now, WHOLE)].into_iter().flatten().min()
    }

    /// Asks the usage limit for the ceilings, at the saturation of the subset. They never rise towards less
    /// important bands.
    fn ask_limits(&mut self, now: Stamp, subset: SubsetKey) -> Option<Stamp> {
        let priorities = self.bands.priorities();
        let judged = match self.subsets.get_mut(subset) {
            Some(subset) => {
                let saturation = subset.saturation(&self.pool)?;
                let stays_shut = subset.judged.stays_shut(saturation, priorities.len());
                subset.judged.saturation = saturation;
                if stays_shut {
                    return None;
                }
                &mut subset.judged
            }
            None => {
                self.subsets.whole.saturation = self.pool.saturation();
                &mut self.subsets.whole
            }
        };
        let Judged { saturation, ceilings, reopens } = judged;
        ceilings.resize(priorities.len(), 1.0);
        let cx = LimitCx { now, saturation: *saturation, priorities };
        *reopens = self.limits.ceilings(&cx, ceilings).filter(|&at| at > now);
        let mut least = f64::INFINITY;
        for ceiling in ceilings {
            // `min` gives the other one where one is not a number.
            least = least.min(*ceiling);
            *ceiling = least;
        }
        *reopens
    }

    /// The first band goes, or one below it that has earned a turn by waiting. Who waits for endpoints that
    /// are full does not wait for the first band, and earns nothing.
    fn share(&mut self, first: Turn) -> Turn {
        let Some(trickle) = self.config.trickle else { return first };
        let below = || self.bands.iter().skip(first.position + 1);
        let next = below()
            .filter(|(_, _, band)| self.may_go(band, first.as_if))
            .min_by_key(|(_, _, band)| band.served_turn)
            .map(|(position, band, _)| Turn { band, position, why: Why::Earned, ..first });
        let Some(next) = next else {
            if below().all(|(_, _, band)| band.n_waiting == 0) {
                self.earned.clear();
            }
            return first;
        };
        let cost = self.peek(next).and_then(|(_, at)| Some(self.requests.get(at)?.cost));
        let covers = trickle.share_ppm > 0 && cost.is_some_and(|cost| self.earned.covers(&cost));
        if covers { next } else { Turn { why: Why::First { earns: true }, ..first } }
    }

    /// A band that has been at its ceiling for so long that it gets one request, if there is room for the
    /// most important band. Notes when the next such moment comes.
    fn overdue(&mut self, now: Stamp) -> Option<Turn> {
        let trickle = self.config.trickle?;
        let (position, band, longest) = self
            .bands
            .iter()
            .filter(|(_, _, band)| self.may_go(band, 0))
            .min_by_key(|(_, _, band)| band.unserved_since)?;
        let due = longest.unserved_since + trickle.every;
        if due <= now {
            return Some(Turn { band, position, as_if: 0, why: Why::Overdue });
        }
        self.retry_at = Some(due);
        None
    }

    /// The band's next request, among those whose endpoints have room.
    fn peek(&mut self, turn: Turn) -> Option<(FlowKey, u32)> {
        let band = self.bands.get_mut(turn.band)?;
        band.tell_rooms(|subset| self.subsets.has_room(subset, turn.as_if), &self.requests);
        band.peek()
    }

    /// Lets the next request of the band go.
    fn dispatch(&mut self, now: Stamp, turn: Turn, effects: &mut Vec<Effect<T>>) -> bool {
        let Some((flow, at)) = self.peek(turn) else { return false };
        let Some(band) = self.bands.get_mut(turn.band) else { return false };
        let failure = band.failure.take();
        band.dispatch(now, flow, &self.requests);
        self.turn += 1;
        band.served_turn = self.turn;
        let priority = band.priority;
        self.failures.extend(failure);
        self.requests.leave_line(at);
        let Some(entry) = self.requests.get_mut(at) else { return false };
        let running =
            Running { dispatched: now, phase: Phase::Unplaced, endpoint: None, evictable: None };
        if let State::Waiting(waiting) =
            std::mem::replace(&mut entry.state, State::Running(running))
        {
            self.expiry.remove(waiting.expires, at);
        }
        let (cost, subset) = (entry.cost, entry.subset);
        effects.push(Effect::Dispatch {
            ticket: Ticket { seq: entry.seq, at },
            payload: entry.payload.clone(),
            priority,
            waited: now.since(entry.enqueued),
        });
        self.n_waiting -= 1;
        self.bytes -= entry.bytes;
        self.subsets.stop_waiting(subset);
        if subset != WHOLE {
            // A usage limit that remembers goes by what it said last.
            self.ask_limits(now, subset);
        }
        self.limits.dispatched(now, turn.position);
        self.pool.dispatched(&cost);
        self.subsets.dispatched(subset, &cost);
        if let Some(trickle) = &self.config.trickle {
            match turn.why {
                Why::First { earns: true } => self.earned.earn(trickle, &cost),
                Why::Earned => self.earned.spend(&cost),
                Why::First { earns: false } | Why::Overdue => {}
            }
        }
        true
    }

    /// Evicts what runs for those who wait, where that is configured: for the most important band first, and
    /// for the first of its subsets where that helps.
    fn reclaim(&mut self, now: Stamp, effects: &mut Vec<Effect<T>>) {
        let Some(policy) = &self.config.eviction else { return };
        let n_in_flight = self.pool.in_flight().requests as f64;
        let waiting = self.bands.iter().filter(|(_, _, band)| band.n_waiting > 0);
        let demands = waiting.flat_map(|(position, _, band)| {
            band.subsets().map(move |subset| (position, band.priority, subset))
        });
        for (position, priority, subset) in demands.take(MAX_DEMANDS) {
            let Some(judged) = self.subsets.judged(subset) else { continue };
            let Some(&ceiling) = judged.ceilings.get(position) else { continue };
            let known = self.subsets.get(subset);
            let n_in_flight = n_in_flight * known.map_or(1.0, |subset| subset.share);
            let demand = Demand { priority, saturation: judged.saturation, ceiling, n_in_flight };
            let requests = &self.requests;
            let helps = |ticket| {
                let Some(subset) = known else { return true };
                let Some(Entry { state: State::Running(running), .. }) = requests.find(ticket)
                else {
                    return false;
                };
                running.endpoint.is_some_and(|endpoint| subset.has(endpoint))
            };
            let victims = self.reclaim.victims(now, policy, &demand, helps);
            for &ticket in &victims {
                let Some(entry) = self.requests.find(ticket) else { continue };
                let payload = entry.payload.clone();
                effects.push(Effect::Evict { ticket, payload, demand: priority });
            }
            if !victims.is_empty() {
                return;
            }
        }
    }
}
