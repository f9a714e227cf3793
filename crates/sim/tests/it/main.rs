//! Simulated servers through real sockets.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod apis;
mod client;
mod control;
mod failures;
mod inputs;
mod load;
mod overload;
mod shapes;
