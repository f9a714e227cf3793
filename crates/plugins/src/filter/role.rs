//! What the three role filters share: the label that says what an endpoint does in disaggregated serving.

use router_core::{Endpoint, Position};
use router_framework::{Filter, FilterKind, RequestCx};

/// Label with an endpoint's role.
const ROLE_LABEL: &str = "llm-d.ai/role";

/// Keeps the endpoints that play one of some roles.
#[derive(Debug)]
pub(crate) struct RoleFilter {
    pub(crate) roles: &'static [&'static str],
    /// Whether an endpoint without the label plays them, too.
    pub(crate) allow_unlabelled: bool,
}

impl RoleFilter {
    fn keeps(&self, endpoint: &Endpoint) -> bool {
        endpoint.label(ROLE_LABEL).map_or(self.allow_unlabelled, |role| self.roles.contains(&role))
    }
}

impl Filter for RoleFilter {
    fn kind(&self) -> FilterKind {
        FilterKind::Constraint
    }

    fn filter(&self, cx: &RequestCx<'_>, positions: &mut Vec<Position>) {
        positions.retain(|&at| cx.endpoint(at).is_some_and(|endpoint| self.keeps(endpoint)));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use router_framework::PluginDef;
    use router_testkit::scheduling::{EndpointFixture, SceneBuilder};

    /// Roles in the order of the endpoints that [`check`] makes; the last one has no label.
    const ROLES: [&str; 8] = [
        "encode",
        "prefill",
        "decode",
        "encode-prefill",
        "prefill-decode",
        "both",
        "encode-prefill-decode",
        "something-else",
    ];

    /// Checks which roles a filter keeps, and that it keeps an endpoint without a role iff told so.
    pub(crate) fn check(def: &PluginDef, kept: &[&str], keeps_unlabelled: bool) {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(def, "");
        let mut endpoints: Vec<_> = ROLES
            .iter()
            .map(|role| EndpointFixture::new().label(super::ROLE_LABEL, role))
            .collect();
        endpoints.push(EndpointFixture::new());
        let mut positions: Vec<u32> =
            (0..).zip(ROLES).filter(|(_, role)| kept.contains(role)).map(|(at, _)| at).collect();
        if keeps_unlabelled {
            positions.push(ROLES.len() as u32);
        }
        builder.scene(endpoints).assert_kept(&plugin, &positions);
    }
}
