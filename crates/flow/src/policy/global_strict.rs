//! One queue for all: the flow whose first request is best goes next, whoever it belongs to.

use std::collections::BTreeSet;

use super::{Fairness, FairnessPolicy, FlowKey, Head, Rank};
use crate::request::FlowId;

/// Serves the best first request of all flows.
#[derive(Clone, Copy, Debug, Default)]
pub struct GlobalStrict;

impl FairnessPolicy for GlobalStrict {
    fn start(&self) -> Box<dyn Fairness> {
        Box::new(BestHead::default())
    }
}

#[derive(Default)]
struct BestHead {
    waiting: BTreeSet<(Rank, u64, FlowKey)>,
    /// By flow: what stands for it in `waiting`.
    heads: Vec<Option<(Rank, u64)>>,
}

impl BestHead {
    fn replace(&mut self, flow: FlowKey, head: Option<(Rank, u64)>) {
        if self.heads.len() <= flow.index() {
            self.heads.resize(flow.index() + 1, None);
        }
        let Some(place) = self.heads.get_mut(flow.index()) else { return };
        if let Some((rank, seq)) = std::mem::replace(place, head) {
            self.waiting.remove(&(rank, seq, flow));
        }
        if let Some((rank, seq)) = head {
            self.waiting.insert((rank, seq, flow));
        }
    }
}

impl Fairness for BestHead {
    fn join(&mut self, _: FlowKey, _: &FlowId) {}

    fn offer(&mut self, flow: FlowKey, head: &Head) {
        self.replace(flow, Some((head.rank, head.seq)));
    }

    fn withdraw(&mut self, flow: FlowKey) {
        self.replace(flow, None);
    }

    fn next(&mut self) -> Option<FlowKey> {
        self.waiting.first().map(|&(_, _, flow)| flow)
    }

    fn dispatched(&mut self, flow: FlowKey, _: &Head, next: Option<&Head>) {
        self.replace(flow, next.map(|head| (head.rank, head.seq)));
    }

    fn forget(&mut self, flow: FlowKey) {
        self.replace(flow, None);
    }
}
