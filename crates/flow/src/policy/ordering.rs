//! Orders within a flow.

use super::{Arrival, OrderingPolicy, Rank};

/// Who entered the queue first goes first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fcfs;

impl OrderingPolicy for Fcfs {
    fn rank(&self, arrival: &Arrival) -> Rank {
        Rank(arrival.enqueued.as_nanos(), 0)
    }
}

/// Whose wait ends first goes first; who may wait for ever goes last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Edf;

impl OrderingPolicy for Edf {
    fn rank(&self, arrival: &Arrival) -> Rank {
        let deadline = arrival.ttl.map_or(u64::MAX, |ttl| (arrival.enqueued + ttl).as_nanos());
        Rank(deadline, arrival.enqueued.as_nanos())
    }
}

/// Whose time to first token runs out first goes first; who asked for none goes last.
#[derive(Clone, Copy, Debug, Default)]
pub struct SloDeadline;

impl OrderingPolicy for SloDeadline {
    fn rank(&self, arrival: &Arrival) -> Rank {
        let deadline = arrival.ttft_slo.map_or(u64::MAX, |slo| (arrival.received + slo).as_nanos());
        Rank(deadline, arrival.received.as_nanos())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use router_core::Stamp;

    use super::*;
    use crate::request::Cost;

    fn arrival(received: u64, enqueued: u64, ttl: Option<u64>, slo: Option<u64>) -> Arrival {
        Arrival {
            received: Stamp::from_nanos(received),
            enqueued: Stamp::from_nanos(enqueued),
            ttl: ttl.map(Duration::from_nanos),
            ttft_slo: slo.map(Duration::from_nanos),
            cost: Cost::default(),
        }
    }

    /// The first goes before the second.
    fn check(policy: &dyn OrderingPolicy, first: Arrival, second: Arrival) {
        assert!(policy.rank(&first) < policy.rank(&second), "{first:?} {second:?}");
    }

    #[test]
    fn fcfs_goes_by_the_time_in_the_queue() {
        check(&Fcfs, arrival(9, 10, None, None), arrival(1, 11, Some(1), Some(1)));
    }

    #[test]
    fn edf_goes_by_the_end_of_the_wait() {
        check(&Edf, arrival(0, 10, Some(5), None), arrival(0, 0, Some(20), None));
        check(&Edf, arrival(0, 10, Some(u64::MAX - 20), None), arrival(0, 0, None, None));
        check(&Edf, arrival(0, 10, None, None), arrival(0, 11, None, None));
    }

    #[test]
    fn slo_deadline_goes_by_the_time_to_first_token() {
        check(&SloDeadline, arrival(10, 50, None, Some(5)), arrival(0, 0, None, Some(20)));
        check(&SloDeadline, arrival(9, 50, None, Some(1)), arrival(0, 0, None, None));
        check(&SloDeadline, arrival(1, 50, None, None), arrival(2, 2, None, None));
        // A number that would wrap around is late, not early.
        check(&SloDeadline, arrival(10, 0, None, Some(1)), arrival(10, 0, None, Some(u64::MAX)));
    }
}
