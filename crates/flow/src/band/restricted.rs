//! Requests of a band that are restricted to a subset of the endpoints.

use std::collections::{BTreeMap, BTreeSet};

use super::{Band, InLine};
use crate::{
    policy::{FlowKey, Rank},
    request::Requests,
    subset::{SubsetKey, WHOLE},
};

/// What is known of the waiting requests that may not go anywhere. Empty costs nothing.
#[derive(Default)]
pub(super) struct Restricted {
    /// Subsets that somebody waits for, and how many.
    pub(super) subsets: BTreeMap<SubsetKey, u64>,
    pub(super) n_waiting: u64,
    /// Subsets (the whole pool may be one) of which the fairness policy was told last that they have no room.
    pub(super) held: BTreeSet<SubsetKey>,
    /// Flows that wait for each subset.
    queues: BTreeSet<(SubsetKey, FlowKey)>,
    /// All requests, in the order of their flows.
    pub(super) in_line: BTreeSet<(FlowKey, InLine)>,
    /// Of each flow the first request for each subset that is not held.
    pub(super) ready: BTreeSet<(FlowKey, InLine)>,
}

impl Restricted {
    /// The flows that wait for the subset.
    fn flows_for(&self, subset: SubsetKey) -> impl Iterator<Item = FlowKey> {
        let queues = (subset, FlowKey(0))..(subset.next(), FlowKey(0));
        self.queues.range(queues).map(|&(_, key)| key)
    }
}

impl Band {
    pub(super) fn enqueue_restricted(&mut self, key: FlowKey, subset: SubsetKey, place: InLine) {
        if let Some(flow) = self.flow_mut(key) {
            flow.n_restricted += 1;
        }
        let is_first = self.first_for(key, subset) == Some(place);
        let behind = self.queue.range((key, subset, place.0, place.1 + 1)..).next();
        let behind = behind.filter(|((flow, of, _, _), _)| (*flow, *of) == (key, subset));
        let behind = behind.map(|((_, _, rank, seq), at)| (*rank, *seq, *at));
        let restricted = &mut self.restricted;
        restricted.n_waiting += 1;
        *restricted.subsets.entry(subset).or_default() += 1;
        restricted.queues.insert((subset, key));
        restricted.in_line.insert((key, place));
        if is_first && !restricted.held.contains(&subset) {
            if let Some(behind) = behind {
                restricted.ready.remove(&(key, behind));
            }
            restricted.ready.insert((key, place));
        }
    }

    /// Tells the fairness policy who may go, as far as that has changed since it was told last.
    pub(crate) fn tell_rooms<T>(
        &mut self,
        has_room: impl Fn(SubsetKey) -> bool,
        requests: &Requests<T>,
    ) {
        if self.restricted.subsets.is_empty() && self.restricted.held.is_empty() {
            return;
        }
        let held = &self.restricted.held;
        let is_told = |subset: &SubsetKey| held.contains(subset) != has_room(*subset);
        let changed: Vec<SubsetKey> = self.subsets().filter(|subset| !is_told(subset)).collect();
        let mut flows: Vec<FlowKey> =
            changed.into_iter().flat_map(|subset| self.turn(subset)).collect();
        // Who came first is told of first, since a policy may take in only so many at a time.
        flows.sort_unstable_by_key(|&key| (self.best_of(key).map(|(_, seq, _)| seq), key));
        flows.dedup();
        flows.into_iter().for_each(|key| self.tell(key, requests));
    }

    /// A subset that was held is not any more, or the other way round. Gives the flows that wait for it.
    fn turn(&mut self, subset: SubsetKey) -> Vec<FlowKey> {
        let is_held = !self.restricted.held.remove(&subset);
        if is_held {
            self.restricted.held.insert(subset);
        }
        if subset == WHOLE {
            let waiting = self.longest.iter().map(|&(_, key)| key);
            let frees =
                |key: &FlowKey| self.flow(*key).is_some_and(|flow| flow.first_free.is_some());
            return waiting.filter(frees).collect();
        }
        let flows: Vec<FlowKey> = self.restricted.flows_for(subset).collect();
        for &key in &flows {
            let Some(first) = self.first_for(key, subset) else { continue };
            if is_held {
                self.restricted.ready.remove(&(key, first));
            } else {
                self.restricted.ready.insert((key, first));
            }
        }
        flows
    }

    /// The requests that wait for the subset.
    pub(crate) fn waiting_for(&self, subset: SubsetKey) -> Vec<u32> {
        let of_flow = |key| {
            let queue = self.queue.range((key, subset, Rank::default(), 0)..);
            queue.take_while(move |((flow, of, _, _), _)| (*flow, *of) == (key, subset))
        };
        self.restricted.flows_for(subset).flat_map(of_flow).map(|(_, at)| *at).collect()
    }

    pub(super) fn take_out_restricted(&mut self, key: FlowKey, subset: SubsetKey, place: InLine) {
        self.queue.remove(&(key, subset, place.0, place.1));
        let first = self.first_for(key, subset);
        if let Some(flow) = self.flow_mut(key) {
            flow.n_restricted -= 1;
        }
        let restricted = &mut self.restricted;
        restricted.n_waiting -= 1;
        restricted.in_line.remove(&(key, place));
        // Only the first of a queue is in there; the next takes its place.
        let was_ready = restricted.ready.remove(&(key, place));
        match first {
            Some(first) if was_ready => {
                restricted.ready.insert((key, first));
            }
            Some(_) => {}
            None => {
                restricted.queues.remove(&(subset, key));
            }
        }
        if let Some(n_waiting) = restricted.subsets.get_mut(&subset) {
            *n_waiting -= 1;
            if *n_waiting == 0 {
                restricted.subsets.remove(&subset);
                restricted.held.remove(&subset);
            }
        }
    }
}

/// The first of the flow's requests in there.
pub(super) fn first_in(requests: &BTreeSet<(FlowKey, InLine)>, key: FlowKey) -> Option<InLine> {
    let first = requests.range((key, InLine::default())..).next();
    first.filter(|(flow, _)| *flow == key).map(|(_, place)| *place)
}
