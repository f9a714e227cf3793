//! Presets as people see them: every name that some command takes, and the documents behind them.

use router_framework::{
    Registry,
    document::{preset, suggest::nearest},
};
use router_sim::replay::policy;

pub(crate) use router_framework::document::preset::{DEFAULT_NAME, Preset};

/// The preset of that name, among those of `serve` and those to compare with.
pub(crate) fn named(name: &str) -> Option<&'static Preset> {
    preset::named(name).or_else(|| policy::preset(name))
}

/// Whether two names are one, or those of one preset.
pub(crate) fn are_same(one: &&str, other: &&str) -> bool {
    let preset = named(one);
    one == other || (preset.is_some() && preset == named(other))
}

/// What may help who gave a name that none has.
pub(crate) fn hint(name: &str, otherwise: &str) -> String {
    let names = policy::PRESETS.iter().map(|preset| preset.name).chain([DEFAULT_NAME]);
    nearest(name, names)
        .map_or_else(|| otherwise.to_owned(), |near| format!("did you mean `{near}`?"))
}

/// All of them, a line each, and who runs which.
pub(crate) fn listed(registry: &Registry) -> String {
    let line = |name: &str, about: &str| format!("  {name:<16} {about}\n");
    let about = format!("what runs where no configuration is given: {}", preset::PRESETS[0].name);
    let mut text = line(DEFAULT_NAME, &about);
    text.extend(policy::PRESETS.iter().map(|preset| line(preset.name, preset.about)));
    let served: Vec<&str> = preset::PRESETS.iter().map(|preset| preset.name).collect();
    let replayed = policy::PRESETS.iter().filter(|preset| !baselines(preset, registry).is_empty());
    let replayed: Vec<&str> = replayed.map(|preset| preset.name).collect();
    text += "serve and epp run ";
    text += &served.join(" and ");
    text += " by --preset; the others are there to compare with.\nOf those, ";
    text += &replayed.join(", ");
    text += "\nhave plugins that only replay knows. `llm-d-router config preset NAME` prints the documents of all,\n\
             and serve and epp take those of the rest by --config-file.\n";
    text
}

/// Its document, with a comment that says what it is.
pub(crate) fn printed(preset: &Preset, registry: &Registry) -> String {
    let mut text = format!("# {}: {}\n", preset.name, preset.about);
    let baselines = baselines(preset, registry);
    if !baselines.is_empty() {
        let types = baselines.join(", ");
        text.extend(["# For replay alone: serve and epp do not know ", &types, ".\n"]);
    }
    text + preset.document.trim_end()
}

/// Plugin types of its document that replay adds to the registry.
fn baselines(preset: &Preset, registry: &Registry) -> Vec<&'static str> {
    let added = policy::PLUGINS.iter().map(|def| def.plugin_type);
    let is_added = |name: &&str| {
        registry.get(name).is_none() && preset.document.contains(&format!("type: {name}\n"))
    };
    added.filter(is_added).collect()
}
