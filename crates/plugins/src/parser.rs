//! Parsers: what a request body asks for, and what a response says it used.

mod bodies;

pub mod anthropic;
pub mod openai;
pub mod passthrough;
pub mod vllmhttp;
