//! An executable of your own with a scorer of your own: everything that `llm-d-router` is, and one plugin
//! type more. `docs/write-a-plugin.md` walks through this file.
//!
//! ```sh
//! cargo run --example custom_scorer -- config check my.yaml
//! cargo run --example custom_scorer -- serve --config-file my.yaml
//! ```

use std::sync::Arc;

use http::HeaderName;
use llm_d_router::App;
use router_core::{Endpoint, Position};
use router_framework::{BuildCx, BuildError, Instance, PluginDef, RequestCx, Role, Scorer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Prefers endpoints in the client's zone.
const SAME_ZONE: PluginDef =
    PluginDef::new::<Params>("same-zone-scorer", &[Role::Scorer], file!(), build);

/// Parameters of `same-zone-scorer`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Params {
    /// Header in which clients name their zone.
    header: String,
    /// Label that names an endpoint's zone.
    label: String,
    /// Score of endpoints in another zone, 0 to 1; those in the client's zone get 1.
    elsewhere: f64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            header: "x-client-zone".to_owned(),
            label: "topology.kubernetes.io/zone".to_owned(),
            elsewhere: 0.0,
        }
    }
}

/// The plugin at work: parameters that have been looked at once.
struct SameZone {
    header: HeaderName,
    label: String,
    elsewhere: f64,
}

/// Makes an instance. Errors name the parameter; they are shown with its line and column.
fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let Params { header, label, elsewhere } = cx.params()?;
    let header = HeaderName::from_bytes(header.as_bytes())
        .map_err(|_| BuildError::at("header", format!("{header:?} is not the name of a header")))?;
    if !(0.0..=1.0).contains(&elsewhere) {
        return Err(BuildError::at("elsewhere", "a score is 0 to 1"));
    }
    Ok(Instance::new().scorer(Arc::new(SameZone { header, label, elsewhere })))
}

impl Scorer for SameZone {
    /// `out` comes filled with NaN, which says "no opinion": it stays where a zone is not known.
    fn score(&self, cx: &RequestCx<'_>, positions: &[Position], out: &mut [f64]) {
        let Some(wanted) = cx.request.header(&self.header) else { return };
        for (&position, out) in positions.iter().zip(out) {
            match cx.endpoint(position).and_then(|endpoint| self.zone(endpoint)) {
                Some(zone) if zone == wanted => *out = 1.0,
                Some(_) => *out = self.elsewhere,
                None => {}
            }
        }
    }
}

impl SameZone {
    fn zone<'e>(&self, endpoint: &'e Endpoint) -> Option<&'e str> {
        endpoint.spec().labels.get(&self.label).map(String::as_str)
    }
}

fn main() {
    std::process::exit(llm_d_router::exit_code(App::new().plugin(&SAME_ZONE).run()));
}

#[cfg(test)]
mod tests {
    use std::fs;

    use router_testkit::scheduling::{EndpointFixture, SceneBuilder};

    use super::*;

    /// What `config check` says of a document with this scorer and these parameters.
    fn check_document(app: App, parameters: &str) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("own.yaml");
        let document = format!(
            "apiVersion: llm-d.ai/v1alpha1\n\
             kind: EndpointPickerConfig\n\
             plugins:\n\
             - type: same-zone-scorer\n  \
               parameters: {parameters}\n\
             schedulingProfiles:\n\
             - name: default\n  \
               plugins:\n  \
               - pluginRef: same-zone-scorer\n    \
                 weight: 2\n"
        );
        fs::write(&file, document).unwrap();
        let arguments = ["own", "config", "check"].into_iter().map(Into::into);
        let checked = app.run_with(arguments.chain([file.into_os_string()]));
        checked.map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn documents_can_name_it() {
        let own = || App::new().plugin(&SAME_ZONE);
        assert_eq!(check_document(own(), "{elsewhere: 0.5}"), Ok(()));
        let check = |app, parameters, said: &str| {
            let error = check_document(app, parameters).unwrap_err();
            assert!(error.contains(said), "{error}");
        };
        check(own(), "{elsewhere: 2}", "a score is 0 to 1");
        check(own(), "{header: 'a b'}", "is not the name of a header");
        check(own(), "{lable: zone}", "did you mean");
        check(App::new(), "{}", "same-zone-scorer");
    }

    #[test]
    fn endpoints_of_the_clients_zone_are_preferred() {
        let zone = |zone| EndpointFixture::new().label("topology.kubernetes.io/zone", zone);
        let check = |header: Option<&str>, scores: &[f64]| {
            let mut builder = SceneBuilder::new();
            let plugin = builder.plugin(&SAME_ZONE, "{elsewhere: 0.25}");
            let mut scene = builder.scene(vec![zone("a"), zone("b"), EndpointFixture::new()]);
            if let Some(zone) = header {
                scene.header("x-client-zone", zone);
            }
            scene.assert_scores(&plugin, scores);
        };
        check(Some("b"), &[0.25, 1.0, f64::NAN]);
        check(None, &[f64::NAN, f64::NAN, f64::NAN]);
    }
}
