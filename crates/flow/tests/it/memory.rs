//! Memory per request that waits, and none for flows that are gone.

use std::sync::Arc;

use router_flow::{Bounds, policy::deficit::Deficit};

use crate::world::World;

/// Subsets that are told apart.
const MAX_SUBSETS: u64 = 1_000;

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
    // So does one that may go to some endpoints only.
    let before = resident_bytes();
    const N_RESTRICTED: u64 = 10_000;
    for n in 0..N_RESTRICTED {
        world.arrive_to(N_WAITING + n, n % MAX_SUBSETS);
    }
    let each = resident_bytes().saturating_sub(before) / N_RESTRICTED;
    assert!(each <= 1_024, "{each} bytes");
}

pub(crate) fn subsets_that_are_gone_take_nothing() {
    let mut world = World::new(Arc::new(Deficit::default()), 16);
    let mut churn = |subsets: std::ops::Range<u64>| {
        for subset in subsets {
            let ticket = world.arrive_to(subset % 100, subset);
            assert_eq!(world.n_subsets(), 1);
            world.cancel(ticket);
        }
        assert_eq!((world.n_waiting(), world.n_subsets()), (0, 0));
        resident_bytes()
    };
    let full = churn(0..25_000);
    let later = churn(25_000..60_000);
    assert!(later < full + (1 << 20), "{} KiB more", (later - full) >> 10);
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
