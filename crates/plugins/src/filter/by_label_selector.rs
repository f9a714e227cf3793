//! The former name of `label-selector-filter`, with the same parameters and behaviour.
//!
//! Keeps the endpoints whose labels match a Kubernetes label selector.
//! It reports its own type in metrics and logs.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: by-label-selector
//!   parameters:
//!     matchLabels:
//!       accelerator: h100
//! ```

use std::sync::Arc;

use router_framework::{BuildCx, BuildError, Instance, PluginDef, Role};

use crate::filter::selector::{LabelSelector, SelectorFilter};

pub const PLUGIN: PluginDef =
    PluginDef::new::<LabelSelector>("by-label-selector", &[Role::Filter], file!(), build)
        .deprecated("0.9", "0.11", "label-selector-filter");

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    Ok(Instance::new().filter(Arc::new(SelectorFilter::new(cx.params()?)?)))
}

#[cfg(test)]
mod tests {
    use router_testkit::scheduling::{EndpointFixture, SceneBuilder};

    use super::*;

    #[test]
    fn it_filters_like_its_replacement() {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, "{matchLabels: {gpu: h100}}");
        let h100 = EndpointFixture::new().label("gpu", "h100");
        builder.scene(vec![EndpointFixture::new(), h100]).assert_kept(&plugin, &[1]);
    }
}
