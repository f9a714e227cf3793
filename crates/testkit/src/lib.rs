//! Fakes and builders for tests.

pub mod envoy;
pub mod process;
pub mod python;
pub mod scheduling;
pub mod tools;
