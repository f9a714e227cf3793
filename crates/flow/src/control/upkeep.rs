//! What time does: waits that end, and what is forgotten.

use std::time::Duration;

use router_core::Stamp;

use super::FlowControl;
use crate::{
    band::{self, Band, BandKey},
    expiry,
    outcome::{Effect, Refusal},
    policy::FlowKey,
    request::{State, Ticket},
    subset::{Subset, SubsetKey},
};

impl<T: Clone> FlowControl<T> {
    /// Every event begins by refusing those whose wait was over before it.
    pub(super) fn begin(&mut self, now: Stamp, effects: &mut Vec<Effect<T>>) -> Stamp {
        self.now = self.now.max(now);
        let now = self.now;
        while let Some((at, refusal)) = self.expired(now) {
            self.drop_waiting(now, at, refusal, effects);
        }
        now
    }

    fn expired(&mut self, now: Stamp) -> Option<(u32, Refusal)> {
        let flipped = self.pool.flipped;
        if self.pool.has_endpoints() {
            let at = self.expiry.due(now, flipped, &mut self.requests)?;
            return Some((at, Refusal::EvictedTtl));
        }
        let oldest = expiry::oldest(&self.requests, flipped, self.config.no_endpoint_ttl);
        let (_, at) = oldest.filter(|&(deadline, _)| deadline <= now)?;
        Some((at, Refusal::EvictedNoEndpoints))
    }

    pub(super) fn expires_next(&self) -> Option<Stamp> {
        if self.pool.has_endpoints() {
            return self.expiry.earliest();
        }
        let budget = self.config.no_endpoint_ttl;
        expiry::oldest(&self.requests, self.pool.flipped, budget).map(|(deadline, _)| deadline)
    }

    /// Refuses a request that waits.
    pub(super) fn drop_waiting(
        &mut self,
        now: Stamp,
        at: u32,
        refusal: Refusal,
        effects: &mut Vec<Effect<T>>,
    ) {
        self.requests.leave_line(at);
        let Some(entry) = self.requests.remove(at) else { return };
        self.subsets.stop_waiting(entry.subset);
        if let State::Waiting(waiting) = &entry.state {
            self.expiry.remove(waiting.expires, at);
        }
        self.n_waiting -= 1;
        self.bytes -= entry.bytes;
        if let Some(band) = self.bands.get_mut(entry.band) {
            band.drop_out(now, at, &entry, &self.requests);
        }
        self.subsets.leave(entry.subset);
        let (ticket, waited) = (Ticket { seq: entry.seq, at }, now.since(entry.enqueued));
        effects.push(self.refuse(now, ticket, entry.payload, entry.band, waited, refusal));
        self.rest_if_idle(now, entry.band, entry.flow, effects);
    }

    /// Refuses those who wait for a subset without endpoints, though the pool has some: waiting does not help.
    pub(super) fn drop_stranded(&mut self, now: Stamp, effects: &mut Vec<Effect<T>>) {
        if !self.pool.has_endpoints() {
            return;
        }
        let is_empty = |key: &SubsetKey| self.subsets.get(*key).is_some_and(Subset::is_empty);
        let empty: Vec<SubsetKey> = self.subsets.waiting().filter(is_empty).collect();
        empty.into_iter().for_each(|subset| self.drop_all_for(now, subset, effects));
    }

    fn drop_all_for(&mut self, now: Stamp, subset: SubsetKey, effects: &mut Vec<Effect<T>>) {
        let of_band = |(_, _, band): (usize, BandKey, &Band)| band.waiting_for(subset);
        let stranded: Vec<u32> = self.bands.iter().flat_map(of_band).collect();
        for at in stranded {
            self.drop_waiting(now, at, Refusal::EvictedNoEndpoints, effects);
        }
    }

