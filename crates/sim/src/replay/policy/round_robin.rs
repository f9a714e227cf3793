//! `baseline-round-robin-picker`: one endpoint after the other, whatever is known of them.
//!
//! What most proxies do where nothing else is said. The turn goes round over the candidates in the pool's order;
//! the fallbacks are the next ones.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use router_core::Position;
use router_framework::{
    BuildCx, BuildError, Instance, MAX_TARGETS, NoParams, Picker, PluginDef, RequestCx, Role,
};
use router_rt::Rng;
use smallvec::SmallVec;

pub const PLUGIN: PluginDef =
    PluginDef::new::<NoParams>("baseline-round-robin-picker", &[Role::Picker], file!(), build);

#[derive(Default)]
struct RoundRobin(AtomicUsize);

fn build(_: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    Ok(Instance::new().picker(Arc::new(RoundRobin::default())))
}

impl Picker for RoundRobin {
    fn n_shown(&self) -> usize {
        1
    }

    fn pick(
        &self,
        _: &RequestCx<'_>,
        scored: &[(Position, f64)],
        _: &mut Rng,
        n_wanted: usize,
        ranked: &mut SmallVec<[Position; MAX_TARGETS]>,
    ) {
        ranked.clear();
        let turn = self.0.fetch_add(1, Ordering::Relaxed) % scored.len().max(1);
        let from_turn = scored.iter().cycle().skip(turn).take(scored.len());
        ranked.extend(from_turn.take(n_wanted).map(|(position, _)| *position));
    }
}
