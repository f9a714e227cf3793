//! Lets the client choose the scheduling profile by a header.
//!
//! The header's value, without surrounding blanks, names the profile.
//! A request without the header, or with a blank one, runs `defaultProfile`.
//! Where only one profile is configured, it always runs.
//!
//! A name that is not configured is answered with 400 and the names that are.
//! The same holds for a request without the header where `defaultProfile` is not configured.
//!
//! It reads the request's headers.
//!
//! Use it to try another profile on part of the traffic, or where a trusted caller knows best.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: header-profile-handler
//!   parameters:
//!     headerName: EPP-Profile
//!     defaultProfile: chat
//! - type: queue-scorer
//! - type: prefix-cache-scorer
//! schedulingProfiles:
//! - name: chat
//!   plugins:
//!   - pluginRef: prefix-cache-scorer
//! - name: batch
//!   plugins:
//!   - pluginRef: queue-scorer
//! ```

use std::sync::Arc;

use http::HeaderName;
use router_core::Rejection;
use router_framework::{
    BuildCx, BuildError, Cycle, Instance, PluginDef, ProfileHandler, ProfileIndex, RequestCx, Role,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smallvec::{SmallVec, smallvec};

use crate::profile::only_run;

pub const PLUGIN: PluginDef =
    PluginDef::new::<Params>("header-profile-handler", &[Role::ProfileHandler], file!(), build)
        .alpha();

/// Characters of a client's profile name that an error repeats.
const MAX_ECHO: usize = 64;

/// Parameters of `header-profile-handler`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// Header that names the profile; case does not matter.
    pub header_name: String,
    /// Profile of requests without the header.
    pub default_profile: String,
}

impl Default for Params {
    fn default() -> Self {
        Self { header_name: "EPP-Profile".to_owned(), default_profile: "decode".to_owned() }
    }
}

struct HeaderProfile {
    header: HeaderName,
    default_profile: String,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    let header = HeaderName::try_from(params.header_name.trim())
        .map_err(|_| BuildError::at("headerName", "is not the name of an HTTP header"))?;
    let handler = HeaderProfile { header, default_profile: params.default_profile };
    Ok(Instance::new().profile_handler(Arc::new(handler)))
}

impl HeaderProfile {
    fn unknown(&self, named: Option<&str>, names: &[Arc<str>]) -> Rejection {
        let header = &self.header;
        let names = names.join(", ");
        Rejection::bad_request(match named {
            Some(named) => {
                let named: String = named.chars().take(MAX_ECHO).collect();
                format!(
                    "no scheduling profile {named:?}; header {header} must name one of: {names}"
                )
            }
            None => format!("header {header} must name one of the scheduling profiles: {names}"),
        })
    }
}

impl ProfileHandler for HeaderProfile {
    fn next(
        &self,
        cx: &RequestCx<'_>,
        cycle: &Cycle<'_>,
    ) -> Result<SmallVec<[ProfileIndex; 4]>, Rejection> {
        if cycle.runs.iter().any(Option::is_some) {
            return Ok(SmallVec::new());
        }
        if cycle.names.len() == 1 {
            return Ok(smallvec![ProfileIndex(0)]);
        }
        let named = cx.request.header(&self.header);
        let profile = cycle.by_name(named.unwrap_or(&self.default_profile));
        let profile = profile.ok_or_else(|| self.unknown(named, cycle.names))?;
        Ok(smallvec![profile])
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

    fn check(
        params: &str,
        header: Option<(&str, &str)>,
        names: &[&str],
    ) -> Result<String, Rejection> {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, params);
        let mut scene = builder.scene(vec![]);
        if let Some((name, value)) = header {
            scene.header(name, value);
        }
        cycle(&plugin, &scene, names, Ok(()))
    }

    const NAMES: &[&str] = &["prefill", "decode", "batch"];

    #[test]
    fn the_header_names_the_profile() {
        assert_eq!(check("", Some(("epp-profile", "batch")), NAMES).unwrap(), "batch");
        assert_eq!(check("", Some(("epp-profile", "  batch ")), NAMES).unwrap(), "batch");
        let params = "{headerName: ' X-Profile '}";
        assert_eq!(check(params, Some(("x-profile", "prefill")), NAMES).unwrap(), "prefill");
    }

    #[test]
    fn without_the_header_the_default_runs() {
        assert_eq!(check("", None, NAMES).unwrap(), "decode");
        assert_eq!(check("", Some(("epp-profile", "  ")), NAMES).unwrap(), "decode");
        assert_eq!(check("{defaultProfile: batch}", None, NAMES).unwrap(), "batch");
    }

    #[test]
    fn a_single_profile_always_runs() {
        assert_eq!(check("", Some(("epp-profile", "other")), &["default"]).unwrap(), "default");
    }

    #[test]
    fn a02_an_unknown_profile_is_the_clients_error_and_names_the_valid_ones() {
        let rejection = check("", Some(("epp-profile", "bacth")), NAMES).unwrap_err();
        assert_eq!(rejection.code, ErrorCode::BadRequest);
        assert!(rejection.message.contains("\"bacth\""), "{rejection}");
        assert!(rejection.message.contains("prefill, decode, batch"), "{rejection}");
        let rejection = check("{defaultProfile: chat}", None, NAMES).unwrap_err();
        assert_eq!(rejection.code, ErrorCode::BadRequest);
        assert!(rejection.message.contains("epp-profile"), "{rejection}");
    }

    #[test]
    fn a_hostile_name_is_cut() {
        let long = "x".repeat(10_000);
        let rejection = check("", Some(("epp-profile", &long)), NAMES).unwrap_err();
        assert!(rejection.message.len() < 300);
    }

    #[test]
    fn a_header_name_that_cannot_be_is_refused() {
        for params in ["{headerName: ''}", "{headerName: 'a b'}"] {
            let error = SceneBuilder::refusal(&PLUGIN, params);
            assert!(error.contains("headerName"), "{error}");
        }
    }
}
