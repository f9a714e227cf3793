//! The runs of one call: every configuration with every pool, load and seed, several at once.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use router_framework::Registry;
use router_rt::Offload;
use router_sim::replay::{
    pool::Pool,
    run::{self, Configuration, Options, Setup},
    summary::{Goals, Summary},
    trace::Trace,
    workload::{self, Spec, Volume, WorkloadError},
};

use super::{
    missed,
    progress::{LOOK_INTERVAL, Progress},
    traces::{Key, Traces},
};
use crate::{cli::UsageError, process};

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

    /// Every run as the place of its cell and of its seed: runs of one trace stand together, so that few traces
    /// are there at once.
    fn runs(&self, cells: &[Cell]) -> Vec<(usize, usize)> {
        let of_cell = |nth_cell| (0..self.seeds.len()).map(move |nth_seed| (nth_cell, nth_seed));
        let mut runs: Vec<_> = (0..cells.len()).flat_map(of_cell).collect();
        runs.sort_by_key(|&(nth_cell, nth_seed)| self.key(cells[nth_cell], nth_seed));
        runs
    }

    /// What the trace of a run is drawn from.
    fn key(&self, cell: Cell, nth_seed: usize) -> Key {
        // A cell is made of indices of this grid.
        Key { load: cell.load, n_servers: self.pools[cell.pool].pool.servers.len(), nth_seed }
    }

    /// The trace of the runs with this key.
    fn trace(&self, key: Key) -> anyhow::Result<Arc<Trace>> {
        match &self.requests {
            Requests::Trace { trace, .. } => Ok(Arc::clone(trace)),
            Requests::Workload { name, duration, limit } => {
                let (load, n_servers) = (self.loads[key.load], key.n_servers as u32);
                let volume = Volume::Load { load, n_servers };
                let seed = self.seeds[key.nth_seed];
                let max_requests = *limit;
                let spec =
                    Spec { seed, duration: *duration, volume, max_requests, ..Spec::default() };
                let mut trace = workload::generate(name, &spec).map_err(less)?;
                if trace.requests.is_empty() {
                    let message = format!(
                        "{name} has no request within {duration:?} at load {load} and seed {seed}: raise --load or \
                         --duration"
                    );
                    return Err(UsageError(message).into());
                }
                trace.requests.shrink_to_fit();
                Ok(Arc::new(trace))
            }
        }
    }

    fn setup(&self, cell: Cell, trace: Arc<Trace>) -> Setup {
        let options = match &self.requests {
            Requests::Trace { .. } => Options { speed: self.loads[cell.load], ..self.options },
            // The seed has drawn the arrivals already, for the load.
            Requests::Workload { .. } => Options { jitter: Duration::ZERO, ..self.options },
        };
        let configuration = self.configurations[cell.configuration].clone();
        let pool = Arc::clone(&self.pools[cell.pool].pool);
        Setup { trace, pool, configuration, registry: self.registry.clone(), options }
    }
}

/// Plays all runs, `jobs` at once, and shows how far they are.
pub(super) async fn play(grid: &Grid, jobs: usize) -> anyhow::Result<Vec<Played>> {
    let offload = Offload::pool(jobs);
    let grid = Arc::new(grid.clone());
    let mut progress = Progress::default();
    let mut running = FuturesUnordered::new();
    let cells = grid.cells();
    let runs = grid.runs(&cells);
    let traces =
        Arc::new(Traces::new(runs.iter().map(|&(cell, seed)| grid.key(cells[cell], seed))));
    for (nth_run, &(nth_cell, nth_seed)) in runs.iter().enumerate() {
        let (grid, traces, run) = (Arc::clone(&grid), Arc::clone(&traces), progress.add());
        let cell = cells[nth_cell];
        let work = offload.run(move || play_one(&grid, &traces, cell, nth_seed, &run));
        running.push(async move { (nth_run, work.await) });
    }
    let mut summaries: Vec<Vec<Option<Summary>>> =
        cells.iter().map(|_| grid.seeds.iter().map(|_| None).collect()).collect();
    let mut failures = FirstFailure::new(runs.len());
    while failures.is_open() {
        match tokio::time::timeout(LOOK_INTERVAL, running.next()).await {
            Ok(Some((nth_run, played))) => {
                let (nth_cell, nth_seed) = runs[nth_run];
                summaries[nth_cell][nth_seed] =
                    failures.note(nth_run, played.map_err(Into::into).flatten());
            }
            Ok(None) => break,
            Err(_not_yet) => progress.show(),
        }
    }
    progress.clear();
    failures.done()?;
    for (nth_pool, pool) in grid.pools.iter().enumerate() {
        let is_on_it = |(run, _): &(&(usize, usize), _)| cells[run.0].pool == nth_pool;
        let on_it = runs.iter().zip(progress.passed()).filter(is_on_it);
        let longest = on_it.map(|(_, passed)| passed).max().unwrap_or_default();
        missed::note(pool, longest).iter().for_each(|note| process::complain(note));
    }
    let of_cell = |(cell, summaries): (Cell, Vec<Option<Summary>>)| Played {
        cell,
        summaries: summaries.into_iter().flatten().collect(),
    };
    Ok(cells.into_iter().zip(summaries).map(of_cell).collect())
}

