//! Simulated model servers.
//!
//! Two halves. [`model`] is an engine as a pure state machine: continuous batching, chunked prefill, KV blocks
//! with a prefix cache, preemption, LoRA slots, in virtual time; trace replay uses it without any server.
//! [`server`] puts such engines behind HTTP: the APIs, streams and metrics of real model servers, and failures on
//! request.
//!
//! It does not know the router: it is what the router talks to. It knows no tokenizer, model or text of the real
//! world either.
//!
//! | type | what it is for |
//! | --- | --- |
//! | [`model::Engine`] | one engine: submit, cancel, advance, signals |
//! | [`model::Profile`] | its capacity and costs |
//! | [`server::SimConfig`] | simulated servers of one process |
//! | [`server::run`] | starts them |

pub mod model;
pub mod replay;
pub mod server;
