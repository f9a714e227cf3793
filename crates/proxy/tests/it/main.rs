//! The proxy over real sockets, between real clients and model servers that misbehave.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
#![allow(clippy::large_futures, reason = "tests run few of them")]

mod access;
mod bodies;
mod canary;
mod cancel;
mod evicted;
mod forward;
mod http2;
mod local;
mod models;
mod retries;
mod stalled;
mod streams;
mod world;
