//! Plugins against recorded truth.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod go_decisions;
mod go_producers;
