//! The whole system, against what the Go implementation and real traces recorded.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod configs;
mod decisions;
mod flags;
mod metrics_page;
mod replay;
mod testdata;
