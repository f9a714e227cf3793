//! Random configurations and events.

use std::{collections::BTreeMap, num::NonZeroU64, sync::Arc, time::Duration};

use fastrand::Rng;
use proptest::{collection::vec, prelude::*};
use router_core::{EndpointIndex, Stamp};

use super::{
    driver::Pair,
    model::{At, Orders, Setup},
    model_limit::{Limits, Order},
    model_policy::Kind,
};
use crate::{
    Ask, BandConfig, BandTemplate, Bounds, Config, Cost, Eviction, FairnessPolicy, FlowId,
    PoolSignal, StageLoad, SubsetId, SubsetSignal, Trickle, Usage,
    policy::{
        deficit::Deficit,
        eviction::{PriorityThenTime, Sheddable},
        global_strict::GlobalStrict,
        program_aware::ProgramAware,
        round_robin::RoundRobin,
        usage_limit::HoldbackDomain,
    },
};

/// Milliseconds; whole ones, so that every change is a step of its own in the ledger.
fn millis(rng: &mut Rng, most: u64) -> Duration {
    Duration::from_millis(rng.u64(1..=most))
}

fn fairness(rng: &mut Rng) -> (Kind, Arc<dyn FairnessPolicy>) {
    match rng.u32(..5) {
        0 => (Kind::GlobalStrict, Arc::new(GlobalStrict)),
        1 => (Kind::RoundRobin, Arc::new(RoundRobin)),
        2 => {
            // Not so short that what is left of the first service is below what a float can hold.
            let half_life = rng.bool().then(|| Duration::from_millis(200) + millis(rng, 2_000));
            let params = ProgramAware { half_life, ..ProgramAware::default() };
            (Kind::ProgramAware(params), Arc::new(params))
        }
        _ => {
            let weights = BTreeMap::from([("a".to_owned(), 3.0), ("b".to_owned(), 0.1)]);
            let quantum = NonZeroU64::new(rng.u64(1..200)).unwrap();
            let deficit = Deficit { quantum, default_weight: 1.0, weights: Arc::new(weights) };
            (Kind::Deficit(deficit.clone()), Arc::new(deficit))
        }
    }
}

fn limits(rng: &mut Rng) -> Limits {
    match rng.u32(..5) {
        0 | 1 => Limits::Static(1.0),
        2 => Limits::Static(rng.f64() * 1.5),
        3 => {
            let domain = if rng.bool() { HoldbackDomain::Rank } else { HoldbackDomain::Value };
            Limits::Holdback(rng.f64(), domain)
        }
        _ => Limits::Reflective,
    }
}

fn template(rng: &mut Rng, fairness: &Arc<dyn FairnessPolicy>) -> (Order, BandTemplate) {
    let order = [Order::Fcfs, Order::Edf, Order::Slo][rng.usize(..3)];
    let template = BandTemplate {
        max_requests: rng.u64(1..40),
        max_bytes: rng.u64(100..4_000),
        ordering: order.policy(),
        fairness: Arc::clone(fairness),
    };
    (order, template)
}

fn setup(rng: &mut Rng) -> Setup {
    let (kind, fairness) = fairness(rng);
    let bands = [100, -7].into_iter().filter(|_| rng.clone().bool());
    let bands: Vec<i32> = bands.collect();
    let (mut orders, mut configured) = (Vec::new(), Vec::new());
    for priority in bands {
        let (order, template) = template(rng, &fairness);
        orders.push((priority, order));
        configured.push(BandConfig { priority, template });
    }
    let trickle = rng.bool().then(|| Trickle {
        share_ppm: [0, 10_000, 300_000][rng.usize(..3)],
        every: millis(rng, 500),
    });
    let eviction = rng.bool().then(|| Eviction {
        filter: Arc::new(Sheddable),
        order: Arc::new(PriorityThenTime),
        max_at_once: rng.usize(1..4),
        confirm_within: millis(rng, 300),
        grace: millis(rng, 100),
    });
    let bounds = Bounds {
        max_bands: rng.usize(3..8),
        max_subsets: rng.usize(1..6),
        max_idle_flows: rng.usize(1..12),
        flow_idle: millis(rng, 2_000),
        band_idle: millis(rng, 4_000),
        ..Bounds::default()
    };
    let (rest, template_of_rest) = template(rng, &fairness);
    let (negative, negative_template) = rng.bool().then(|| template(rng, &fairness)).unzip();
    let limits = limits(rng);
    let config = Config {
        max_requests: rng.bool().then(|| rng.u64(1..60)),
        max_bytes: rng.bool().then(|| rng.u64(100..6_000)),
        ttl: (rng.u32(..5) > 0).then(|| millis(rng, 400)),
        no_endpoint_ttl: (rng.u32(..5) > 0).then(|| millis(rng, 400)),
        bands: configured,
        template: template_of_rest,
        negative_template,
        usage_limit: limits.policy(),
        trickle,
        eviction,
        bounds,
    };
    Setup { config, fairness: kind, limits, orders: Orders { bands: orders, negative, rest } }
}

fn signal(rng: &mut Rng, now: Stamp) -> PoolSignal {
    let mut load = || StageLoad {
        saturation: [0.0, rng.f64(), rng.f64() * 1.3][rng.usize(..3)],
        per_request: [0.0, 0.05, 0.25][rng.usize(..3)],
        per_token: [0.0, 0.0, 0.0005][rng.usize(..3)],
    };
    let (prefill, decode) = (load(), load());
    let prefill = Some(prefill).filter(|_| rng.u32(..4) == 0);
    let decode = Some(decode).filter(|_| prefill.is_none() || rng.bool());
    let as_of = now - Duration::from_millis(rng.u64(..30));
    PoolSignal { has_endpoints: rng.u32(..8) > 0, prefill, decode, as_of }
}

