//! Tasks with owners, deadlines, off-loading of long work, seeded randomness, watched files.
//!
//! This is the only crate that spawns. Everything here is a value that is handed down: there is no
//! global clock, runtime or random generator, so several routers can live in one process and a
//! replay can run the very same code under tokio's paused clock.
//!
//! It does not know what a request, an endpoint or a socket is.
//!
//! | type | what it is for |
//! | --- | --- |
//! | [`Clock`] | nanosecond stamps from tokio's clock, and their wall-clock meaning |
//! | [`Tasks`] | the owner of named tasks: cancellation, panics that are counted, shutdown that names the late |
//! | [`Offload`] | long CPU or file work on a bounded blocking pool, or inline under a paused clock |
//! | [`deadline`] | a limit on any future |
//! | [`Rng`], [`Seeds`] | seeded randomness, one generator per request |
//! | [`FileWatch`], [`read_file_bounded`] | files that people and Kubernetes replace while we run |
//!
//! ```
//! use std::time::Duration;
//!
//! use router_rt::{Clock, Tasks, deadline};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let clock = Clock::new();
//! let tasks = Tasks::new();
//! let started = clock.now();
//! let answer = tasks.spawn("answer", async { 42 });
//! assert_eq!(deadline(Duration::from_secs(5), answer.join()).await.unwrap().unwrap(), 42);
//! assert!(clock.now() >= started);
//! tasks.shutdown(Duration::from_secs(5)).await.unwrap();
//! # });
//! ```

mod clock;
mod deadline;
mod files;
mod offload;
mod rng;
mod tasks;
mod watch;

pub use clock::Clock;
pub use deadline::{Elapsed, deadline};
pub use files::{FileError, read_file_bounded};
pub use offload::{Offload, OffloadError};
pub use rng::{Rng, Seeds};
pub use tasks::{StillRunning, Task, TaskEnd, Tasks};
pub use watch::{FileWatch, WatchOptions, WatchedFile};
