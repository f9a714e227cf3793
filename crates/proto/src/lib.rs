//! Message types, clients and servers of the gRPC services that the router speaks.
//!
//! The Rust below `src/gen/` is generated from the trimmed files in `proto/` by `cargo xtask codegen`
//! and committed, so that a build needs neither protoc nor a build script.
//! Field numbers and service paths are those of Envoy, gRPC and Google (see `proto/NOTICE`); messages
//! of several Envoy packages share one module.
//!
//! Every `bytes` field is a [`bytes::Bytes`] that shares the received message's memory: whoever keeps
//! a slice of a body keeps that whole message alive.
//! Strings are checked to be UTF-8 and nesting is limited to 100 levels while decoding; the size of a
//! message is limited by the server or client that receives it.
//!
//! This crate knows nothing of the order of messages, of what a header means, or of sockets.
//!
//! ```
//! use bytes::Bytes;
//! use router_proto::ext_proc::{BodyResponse, ProcessingResponse, processing_response::Response};
//!
//! let answer: ProcessingResponse =
//!     Response::RequestBody(BodyResponse::streamed(Bytes::from_static(b"{}"), true)).into();
//! assert!(answer.response.is_some());
//! ```

mod ctor;

/// Envoy's external processing protocol, `envoy.service.ext_proc.v3`.
#[allow(clippy::pedantic, missing_docs, unreachable_pub, reason = "generated")]
pub mod ext_proc {
    include!("gen/envoy.service.ext_proc.v3.rs");
}

/// Google's well-known types that ext-proc messages hold.
#[allow(clippy::pedantic, missing_docs, unreachable_pub, reason = "generated")]
pub mod google {
    include!("gen/google.protobuf.rs");
}

/// gRPC health checking, `grpc.health.v1`.
#[allow(clippy::pedantic, missing_docs, unreachable_pub, reason = "generated")]
pub mod health {
    include!("gen/grpc.health.v1.rs");
}
