//! Replay: a trace against the real engine and simulated servers, in virtual time.

pub mod trace;
