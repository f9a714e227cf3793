//! What runs are made of: plugin types, and traces that several runs share.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use parking_lot::Mutex;
use router_core::Stamp;
use router_framework::Registry;
use router_sim::model::Profile;
use router_sim::replay::run::{DEFAULT_JITTER, Options};
use router_sim::replay::trace::{Start, Trace};
use router_sim::replay::workload::{self, Spec, Volume, work};
use router_sim::replay::{policy, read};
use xxhash_rust::xxh64::xxh64;

use super::plan::{Cell, Plan};

/// Servers of the default profile for which the load of a recorded trace is its speed.
const SPEED_CAPACITY: f64 = 8.0;

/// The traces of a call. Those of the last few cells and seeds are kept.
pub(super) struct Traces {
    /// By index of the workload.
    recorded: BTreeMap<usize, Arc<Trace>>,
    digests: BTreeMap<usize, u64>,
    cache: Mutex<VecDeque<(TraceKey, SharedTrace)>>,
    n_kept: usize,
}

/// A trace and how it is to be played.
#[derive(Clone)]
pub(super) struct Played {
    pub(super) trace: Arc<Trace>,
    pub(super) options: Options,
}

/// What decides a trace.
#[derive(Clone, Copy, PartialEq)]
struct TraceKey {
    workload: usize,
    load: f64,
    capacity: f64,
    /// 0 for recorded ones: a seed moves their arrivals when they are played.
    seed: u64,
}

/// Made by the first run that needs it, while the others wait.
type SharedTrace = Arc<OnceLock<Result<Arc<Trace>, String>>>;

/// All plugin types that presets name.
pub(super) fn registry() -> Registry {
    Registry::new(router_plugins::PLUGINS.iter().chain(policy::PLUGINS).copied())
}

// === impl Traces ===

impl Traces {
    /// Reads what is recorded, from `folder`.
    pub(super) fn open(plan: &Plan, folder: &Path, jobs: usize) -> Result<Self> {
        let mut recorded = BTreeMap::new();
        let mut digests = BTreeMap::new();
        for cell in &plan.cells {
            let at = cell.workload;
            if digests.contains_key(&at) {
                continue;
            }
            let workload = &plan.workloads[at];
            let trace = match &workload.trace {
                Some(file) => {
                    let path = folder.join(file);
                    let name = path.display().to_string();
                    let file = File::open(&path).with_context(|| format!("reading {name}"))?;
                    let trace = read::read(&name, BufReader::new(file), None, usize::MAX)?;
                    Arc::clone(recorded.entry(at).or_insert(Arc::new(trace)))
                }
                // A little of it tells whether the generator has changed.
                None => Arc::new(workload::generate(&workload.name, &sample())?),
            };
            digests.insert(at, xxh64(format!("{trace:?}").as_bytes(), 0));
        }
        Ok(Self { recorded, digests, cache: Mutex::default(), n_kept: jobs + 1 })
    }

    /// What tells a workload from one of the same name.
    pub(super) fn digest(&self, workload: usize) -> u64 {
        self.digests.get(&workload).copied().unwrap_or_default()
    }

    /// The trace of a cell and a seed.
    pub(super) fn of(&self, plan: &Plan, cell: &Cell, seed: u64) -> Result<Played> {
        let is_recorded = self.recorded.contains_key(&cell.workload);
        let key = TraceKey {
            workload: cell.workload,
            load: cell.load,
            capacity: plan.pools[cell.pool].capacity,
            seed: if is_recorded { 0 } else { seed },
        };
        let speed = if is_recorded { key.load * key.capacity / SPEED_CAPACITY } else { 1.0 };
        // The seed of one that is made up has drawn its arrivals already.
        let jitter = if is_recorded { DEFAULT_JITTER } else { Duration::ZERO };
        let made = self.shared(key);
        let trace = made.get_or_init(|| {
            self.make(plan, key, speed).map_err(|error| format!("{}: {error:#}", cell.name))
        });
        let trace = trace.as_ref().map_err(|error| anyhow!(error.clone()))?;
        let options = Options { speed, jitter, ..Options::default() };
        Ok(Played { trace: Arc::clone(trace), options })
    }

    fn shared(&self, key: TraceKey) -> SharedTrace {
        let mut cache = self.cache.lock();
        if let Some((_, known)) = cache.iter().find(|(known, _)| *known == key) {
            return Arc::clone(known);
        }
        if cache.len() >= self.n_kept {
            cache.pop_front();
        }
        let made = SharedTrace::default();
        cache.push_back((key, Arc::clone(&made)));
        made
    }

    fn make(&self, plan: &Plan, key: TraceKey, speed: f64) -> Result<Arc<Trace>> {
        let workload = &plan.workloads[key.workload];
        if let Some(whole) = self.recorded.get(&key.workload) {
            let end = Stamp::ORIGIN + plan.duration.mul_f64(speed);
            let is_in = |start: Start| matches!(start, Start::At(at) if at <= end);
            let requests = whole.requests.iter().take_while(|request| is_in(request.start));
            let requests = requests.take(workload.limit).cloned().collect();
            return Ok(Arc::new(Trace { block_tokens: whole.block_tokens, requests }));
        }
        let n_servers = key.capacity.round().max(1.0);
        let volume =
            Volume::Load { load: key.load * key.capacity / n_servers, n_servers: n_servers as u32 };
        let spec = Spec { seed: key.seed, duration: plan.duration, volume, ..Spec::default() };
        let mut trace = workload::generate(&workload.name, &spec)?;
        trace.requests.truncate(workload.limit);
        Ok(Arc::new(trace))
    }
}

impl Played {
    /// The work that it offers, as a share of what `capacity` servers of the default profile can do at best.
    pub(super) fn offered(&self, capacity: f64) -> f64 {
        let starts = self.trace.requests.iter().filter_map(|request| match request.start {
            Start::At(at) => Some(at),
            Start::After { .. } => None,
        });
        let last = starts.max().unwrap_or_default().since(Stamp::ORIGIN).as_secs_f64();
        let work = work::of_trace(&self.trace, &Profile::default()).total_s();
        work * self.options.speed / (last * capacity).max(f64::MIN_POSITIVE)
    }
}

/// A short stretch of any workload.
fn sample() -> Spec {
    let duration = Duration::from_secs(30);
    Spec { seed: 1, duration, volume: Volume::Rate(4.0), ..Spec::default() }
}
