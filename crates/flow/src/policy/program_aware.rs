//! Least attained service: flows that were served little lately, and whose first request waits long, go
//! first.
//!
//! A flow's service grows when one of its requests ends, by its prompt tokens and twice its output tokens,
//! and halves with every half-life. Among the flows that wait, the score is
//! `service weight × (1 − norm(service)) + head-wait weight × norm(wait of the first request)`; the highest
//! goes next. `norm` maps the least of all to 0 and the most to 1; where all are equal it does not matter.

use std::time::Duration;

use router_core::Stamp;

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
            service: Vec::new(),
            places: Vec::new(),
            waiting: Vec::new(),
            origin: Stamp::ORIGIN,
            choice: None,
        })
    }
}

/// Half-lives after which the stored services are scaled back, far from the range of `f64`.
const MAX_HALF_LIVES: f64 = 256.0;

struct Attained {
    params: ProgramAware,
    /// By flow: its service as if all of it had been had at `origin`. All decay alike, so that only what
    /// is added has to be scaled, and an order never changes by time alone.
    service: Vec<f64>,
    /// By flow: its place in `waiting`.
    places: Vec<Option<u32>>,
    waiting: Vec<Candidate>,
    origin: Stamp,
    /// What was chosen since the last change.
    choice: Option<FlowKey>,
}

#[derive(Clone, Copy)]
struct Candidate {
    flow: FlowKey,
    service: f64,
    enqueued: f64,
    seq: u64,
}

impl Attained {
    fn put(&mut self, flow: FlowKey, head: &Head) {
        self.choice = None;
        let service = self.service.get(flow.index()).copied().unwrap_or_default();
        let enqueued = head.enqueued.as_nanos() as f64;
        let candidate = Candidate { flow, service, enqueued, seq: head.seq };
        let Some(place) = self.places.get_mut(flow.index()) else { return };
        match place.and_then(|at| self.waiting.get_mut(at as usize)) {
            Some(known) => *known = candidate,
            None => {
                *place = Some(self.waiting.len() as u32);
                self.waiting.push(candidate);
            }
        }
    }

    fn take(&mut self, flow: FlowKey) {
        self.choice = None;
        let Some(at) = self.places.get_mut(flow.index()).and_then(Option::take) else { return };
        if (at as usize) < self.waiting.len() {
            self.waiting.swap_remove(at as usize);
        }
        if let Some(moved) = self.waiting.get(at as usize)
            && let Some(place) = self.places.get_mut(moved.flow.index())
        {
            *place = Some(at);
        }
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
        self.service.iter_mut().for_each(|service| *service *= factor);
        self.waiting.iter_mut().for_each(|candidate| candidate.service *= factor);
        self.origin = now;
        1.0
    }

    fn choose(&self) -> Option<FlowKey> {
        let mut service = (f64::INFINITY, f64::NEG_INFINITY);
        let mut enqueued = service;
        for candidate in &self.waiting {
            service = (service.0.min(candidate.service), service.1.max(candidate.service));
            enqueued = (enqueued.0.min(candidate.enqueued), enqueued.1.max(candidate.enqueued));
        }
        let norm = |value: f64, (least, most): (f64, f64)| {
            if most > least { (value - least) / (most - least) } else { 0.5 }
        };
        // The wait of a request is the longer the earlier it came, at any time.
        let score = |candidate: &Candidate| {
            self.params.service_weight * (1.0 - norm(candidate.service, service))
                + self.params.head_wait_weight * (1.0 - norm(candidate.enqueued, enqueued))
        };
        let mut best: Option<(f64, &Candidate)> = None;
        for candidate in &self.waiting {
            let score = score(candidate);
            let is_better = best.is_none_or(|(most, known)| {
                score > most || (score == most && candidate.seq < known.seq)
            });
            if is_better {
                best = Some((score, candidate));
            }
        }
        best.map(|(_, candidate)| candidate.flow)
    }
}

impl Fairness for Attained {
    fn join(&mut self, flow: FlowKey, _: &FlowId) {
        if self.service.len() <= flow.index() {
            self.service.resize(flow.index() + 1, 0.0);
            self.places.resize(flow.index() + 1, None);
        }
    }

    fn offer(&mut self, flow: FlowKey, head: &Head) {
        self.put(flow, head);
    }

    fn withdraw(&mut self, flow: FlowKey) {
        self.take(flow);
    }

    fn next(&mut self) -> Option<FlowKey> {
        if self.choice.is_none() {
            self.choice = self.choose();
        }
        self.choice
    }

    fn dispatched(&mut self, flow: FlowKey, _: &Head, next: Option<&Head>) {
        match next {
            Some(head) => self.put(flow, head),
            None => self.take(flow),
        }
    }

    fn settled(&mut self, now: Stamp, flow: FlowKey, _: &Cost, used: Option<&Usage>) {
        let Some(used) = used else { return };
        let tokens = used.prompt as f64 + 2.0 * used.output as f64;
        if tokens == 0.0 {
            return;
        }
        let added = tokens * self.scale(now);
        let Some(service) = self.service.get_mut(flow.index()) else { return };
        *service += added;
        let service = *service;
        let place = self.places.get(flow.index()).copied().flatten();
        if let Some(candidate) = place.and_then(|at| self.waiting.get_mut(at as usize)) {
            candidate.service = service;
            self.choice = None;
        }
    }

    fn forget(&mut self, flow: FlowKey) {
        self.take(flow);
        if let Some(service) = self.service.get_mut(flow.index()) {
            *service = 0.0;
        }
    }
}
