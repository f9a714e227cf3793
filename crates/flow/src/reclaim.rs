//! Making room by evicting what runs (`spec/request-path.md` §5.7).
//!
//! When the most important band that waits has reached its ceiling, requests in flight of lower priority are
//! evicted, a few at a time: the next only when those have ended, or did not in time, and their room has had
//! the time to show in the pool's signals.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use router_core::Stamp;

use crate::{config::Eviction, policy::Victim, request::Ticket};

/// Somebody waits for room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    pub(crate) priority: i32,
    pub(crate) saturation: f64,
    pub(crate) ceiling: f64,
    pub(crate) n_in_flight: f64,
}

/// Counts of what was evicted, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReclaimCounts {
    pub issued: u64,
    /// Evicted requests that ended, and those that did not in time.
    pub confirmed: u64,
    pub timed_out: u64,
    /// Saturation that was last missing, and what of it is under way.
    pub target: f64,
    pub pending: f64,
}

#[derive(Default)]
pub(crate) struct Reclaim {
    /// Requests that may be evicted, the next first (of equal ones the one that came last), with their
    /// priority.
    evictable: BTreeSet<((i64, u64), Reverse<Ticket>, i32)>,
    /// Evicted requests that have not ended, and since when.
    outstanding: BTreeMap<Ticket, Stamp>,
    /// No more is evicted until then.
    cools_until: Stamp,
    counts: ReclaimCounts,
}

impl Reclaim {
    pub(crate) fn counts(&self) -> ReclaimCounts {
        self.counts
    }

    /// The request's place among those that may be evicted, if it may.
    pub(crate) fn rank(&self, policy: &Eviction, victim: &Victim) -> Option<(i64, u64)> {
        policy.filter.accepts(victim).then(|| policy.order.rank(victim))
    }

    /// A request of this priority has been placed.
    pub(crate) fn placed(&mut self, ticket: Ticket, priority: i32, rank: Option<(i64, u64)>) {
        if let Some(rank) = rank {
            self.evictable.insert((rank, Reverse(ticket), priority));
        }
    }

    /// A request in flight has ended, whose place among those that may be evicted was `rank`.
    pub(crate) fn ended(
        &mut self,
        now: Stamp,
        policy: &Eviction,
        ticket: Ticket,
        priority: i32,
        rank: Option<(i64, u64)>,
    ) {
        if let Some(rank) = rank {
            self.evictable.remove(&(rank, Reverse(ticket), priority));
        }
        if self.outstanding.remove(&ticket).is_some() {
            self.counts.confirmed += 1;
            self.cools_until = now + policy.grace;
        }
        self.settle_pending();
    }

    fn settle_pending(&mut self) {
        if self.outstanding.is_empty() {
            self.counts.pending = 0.0;
        }
    }

    /// Gives up on evicted requests that did not end in time.
    pub(crate) fn time_out(&mut self, now: Stamp, policy: &Eviction) {
        let n_before = self.outstanding.len();
        self.outstanding.retain(|_, issued| *issued + policy.confirm_within > now);
        let n_lost = n_before - self.outstanding.len();
        if n_lost > 0 {
            self.counts.timed_out += n_lost as u64;
            self.cools_until = now + policy.grace;
            self.settle_pending();
        }
    }

    /// Requests to evict for the demand, of those that help.
    pub(crate) fn victims(
        &mut self,
        now: Stamp,
        policy: &Eviction,
        demand: &Demand,
        helps: impl Fn(Ticket) -> bool,
    ) -> Vec<Ticket> {
        let Demand { priority, saturation, ceiling, n_in_flight } = *demand;
        if !self.outstanding.is_empty() || now < self.cools_until || ceiling <= 0.0 {
            return Vec::new();
        }
        let target = (saturation - ceiling).max(0.0);
        let credit = saturation / n_in_flight.max(1.0);
        let n_needed = (target / credit).ceil().max(1.0) as usize;
        let chosen: Vec<_> = self
            .evictable
            .iter()
            .filter(|(_, Reverse(ticket), of)| *of < priority && helps(*ticket))
            .take(n_needed.min(policy.max_at_once))
            .copied()
            .collect();
        let mut victims = Vec::with_capacity(chosen.len());
        for victim in chosen {
            self.evictable.remove(&victim);
            let Reverse(ticket) = victim.1;
            self.outstanding.insert(ticket, now);
            victims.push(ticket);
        }
        if !victims.is_empty() {
            self.counts.issued += victims.len() as u64;
            self.counts.target = target;
            self.counts.pending = victims.len() as f64 * credit;
        }
        victims
    }

    /// When time alone changes something.
    pub(crate) fn due(&self, now: Stamp, policy: &Eviction, has_demand: bool) -> Option<Stamp> {
        let times_out =
            self.outstanding.values().min().map(|issued| *issued + policy.confirm_within);
        let cools = has_demand && self.cools_until > now && !self.evictable.is_empty();
        times_out.or(cools.then_some(self.cools_until))
    }
}
