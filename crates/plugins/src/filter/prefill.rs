//! Keeps the endpoints that can prefill.
//!
//! An endpoint stays when its label `llm-d.ai/role` is `prefill`, `encode-prefill`, `prefill-decode`, `both` or `encode-prefill-decode`.
//! An endpoint without the label does not stay.
//!
//! It reads the endpoints' labels.
//! When no endpoint is left, the request is refused with 503 `rejected-no-endpoints`.
//!
//! Use it in the profile that picks the endpoint to prefill in disaggregated serving.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: prefill-filter
//! schedulingProfiles:
//! - name: prefill
//!   plugins:
//!   - pluginRef: prefill-filter
//! ```

use std::sync::Arc;

use router_framework::{BuildCx, BuildError, Instance, NoParams, PluginDef, Role};

use crate::filter::role::RoleFilter;

pub const PLUGIN: PluginDef =
    PluginDef::new::<NoParams>("prefill-filter", &[Role::Filter], file!(), build);

const ROLES: &[&str] =
    &["prefill", "encode-prefill", "prefill-decode", "both", "encode-prefill-decode"];

fn build(_: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    Ok(Instance::new().filter(Arc::new(RoleFilter { roles: ROLES, allow_unlabelled: false })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::role;

    #[test]
    fn it_keeps_the_roles_that_prefill() {
        role::tests::check(
            &PLUGIN,
            &["prefill", "encode-prefill", "prefill-decode", "both", "encode-prefill-decode"],
            false,
        );
    }

    #[test]
    fn a03_it_reports_its_own_type() {
        assert_eq!(PLUGIN.plugin_type, "prefill-filter");
    }
}