fn endpoint(rng: &mut Rng) -> EndpointIndex {
    EndpointIndex { slot: rng.u32(..4), generation: 0 }
}

/// What is said of some of the subsets in use.
fn subset_signals(rng: &mut Rng, pair: &Pair) -> Vec<SubsetSignal> {
    let mut signals = Vec::new();
    for subset in pair.real.subsets() {
        if rng.u32(..5) == 0 {
            continue;
        }
        let mut endpoints: Vec<_> = (0..rng.usize(1..4)).map(|_| endpoint(rng)).collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        let share = [0.0, 0.25, endpoints.len() as f64 / 4.0, 1.0][rng.usize(..4)];
        let endpoints = endpoints.into();
        let signal = signal(rng, pair.now);
        signals.push(SubsetSignal { id: subset.id, signal, endpoints, share });
    }
    signals
}

fn subset(rng: &mut Rng) -> Option<SubsetId> {
    let names = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];
    let of = [&names[..1], &names[..2], &names[1..2], &names[1..], &names[..]][rng.usize(..5)];
    (rng.u32(..5) < 2).then(|| SubsetId::new(of.iter().copied()))
}

fn ask(rng: &mut Rng, now: Stamp) -> Ask {
    let flows = ["a", "b", "c", "d", "e"];
    let flow = match rng.u32(..20) {
        0 => FlowId::from(format!("once-{}", rng.u32(..1000)).as_str()),
        n => FlowId::from(flows[(n / 5) as usize]),
    };
    Ask {
        priority: [100, 0, 0, -7, -7, rng.i32(-12..12)][rng.usize(..6)],
        flow,
        bytes: rng.u64(..300),
        received: now - Duration::from_millis(rng.u64(..50)),
        ttl: (rng.u32(..4) == 0).then(|| millis(rng, 200)),
        ttft_slo: rng.bool().then(|| millis(rng, 1_000)),
        cost: Cost {
            cached: rng.u32(..3) * 16,
            uncached: rng.u32(..100),
            output: [0, 50, 400][rng.usize(..3)],
        },
        subset: subset(rng),
    }
}

fn used(rng: &mut Rng) -> Option<Usage> {
    let prompt = rng.u64(..150);
    let usage = Usage { prompt, cached: rng.u64(..=prompt), output: rng.u64(..600) };
    match rng.u32(..4) {
        0 => None,
        1 => Some(Usage::default()),
        _ => Some(usage),
    }
}

/// One event, whatever the number.
fn step(pair: &mut Pair, number: u64) {
    let mut rng = Rng::with_seed(number);
    let rng = &mut rng;
    let n = rng.usize(..1_000);
    match rng.u32(..100) {
        0..40 => pair.arrive(ask(rng, pair.now)),
        40..46 => {
            if let Some(request) = pair.pick(n, |_| true) {
                pair.cancel(request);
            }
        }
        46..60 => {
            if let Some(request) = pair.pick(n, |at| at == At::Unplaced) {
                let endpoint = (rng.u32(..4) > 0).then(|| endpoint(rng));
                pair.placed(request, endpoint);
            }
        }
        60..65 => {
            if let Some(request) = pair.pick(n, |_| true) {
                pair.prefilled(request);
            }
        }
        65..80 => {
            if let Some(request) = pair.pick(n, |_| true) {
                pair.finished(request, used(rng));
            }
        }
        80..88 => {
            let subsets = subset_signals(rng, pair);
            pair.signals(signal(rng, pair.now), &subsets);
        }
        88..90 => pair.look(),
        90..91 => {
            let wanted: Vec<i32> = (0..rng.u32(..4)).map(|_| rng.i32(-12..12)).collect();
            pair.provision(&wanted);
        }
        91..92 => pair.wake(),
        92..99 => pair.pass(millis(rng, 60)),
        _ => pair.pass(millis(rng, 5_000)),
    }
}

/// Plays the events, and gives how many requests there were.
fn play(seed: u64, numbers: impl IntoIterator<Item = u64>, shuts_down: bool) -> u64 {
    let mut pair = Pair::new(&setup(&mut Rng::with_seed(seed)));
    for number in numbers {
        step(&mut pair, number);
    }
    if shuts_down {
        pair.shut_down();
        pair.arrive(Ask::default());
    }
    pair.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn behaves_as_the_slow_model(
        seed in any::<u64>(),
        numbers in vec(any::<u64>(), 1..200),
        shuts_down in proptest::bool::weighted(0.1),
    ) {
        play(seed, numbers, shuts_down);
    }
}

/// As many requests as `FLOW_SOAK` says, a few thousand without it:
/// `FLOW_SOAK=10000000 cargo test --release -p router-flow soak`.
#[test]
fn soak() {
    let asked = std::env::var("FLOW_SOAK").ok().and_then(|number| number.parse().ok());
    let n_wanted: u64 = asked.unwrap_or(4_000);
    let mut n_requests = 0;
    for seed in 0.. {
        if n_requests >= n_wanted {
            return;
        }
        // Shown where it fails.
        println!("seed {seed}, after {n_requests} requests");
        let mut rng = Rng::with_seed(seed);
        let n_steps = rng.usize(500..3_000);
        let numbers: Vec<u64> = (0..n_steps).map(|_| rng.u64(..)).collect();
        n_requests += play(seed, numbers, rng.u32(..10) == 0);
    }
}
