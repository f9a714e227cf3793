//! Data producers: what is worked out about a request before it is scheduled, and what is kept until it ends.

pub(crate) mod found;
pub(crate) mod known;

pub mod approx_prefix_cache;
pub mod inflight_load;
pub mod token;
