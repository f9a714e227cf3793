//! The real router from a configuration document, under the clock and the seed of a run.

use std::{sync::Arc, time::Duration};

use router_engine::{Record, Router, RouterEnv, Settings};
use router_framework::{
    Loaded, PluginEnv, Registry,
    document::{self, Options, Style},
};
use router_rt::{Clock, Offload, Seeds};
use router_telemetry::{BUILD, RouterMetrics};

use super::RunError;

/// Wall time at which every run begins, so that equal runs are equal: 2026-01-01.
const UNIX_ORIGIN: Duration = Duration::from_hours(490_896);

/// A configuration document and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// In results and messages.
    pub name: String,
    /// `None` for the built-in one.
    pub text: Option<String>,
}

/// The clock of a run, which begins now. Must be made on the runtime whose time it shall read.
pub(in crate::replay) fn clock() -> Clock {
    Clock::with_unix_origin(UNIX_ORIGIN)
}

/// Reads the document and builds its pipeline, with the registry of its metrics. What it decides is told to
/// `record`, where there is one.
pub(in crate::replay) fn build(
    configuration: &Configuration,
    registry: &Registry,
    allow_experimental: bool,
    settings: Settings,
    clock: Clock,
    record: Option<Record>,
) -> Result<(Arc<Router>, router_telemetry::Registry), RunError> {
    let metrics_registry = router_telemetry::Registry::default();
    let metrics = RouterMetrics::new(&metrics_registry, &BUILD)
        .map(Arc::new)
        .map_err(|error| RunError::Router(error.to_string()))?;
    let env = PluginEnv {
        clock,
        seeds: Arc::new(Seeds::new(settings.seed)),
        offload: Offload::inline(),
        registry: Arc::new(metrics_registry.clone()),
        metrics: Arc::clone(&metrics),
    };
    let loaded = load(configuration, registry, allow_experimental, &env)?;
    let router = Router::recorded(loaded, RouterEnv { clock, metrics, settings }, record);
    Ok((router, metrics_registry))
}

fn load(
    configuration: &Configuration,
    registry: &Registry,
    allow_experimental: bool,
    env: &PluginEnv,
) -> Result<Loaded, RunError> {
    let options = Options { allow_experimental };
    let (document, diagnostics) = match &configuration.text {
        Some(text) => document::load(&configuration.name, text.as_bytes(), registry, options),
        None => document::load_built_in(registry, options),
    };
    let faulty = |diagnostics: &document::Diagnostics| {
        RunError::Configuration(diagnostics.render(Style::Plain).trim_end().to_owned())
    };
    let Some(document) = document else { return Err(faulty(&diagnostics)) };
    let mut document = document.with_defaults(registry);
    let mut diagnostics = document.diagnostics();
    let loaded = router_framework::load(&mut document, registry, env, &mut diagnostics);
    loaded.ok_or_else(|| faulty(&diagnostics))
}
