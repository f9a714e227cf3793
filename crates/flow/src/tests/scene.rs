//! One flow controller, and a clock that is set by hand.

use router_core::Stamp;

use crate::{Ask, Config, Effect, FlowControl, PoolSignal, Refusal, StageLoad, Ticket};

pub(super) struct Scene {
    pub(super) flow: FlowControl<u32>,
    pub(super) now: Stamp,
    pub(super) effects: Vec<Effect<u32>>,
    n: u32,
}

impl Scene {
    pub(super) fn new(config: Config) -> Self {
        let flow = FlowControl::new(config);
        Self { flow, now: Stamp::ORIGIN, effects: Vec::new(), n: 0 }
    }

    /// A pool that is so full, of which a request takes so much.
    pub(super) fn pool(&mut self, saturation: f64, per_request: f64) {
        let load = StageLoad { saturation, per_request, per_token: 0.0 };
        self.flow.signal(self.now, PoolSignal::of_pool(load, self.now), &mut self.effects);
    }

    pub(super) fn empty_pool(&mut self) {
        self.flow.signal(self.now, PoolSignal::empty(self.now), &mut self.effects);
    }

    pub(super) fn ask(&mut self, ask: Ask) -> Ticket {
        self.n += 1;
        self.flow.arrive(self.now, ask, self.n, &mut self.effects)
    }

    pub(super) fn arrive(&mut self, priority: i32) -> Ticket {
        self.ask(Ask { priority, ..Ask::default() })
    }

    pub(super) fn arrive_n(&mut self, n: usize) {
        for _ in 0..n {
            self.arrive(0);
        }
    }

    pub(super) fn placed(&mut self, ticket: Ticket) {
        self.flow.placed(self.now, ticket, None, &mut self.effects);
    }

    pub(super) fn at(&mut self, millis: u64) {
        self.now = Stamp::from_nanos(millis * 1_000_000);
        while self.flow.next_deadline().is_some_and(|deadline| deadline <= self.now) {
            self.flow.wake(self.now, &mut self.effects);
        }
    }

    /// Priorities of those that were let go since the last look.
    pub(super) fn gone(&mut self) -> Vec<i32> {
        let gone = self.effects.drain(..).filter_map(|effect| match effect {
            Effect::Dispatch { priority, .. } => Some(priority),
            _ => None,
        });
        gone.collect()
    }

    /// Numbers of those that were refused since the last look, and why.
    pub(super) fn refused(&mut self) -> Vec<(u32, Refusal)> {
        let refused = self.effects.drain(..).filter_map(|effect| match effect {
            Effect::Drop { payload, refusal, .. } => Some((payload, refusal)),
            _ => None,
        });
        refused.collect()
    }

    pub(super) fn evicted(&mut self) -> Vec<(Ticket, u32)> {
        let evicted = self.effects.drain(..).filter_map(|effect| match effect {
            Effect::Evict { ticket, payload, .. } => Some((ticket, payload)),
            _ => None,
        });
        evicted.collect()
    }
}

pub(super) fn no_trickle() -> Config {
    Config { trickle: None, ..Config::default() }
}
