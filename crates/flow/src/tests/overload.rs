//! More load than the servers can do, in virtual time: who is served, and who pays.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    num::NonZeroU64,
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;
use router_core::Stamp;

use crate::{
    Ask, BandTemplate, Config, Cost, Effect, FairnessPolicy, FlowControl, FlowId, PoolSignal,
    StageLoad, Ticket, Usage,
    policy::{
        deficit::{Deficit, MAX_CREDIT_ROUNDS},
        global_strict::GlobalStrict,
        program_aware::ProgramAware,
        round_robin::RoundRobin,
    },
    snapshot::jain,
};

const N_SLOTS: u64 = 32;
/// Tokens that a slot computes per second.
const TOKENS_PER_SECOND: f64 = 1_000.0;

/// Who sends how much.
struct Client {
    id: String,
    priority: i32,
    /// Tokens per second, as a share of what the servers can do.
    load: f64,
}

#[derive(Clone, Default)]
struct Got {
    n_asked: u64,
    n_served: u64,
    n_refused: u64,
    tokens: f64,
    waits: Vec<Duration>,
    longest_pause: Duration,
    last: Stamp,
}

/// Plays `seconds` of Poisson arrivals. Requests take 1,000 tokens on average, half of which nobody knows
/// beforehand.
fn play(config: Config, clients: &[Client], seconds: u64) -> (Vec<Got>, f64) {
    let mut rng = Rng::with_seed(7);
    let mut flow = FlowControl::new(config);
    let (mut effects, mut got) = (Vec::new(), vec![Got::default(); clients.len()]);
    let load = StageLoad::counted(0, N_SLOTS);
    flow.signal(Stamp::ORIGIN, PoolSignal::of_pool(load, Stamp::ORIGIN), &mut effects);
    // Next arrival of each client, or end of a request.
    let mut agenda: BinaryHeap<Reverse<(Stamp, usize, Option<(Ticket, u64)>)>> = BinaryHeap::new();
    let gap = |client: &Client, rng: &mut Rng| {
        let per_second = client.load * N_SLOTS as f64 * TOKENS_PER_SECOND / 1_000.0;
        Duration::from_secs_f64(-(1.0 - rng.f64()).ln() / per_second)
    };
    for (at, client) in clients.iter().enumerate() {
        agenda.push(Reverse((Stamp::ORIGIN + gap(client, &mut rng), at, None)));
    }
    let mut outputs: BTreeMap<Ticket, u64> = BTreeMap::new();
    let end = Stamp::ORIGIN + Duration::from_secs(seconds);
    while let Some(Reverse((now, at, ends))) = agenda.pop() {
        if now > end {
            break;
        }
        while let Some(due) = flow.next_deadline().filter(|due| *due <= now) {
            flow.wake(due, &mut effects);
        }
        match ends {
            Some((ticket, output)) => {
                got[at].tokens += 500.0 + output as f64;
                let used = Usage { prompt: 500, cached: 0, output };
                flow.finished(now, ticket, Some(used), &mut effects);
            }
            None => {
                let client = &clients[at];
                got[at].n_asked += 1;
                agenda.push(Reverse((now + gap(client, &mut rng), at, None)));
                let ask = Ask {
                    priority: client.priority,
                    flow: FlowId::from(client.id.as_str()),
                    cost: Cost { cached: 0, uncached: 500, output: 500 },
                    ..Ask::default()
                };
                let ticket = flow.arrive(now, ask, at, &mut effects);
                outputs.insert(ticket, rng.u64(100..=900));
            }
        }
        for effect in effects.drain(..) {
            match effect {
                Effect::Dispatch { ticket, payload: at, waited, .. } => {
                    flow.placed(now, ticket, None, &mut Vec::new());
                    let output = outputs.remove(&ticket).unwrap();
                    let took = Duration::from_secs_f64((500.0 + output as f64) / TOKENS_PER_SECOND);
                    agenda.push(Reverse((now + took, at, Some((ticket, output)))));
                    let got = &mut got[at];
                    got.n_served += 1;
                    got.waits.push(waited);
                    got.longest_pause = got.longest_pause.max(now.since(got.last));
                    got.last = now;
                }
                Effect::Drop { payload: at, ticket, .. } => {
                    outputs.remove(&ticket);
                    got[at].n_refused += 1;
                }
                Effect::Evict { .. } | Effect::FlowGone { .. } | Effect::PolicyFailed(_) => {}
            }
        }
    }
    let done: f64 = got.iter().map(|got| got.tokens).sum();
    (got, done / (seconds as f64 * N_SLOTS as f64 * TOKENS_PER_SECOND))
}

fn mean(waits: &[Duration]) -> Duration {
    waits.iter().sum::<Duration>() / waits.len() as u32
}

fn client(id: &str, priority: i32, load: f64) -> Client {
    Client { id: id.to_owned(), priority, load }
}

