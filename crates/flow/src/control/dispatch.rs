//! Letting requests go: all that fit, in one go.

use router_core::Stamp;

use super::FlowControl;
use crate::{
    band::BandKey,
    outcome::Effect,
    policy::LimitCx,
    reclaim::Demand,
    request::{Phase, Running, State, Ticket},
};

/// A band whose turn it is.
#[derive(Clone, Copy)]
struct Turn {
    band: BandKey,
    /// Its position among all bands.
    position: usize,
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
        let saturation = self.pool.saturation();
        let reopens = self.ask_limits(now, saturation);
        let (position, band, first) = self.bands.iter().find(|(_, _, band)| band.n_waiting > 0)?;
        let (priority, ceiling) = (first.priority, *self.ceilings.get(position)?);
        if saturation < ceiling {
            return Some(self.share(Turn { band, position, why: Why::First { earns: false } }));
        }
        if let Some(turn) = self.overdue(now, saturation) {
            return Some(turn);
        }
        self.retry_at = [reopens, self.retry_at].into_iter().flatten().min();
        self.has_demand = true;
        self.reclaim(now, priority, saturation, ceiling, effects);
        None
    }

    /// Asks the usage limit for the ceilings. They never rise towards less important bands.
    pub(super) fn ask_limits(&mut self, now: Stamp, saturation: f64) -> Option<Stamp> {
        let priorities = self.bands.priorities();
        self.ceilings.resize(priorities.len(), 1.0);
        let cx = LimitCx { now, saturation, priorities };
        let reopens = self.limits.ceilings(&cx, &mut self.ceilings);
        let mut least = f64::INFINITY;
        for ceiling in &mut self.ceilings {
            // `min` gives the other one where one is not a number.
            least = least.min(*ceiling);
            *ceiling = least;
        }
        reopens.filter(|&at| at > now)
    }

    /// The first band goes, or one below it that has earned a turn by waiting.
    fn share(&mut self, first: Turn) -> Turn {
        let Some(trickle) = self.config.trickle else { return first };
        let below = self.bands.iter().skip(first.position + 1);
        let next = below
            .filter(|(_, _, band)| band.n_waiting > 0)
            .min_by_key(|(_, _, band)| band.served_turn)
            .map(|(position, band, _)| Turn { band, position, why: Why::Earned });
        let Some(next) = next else {
            self.earned.clear();
            return first;
        };
        let band = self.bands.get_mut(next.band);
        let cost = band.and_then(|band| band.next_cost(&self.requests));
        let covers = trickle.share_ppm > 0 && cost.is_some_and(|cost| self.earned.covers(&cost));
        if covers { next } else { Turn { why: Why::First { earns: true }, ..first } }
    }

    /// A band that has been at its ceiling for so long that it gets one request, if there is room for the
    /// most important band. Notes when the next such moment comes.
    fn overdue(&mut self, now: Stamp, saturation: f64) -> Option<Turn> {
        let trickle = self.config.trickle?;
        if self.ceilings.first().is_none_or(|&most| saturation >= most) {
            return None;
        }
        let waiting = self.bands.iter().filter(|(_, _, band)| band.n_waiting > 0);
        let (position, band, longest) = waiting.min_by_key(|(_, _, band)| band.unserved_since)?;
        let due = longest.unserved_since + trickle.every;
        if due <= now {
            return Some(Turn { band, position, why: Why::Overdue });
        }
        self.retry_at = Some(due);
        None
    }

    /// Lets the next request of the band go.
    fn dispatch(&mut self, now: Stamp, turn: Turn, effects: &mut Vec<Effect<T>>) -> bool {
        let Some(band) = self.bands.get_mut(turn.band) else { return false };
        let Some((flow, at)) = band.peek() else { return false };
        let failure = band.failure.take();
        band.dispatch(now, flow, &self.requests);
        self.turn += 1;
        band.served_turn = self.turn;
        let priority = band.priority;
        self.failures.extend(failure);
        self.requests.leave_line(at);
        let Some(entry) = self.requests.get_mut(at) else { return false };
        let running = Running { dispatched: now, phase: Phase::Unplaced, evictable: None };
        if let State::Waiting(waiting) =
            std::mem::replace(&mut entry.state, State::Running(running))
        {
            self.expiry.remove(waiting.expires, at);
        }
        self.n_waiting -= 1;
        self.bytes -= entry.bytes;
        self.pool.dispatched(&entry.cost);
        self.limits.dispatched(now, turn.position);
        if let Some(trickle) = &self.config.trickle {
            match turn.why {
                Why::First { earns: true } => self.earned.earn(trickle, &entry.cost),
                Why::Earned => self.earned.spend(&entry.cost),
                Why::First { earns: false } | Why::Overdue => {}
            }
        }
        effects.push(Effect::Dispatch {
            ticket: Ticket { seq: entry.seq, at },
            payload: entry.payload.clone(),
            priority,
            waited: now.since(entry.enqueued),
        });
        true
    }

    /// Evicts what runs for those who wait, where that is configured.
    fn reclaim(
        &mut self,
        now: Stamp,
        priority: i32,
        saturation: f64,
        ceiling: f64,
        effects: &mut Vec<Effect<T>>,
    ) {
        let Some(policy) = &self.config.eviction else { return };
        let n_in_flight = self.pool.in_flight().requests;
        let demand = Demand { priority, saturation, ceiling, n_in_flight };
        for ticket in self.reclaim.victims(now, policy, &demand) {
            let Some(entry) = self.requests.find(ticket) else { continue };
            let payload = entry.payload.clone();
            effects.push(Effect::Evict { ticket, payload, demand: priority });
        }
    }
}
