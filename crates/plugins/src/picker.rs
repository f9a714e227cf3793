//! Pickers: they rank candidates by their total scores.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub mod max_score;
pub mod random;
mod ranking;
pub mod weighted_random;

/// Parameters that all pickers share.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// How many endpoints the destination header shows, best first, for a proxy that falls back by itself.
    /// Zero and below mean 1. Envoy's `ORIGINAL_DST` reads one address: a list breaks it.
    pub max_num_of_endpoints: i64,
}

impl Default for Params {
    fn default() -> Self {
        Self { max_num_of_endpoints: 1 }
    }
}

impl Params {
    fn n_shown(&self) -> usize {
        usize::try_from(self.max_num_of_endpoints).unwrap_or(1).max(1)
    }
}
