//! Runs the one scheduling profile that is configured.
//!
//! It is added where exactly one profile and no profile handler is configured; with several profiles it is an error.
//! A failure of the profile is the answer to the request.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: single-profile-handler
//! ```

use std::sync::Arc;

use router_core::Rejection;
use router_framework::{
    BuildCx, BuildError, Cycle, Instance, NoParams, PluginDef, ProfileHandler, ProfileIndex,
    RequestCx, Role,
};
use smallvec::{SmallVec, smallvec};

use crate::profile::only_run;

pub const PLUGIN: PluginDef =
    PluginDef::new::<NoParams>("single-profile-handler", &[Role::ProfileHandler], file!(), build);

struct SingleProfile;

fn build(_: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    Ok(Instance::new().profile_handler(Arc::new(SingleProfile)))
}

impl ProfileHandler for SingleProfile {
    fn next(
        &self,
        _: &RequestCx<'_>,
        cycle: &Cycle<'_>,
    ) -> Result<SmallVec<[ProfileIndex; 4]>, Rejection> {
        let only = ProfileIndex(0);
        match cycle.names.len() {
            1 if cycle.has_run(only) => Ok(SmallVec::new()),
            1 => Ok(smallvec![only]),
            n => {
                Err(Rejection::internal(format!("single-profile-handler cannot run {n} profiles")))
            }
        }
    }

    fn primary(&self, _: &RequestCx<'_>, cycle: &Cycle<'_>) -> Result<ProfileIndex, Rejection> {
        only_run(cycle)
    }
}

#[cfg(test)]
mod tests {
    use router_core::ErrorCode;
    use router_testkit::scheduling::SceneBuilder;

    use super::*;
    use crate::profile::tests::cycle;

    #[test]
    fn the_profile_runs_once_and_is_primary() {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, "");
        let scene = builder.scene(vec![]);
        assert_eq!(cycle(&plugin, &scene, &["default"], Ok(())).unwrap(), "default");
    }

    #[test]
    fn the_profiles_failure_is_the_answer() {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, "");
        let scene = builder.scene(vec![]);
        let drained = Rejection::no_endpoints("none left");
        let answer = cycle(&plugin, &scene, &["default"], Err(drained.clone()));
        assert_eq!(answer, Err(drained));
        let two = cycle(&plugin, &scene, &["a", "b"], Ok(()));
        assert_eq!(two.unwrap_err().code, ErrorCode::Internal);
    }
}