#[test]
fn at_twice_the_capacity_sheddable_work_pays_and_what_matters_hardly_waits() {
    let clients = [client("top", 100, 0.5), client("batch", -1, 1.5)];
    let config = Config { ttl: Some(Duration::from_secs(20)), ..Config::default() };
    let (alone, _) = play(config.clone(), &clients[..1], 60);
    let (got, throughput) = play(config, &clients, 60);
    assert_eq!(got[0].n_refused, 0);
    assert!(got[1].n_refused > 0);
    assert!(throughput > 0.95, "{throughput}");
    let prefill = Duration::from_millis(500);
    let (with, without) = (mean(&got[0].waits) + prefill, mean(&alone[0].waits) + prefill);
    // Nobody's slot is taken away, so one has to become free: which costs a tenth of the 500 ms.
    assert!(with < without.mul_f64(1.2), "{with:?} instead of {without:?}");
    assert!(got[1].longest_pause < Duration::from_secs(10), "{:?}", got[1].longest_pause);
}

#[test]
fn the_lowest_band_never_stops_though_the_top_alone_is_too_much() {
    let clients = [client("top", 100, 1.5), client("middle", 0, 0.3), client("batch", -1, 0.3)];
    let (got, throughput) = play(Config::default(), &clients, 60);
    assert!(throughput > 0.95, "{throughput}");
    let total: f64 = got.iter().map(|got| got.tokens).sum();
    for got in &got[1..] {
        let share = got.tokens / total;
        assert!((0.003..0.01).contains(&share), "{share}");
        assert!(got.longest_pause < Duration::from_secs(30), "{:?}", got.longest_pause);
    }
}

/// Jain's index over what 20 tenants got of their max-min share, when one of them sends half of all at
/// twice the capacity.
fn jain_of_twenty(fairness: Arc<dyn FairnessPolicy>, max_requests: u64) -> f64 {
    let mut clients = vec![client("greedy", 0, 1.0)];
    clients.extend((1..20).map(|n| client(&format!("tenant-{n}"), 0, 1.0 / 19.0)));
    let template = BandTemplate { max_requests, fairness, ..BandTemplate::default() };
    let (got, throughput) = play(Config { template, ..Config::default() }, &clients, 90);
    assert!(throughput > 0.95, "{throughput}");
    // All ask for more than a twentieth, so that is everybody's share.
    jain(&got.iter().map(|got| got.tokens).collect::<Vec<_>>())
}

#[test]
fn twenty_tenants_get_equal_service_under_deficit_fairness_only() {
    let quantum = NonZeroU64::new(2_048).unwrap();
    let deficit = Arc::new(Deficit { quantum, ..Deficit::default() });
    for max_requests in [5_000, 100] {
        let fair = jain_of_twenty(Arc::clone(&deficit) as _, max_requests);
        assert!(fair > 0.98, "{fair} with room for {max_requests}");
    }
    let strict = jain_of_twenty(Arc::new(GlobalStrict), 5_000);
    assert!(strict < 0.3, "{strict}");
    for other in
        [Arc::new(RoundRobin) as Arc<dyn FairnessPolicy>, Arc::new(ProgramAware::default())]
    {
        let roomy = jain_of_twenty(Arc::clone(&other), 5_000);
        assert!(roomy > 0.9, "{roomy}");
        // A full queue belongs to who sends most.
        let full = jain_of_twenty(other, 100);
        assert!(full < 0.3, "{full}");
    }
}

#[test]
fn twice_the_weight_is_twice_the_service() {
    let weights = BTreeMap::from([("gold".to_owned(), 2.0)]);
    let fairness = Deficit { weights: Arc::new(weights), ..Deficit::default() };
    let template = BandTemplate { fairness: Arc::new(fairness), ..BandTemplate::default() };
    let clients = ["gold", "a", "b"].map(|id| client(id, 0, 0.7));
    let (got, _) = play(Config { template, ..Config::default() }, &clients, 60);
    let ratio = got[0].tokens / got[1].tokens;
    // A half of all is what gold gets, and a quarter each of the others.
    assert!((1.9..2.1).contains(&ratio), "{ratio}");
}

#[test]
fn who_has_a_small_weight_waits_no_longer_than_the_bound_says() {
    let weights = BTreeMap::from([("gold".to_owned(), 4.0), ("tiny".to_owned(), 0.1)]);
    let quantum = NonZeroU64::new(2_048).unwrap();
    let fairness = Deficit { quantum, weights: Arc::new(weights), ..Deficit::default() };
    let share = |id: &str| fairness.share(&FlowId::from(id)).get();
    // Each request is expected to need 1,000 tokens; its answer may need 400 more.
    let n_rounds = (1_000 + 2 * 400_u64).div_ceil(share("tiny")) + 1 + MAX_CREDIT_ROUNDS;
    let others = ["gold", "a", "b"];
    let tokens: u64 = others.iter().map(|id| n_rounds * share(id) + 1_000).sum();
    let bound = Duration::from_secs_f64(tokens as f64 / (N_SLOTS as f64 * TOKENS_PER_SECOND));
    let fairness = Arc::new(fairness);
    let template = BandTemplate { fairness, ..BandTemplate::default() };
    let clients = ["tiny", "gold", "a", "b"].map(|id| client(id, 0, 0.7));
    let (got, throughput) = play(Config { template, ..Config::default() }, &clients, 120);
    assert!(throughput > 0.95, "{throughput}");
    let pause = got[0].longest_pause;
    assert!(pause < bound && pause > bound / 4, "{pause:?} of {bound:?}");
}
