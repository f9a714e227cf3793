//! The runs of one call: every configuration with every pool, load and seed, several at once.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use router_framework::Registry;
use router_rt::Offload;
use router_sim::replay::{
    pool::Pool,
    run::{self, Configuration, Options, Setup},
    summary::{Goals, Summary},
    trace::Trace,
    workload::{self, Spec, Volume},
};

use super::progress::{Progress, Run};
use crate::cli::UsageError;

/// How often the progress is drawn.
const DRAW_INTERVAL: Duration = Duration::from_millis(200);

/// All that is to be played.
#[derive(Clone)]
pub(super) struct Grid {
    pub(super) requests: Requests,
    pub(super) configurations: Vec<Configuration>,
    pub(super) loads: Vec<f64>,
    pub(super) pools: Vec<NamedPool>,
    pub(super) seeds: Vec<u64>,
    pub(super) goals: Goals,
    /// The load aside.
    pub(super) options: Options,
    pub(super) registry: Registry,
}

/// Where requests come from.
#[derive(Clone)]
pub(super) enum Requests {
    Trace {
        name: String,
        trace: Arc<Trace>,
    },
    /// Drawn anew for each load and seed.
    Workload {
        name: String,
        duration: Duration,
        limit: usize,
    },
}

#[derive(Clone)]
pub(super) struct NamedPool {
    pub(super) name: String,
    pub(super) pool: Arc<Pool>,
}

/// A configuration with a pool and a load: one line of the results. Indices are those of the grid.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) configuration: usize,
    pub(super) pool: usize,
    pub(super) load: usize,
}

/// A cell and its runs in the order of seeds.
pub(super) struct Played {
    pub(super) cell: Cell,
    pub(super) summaries: Vec<Summary>,
}

impl Grid {
    /// Cells in the order of results: what is compared stands together.
    pub(super) fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for pool in 0..self.pools.len() {
            for load in 0..self.loads.len() {
                for configuration in 0..self.configurations.len() {
                    cells.push(Cell { configuration, pool, load });
                }
            }
        }
        cells
    }

    /// The run of one cell and seed. The trace of a workload is drawn here.
    fn setup(&self, cell: Cell, seed: u64) -> anyhow::Result<Setup> {
        // A cell is made of indices of this grid.
        let (load, pool) = (self.loads[cell.load], Arc::clone(&self.pools[cell.pool].pool));
        let (trace, options) = match &self.requests {
            Requests::Trace { trace, .. } => {
                (Arc::clone(trace), Options { speed: load, ..self.options })
            }
            Requests::Workload { name, duration, limit } => {
                let n_servers = pool.servers.len() as u32;
                let volume = Volume::Load { load, n_servers };
                let spec = Spec { seed, duration: *duration, volume, ..Spec::default() };
                let mut trace = workload::generate(name, &spec).map_err(UsageError::of)?;
                trace.requests.truncate(*limit);
                // The seed has drawn the arrivals already.
                (Arc::new(trace), Options { jitter: Duration::ZERO, ..self.options })
            }
        };
        let configuration = self.configurations[cell.configuration].clone();
        Ok(Setup { trace, pool, configuration, registry: self.registry.clone(), options })
    }
}

/// Plays all runs, `jobs` at once, and shows how far they are.
pub(super) async fn play(grid: &Grid, jobs: usize) -> anyhow::Result<Vec<Played>> {
    let offload = Offload::pool(jobs);
    let grid = Arc::new(grid.clone());
    let mut progress = Progress::default();
    let mut running = FuturesUnordered::new();
    let cells = grid.cells();
    for (nth_cell, &cell) in cells.iter().enumerate() {
        for (nth_seed, &seed) in grid.seeds.iter().enumerate() {
            let (grid, run) = (Arc::clone(&grid), progress.add());
            let work = offload.run(move || play_one(&grid, cell, seed, &run));
            running.push(async move { (nth_cell, nth_seed, work.await) });
        }
    }
    let mut summaries: Vec<Vec<Option<Summary>>> =
        cells.iter().map(|_| grid.seeds.iter().map(|_| None).collect()).collect();
    loop {
        match tokio::time::timeout(DRAW_INTERVAL, running.next()).await {
            Ok(Some((nth_cell, nth_seed, played))) => {
                if !matches!(played, Ok(Ok(_))) {
                    progress.clear();
                }
                summaries[nth_cell][nth_seed] = Some(played??);
            }
            Ok(None) => break,
            Err(_not_yet) => progress.draw(),
        }
    }
    progress.clear();
    let of_cell = |(cell, summaries): (Cell, Vec<Option<Summary>>)| Played {
        cell,
        summaries: summaries.into_iter().flatten().collect(),
    };
    Ok(cells.into_iter().zip(summaries).map(of_cell).collect())
}

fn play_one(grid: &Grid, cell: Cell, seed: u64, run: &Run) -> anyhow::Result<Summary> {
    let setup = grid.setup(cell, seed)?;
    run.begin(setup.trace.requests.len());
    let ended: &AtomicUsize = run.n_ended();
    let outcome = run::play(&setup, seed, ended).map_err(UsageError::of)?;
    Ok(Summary::of(&outcome, grid.goals))
}