/// Of the runs that fail, the one that was begun first: which of several comes to its end first is for threads
/// to say.
struct FirstFailure {
    has_ended: Vec<bool>,
    first: Option<(usize, anyhow::Error)>,
}

impl FirstFailure {
    fn new(n_runs: usize) -> Self {
        Self { has_ended: vec![false; n_runs], first: None }
    }

    fn note<T>(&mut self, nth_run: usize, ended: anyhow::Result<T>) -> Option<T> {
        self.has_ended[nth_run] = true;
        match ended {
            Ok(made) => return Some(made),
            Err(error) if self.first.as_ref().is_none_or(|(first, _)| nth_run < *first) => {
                self.first = Some((nth_run, error));
            }
            Err(_later) => {}
        }
        None
    }

    /// Whether runs that have not ended can change the result.
    fn is_open(&self) -> bool {
        let Some((first, _)) = &self.first else { return true };
        self.has_ended[..*first].contains(&false)
    }

    fn done(self) -> anyhow::Result<()> {
        self.first.map_or(Ok(()), |(_, error)| Err(error))
    }
}

/// What to do about a workload that cannot be.
fn less(error: WorkloadError) -> UsageError {
    match error {
        WorkloadError::TooManyRequests { .. } | WorkloadError::TooManyConversations { .. } => {
            UsageError(format!("{error}: lower --load or --duration, or take fewer servers"))
        }
        _ => UsageError::of(error),
    }
}

fn play_one(
    grid: &Grid,
    traces: &Traces,
    cell: Cell,
    nth_seed: usize,
    progress: &run::Progress,
) -> anyhow::Result<Summary> {
    let key = grid.key(cell, nth_seed);
    let trace = traces.lend(key, || grid.trace(key))?;
    let setup = grid.setup(cell, Arc::clone(&trace));
    let outcome = run::play(&setup, grid.seeds[nth_seed], progress).map_err(UsageError::of)?;
    Ok(Summary::of_played(&trace, &setup.pool, &outcome, grid.goals))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two configurations, two loads, two sizes of pools, three seeds.
    fn grid() -> Grid {
        let pool = |n_servers: usize| NamedPool {
            name: n_servers.to_string(),
            pool: Arc::new(Pool::uniform(n_servers)),
        };
        let configuration = |name: &str| Configuration { name: name.to_owned(), text: None };
        Grid {
            requests: Requests::Workload {
                name: "sessions".to_owned(),
                duration: Duration::from_secs(1),
                limit: 1,
            },
            configurations: ["a", "b"].map(configuration).into(),
            loads: vec![1.0, 0.5],
            pools: [8, 4, 8].map(pool).into(),
            seeds: vec![1, 2, 3],
            goals: Goals::default(),
            options: Options::default(),
            registry: Registry::new([]),
        }
    }

    #[test]
    fn runs_of_one_trace_stand_together() {
        let grid = grid();
        let cells = grid.cells();
        let mut keys: Vec<Key> = grid
            .runs(&cells)
            .into_iter()
            .map(|(nth_cell, nth_seed)| grid.key(cells[nth_cell], nth_seed))
            .collect();
        assert_eq!(keys.len(), 2 * 2 * 3 * 3, "every run once");
        keys.dedup();
        // Two loads, two sizes, three seeds: pools of one size share theirs.
        assert_eq!(keys.len(), 2 * 2 * 3);
    }

    #[tokio::test]
    async fn of_runs_that_fail_the_first_is_told() {
        let broken = Configuration { name: "broken".to_owned(), text: Some("kind: [".into()) };
        // The first run fails once its trace is drawn, the second at once because it has no requests.
        let grid = Grid {
            requests: Requests::Workload {
                name: "sessions".to_owned(),
                duration: Duration::from_mins(1),
                limit: 1,
            },
            configurations: vec![broken],
            loads: vec![1.0, 1e-9],
            pools: grid().pools[..1].to_vec(),
            seeds: vec![1],
            ..grid()
        };
        let said = play(&grid, 2).await.err().expect("both fail").to_string();
        assert!(said.contains("broken:"), "{said}");
    }
}
