//! Memory per request that waits, and none for flows that are gone.

use std::sync::Arc;

use router_flow::{Bounds, policy::deficit::Deficit};

use crate::world::World;

/// Of the process, by what Linux says.
#[allow(clippy::unwrap_used, reason = "a test")]
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

pub(crate) fn a_request_that_waits_takes_less_than_a_kibibyte() {
    const N_WAITING: u64 = 50_000;
    let mut world = World::new(Arc::new(Deficit::default()), 16);
    let before = resident_bytes();
    // Each in a flow of its own, which is the most that one can take.
    (0..N_WAITING).for_each(|flow| world.arrive(flow));
    let each = resident_bytes().saturating_sub(before) / world.n_waiting();
    assert!(each <= 1_024, "{each} bytes");
}

pub(crate) fn flows_that_are_gone_take_nothing() {
    let mut world = World::new(Arc::new(Deficit::default()), 16);
    let max_idle = Bounds::default().max_idle_flows;
    let mut churn = |flows: std::ops::Range<u64>| {
        for flow in flows {
            world.arrive(flow);
            world.end_one();
        }
        assert!(world.n_flows() <= max_idle + 64, "{} flows", world.n_flows());
        resident_bytes()
    };
    let full = churn(0..25_000);
    let later = churn(25_000..60_000);
    assert!(later < full + (1 << 20), "{} KiB more", (later - full) >> 10);
}
