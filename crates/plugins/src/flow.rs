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
