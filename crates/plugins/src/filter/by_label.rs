//! Keeps the endpoints whose value of one label is among those listed.
//!
//! An endpoint stays when its label has one of `validValues`, or when it lacks the label and `allowsNoLabel` is set.
//! An empty string among `validValues` keeps endpoints without the label, too.
//!
//! It reads the endpoints' labels.
//! When no endpoint is left, the request is refused with 503 `rejected-no-endpoints`.
//!
//! Use `label-selector-filter` in new configurations.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - name: hot-tier
//!   type: by-label
//!   parameters:
//!     label: tier
//!     validValues: [hot, warm]
//!     allowsNoLabel: true
//! ```

use std::sync::Arc;

use router_core::{Endpoint, Position};
use router_framework::{
    BuildCx, BuildError, Filter, FilterKind, Instance, PluginDef, RequestCx, Role,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub const PLUGIN: PluginDef = PluginDef::new::<Params>("by-label", &[Role::Filter], file!(), build)
    .deprecated("0.9", "0.11", "label-selector-filter");

/// Parameters of `by-label`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// Key of the label. Must be given.
    pub label: String,
    /// Values that stay. May be empty only where `allowsNoLabel` is set.
    pub valid_values: Vec<String>,
    /// Whether endpoints without the label stay.
    pub allows_no_label: bool,
}

struct ByLabel(Params);

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    if params.label.is_empty() {
        return Err(BuildError::at("label", "must be given"));
    }
    if params.valid_values.is_empty() && !params.allows_no_label {
        let message = "must list a value, unless allowsNoLabel is set: no endpoint could ever stay";
        return Err(BuildError::at("validValues", message));
    }
    Ok(Instance::new().filter(Arc::new(ByLabel(params))))
}

impl ByLabel {
    fn keeps(&self, endpoint: &Endpoint) -> bool {
        let label = endpoint.label(&self.0.label);
        if label.is_none() && self.0.allows_no_label {
            return true;
        }
        // The Go implementation reads an absent label as the empty string.
        let value = label.unwrap_or_default();
        self.0.valid_values.iter().any(|valid| valid == value)
    }
}

impl Filter for ByLabel {
    fn kind(&self) -> FilterKind {
        FilterKind::Constraint
    }

    fn filter(&self, cx: &RequestCx<'_>, positions: &mut Vec<Position>) {
        positions.retain(|&at| cx.endpoint(at).is_some_and(|endpoint| self.keeps(endpoint)));
    }
}

#[cfg(test)]
mod tests {
    use router_testkit::scheduling::{EndpointFixture, SceneBuilder};

    use super::*;

    fn check(params: &str, kept: &[u32]) {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, params);
        let tier = |value| EndpointFixture::new().label("tier", value);
        let scene =
            builder.scene(vec![tier("hot"), tier("cold"), EndpointFixture::new(), tier("")]);
        scene.assert_kept(&plugin, kept);
    }

    #[test]
    fn listed_values_and_optionally_unlabelled_endpoints_stay() {
        check("{label: tier, validValues: [hot]}", &[0]);
        check("{label: tier, validValues: [hot, cold]}", &[0, 1]);
        check("{label: tier, validValues: [hot], allowsNoLabel: true}", &[0, 2]);
        check("{label: tier, allowsNoLabel: true}", &[2]);
        check("{label: zone, validValues: [a]}", &[]);
    }

    #[test]
    fn the_empty_value_admits_unlabelled_endpoints_as_in_go() {
        check("{label: tier, validValues: ['']}", &[2, 3]);
    }

    #[test]
    fn parameters_are_checked() {
        let check = |params: &str, place: &str| {
            let error = SceneBuilder::refusal(&PLUGIN, params);
            assert!(error.contains(place), "{params}: {error}");
        };
        check("", "label");
        check("{label: tier}", "validValues");
        check("{label: tier, values: [a]}", "values");
    }
}
