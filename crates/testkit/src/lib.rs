//! Fakes and builders for tests.

pub mod canary;
pub mod datalayer;
pub mod envoy;
pub mod pipeline;
pub mod process;
pub mod python;
pub mod router;
pub mod scheduling;
pub mod tools;
