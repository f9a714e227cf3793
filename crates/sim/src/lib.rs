//! Simulated model servers.
//!
//! Two halves. [`model`] is an engine as a pure state machine: continuous batching, chunked prefill, KV blocks
//! with a prefix cache, preemption, LoRA slots, in virtual time; trace replay uses it without any server.
//!
//! It does not know the router: it is what the router talks to.

pub mod model;
