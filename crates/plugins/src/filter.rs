//! Filters: they narrow the candidates of a profile.

pub mod by_label;
pub mod by_label_selector;
pub mod decode;
pub mod encode;
pub mod header_based_testing;
pub mod label_selector;
pub mod prefill;
pub mod prefix_cache_affinity;
mod role;
mod selector;
