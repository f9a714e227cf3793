//! Every flow in turn, in the order of their ids.
//!
//! The turn passes over a flow that is held, which then is owed it: once it is back it goes before the turn
//! goes on. Otherwise flows that wait for one endpoint, and have room in turn with others, could be passed over
//! each time.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{self, Excluded, Unbounded},
};

use super::{Fairness, FairnessPolicy, FlowKey, Head};
use crate::request::FlowId;

/// Serves one request of each flow that waits, then starts again.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoundRobin;

impl FairnessPolicy for RoundRobin {
    fn start(&self) -> Box<dyn Fairness> {
        Box::new(Turns::default())
    }
}

#[derive(Default)]
struct Turns {
    waiting: BTreeMap<FlowId, FlowKey>,
    /// Of these, the ones that are owed a turn, in the order in which it passed over them.
    owed: BTreeSet<(u64, FlowKey)>,
    /// Flows that are held and have not been passed over yet.
    held: BTreeMap<FlowId, FlowKey>,
    /// Flows that are held and were passed over.
    passed: BTreeSet<FlowKey>,
    flows: Vec<Option<Known>>,
    n_passed: u64,
    /// Whose turn it was last; `None` when nothing waits.
    last: Option<FlowId>,
}

#[derive(Clone)]
struct Known {
    id: FlowId,
    /// When the turn passed over it, if it is owed one.
    owed: Option<u64>,
}

impl Turns {
    fn known(&mut self, flow: FlowKey) -> Option<&mut Known> {
        self.flows.get_mut(flow.index())?.as_mut()
    }

    /// Takes the flow out of all orders.
    fn take_out(&mut self, flow: FlowKey) -> Option<&mut Known> {
        let known = self.flows.get_mut(flow.index())?.as_mut()?;
        self.waiting.remove(&known.id);
        self.held.remove(&known.id);
        self.passed.remove(&flow);
        if let Some(owed) = known.owed {
            self.owed.remove(&(owed, flow));
        }
        Some(known)
    }

    /// The turn goes on to this flow, past those that are held between it and the last one.
    fn go_on_to(&mut self, id: FlowId) {
        let Some(last) = self.last.replace(id.clone()) else { return };
        if self.held.is_empty() {
            return;
        }
        let between = |from: Bound<&FlowId>, to: Bound<&FlowId>| -> Vec<(FlowId, FlowKey)> {
            let held = self.held.range::<FlowId, _>((from, to));
            held.map(|(id, &flow)| (id.clone(), flow)).collect()
        };
        let passed = if last < id {
            between(Excluded(&last), Excluded(&id))
        } else {
            [between(Excluded(&last), Unbounded), between(Unbounded, Excluded(&id))].concat()
        };
        for (id, flow) in passed {
            self.held.remove(&id);
            self.passed.insert(flow);
            self.n_passed += 1;
            let n_passed = self.n_passed;
            if let Some(known) = self.known(flow) {
                known.owed = Some(n_passed);
            }
        }
    }
}

impl Fairness for Turns {
    fn join(&mut self, flow: FlowKey, id: &FlowId) {
        if self.flows.len() <= flow.index() {
            self.flows.resize(flow.index() + 1, None);
        }
        if let Some(place) = self.flows.get_mut(flow.index()) {
            *place = Some(Known { id: id.clone(), owed: None });
        }
    }

    fn offer(&mut self, flow: FlowKey, _: &Head) {
        let Some(Known { id, owed }) = self.take_out(flow).cloned() else { return };
        self.waiting.insert(id, flow);
        self.owed.extend(owed.map(|owed| (owed, flow)));
    }

    fn hold(&mut self, flow: FlowKey) {
        match self.take_out(flow).cloned() {
            Some(Known { id, owed: None }) => drop(self.held.insert(id, flow)),
            Some(_) => drop(self.passed.insert(flow)),
            None => {}
        }
    }

    fn withdraw(&mut self, flow: FlowKey) {
        if let Some(known) = self.take_out(flow) {
            known.owed = None;
        }
        if self.waiting.is_empty() && self.held.is_empty() && self.passed.is_empty() {
            self.last = None;
        }
    }

    fn next(&mut self) -> Option<FlowKey> {
        if let Some(&(_, flow)) = self.owed.first() {
            return Some(flow);
        }
        let behind = self
            .last
            .as_ref()
            .and_then(|last| self.waiting.range::<FlowId, _>((Excluded(last), Unbounded)).next());
        behind.or_else(|| self.waiting.first_key_value()).map(|(_, &flow)| flow)
    }

    fn dispatched(&mut self, flow: FlowKey, _: &Head, next: Option<&Head>) {
        let Some(known) = self.known(flow) else { return };
        let (id, owed) = (known.id.clone(), known.owed.take());
        match owed {
            Some(owed) => drop(self.owed.remove(&(owed, flow))),
            None => self.go_on_to(id),
        }
        if next.is_none() {
            self.withdraw(flow);
        }
    }

    fn forget(&mut self, flow: FlowKey) {
        self.withdraw(flow);
        if let Some(place) = self.flows.get_mut(flow.index()) {
            *place = None;
        }
    }
}
