//! Envoy's external processing protocol: the stream state machine and the gRPC server around it.
//!
//! One gRPC stream is one HTTP request. [`ProcessService`] serves any [`Handler`]: it hands every message
//! of a stream to the handler's [`Session`] and sends what the session replies, without a task or a
//! channel of its own, so that a stream that Envoy resets drops its session at once. [`EppHandler`] is the
//! handler of the endpoint picker; it drives an engine [`Router`](router_engine::Router).
//!
//! [`serve`] adds TLS, limits, drain and the health services.
//!
//! The crate knows Envoy's messages and their order, and nothing of plugins, configuration or scheduling.

pub mod epp;
pub mod fuzz;
mod grpc;
pub mod handler;
pub mod head;
pub mod health;
pub mod reply;
pub mod server;
pub mod service;
mod stream;

pub use epp::EppHandler;
pub use handler::{Handler, Opening, Replies, Session};
pub use health::{HealthService, Readiness};
pub use server::{ServerError, ServerOptions, serve};
pub use service::{ProcessService, StreamLimits};
pub use stream::ProcessStream;
