//! Flow control: how full the pool is, and who goes next when it is.
//!
//! The algorithms are those of `router-flow`, where they are held against a slow model; a plugin is their
//! parameters.

pub mod concurrency_detector;
pub mod deficit_fairness;
pub mod edf_ordering;
pub mod fcfs_ordering;
pub mod global_strict_fairness;
pub mod priority_holdback;
pub mod priority_then_time_eviction;
pub mod program_aware_fairness;
pub mod round_robin_fairness;
pub mod sheddable_eviction;
pub mod slo_deadline_ordering;
pub mod soft_reflective_ceiling;
pub mod static_usage_limit;
pub mod utilization_detector;

#[cfg(test)]
mod testing {
    use std::time::Duration;

    use router_core::Stamp;
    use router_flow::{Arrival, Cost};

    /// A request that came and was queued at these times and may wait so long, all in nanoseconds.
    pub(super) fn arrival(
        received: u64,
        enqueued: u64,
        ttl: Option<u64>,
        ttft_slo: Option<u64>,
    ) -> Arrival {
        Arrival {
            received: Stamp::from_nanos(received),
            enqueued: Stamp::from_nanos(enqueued),
            ttl: ttl.map(Duration::from_nanos),
            ttft_slo: ttft_slo.map(Duration::from_nanos),
            cost: Cost::default(),
        }
    }
}
