//! The load generators against the floors, in one process, on port 0.
#![allow(clippy::unwrap_used, reason = "tests; clippy knows only the functions marked so")]

mod args;
mod extproc;
mod http;
mod live;
mod matrix;
mod suite;
