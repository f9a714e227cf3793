//! Keeps the endpoints that can decode.
//!
//! An endpoint stays when its label `llm-d.ai/role` is `decode`, `prefill-decode`, `both` or `encode-prefill-decode`.
//! An endpoint without the label stays, too: a server without a role does everything.
//!
//! It reads the endpoints' labels.
//! When no endpoint is left, the request is refused with 503 `rejected-no-endpoints`.
//!
//! Use it in the profile that picks the endpoint to decode in disaggregated serving.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: decode-filter
//! schedulingProfiles:
//! - name: decode
//!   plugins:
//!   - pluginRef: decode-filter
//! ```

use std::sync::Arc;

use router_framework::{BuildCx, BuildError, Instance, NoParams, PluginDef, Role};

use crate::filter::role::RoleFilter;

pub const PLUGIN: PluginDef =
    PluginDef::new::<NoParams>("decode-filter", &[Role::Filter], file!(), build);

const ROLES: &[&str] = &["decode", "prefill-decode", "both", "encode-prefill-decode"];

fn build(_: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    Ok(Instance::new().filter(Arc::new(RoleFilter { roles: ROLES, allow_unlabelled: true })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::role;

    #[test]
    fn it_keeps_the_roles_that_decode() {
        role::tests::check(
            &PLUGIN,
            &["decode", "prefill-decode", "both", "encode-prefill-decode"],
            true,
        );
    }

    #[test]
    fn a03_it_reports_its_own_type() {
        assert_eq!(PLUGIN.plugin_type, "decode-filter");
    }
}
