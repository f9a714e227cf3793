//! Keeps the endpoints whose labels match a Kubernetes label selector.
//!
//! The parameters are a `LabelSelector`, inline: `matchLabels` and `matchExpressions` with the operators `In`, `NotIn`, `Exists` and `DoesNotExist`.
//! All conditions must hold; an empty selector keeps every endpoint.
//! `NotIn` keeps endpoints without the label, as in Kubernetes.
//!
//! It reads the endpoints' labels.
//! When no endpoint is left, the request is refused with 503 `rejected-no-endpoints`.
//!
//! Use it to bind a profile to a part of the pool, such as a hardware type or a role of your own.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - name: fast-only
//!   type: label-selector-filter
//!   parameters:
//!     matchLabels:
//!       accelerator: h100
//!     matchExpressions:
//!     - key: stage
//!       operator: NotIn
//!       values: [canary]
//! schedulingProfiles:
//! - name: default
//!   plugins:
//!   - pluginRef: fast-only
//! ```

use std::sync::Arc;

use router_framework::{BuildCx, BuildError, Instance, PluginDef, Role};

use crate::filter::selector::{LabelSelector, SelectorFilter};

pub const PLUGIN: PluginDef =
    PluginDef::new::<LabelSelector>("label-selector-filter", &[Role::Filter], file!(), build);

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    Ok(Instance::new().filter(Arc::new(SelectorFilter::new(cx.params()?)?)))
}

#[cfg(test)]
mod tests {
    use router_testkit::scheduling::{EndpointFixture, SceneBuilder};

    use super::*;

    fn check(params: &str, kept: &[u32]) {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, params);
        let label = |key, value| EndpointFixture::new().label(key, value);
        let scene = builder.scene(vec![
            label("gpu", "h100").label("tier", "hot"),
            label("gpu", "a100").label("tier", "hot"),
            label("gpu", "h100"),
            EndpointFixture::new(),
        ]);
        scene.assert_kept(&plugin, kept);
    }

    #[test]
    fn all_conditions_must_hold() {
        check("", &[0, 1, 2, 3]);
        check("{matchLabels: {gpu: h100}}", &[0, 2]);
        check("{matchLabels: {gpu: h100, tier: hot}}", &[0]);
        check("{matchExpressions: [{key: gpu, operator: In, values: [a100, b200]}]}", &[1]);
        check("{matchExpressions: [{key: gpu, operator: NotIn, values: [a100]}]}", &[0, 2, 3]);
        check("{matchExpressions: [{key: tier, operator: Exists}]}", &[0, 1]);
        check("{matchExpressions: [{key: tier, operator: DoesNotExist}]}", &[2, 3]);
        check(
            "{matchLabels: {gpu: h100}, matchExpressions: [{key: tier, operator: DoesNotExist}]}",
            &[2],
        );
        check("{matchLabels: {gpu: mi300}}", &[]);
    }

    #[test]
    fn an_invalid_selector_is_refused_with_its_place() {
        let check = |params: &str, place: &str| {
            let error = SceneBuilder::refusal(&PLUGIN, params);
            assert!(error.contains(place), "{params}: {error}");
        };
        check("{matchExpressions: [{key: gpu, operator: In}]}", "matchExpressions[0].values");
        check(
            "{matchExpressions: [{key: gpu, operator: Exists, values: [a]}]}",
            "matchExpressions[0].values",
        );
        check("{matchExpressions: [{key: gpu, operator: Like}]}", "operator");
        check("{matchLabels: {'a b': c}}", "a b");
        check("{matchLabels: {a: 'b c'}}", "matchLabels.a");
    }
}
