//! The same stretch in replay.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use router_framework::Registry;
use router_sim::replay::policy;
use router_sim::replay::pool::Pool;
use router_sim::replay::run::{self, Configuration, Options, Setup};
use router_sim::replay::summary::{Goals, Summary};

use super::stretch::Stretch;

/// All plugin types that documents may name in replay.
fn registry() -> Registry {
    let mut registry = Registry::new(router_plugins::PLUGINS.iter().copied());
    for def in policy::PLUGINS {
        if registry.get(def.plugin_type).is_none() {
            registry.add(**def);
        }
    }
    registry
}

/// Plays a configuration once per seed, on this thread. It must not be one of a runtime.
///
/// # Errors
/// A document that cannot be used.
pub(super) fn play(
    stretch: &Stretch,
    n_servers: u16,
    name: &str,
    document: &str,
    jitter: Duration,
    seeds: &[u64],
) -> Result<Vec<Summary>> {
    let setup = Setup {
        trace: Arc::clone(&stretch.trace),
        pool: Arc::new(Pool::uniform(usize::from(n_servers))),
        configuration: Configuration { name: name.to_owned(), text: Some(document.to_owned()) },
        registry: registry(),
        options: Options { speed: stretch.load, jitter, ..Options::default() },
    };
    let play = |&seed: &u64| {
        let outcome = run::play(&setup, seed, &run::Progress::default());
        let outcome = outcome.with_context(|| format!("replay of {name} with seed {seed}"))?;
        Ok(Summary::of(&outcome, Goals::default()))
    };
    seeds.iter().map(play).collect()
}
