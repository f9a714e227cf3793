//! Load generators, comparison floors and the suite that holds the router to its budgets.
//!
//! All but [`matrix`] speaks to the router from outside, over its sockets, as Envoy, a client or a model
//! server would, and knows nothing of the router's code.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`load`] | the loop of every load generator: closed or at a fixed rate, with a warm-up |
//! | [`extproc`] | Envoy's side of the external processing protocol, and a server that decides nothing |
//! | [`http`] | an HTTP client, a model server that only answers, and a bare reverse proxy |
//! | [`payload`] | chat-completion bodies of a given size, and answers |
//! | [`suite`] | scenarios, budgets, and the run that prints one beside the other |
//! | [`live`] | a stretch of a trace through the real Envoy in real time, beside the same in replay |
//! | [`soak`] | very many requests that are left at every stage, and the check that nothing stays |
//! | [`matrix`] | the default policy against every baseline, in virtual time |
//! | [`procfs`] | CPU time and memory of another process |
//!
//! The programs in `src/bin/` are thin: they parse flags and call a `run` in here, so that tests can
//! start the same things in one process on port 0.

pub mod extproc;
pub mod http;
pub mod live;
pub mod load;
pub mod matrix;
pub mod payload;
pub mod procfs;
pub mod soak;
pub mod suite;
