//! What flow control costs, without a request around it.
//!
//! `flow-dispatch` keeps a number of requests waiting: each round one that runs ends, so that the next is
//! let go, and its client sends another. Flows are chosen by Zipf's law, but where they are called equal: then
//! thousands of queues are long at once, and each round finds its own in no cache. `flow-churn` gives every
//! request a flow of its own. `flow-subsets` restricts every other request to two of the endpoints. `flow-mass` takes all out of full queues, one by one or by their age.
//! `flow-snapshot` is the look at all queues that the debug page takes while nothing else can. Beside these it
//! prints the time from enqueuing to dispatch when a slot is free, and the memory of a request that
//! waits.
//!
//! Times of rounds are CPU times, and rounds per second are dispatches per second. The budgets are 300,000 of
//! them, 20 µs at the 99th percentile, and 1 KiB. The whole path of a request through flow control is `queued`
//! in the bench `engine`.
//!
//! ```text
//! cargo bench -p router-bench --bench flow
//! ```

#![allow(clippy::unwrap_used, reason = "a bench stops where it cannot go on")]
#![allow(clippy::print_stdout, reason = "percentiles are for people")]

use std::{collections::VecDeque, hint::black_box, sync::Arc, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hdrhistogram::Histogram;
use router_core::{EndpointIndex, Stamp};
use router_flow::{
    Ask, BandTemplate, Bounds, Config, Cost, Effect, FairnessPolicy, FlowControl, FlowId,
    PoolSignal, StageLoad, SubsetId, SubsetSignal, Ticket, Usage,
    policy::{
        deficit::Deficit, global_strict::GlobalStrict, program_aware::ProgramAware,
        round_robin::RoundRobin,
    },
};
use router_rt::{Clock, Rng};

/// What a driver hands in with a request: a pointer to what it knows of it, here its subset.
type Payload = Arc<Option<usize>>;

/// Endpoints of a world in which some requests are restricted to two of them.
const N_ENDPOINTS: usize = 100;

/// Rounds in the same virtual moment; clocks tick between them.
const ROUND: Duration = Duration::from_micros(3);

/// Exponent of Zipf's law.
const ZIPF: f64 = 1.1;
/// Requests after which the same flows ask again.
const N_PICKS: usize = 1 << 18;
/// Added to a number of flows that are all alike.
const EQUAL: usize = 1 << 40;

struct World {
    flow: FlowControl<Payload>,
    effects: Vec<Effect<Payload>>,
    followed: Vec<Effect<Payload>>,
    running: VecDeque<(Ticket, u32)>,
    subsets: Vec<Subset>,
    /// What runs on each endpoint.
    n_running: Vec<u32>,
    now: Stamp,
    rng: Rng,
    ids: Vec<FlowId>,
    /// Whose requests come, in turn, so that choosing costs nothing.
    picks: Vec<u32>,
    n_asked: usize,
    n_bands: u64,
    payload: Payload,
}

/// A subset, and what is said of it.
struct Subset {
    id: SubsetId,
    endpoints: Arc<[EndpointIndex]>,
    payload: Payload,
}

struct Shape {
    /// Subsets that every other request is restricted to, in turn; 0 for none.
    n_subsets: usize,
    n_bands: u64,
    n_flows: usize,
    /// Of Zipf's law, by which a request chooses its flow; 0 for all alike.
    exponent: f64,
    /// Requests that run at once.
    n_slots: u64,
    fairness: Arc<dyn FairnessPolicy>,
}

impl World {
    fn new(shape: &Shape) -> Self {
        let template = BandTemplate {
            max_requests: u64::MAX,
            max_bytes: u64::MAX,
            fairness: Arc::clone(&shape.fairness),
            ..BandTemplate::default()
        };
        let mut flow = FlowControl::new(Config { template, ..Config::default() });
        let mut effects = Vec::new();
        let load = StageLoad::counted(0, shape.n_slots);
        flow.signal(Stamp::ORIGIN, PoolSignal::of_pool(load, Stamp::ORIGIN), &mut effects);
        let ids = (0..shape.n_flows).map(|n| FlowId::from(format!("tenant-{n}").as_str()));
        let weights = (1..=shape.n_flows).map(|rank| (rank as f64).powf(-shape.exponent));
        let zipf: Vec<f64> = weights
            .scan(0.0, |sum, weight| {
                *sum += weight;
                Some(*sum)
            })
            .collect();
        let mut rng = Rng::seeded(7);
        let picks = (0..N_PICKS).map(|_| {
            let at = rng.f64() * zipf.last().unwrap();
            zipf.partition_point(|sum| *sum < at).min(shape.n_flows - 1) as u32
        });
        let picks = picks.collect();
        let subset = |n: usize| {
            let slots = [n % N_ENDPOINTS, (n + 1) % N_ENDPOINTS].map(|slot| slot as u32);
            let mut endpoints = slots.map(|slot| EndpointIndex { slot, generation: 0 });
            endpoints.sort_unstable();
            let id =
                SubsetId::new(endpoints.map(|endpoint| format!("10.0.0.{}:80", endpoint.slot)));
            Subset { id, endpoints: endpoints.into(), payload: Arc::new(Some(n)) }
        };
        Self {
            subsets: (0..shape.n_subsets).map(subset).collect(),
            n_running: vec![0; N_ENDPOINTS],
            flow,
            effects,
            followed: Vec::new(),
            running: VecDeque::new(),
            now: Stamp::ORIGIN,
            rng,
            ids: ids.collect(),
            picks,
            n_asked: 0,
            n_bands: shape.n_bands,
            payload: Arc::new(None),
        }
    }

    fn ask(&mut self) -> Ask {
        self.n_asked += 1;
        let flow = self.picks[self.n_asked % N_PICKS] as usize;
        Ask {
            priority: (self.rng.next_u64() % self.n_bands) as i32,
            flow: self.ids[flow].clone(),
            bytes: 100 + self.rng.next_u64() % 8_900,
            received: self.now,
            subset: self.subset().map(|subset| subset.id.clone()),
            cost: Cost {
                cached: (self.rng.next_u64() % 4_000) as u32,
                uncached: (self.rng.next_u64() % 4_000) as u32,
                output: 200,
            },
            ..Ask::default()
        }
    }

    /// Which subset the request is restricted to that was asked last.
    fn subset(&self) -> Option<&Subset> {
        if self.n_asked.is_multiple_of(2) || self.subsets.is_empty() {
            return None;
        }
        Some(&self.subsets[self.n_asked / 2 % self.subsets.len()])
    }

    /// Says of all subsets that they have room for one request on each endpoint.
    fn say(&mut self) {
        let pool = StageLoad::counted(0, N_ENDPOINTS as u64);
        let signal = |subset: &Subset| SubsetSignal {
            id: subset.id.clone(),
            signal: PoolSignal::of_pool(StageLoad::counted(0, 2), Stamp::ORIGIN),
            endpoints: Arc::clone(&subset.endpoints),
            share: 2.0 / N_ENDPOINTS as f64,
        };
        let (pool, subsets) = (PoolSignal::of_pool(pool, Stamp::ORIGIN), self.subsets.iter());
        self.flow.signals(self.now, self.now, pool, subsets.map(signal), &mut self.effects);
        self.follow();
    }

    fn arrive(&mut self, ask: Ask) -> Ticket {
        let payload = self.subset().map_or(&self.payload, |subset| &subset.payload);
        let payload = Arc::clone(payload);
        let ticket = self.flow.arrive(self.now, ask, payload, &mut self.effects);
        self.follow();
        ticket
    }

    /// Does what a driver does.
    fn follow(&mut self) {
        while !self.effects.is_empty() {
            std::mem::swap(&mut self.effects, &mut self.followed);
            for effect in self.followed.drain(..) {
                if let Effect::Dispatch { ticket, payload, .. } = effect {
                    let mut slot = 0;
                    if !self.subsets.is_empty() {
                        slot = emptiest(&self.n_running, payload.map(|n| &self.subsets[n]));
                    }
                    self.n_running[slot as usize] += 1;
                    let endpoint = EndpointIndex { slot, generation: 0 };
                    self.flow.placed(self.now, ticket, Some(endpoint), &mut self.effects);
                    self.running.push_back((ticket, slot));
                }
            }
        }
    }

    /// One that runs ends, another is let go, and one comes.
    fn round(&mut self) {
        self.now = self.now + ROUND;
        let (ended, slot) = self.running.pop_front().unwrap();
        self.n_running[slot as usize] -= 1;
        let used = Usage { prompt: 3_000, cached: 500, output: 150 };
        self.flow.finished(self.now, ended, Some(used), &mut self.effects);
        self.follow();
        let ask = self.ask();
        self.arrive(ask);
        black_box(self.flow.next_deadline());
    }

    fn fill(&mut self, n: usize) -> Vec<Ticket> {
        let mut tickets = Vec::with_capacity(n);
        for _ in 0..n {
            let ask = self.ask();
            tickets.push(self.arrive(ask));
        }
        tickets
    }
}

/// The endpoint where least runs, of the subset or of all.
fn emptiest(n_running: &[u32], subset: Option<&Subset>) -> u32 {
    match subset {
        Some(subset) => {
            let slots = subset.endpoints.iter().map(|endpoint| endpoint.slot);
            slots.min_by_key(|slot| n_running[*slot as usize]).unwrap()
        }
        None => n_running.iter().position(|n| *n == 0).unwrap_or_default() as u32,
    }
}

fn dispatch(c: &mut Criterion) {
    let mut group = c.benchmark_group("flow-dispatch");
    group.throughput(Throughput::Elements(1));
    let policies: [(&str, Arc<dyn FairnessPolicy>); 4] = [
        ("strict", Arc::new(GlobalStrict)),
        ("round-robin", Arc::new(RoundRobin)),
        ("deficit", Arc::new(Deficit::default())),
        ("program-aware", Arc::new(ProgramAware::default())),
    ];
    for (name, fairness) in policies {
        for (n_slots, n_bands, n_flows, n_clients) in [
            (1, 1, 10, 10),
            (1, 8, 5_000, 5_000),
            (100, 1, 10, 5_000),
            (100, 1, 5_000, 5_000),
            (100, 8, 10, 5_000),
            (100, 8, 5_000, 5_000),
            (100, 8, 5_000, 100_000),
            (100, 1, 5_000, 100_000),
            (100, 1, EQUAL + 5_000, 100_000),
        ] {
            let (n_flows, exponent) = match n_flows {
                EQUAL.. => (n_flows - EQUAL, 0.0),
                _ => (n_flows, ZIPF),
            };
            let fairness = Arc::clone(&fairness);
            let mut world =
                World::new(&Shape { n_subsets: 0, n_bands, n_flows, exponent, n_slots, fairness });
            world.fill(n_clients);
            // The first rounds find flows without any service yet.
            (0..2 * n_flows).for_each(|_| world.round());
            let equal = if exponent == 0.0 { "equal-" } else { "" };
            let what = format!("{name}/{n_slots}-slots-{n_bands}-bands-{n_flows}-{equal}flows");
            group.bench_function(BenchmarkId::new(what, n_clients), |b| {
                b.iter_custom(|n| cpu_time(|| (0..n).for_each(|_| world.round())));
            });
        }
    }
}

fn shape(n_flows: usize, n_slots: u64) -> Shape {
    let fairness = Arc::new(Deficit::default());
    Shape { n_subsets: 0, n_bands: 1, n_flows, exponent: ZIPF, n_slots, fairness }
}

/// Half of all requests may go to two endpoints only.
fn subsets(c: &mut Criterion) {
    let mut group = c.benchmark_group("flow-subsets");
    group.throughput(Throughput::Elements(1));
    let policies: [(&str, Arc<dyn FairnessPolicy>); 2] =
        [("strict", Arc::new(GlobalStrict)), ("deficit", Arc::new(Deficit::default()))];
    for (name, fairness) in policies {
        for (n_subsets, n_flows) in [(10, 10), (100, 10), (100, 500), (100, 5_000)] {
            let n_slots = N_ENDPOINTS as u64;
            let fairness = Arc::clone(&fairness);
            let mut world = World::new(&Shape { n_subsets, fairness, ..shape(n_flows, n_slots) });
            world.fill(5_000);
            world.say();
            (0..10_000).for_each(|_| world.round());
            let what = format!("{name}/{n_subsets}-subsets-{n_flows}-flows");
            group.bench_function(BenchmarkId::new(what, 5_000), |b| {
                b.iter_custom(|n| cpu_time(|| (0..n).for_each(|_| world.round())));
            });
        }
    }
}

/// Every request comes from somebody new.
fn churn(c: &mut Criterion) {
    let mut group = c.benchmark_group("flow-churn");
    group.throughput(Throughput::Elements(1));
    let mut world = World::new(&shape(1, 100));
    world.fill(100);
    let n_idle = Bounds::default().max_idle_flows;
    let mut n = 0u64;
    let mut one = |world: &mut World| {
        n += 1;
        let flow = FlowId::from(format!("tenant-{n}").as_str());
        world.ids[0] = flow;
        world.round();
    };
    (0..2 * n_idle).for_each(|_| one(&mut world));
    group.bench_function("new-flow-each", |b| {
        b.iter_custom(|n| cpu_time(|| (0..n).for_each(|_| one(&mut world))));
    });
}

/// What it takes to take one of many out.
fn mass(c: &mut Criterion) {
    const N_WAITING: usize = 5_000;
    let mut group = c.benchmark_group("flow-mass");
    group.throughput(Throughput::Elements(N_WAITING as u64));
    let filled = || {
        let mut world = World::new(&shape(5_000, 1));
        let tickets = world.fill(N_WAITING);
        (world, tickets)
    };
    let each = |n: u64, empty: fn(&mut World, Vec<Ticket>)| {
        let mut spent = Duration::ZERO;
        for _ in 0..n {
            let (mut world, tickets) = filled();
            spent += cpu_time(|| empty(&mut world, tickets));
            assert_eq!(world.flow.n_waiting(), 0);
        }
        spent
    };
    group.bench_function("cancellation", |b| {
        b.iter_custom(|n| {
            each(n, |world, tickets| {
                for ticket in tickets {
                    world.flow.cancel(world.now, ticket, &mut world.effects);
                }
            })
        });
    });
    group.bench_function("expiry", |b| {
        b.iter_custom(|n| {
            each(n, |world, _| {
                world.flow.wake(world.now + Duration::from_mins(1), &mut world.effects);
            })
        });
    });
}

/// What operators look at: everything stands still meanwhile.
fn snapshot(c: &mut Criterion) {
    const N_WAITING: usize = 100_000;
    const N_SHOWN: usize = 100;
    let mut group = c.benchmark_group("flow-snapshot");
    for n_bands in [1, 128] {
        let equal = Shape { n_bands, exponent: 0.0, ..shape(10_000, 1) };
        let mut world = World::new(&equal);
        world.fill(N_WAITING);
        (0..N_WAITING).for_each(|_| world.round());
        let what = format!("{n_bands}-bands-10000-flows");
        group.bench_function(BenchmarkId::new(what, N_WAITING), |b| {
            b.iter_custom(|n| {
                cpu_time(|| (0..n).for_each(|_| drop(black_box(world.flow.snapshot(N_SHOWN)))))
            });
        });
    }
}

/// From enqueuing to dispatch when a slot is free and nobody else waits.
fn free_slot(_: &mut Criterion) {
    const N_ROUNDS: usize = 200_000;
    let mut world = World::new(&shape(5_000, 100_000));
    world.fill(1_000);
    let clock = Clock::new();
    let mut times = Histogram::<u64>::new(3).unwrap();
    for _ in 0..N_ROUNDS {
        world.now = clock.now();
        let (ended, _) = world.running.pop_front().unwrap();
        world.flow.finished(world.now, ended, None, &mut world.effects);
        let ask = world.ask();
        let started = clock.now();
        world.flow.arrive(started, ask, Arc::clone(&world.payload), &mut world.effects);
        times.record(clock.now().since(started).as_nanos() as u64).unwrap();
        world.now = started;
        world.follow();
    }
    let us = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "flow-free-slot: p50 {:.2} us, p99 {:.2} us, p99.9 {:.2} us",
        us(0.5),
        us(0.99),
        us(0.999)
    );
}

