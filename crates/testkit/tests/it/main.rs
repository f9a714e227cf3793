//! The harness itself, against real programs.

mod envoy;
mod process;
mod python;
