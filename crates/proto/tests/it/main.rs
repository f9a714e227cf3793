//! Holds the generated types to bytes made by hand, and the generated files to their sources.
#![allow(clippy::unwrap_used, reason = "tests; clippy knows only the functions marked so")]

mod sums;
mod wire;
