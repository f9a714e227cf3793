//! Fuzz targets for every parser of foreign bytes, as plain functions.
//!
//! A target takes any bytes and must return: it panics only where an invariant is broken, it ends
//! quickly and it holds memory in proportion to its input.
//! The functions live beside the parsers they try; here is their list, and `corpus/<target>/` has
//! small inputs for each: samples of real traffic, hostile ones, and every input that once failed.
//!
//! `cargo test -p router-fuzz` replays the corpus, and mutations of it for a moment.
//! `cargo xtask fuzz [target]` explores further, with coverage feedback where it can.
//!
//! To add a target: a function beside the parser, a line in [`TARGETS`], a seed in its folder.
//!
//! ```
//! let target = router_fuzz::target("kv-index").expect("in the list");
//! target(b"any bytes");
//! ```

mod corpus;
mod ext_proc;
mod mutate;
mod replay;

pub use corpus::{Input, folders, inputs};
pub use mutate::{MAX_INPUT_LEN, Mutator};

/// A function that any bytes may be given to.
pub type Target = fn(&[u8]);

/// Every target, by the name of its corpus folder.
pub const TARGETS: &[(&str, Target)] = &[
    ("configuration-document", router_framework::document::fuzz::fuzz_document),
    ("ext-proc-frames", router_extproc::fuzz::fuzz_frames),
    ("ext-proc-stream", ext_proc::fuzz_stream),
    ("kv-index", router_kvcache::fuzz_index),
    ("manifests", router_engine::resources::fuzz::fuzz_manifests),
    ("prometheus", router_wire::fuzz::fuzz_prometheus),
    ("replay", replay::fuzz_replay),
    ("request", router_wire::fuzz::fuzz_request),
    ("response", router_wire::fuzz::fuzz_response),
    ("restore", router_wire::fuzz::fuzz_restore),
    ("trace", router_sim::replay::read::fuzz_traces),
];

/// The target of that name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
