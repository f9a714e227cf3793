//! No policy looks at all flows to choose one.

use std::{sync::Arc, time::Duration};

use router_flow::{
    FairnessPolicy,
    policy::{
        deficit::Deficit, global_strict::GlobalStrict, program_aware::ProgramAware,
        round_robin::RoundRobin,
    },
};
use rustix::time::{ClockId, clock_gettime};

use crate::world::World;

/// What one request costs that comes, and another that ends and lets the next go, while one of each flow waits.
fn each(fairness: &Arc<dyn FairnessPolicy>, n_flows: u64) -> f64 {
    const N_ROUNDS: u64 = 1_000;
    let mut world = World::new(Arc::clone(fairness), 16);
    (0..n_flows).for_each(|flow| world.arrive(flow));
    let spent = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let mut round = |n: u64| {
        world.end_one();
        world.arrive(n * 7919 % n_flows);
    };
    (0..N_ROUNDS).for_each(&mut round);
    let before = spent();
    (0..N_ROUNDS).for_each(&mut round);
    spent().saturating_sub(before).as_secs_f64() / N_ROUNDS as f64
}

pub(crate) fn fifty_times_the_flows_do_not_cost_ten_times_as_much() {
    let policies: [(&str, Arc<dyn FairnessPolicy>); 4] = [
        ("strict", Arc::new(GlobalStrict)),
        ("round robin", Arc::new(RoundRobin)),
        ("deficit", Arc::new(Deficit::default())),
        ("program aware", Arc::new(ProgramAware::default())),
    ];
    for (name, fairness) in policies {
        let (few, many) = (each(&fairness, 200), each(&fairness, 10_000));
        assert!(many < 10.0 * few, "{name}: {:.1} us and {:.1} us", few * 1e6, many * 1e6);
    }
}
