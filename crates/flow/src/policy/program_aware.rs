//! Least attained service: flows that were served little lately, and whose first request waits long, go
//! first.
//!
//! A flow's service grows when one of its requests ends, by its prompt tokens and twice its output tokens,
//! and halves with every half-life. Among the flows that wait, the score is
//! `service weight × (1 − norm(service)) + head-wait weight × norm(wait of the first request)`; the highest
//! goes next. `norm` maps the least of all to 0 and the most to 1; where all are equal it does not matter.

mod front;

use std::time::Duration;

use router_core::Stamp;

use self::front::{Candidate, Front};
use super::{Fairness, FairnessPolicy, FlowKey, Head};
use crate::request::{Cost, FlowId, Usage};

/// Parameters of least attained service.
#[derive(Clone, Copy, Debug)]
pub struct ProgramAware {
    pub service_weight: f64,
    pub head_wait_weight: f64,
    /// `None`: service is never forgotten.
    pub half_life: Option<Duration>,
}

impl Default for ProgramAware {
    fn default() -> Self {
        Self { service_weight: 0.8, head_wait_weight: 0.2, half_life: Some(Duration::from_mins(1)) }
    }
}

impl FairnessPolicy for ProgramAware {
    fn start(&self) -> Box<dyn Fairness> {
        Box::new(Attained {
            params: *self,
            flows: Vec::new(),
            waiting: Front::default(),
            origin: Stamp::ORIGIN,
            choice: None,
        })
    }
}

/// Half-lives after which the stored services are scaled back, far from the range of `f64`.
const MAX_HALF_LIVES: f64 = 256.0;

struct Attained {
    params: ProgramAware,
    flows: Vec<Known>,
    waiting: Front,
    origin: Stamp,
    /// What was chosen since the last change.
    choice: Option<FlowKey>,
}

#[derive(Clone, Copy, Default)]
struct Known {
    /// As if all of it had been had at `origin`. All services decay alike, so that only what is added has to
    /// be scaled, and an order never changes by time alone.
    service: f64,
    /// What stands for it in `waiting`.
    first: Option<Candidate>,
}

impl Attained {
    /// The flow waits with this candidate, or not.
    fn set_first(&mut self, flow: FlowKey, first: Option<Candidate>) {
        self.choice = None;
        let Some(known) = self.flows.get_mut(flow.index()) else { return };
        if let Some(before) = std::mem::replace(&mut known.first, first) {
            self.waiting.remove(&before);
        }
        if let Some(first) = first {
            self.waiting.insert(first);
        }
    }

    fn put(&mut self, flow: FlowKey, head: &Head) {
        let service = self.flows.get(flow.index()).map_or(0.0, |known| known.service);
        let enqueued = head.enqueued.as_nanos() as f64;
        self.set_first(flow, Some(Candidate { service, enqueued, seq: head.seq, flow }));
    }

    /// How much one token counts now, beside those that are stored.
    fn scale(&mut self, now: Stamp) -> f64 {
        let Some(half_life) = self.params.half_life.filter(|time| !time.is_zero()) else {
            return 1.0;
        };
        let half_lives = now.since(self.origin).as_secs_f64() / half_life.as_secs_f64();
        if half_lives <= MAX_HALF_LIVES {
            return half_lives.exp2();
        }
        let factor = (-half_lives).exp2();
        self.flows.iter_mut().for_each(|known| known.service *= factor);
        for candidate in self.waiting.take_all() {
            let Some(known) = self.flows.get_mut(candidate.flow.index()) else { continue };
            let scaled = Candidate { service: known.service, ..candidate };
            known.first = Some(scaled);
            self.waiting.insert(scaled);
        }
        self.origin = now;
        1.0
    }
}

impl Fairness for Attained {
    fn join(&mut self, flow: FlowKey, _: &FlowId) {
        if self.flows.len() <= flow.index() {
            self.flows.resize(flow.index() + 1, Known::default());
        }
    }

    fn offer(&mut self, flow: FlowKey, head: &Head) {
        self.put(flow, head);
    }

    fn withdraw(&mut self, flow: FlowKey) {
        self.set_first(flow, None);
    }

    fn next(&mut self) -> Option<FlowKey> {
        if self.choice.is_none() {
            let ProgramAware { service_weight, head_wait_weight, .. } = self.params;
            self.choice = self.waiting.best(service_weight, head_wait_weight);
        }
        self.choice
    }

    fn dispatched(&mut self, flow: FlowKey, _: &Head, next: Option<&Head>) {
        match next {
            Some(head) => self.put(flow, head),
            None => self.withdraw(flow),
        }
    }

    fn settled(&mut self, now: Stamp, flow: FlowKey, _: &Cost, used: Option<&Usage>) {
        let Some(used) = used else { return };
        let tokens = used.prompt as f64 + 2.0 * used.output as f64;
        if tokens == 0.0 {
            return;
        }
        let added = tokens * self.scale(now);
        let Some(known) = self.flows.get_mut(flow.index()) else { return };
        known.service += added;
        let (service, first) = (known.service, known.first);
        if let Some(first) = first {
            self.set_first(flow, Some(Candidate { service, ..first }));
        }
    }

    fn forget(&mut self, flow: FlowKey) {
        self.withdraw(flow);
        if let Some(known) = self.flows.get_mut(flow.index()) {
            *known = Known::default();
        }
    }
}
