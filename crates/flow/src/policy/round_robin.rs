//! Every flow in turn, in the order of their ids.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Unbounded},
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
    /// Flows that wait and are passed over.
    held: BTreeSet<FlowKey>,
    ids: Vec<Option<FlowId>>,
    /// Who was served last; `None` when nothing waits.
    last: Option<FlowId>,
}

impl Turns {
    fn id(&self, flow: FlowKey) -> Option<FlowId> {
        self.ids.get(flow.index())?.clone()
    }
}

impl Fairness for Turns {
    fn join(&mut self, flow: FlowKey, id: &FlowId) {
        if self.ids.len() <= flow.index() {
            self.ids.resize(flow.index() + 1, None);
        }
        if let Some(place) = self.ids.get_mut(flow.index()) {
            *place = Some(id.clone());
        }
    }

    fn offer(&mut self, flow: FlowKey, _: &Head) {
        self.held.remove(&flow);
        if let Some(id) = self.id(flow) {
            self.waiting.insert(id, flow);
        }
    }

    /// The turn goes on where it was when the flow is back, though nobody else waits meanwhile.
    fn hold(&mut self, flow: FlowKey) {
        self.held.insert(flow);
        if let Some(Some(id)) = self.ids.get(flow.index()) {
            self.waiting.remove(id);
        }
    }

    fn withdraw(&mut self, flow: FlowKey) {
        self.held.remove(&flow);
        if let Some(Some(id)) = self.ids.get(flow.index()) {
            self.waiting.remove(id);
        }
        if self.waiting.is_empty() && self.held.is_empty() {
            self.last = None;
        }
    }

    fn next(&mut self) -> Option<FlowKey> {
        let behind = self
            .last
            .as_ref()
            .and_then(|last| self.waiting.range::<FlowId, _>((Excluded(last), Unbounded)).next());
        behind.or_else(|| self.waiting.first_key_value()).map(|(_, &flow)| flow)
    }

    fn dispatched(&mut self, flow: FlowKey, _: &Head, next: Option<&Head>) {
        self.last = self.id(flow);
        if next.is_none() {
            self.withdraw(flow);
        }
    }

    fn forget(&mut self, flow: FlowKey) {
        self.withdraw(flow);
        if let Some(place) = self.ids.get_mut(flow.index()) {
            *place = None;
        }
    }
}
