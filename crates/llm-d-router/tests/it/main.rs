//! The whole system: as processes behind and without Envoy, and against what the Go implementation and real
//! traces recorded.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod cli;
mod configs;
mod decisions;
mod envoy;
mod estimated_ttft;
mod flags;
mod live;
mod metrics_page;
mod page;
mod recording;
mod replay;
mod serve;
mod system;
mod testdata;
