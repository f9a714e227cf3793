//! Flows of which requests were refused when they came, so that the queues never got to know them: what is shown
//! of them has to go like that of flows that are forgotten.

use std::{collections::HashMap, time::Duration};

use router_core::Stamp;
use router_flow::{Bounds, FlowId};

pub(super) struct RefusedFlows {
    /// When a request of the flow was refused last, by the priority that it asked for.
    known: HashMap<(i32, FlowId), Stamp>,
    max: usize,
    idle: Duration,
}

impl RefusedFlows {
    /// As long, and as many, as idle flows are remembered.
    pub(super) fn new(bounds: &Bounds) -> Self {
        Self { known: HashMap::new(), max: bounds.max_idle_flows, idle: bounds.flow_idle }
    }

    /// One that is one too many is not remembered: far fewer flows than the bound are shown by name.
    pub(super) fn note(&mut self, now: Stamp, priority: i32, flow: FlowId) {
        let key = (priority, flow);
        if self.known.len() < self.max || self.known.contains_key(&key) {
            self.known.insert(key, now);
        }
    }

    /// Takes out those of which no request has been refused for a while.
    pub(super) fn take_due(&mut self, now: Stamp) -> Vec<(i32, FlowId)> {
        let idle = self.idle;
        // tidy: order-free, they are taken off the page all at once.
        self.known.extract_if(|_, last| *last + idle <= now).map(|(flow, _)| flow).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_ids_is_remembered_up_to_the_bound_and_then_forgotten() {
        let bounds = Bounds { max_idle_flows: 10, ..Bounds::default() };
        let mut refused = RefusedFlows::new(&bounds);
        let at = |seconds| Stamp::ORIGIN + Duration::from_secs(seconds);
        for n in 0..1_000 {
            refused.note(at(0), 0, FlowId::from(format!("tenant-{n}").as_str()));
        }
        assert_eq!(refused.known.len(), 10);
        // One that comes again stays for longer, though there is no room.
        refused.note(at(200), 0, FlowId::from("tenant-3"));
        assert_eq!(refused.take_due(at(299)), []);
        assert_eq!(refused.take_due(at(300)).len(), 9);
        assert_eq!(refused.take_due(at(500)), [(0, FlowId::from("tenant-3"))]);
        assert!(refused.known.is_empty());
    }
}
