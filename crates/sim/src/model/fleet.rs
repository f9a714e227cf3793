//! Several engines on one timeline, as a replay drives them.

use router_core::time::Stamp;

use super::{engine::Engine, request::Event};

/// Engines by index. Their events come in the order of time; at one stamp, in the order of engines.
#[derive(Debug, Default)]
pub struct Fleet {
    engines: Vec<Engine>,
}

impl Fleet {
    pub fn new(engines: Vec<Engine>) -> Self {
        Self { engines }
    }

    pub fn engines(&self) -> &[Engine] {
        &self.engines
    }

    pub fn engine_mut(&mut self, idx: usize) -> Option<&mut Engine> {
        self.engines.get_mut(idx)
    }

    /// When the next event of any engine is due; `None` when all are idle. A timer that wakes then and calls
    /// [`advance`](Self::advance) misses nothing.
    pub fn next_event(&self) -> Option<Stamp> {
        self.engines.iter().filter_map(Engine::next_event).min()
    }

    /// Lets time pass until `now` for all engines. `sink` gets the engine's index with each event.
    pub fn advance(&mut self, now: Stamp, sink: &mut dyn FnMut(usize, Event)) {
        loop {
            let due = self.engines.iter_mut().enumerate();
            let due = due.filter_map(|(idx, engine)| Some((engine.next_event()?, idx, engine)));
            let Some((at, idx, engine)) = due.min_by_key(|(at, idx, _)| (*at, *idx)) else { break };
            if at > now {
                break;
            }
            engine.advance(at, &mut |event| sink(idx, event));
        }
        for (idx, engine) in self.engines.iter_mut().enumerate() {
            engine.advance(now, &mut |event| sink(idx, event));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EngineRequest, Profile};

    #[test]
    fn events_of_all_engines_come_in_the_order_of_time() {
        let profile = Profile { max_num_batched_tokens: 256, ..Profile::default() };
        let engine = |seed| Engine::new(profile.clone(), seed).unwrap();
        let mut fleet = Fleet::new((0..3).map(engine).collect());
        for nth in 0..30_u32 {
            let request = EngineRequest::new(100 * (nth % 7 + 1), nth % 5 + 1);
            let engine = fleet.engine_mut(nth as usize % 3).unwrap();
            engine.submit(Stamp::ORIGIN, request, &mut |_| ()).unwrap();
        }
        let mut events = Vec::new();
        fleet.advance(Stamp::from_nanos(200_000_000), &mut |idx, event| {
            events.push((event.at, idx))
        });
        let n_early = events.len();
        assert!(events.iter().all(|(at, _)| *at <= Stamp::from_nanos(200_000_000)));
        while let Some(at) = fleet.next_event() {
            fleet.advance(at, &mut |idx, event| events.push((event.at, idx)));
        }
        assert!(events.is_sorted(), "{events:?}");
        assert!(n_early > 0 && events.len() > n_early, "{n_early} {}", events.len());
        assert!(fleet.engines().iter().all(|engine| engine.signals().running == 0));
    }
}
