//! A profile interrupts the whole process, so it is not taken beside other tests.

use std::hint::black_box;

use router_telemetry::profile::{CpuProfile, ProfileError};

#[inline(never)]
fn conspicuous_work(rounds: u64) -> u64 {
    (0..rounds).fold(0, |sum: u64, n| black_box(sum.wrapping_mul(31).wrapping_add(n)))
}

#[test]
fn a_profile_names_what_took_the_time_and_only_one_runs() {
    let names_it = |profile: &[u8]| profile.windows(16).any(|window| window == b"conspicuous_work");
    // Samples come with CPU time, which a busy machine may be slow to give.
    let found = (0..50).any(|_| {
        let running = CpuProfile::start().unwrap();
        assert_eq!(CpuProfile::start().unwrap_err(), ProfileError::Busy);
        black_box(conspicuous_work(20_000_000));
        names_it(&running.finish().unwrap())
    });
    assert!(found);
}
