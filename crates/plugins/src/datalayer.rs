//! The data layer: what is fetched from endpoints, and what is read out of it.

pub mod core_metrics;
pub mod metrics_source;
