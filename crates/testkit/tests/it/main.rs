//! The harness itself, against real programs.

mod envoy;
mod health;
mod process;
mod python;
