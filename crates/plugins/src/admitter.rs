//! Admitters: they may refuse a request before it is scheduled.

pub mod probabilistic;
