//! How each kind of scenario is measured.

mod memory;
mod picker;
mod proxy;
mod scrape;

use anyhow::{Context, Result};

use super::programs::Server;
use super::{Bench, Figure, Scenario, median};
use crate::load::{ServerUse, Summary};

/// One of several servers that are measured in turns.
#[derive(Debug)]
pub struct Contender {
    pub name: &'static str,
    pub server: Server,
    /// One for each turn.
    pub turns: Vec<Summary>,
}

pub(super) async fn scenario(bench: &Bench, scenario: &Scenario) -> Result<Vec<Figure>> {
    match scenario {
        Scenario::Picker(scenario) => picker::measure(bench, scenario).await,
        Scenario::Scrape(scenario) => scrape::measure(bench, scenario).await,
        Scenario::Memory(scenario) => memory::after_prompts(bench, scenario).await,
        Scenario::Idle(scenario) => memory::idle(bench, scenario).await,
        Scenario::Held(scenario) => memory::held(bench, scenario).await,
        Scenario::Proxy(scenario) => proxy::throughput(bench, scenario).await,
        Scenario::ProxyLatency(scenario) => proxy::latency(bench, scenario).await,
    }
}

/// Runs load generator `load` against each contender in turn, round after round, while the others
/// stand still.
///
/// # Errors
/// A load generator that fails, or a contender that ends.
pub async fn interleave(
    bench: &Bench,
    load: &str,
    load_args: &[String],
    contenders: &mut [Contender],
) -> Result<()> {
    for contender in contenders.iter() {
        contender.server.freeze()?;
    }
    for _round in 0..bench.args.rounds {
        for contender in contenders.iter_mut() {
            contender.server.thaw()?;
            let mut args = bench.turn_args(&contender.server);
            args.extend_from_slice(load_args);
            let report = bench.load(load, &args).await.context(contender.name)?;
            contender.turns.push(report.summary);
            contender.server.freeze()?;
        }
    }
    Ok(())
}

impl Contender {
    pub fn new(name: &'static str, server: Server) -> Self {
        Self { name, server, turns: Vec::new() }
    }

    /// The median over the turns of what `of` reads.
    pub fn median(&self, of: impl Fn(&Summary) -> f64) -> f64 {
        median(self.turns.iter().map(of))
    }

    fn used(&self, of: impl Fn(&ServerUse) -> f64) -> f64 {
        self.median(|turn| turn.server.as_ref().map_or(f64::NAN, &of))
    }

    fn cpu_ms_per_request(&self) -> f64 {
        self.used(|server| server.cpu_ms_per_request)
    }

    fn rss_mib(&self) -> f64 {
        self.used(|server| server.rss_mib)
    }

    fn p50_us(&self, phase: &str) -> f64 {
        self.median(|turn| turn.latency_us.get(phase).map_or(f64::NAN, |all| all.p50 as f64))
    }

    fn p99_us(&self, phase: &str) -> f64 {
        self.median(|turn| turn.latency_us.get(phase).map_or(f64::NAN, |all| all.p99 as f64))
    }
}
