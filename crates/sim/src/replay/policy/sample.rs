//! `baseline-sample-filter`: keeps a few endpoints, drawn at random.
//!
//! With two, and a scorer that counts requests, it is the power of two choices: M. Mitzenmacher, "The Power of
//! Two Choices in Randomized Load Balancing", IEEE TPDS 12 (10), 2001. The endpoints are different ones.

use std::sync::Arc;

use router_core::Position;
use router_framework::{
    BuildCx, BuildError, Filter, FilterKind, Instance, PluginDef, RequestCx, Role,
};
use router_rt::Seeds;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub const PLUGIN: PluginDef =
    PluginDef::new::<Params>("baseline-sample-filter", &[Role::Filter], file!(), build);

/// Parameters of `baseline-sample-filter`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// Endpoints that stay.
    pub choices: usize,
}

impl Default for Params {
    fn default() -> Self {
        Self { choices: 2 }
    }
}

struct Sample {
    choices: usize,
    seeds: Seeds,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    if params.choices == 0 {
        return Err(BuildError::at("choices", "must be at least 1"));
    }
    let seeds = cx.env().seeds.family(cx.name());
    Ok(Instance::new().filter(Arc::new(Sample { choices: params.choices, seeds })))
}

impl Filter for Sample {
    fn kind(&self) -> FilterKind {
        FilterKind::Capacity
    }

    fn filter(&self, cx: &RequestCx<'_>, positions: &mut Vec<Position>) {
        let mut rng = self.seeds.rng(cx.request.id);
        rng.shuffle(positions);
        positions.truncate(self.choices);
        positions.sort_unstable();
    }
}
