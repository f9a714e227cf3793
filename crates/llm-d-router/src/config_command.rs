//! `llm-d-router config`: check, defaults, preset, schema, explain.

use std::{path::Path, sync::Arc};

use router_framework::{
    PluginEnv, Registry, Stability,
    document::{self, Diagnostics, Document, Options, Plugin, write},
};
use router_rt::Clock;
use router_telemetry::RouterMetrics;

use crate::{
    cli::{ConfigArgs, ConfigCommand, UsageError},
    configuration::{self, Source},
    explain,
    origin::BUILD,
    presets, process,
};

pub(crate) fn run(args: ConfigArgs, registry: &Registry) -> anyhow::Result<()> {
    match args.command {
        ConfigCommand::Check { file, allow_experimental_plugins } => {
            check(&file, allow_experimental_plugins, registry)
        }
        ConfigCommand::Defaults { file, allow_experimental_plugins } => {
            defaults(file.as_deref(), allow_experimental_plugins, registry)
        }
        ConfigCommand::Preset { name: None } => process::say(presets::listed(registry).trim_end()),
        ConfigCommand::Preset { name: Some(name) } => preset(&name, registry),
        ConfigCommand::Schema => {
            process::say(&serde_json::to_string_pretty(&document::schema::of(registry))?)
        }
        ConfigCommand::Explain(args) => explain::run(&args, registry),
    }
}

fn check(file: &Path, allow_experimental: bool, registry: &Registry) -> anyhow::Result<()> {
    let source = Source::from_file(file)?;
    let document = loaded(&source, allow_experimental, registry)?;
    let profiles: Vec<_> = document.profiles.iter().map(|profile| profile.name.as_str()).collect();
    process::say(&format!(
        "{}: valid; {} plugins with those that are added, profiles: {}",
        source.name,
        document.plugins.len(),
        profiles.join(", ")
    ))
}

fn defaults(
    file: Option<&Path>,
    allow_experimental: bool,
    registry: &Registry,
) -> anyhow::Result<()> {
    let source = file.map_or_else(|| Ok(Source::built_in()), Source::from_file)?;
    let mut document = loaded(&source, allow_experimental, registry)?;
    let is_alpha = |plugin: &Plugin| {
        let def = registry.get(&plugin.plugin_type);
        !allow_experimental && def.is_some_and(|def| def.stability == Stability::Alpha)
    };
    let left_out = document.leave_out_added(is_alpha);
    let yaml = write::to_yaml(&document, &|plugin| {
        let def = registry.get(&plugin.plugin_type)?;
        let written =
            plugin.parameters.as_ref().map_or_else(|| serde_json::json!({}), |node| node.to_json());
        Some((def.effective)(&written))
    });
    let mut text = yaml.trim_end().to_owned();
    if !left_out.is_empty() {
        text += "\n# added as well, and not written because they are experimental: ";
        text += &left_out.join(", ");
    }
    process::say(&text)
}

fn preset(name: &str, registry: &Registry) -> anyhow::Result<()> {
    let preset = presets::named(name).ok_or_else(|| {
        let hint = presets::hint(name, "without a name it says which there are");
        UsageError(format!("there is no preset {name:?}; {hint}"))
    })?;
    process::say(&presets::printed(preset, registry))
}

/// The document as it will run. Building its pipeline finds what only plugins know, and adds the producers
/// that nobody configured.
fn loaded(
    source: &Source,
    allow_experimental: bool,
    registry: &Registry,
) -> anyhow::Result<Document> {
    let mut warn = |diagnostics: &Diagnostics| {
        process::complain(diagnostics.render(configuration::style()).trim_end());
    };
    let mut document =
        configuration::read(source, registry, Options { allow_experimental }, &mut warn)?;
    configuration::load(&mut document, registry, &plugin_env(0)?, &mut warn)?;
    Ok(document)
}

/// An environment for plugins that are built and not run.
pub(crate) fn plugin_env(seed: u64) -> anyhow::Result<PluginEnv> {
    let registry = router_telemetry::Registry::default();
    let metrics = Arc::new(RouterMetrics::new(&registry, &BUILD)?);
    Ok(PluginEnv {
        clock: Clock::new(),
        seeds: Arc::new(router_rt::Seeds::new(seed)),
        offload: router_rt::Offload::inline(),
        registry: Arc::new(registry),
        metrics,
    })
}
