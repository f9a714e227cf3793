//! What a policy does, as a number: kept runs are good for as long as it stays the same.
//!
//! Three short runs over a small pool that is pressed hard: the hash takes in every decision and when each request
//! got its first token and ended. A change of the policy, of what it reads, or of the simulated servers shows here if
//! it shows within [`DURATION`]; for what comes later there is `--forget`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use router_framework::Registry;
use router_sim::replay::outcome::Outcome;
use router_sim::replay::pool::Pool;
use router_sim::replay::run::{self, Configuration, Options, Setup};
use router_sim::replay::trace::Trace;
use router_sim::replay::workload::{self, Spec, Volume};
use xxhash_rust::xxh64::Xxh64;

use super::plan::Policy;

/// Workloads with requests a second.
const WORKLOADS: [(&str, f64); 2] = [("sessions", 5.0), ("rag", 4.0)];
/// Indices of workloads, and milliseconds between scrapes; 0 for never.
const RUNS: [(usize, u64); 3] = [(0, 50), (1, 5_000), (0, 0)];
const DURATION: Duration = Duration::from_secs(25);
const SERVERS: &str = "
servers:
- {name: fast, count: 2, profile: {kv-cache-size: 3000}}
- {name: slow, count: 1, profile: {kv-cache-size: 2000, time-factor: 2}}
";

/// The runs, the policy aside.
#[derive(Clone)]
pub(super) struct Probe(Vec<(Arc<Trace>, Arc<Pool>)>);

impl Probe {
    pub(super) fn new() -> Result<Self> {
        let mut traces = Vec::new();
        for (workload, rate) in WORKLOADS {
            let volume = Volume::Rate(rate);
            let spec = Spec { seed: 1, duration: DURATION, volume, ..Spec::default() };
            traces.push(Arc::new(workload::generate(workload, &spec)?));
        }
        let mut runs = Vec::new();
        for (at, scrape_ms) in RUNS {
            let mut pool = Pool::parse("probe", SERVERS.as_bytes())?;
            pool.scrape.interval = Some(scrape_ms).filter(|ms| *ms > 0).map(Duration::from_millis);
            runs.push((Arc::clone(&traces[at]), Arc::new(pool)));
        }
        Ok(Self(runs))
    }

    pub(super) fn behaviour(&self, policy: &Policy, registry: &Registry) -> Result<u64> {
        let mut hash = Xxh64::new(0);
        for (trace, pool) in &self.0 {
            let setup = Setup {
                trace: Arc::clone(trace),
                pool: Arc::clone(pool),
                configuration: Configuration {
                    name: policy.name.clone(),
                    text: Some(policy.document.clone()),
                },
                registry: registry.clone(),
                options: Options { jitter: Duration::ZERO, ..Options::default() },
            };
            take(&mut hash, &run::play(&setup, 1, &run::Progress::default())?);
        }
        Ok(hash.digest())
    }
}

fn take(hash: &mut Xxh64, outcome: &Outcome) {
    hash.update(&outcome.decisions.to_le_bytes());
    for request in &outcome.requests {
        let first_token = request.first_token.unwrap_or_default();
        for stamp in [request.arrived, first_token, request.ended] {
            hash.update(&stamp.as_nanos().to_le_bytes());
        }
    }
}
