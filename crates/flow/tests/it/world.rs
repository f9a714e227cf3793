//! A pool that is full, and clients that keep it so.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use fastrand::Rng;
use router_core::Stamp;
use router_flow::{
    Ask, BandTemplate, Config, Cost, Effect, FairnessPolicy, FlowControl, FlowId, PoolSignal,
    StageLoad, SubsetId, Ticket, Usage,
};

pub(crate) struct World {
    flow: FlowControl<()>,
    effects: Vec<Effect<()>>,
    followed: Vec<Effect<()>>,
    running: VecDeque<Ticket>,
    now: Stamp,
    rng: Rng,
}

impl World {
    pub(crate) fn new(fairness: Arc<dyn FairnessPolicy>, n_slots: u64) -> Self {
        let no_limit = u64::MAX;
        let template = BandTemplate {
            max_requests: no_limit,
            max_bytes: no_limit,
            fairness,
            ..BandTemplate::default()
        };
        let mut flow = FlowControl::new(Config { template, ..Config::default() });
        let mut effects = Vec::new();
        let load = StageLoad::counted(0, n_slots);
        flow.signal(Stamp::ORIGIN, PoolSignal::of_pool(load, Stamp::ORIGIN), &mut effects);
        let (now, rng) = (Stamp::ORIGIN, Rng::with_seed(7));
        let followed = Vec::new();
        Self { flow, effects, followed, running: VecDeque::new(), now, rng }
    }

    pub(crate) fn n_waiting(&self) -> u64 {
        self.flow.n_waiting()
    }

    pub(crate) fn n_flows(&mut self) -> usize {
        self.flow.snapshot(0).bands.iter().map(|band| band.n_flows).sum()
    }

    pub(crate) fn n_subsets(&self) -> usize {
        self.flow.subsets().len()
    }

    /// One that may go to two endpoints only.
    pub(crate) fn arrive_to(&mut self, flow: u64, subset: u64) -> Ticket {
        let flow = FlowId::from(format!("tenant-{flow}").as_str());
        let names = [subset, subset + 1].map(|n| format!("10.0.{}.{}:8000", n >> 8, n & 255));
        let ask = Ask { flow, subset: Some(SubsetId::new(names)), ..Ask::default() };
        self.flow.arrive(self.now, ask, (), &mut self.effects)
    }

    pub(crate) fn cancel(&mut self, ticket: Ticket) {
        self.flow.cancel(self.now, ticket, &mut self.effects);
        self.effects.clear();
    }

    pub(crate) fn arrive(&mut self, flow: u64) {
        let flow = FlowId::from(format!("tenant-{flow}").as_str());
        let (cached, uncached) = (self.rng.u32(..4_000), self.rng.u32(..4_000));
        let cost = Cost { cached, uncached, output: 200 };
        self.now = self.now + Duration::from_micros(3);
        self.flow.arrive(self.now, Ask { flow, cost, ..Ask::default() }, (), &mut self.effects);
        self.follow();
    }

    /// One that runs ends, the next goes.
    pub(crate) fn end_one(&mut self) {
        let Some(ended) = self.running.pop_front() else { return };
        self.now = self.now + Duration::from_micros(3);
        let used = Usage { prompt: self.rng.u64(1..3_000), cached: 0, output: 150 };
        self.flow.finished(self.now, ended, Some(used), &mut self.effects);
        self.follow();
    }

    fn follow(&mut self) {
        while !self.effects.is_empty() {
            std::mem::swap(&mut self.effects, &mut self.followed);
            for effect in self.followed.drain(..) {
                if let Effect::Dispatch { ticket, .. } = effect {
                    self.flow.placed(self.now, ticket, None, &mut self.effects);
                    self.running.push_back(ticket);
                }
            }
        }
    }
}
