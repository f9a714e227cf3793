//! The metric registry: handles resolved once, lock-free observation, two text formats.
//!
//! Differs from the usual crates on purpose: series can be removed, deprecated names ("twins") are
//! derived when the page is written instead of being observed twice, label values are bounded, and
//! both the classic text format and OpenMetrics come out exactly as Go's client writes them.

mod describe;
mod encode;
mod family;
mod number;
mod registry;
mod twin;
mod value;

pub use describe::{Description, TwinDescription};
pub use encode::Format;
pub use family::{Def, Family, Limits, OTHER};
pub use registry::{RegisterError, Registry, RegistryOptions, ScrapeHook};
pub use twin::Twin;
pub use value::{Buckets, Counter, Gauge, Histogram, Metric, Total};

#[cfg(test)]
mod tests;