    /// The same for a request that has just come.
    pub(super) fn drop_if_stranded(
        &mut self,
        now: Stamp,
        ticket: Ticket,
        effects: &mut Vec<Effect<T>>,
    ) {
        let subset = self.requests.find(ticket).and_then(|entry| self.subsets.get(entry.subset));
        if self.pool.has_endpoints() && subset.is_some_and(Subset::is_empty) {
            self.drop_waiting(now, ticket.at, Refusal::EvictedNoEndpoints, effects);
        }
    }

    pub(super) fn refuse(
        &self,
        now: Stamp,
        ticket: Ticket,
        payload: T,
        band: BandKey,
        waited: Duration,
        refusal: Refusal,
    ) -> Effect<T> {
        let bounds = &self.config.bounds;
        let (least, most) = (bounds.min_retry_after, bounds.max_retry_after);
        let band = self.bands.get(band);
        let retry_after = match (refusal, band) {
            // Another router may take it at once.
            (Refusal::RejectedOther | Refusal::EvictedOther, _) | (_, None) => least,
            (_, Some(band)) => band.drain.time_for(now, band.n_waiting + 1, least, most),
        };
        let priority = band.map_or(0, |band| band.priority);
        Effect::Drop { ticket, payload, priority, waited, refusal, retry_after }
    }

    /// A request of the flow has gone.
    pub(super) fn rest_if_idle(
        &mut self,
        now: Stamp,
        band: BandKey,
        flow: FlowKey,
        effects: &mut Vec<Effect<T>>,
    ) {
        let known = self.bands.get(band).and_then(|band| band.flow(flow));
        if known.is_some_and(|flow| flow.is_idle()) {
            self.idle.rest(now, &mut self.bands, band, flow);
            self.forget_flows(now, effects);
        }
    }

    fn forget_flows(&mut self, now: Stamp, effects: &mut Vec<Effect<T>>) {
        let bounds = &self.config.bounds;
        while let Some((priority, flow)) = self.idle.forget_next(now, bounds, &mut self.bands) {
            effects.push(Effect::FlowGone { priority, flow });
        }
    }

    /// Forgets flows and bands whose time has come.
    pub(super) fn collect(&mut self, now: Stamp, effects: &mut Vec<Effect<T>>) {
        self.forget_flows(now, effects);
        let due: Vec<_> = self.bands_to_collect().filter(|(at, _)| *at <= now).collect();
        for (_, band) in due {
            self.bands.remove(band);
        }
    }

    /// Bands that nobody asked for and that have no flows, and when they go.
    fn bands_to_collect(&self) -> impl Iterator<Item = (Stamp, BandKey)> {
        let bands = self.bands.iter();
        let unused = bands.filter(|(_, _, band)| !band.is_wanted && band.n_flows() == 0);
        unused.map(|(_, key, band)| (band.empty_since + self.config.bounds.band_idle, key))
    }

    pub(super) fn next_band_collection(&self) -> Option<Stamp> {
        self.bands_to_collect().map(|(collected, _)| collected).min()
    }

    /// Makes bands of these priorities, and notes which bands stay.
    pub(super) fn set_wanted(&mut self, now: Stamp, priorities: &[i32]) {
        let configured: Vec<i32> = self.config.bands.iter().map(|band| band.priority).collect();
        let is_wanted = |priority: &i32| {
            *priority == 0 || configured.contains(priority) || priorities.contains(priority)
        };
        for &priority in priorities {
            let has_room = self.bands.priorities().len() < self.config.bounds.max_bands;
            if self.bands.find(priority).is_none() && has_room {
                self.bands.add(priority, band::template(&self.config, priority), true, now);
            }
        }
        let keys: Vec<BandKey> = self.bands.iter().map(|(_, key, _)| key).collect();
        for key in keys {
            let Some(band) = self.bands.get_mut(key) else { continue };
            let wanted = is_wanted(&band.priority);
            if band.is_wanted && !wanted {
                band.empty_since = band.empty_since.max(now);
            }
            band.is_wanted = wanted;
        }
    }
}
