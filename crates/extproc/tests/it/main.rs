//! Streams of the endpoint picker: message by message, in any order, and over real sockets.

mod call;
mod endings;
mod grpc;
mod limits;
mod messages;
mod order;
mod props;
mod request;
mod response;
