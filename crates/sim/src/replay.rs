//! Replay: a trace against the real engine and simulated servers, in virtual time.
//!
//! A [`Trace`](trace::Trace) comes from a file ([`read`]) or is made up. It is played against a
//! [`Pool`](pool::Pool) under a configuration document by [`run::play`], once per seed, and the
//! [`Outcome`](outcome::Outcome) of each run is put into numbers by [`summary`], with intervals over seeds.

pub mod fit;
pub mod outcome;
pub mod policy;
pub mod pool;
pub mod read;
pub mod recording;
pub mod reproduce;
pub mod run;
pub mod summary;
pub mod trace;
pub mod workload;
