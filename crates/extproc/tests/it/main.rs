//! Streams of the endpoint picker: message by message, in any order, and over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod call;
mod canary;
mod endings;
mod grpc;
mod limits;
mod messages;
mod order;
mod props;
mod request;
mod response;