/// Memory of requests that wait, few or all of them in a flow of their own.
fn memory(_: &mut Criterion) {
    const N_WAITING: usize = 200_000;
    // None goes before the end: the next would use its memory again.
    let mut worlds = Vec::new();
    for n_flows in [100, 5_000, N_WAITING] {
        let before = resident_bytes();
        let mut world = World::new(&shape(n_flows, 1));
        let ids = resident_bytes();
        if n_flows == N_WAITING {
            for n in 0..N_WAITING {
                let flow = FlowId::from(format!("tenant-{n}").as_str());
                let ask = Ask { flow, ..world.ask() };
                world.arrive(ask);
            }
        } else {
            world.fill(N_WAITING);
        }
        let each = resident_bytes().saturating_sub(ids.max(before)) / N_WAITING as u64;
        println!("flow-memory: {each} bytes per request that waits, {n_flows} flows");
        worlds.push(world);
    }
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// What the work costs this thread, whoever else uses the machine.
fn cpu_time(work: impl FnOnce()) -> Duration {
    let spent = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let before = spent();
    work();
    spent().saturating_sub(before)
}

/// Short: figures are compared by eye, within one run.
fn settings() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
}

criterion_group! {
    name = benches;
    config = settings();
    // Memory first: what others have freed would be used again without growth.
    targets = memory, free_slot, dispatch, subsets, churn, mass, snapshot
}
criterion_main!(benches);
