//! Flow control: how full the pool is, and who goes next when it is.

pub mod concurrency_detector;
pub mod fcfs_ordering;
pub mod global_strict_fairness;
pub mod static_usage_limit;
pub mod utilization_detector;
