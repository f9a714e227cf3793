//! The pipeline as its drivers see it, with real plugins and with plugins that a test plays.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod bodies;
mod endings;
mod errors;
mod flow_defects;
mod flow_subsets;
mod held;
mod interleavings;
mod isolation;
mod labels;
mod late;
mod moving;
mod parallel;
mod queueing;
mod records;
mod reloads;
mod rewriting;
mod roles;
mod routing;
mod scraping;
mod subsets;
