//! One run, from the file of finished ones or played.

use std::sync::Arc;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use router_framework::Registry;
use router_rt::Offload;
use router_sim::replay::pool::Pool;
use router_sim::replay::run::{self, Configuration, Setup};
use router_sim::replay::summary::Summary;
use tokio::time::Instant;
use xxhash_rust::xxh64::Xxh64;

use super::MatrixArgs;
use super::plan::{Cell, Plan};
use super::probe::Probe;
use super::progress::Progress;
use super::store::{Row, Store};
use super::world::{self, Traces};

/// One run of a cell. Indices are those of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Run {
    // The order of fields is the order of play: runs that share a trace come together.
    pub(super) seed: u64,
    pub(super) policy: usize,
    pub(super) scrapes: usize,
}

/// Plays runs, some at once.
pub(super) struct Player {
    pub(super) plan: Plan,
    pub(super) progress: Progress,
    traces: Traces,
    registry: Registry,
    /// By index of the policy.
    behaviours: Vec<u64>,
    store: Mutex<Store>,
    offload: Offload,
}

impl Player {
    pub(super) async fn new(plan: Plan, args: &MatrixArgs) -> Result<Self> {
        let jobs = args.jobs.unwrap_or_else(|| {
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
        });
        let offload = Offload::pool(jobs);
        let registry = world::registry();
        let is_kept = |row: &Row| !args.fresh && !args.forget.contains(&row.policy);
        let store = Mutex::new(Store::open(&args.state, is_kept)?);
        let traces = Traces::open(&plan, &args.traces, jobs)?;
        let probe = Probe::new()?;
        let mut behaviours = Vec::new();
        for policy in &plan.policies {
            let (probe, policy, registry) = (probe.clone(), policy.clone(), registry.clone());
            let name = policy.name.clone();
            let behaviour = offload.run(move || probe.behaviour(&policy, &registry)).await?;
            behaviours.push(behaviour.with_context(|| format!("policy {name}"))?);
        }
        let progress = Progress::new(jobs);
        Ok(Self { plan, progress, traces, registry, behaviours, store, offload })
    }

    /// The run's row, from the file of finished ones or played for it.
    pub(super) async fn row(self: Arc<Self>, cell: Arc<Cell>, run: Run) -> Result<Row> {
        let digest = self.digest(&cell, run);
        let known = self.store.lock().get(&digest);
        if let Some(row) = known {
            self.progress.known();
            return Ok(row);
        }
        let (player, of) = (Arc::clone(&self), Arc::clone(&cell));
        let played = self.offload.run(move || player.play(&of, run, digest)).await?;
        let row = played.with_context(|| self.name(&cell, run))?;
        let row = self.store.lock().add(&row)?;
        self.progress.played(row.wall);
        Ok(row)
    }

    /// Work offered by a cell, as a share of what its servers can do at best.
    pub(super) fn offered(&self, cell: &Cell) -> Result<f64> {
        let seed = self.plan.judge.first().copied().unwrap_or_default();
        let capacity = self.plan.pools[cell.pool].capacity;
        Ok(self.traces.of(&self.plan, cell, seed)?.offered(capacity))
    }

    fn play(&self, cell: &Cell, run: Run, digest: String) -> Result<Row> {
        let started = Instant::now();
        let played = self.traces.of(&self.plan, cell, run.seed)?;
        let policy = &self.plan.policies[run.policy];
        let setup = Setup {
            trace: played.trace,
            pool: Arc::new(self.pool(cell, run)),
            configuration: Configuration {
                name: policy.name.clone(),
                text: Some(policy.document.clone()),
            },
            registry: self.registry.clone(),
            options: played.options,
        };
        let outcome = run::play(&setup, run.seed, &run::Progress::default())?;
        let summary = Summary::of(&outcome, self.plan.goals);
        let wall = started.elapsed().as_secs_f64();
        Ok(Row::new(self.name(cell, run), &policy.name, digest, &summary, wall))
    }

    fn pool(&self, cell: &Cell, run: Run) -> Pool {
        let mut pool = self.plan.pools[cell.pool].pool.clone();
        pool.scrape.interval = self.plan.scrapes[run.scrapes].interval;
        pool
    }

    fn name(&self, cell: &Cell, run: Run) -> String {
        let policy = &self.plan.policies[run.policy].name;
        let scrapes = &self.plan.scrapes[run.scrapes].name;
        format!("{} {policy} scrapes={scrapes} seed={}", cell.name, run.seed)
    }

    /// Of all that decides the run.
    fn digest(&self, cell: &Cell, run: Run) -> String {
        let pool = &self.plan.pools[cell.pool];
        let workload = &self.plan.workloads[cell.workload];
        let mut hash = Xxh64::new(0);
        hash.update(self.name(cell, run).as_bytes());
        hash.update(self.plan.policies[run.policy].document.as_bytes());
        hash.update(pool.document.as_bytes());
        let interval = self.plan.scrapes[run.scrapes].interval;
        let text = format!(
            "{:?} {:?} {:?} {:?} {}",
            interval, self.plan.goals, self.plan.duration, cell.load, workload.limit
        );
        hash.update(text.as_bytes());
        for number in [self.traces.digest(cell.workload), self.behaviours[run.policy]] {
            hash.update(&number.to_le_bytes());
        }
        format!("{:016x}", hash.digest())
    }
}
