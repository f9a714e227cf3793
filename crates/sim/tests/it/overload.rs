//! Twice the load that the servers can do, in virtual time: what the configurations of `deploy/overload` do for
//! priorities and for tenants.
//!
//! What is judged begins after a minute: until the servers are full nobody has to wait, whoever comes.
//! `OVERLOAD_MINUTES=60 cargo test --release -p router-sim overload -- --nocapture` plays an hour in place of
//! three minutes, and prints what it sees.

#![expect(clippy::print_stdout, reason = "whoever plays an hour wants to see the figures")]

use std::{path::PathBuf, sync::Arc, time::Duration};

use router_core::Stamp;
use router_framework::Registry;
use router_sim::replay::{
    pool::Pool,
    run::{self, Configuration, Options, Progress, Setup},
    summary::{Goals, Group, Groups, Spread, Summary},
    trace::Trace,
    workload::{Priorities, Spec, Volume, WildTenant},
};

const WARM_UP: Duration = Duration::from_mins(1);
const SEEDS: [u64; 2] = [1, 2];
/// Loads that are twice what the servers of `pool.yaml` do with 32 requests at a time: these do less than those
/// that loads are measured in, and never as much as full batches would.
const PRIORITIES_TWICE: f64 = 0.76;
const TENANTS_TWICE: f64 = 0.46;

fn spec(load: f64, seed: u64) -> Spec {
    let minutes = std::env::var("OVERLOAD_MINUTES").map_or(3, |text| text.parse().unwrap());
    let duration = WARM_UP + Duration::from_mins(minutes);
    Spec { seed, duration, volume: Volume::Load { load, n_servers: 8 }, ..Spec::default() }
}

/// The text of a file in `deploy/overload`.
fn document(name: &str) -> String {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/overload"));
    std::fs::read_to_string(folder.join(name)).unwrap()
}

/// What became of those who came after the servers were full.
struct Played {
    groups: Groups,
    cached_ratio: f64,
}

impl Played {
    /// Tokens of service a second.
    fn throughput(&self) -> f64 {
        self.groups.service / self.groups.seconds
    }

    fn priority(&self, name: &str) -> &Group {
        self.groups.priorities.iter().find(|group| group.name == name).unwrap()
    }

    /// Tokens of service that are asked for a second.
    fn demand(&self) -> f64 {
        let Groups { priorities, tenants, seconds, .. } = &self.groups;
        priorities.iter().chain(tenants).map(|group| group.demand).sum::<f64>() / seconds
    }
}

fn play(name: &str, text: String, trace: &Trace) -> Played {
    let setup = Setup {
        trace: Arc::new(trace.clone()),
        pool: Arc::new(Pool::parse("pool.yaml", document("pool.yaml").as_bytes()).unwrap()),
        configuration: Configuration { name: name.to_owned(), text: Some(text) },
        registry: Registry::new(router_plugins::PLUGINS.iter().copied()),
        options: Options { jitter: Duration::ZERO, allow_experimental: true, ..Options::default() },
    };
    let outcome = run::play(&setup, 1, &Progress::default()).unwrap();
    let groups = Groups::since(Stamp::ORIGIN + WARM_UP, trace, &outcome);
    let played =
        Played { groups, cached_ratio: Summary::of(&outcome, Goals::default()).cached_ratio };
    show(name, &played);
    played
}

fn show(name: &str, played: &Played) {
    let groups = &played.groups;
    println!(
        "{name}: {:.0} tokens/s of {:.0} asked, {:.0} requests at a time, {:.3} cached, Jain's index {:?}",
        played.throughput(),
        played.demand(),
        groups.concurrency,
        played.cached_ratio,
        groups.jain
    );
    for one in groups.priorities.iter().chain(groups.tenants.iter().take(2)) {
        println!(
            "  {}: {} of {} served, {:.2} of its share, TTFT p50 {:.3} s p99 {:.3} s, of that at the server \
             {:.3} s and {:.3} s, longest pause {:.1} s",
            one.name,
            one.n_served,
            one.n_requests,
            one.of_share(),
            one.ttft.p50,
            one.ttft.p99,
            one.server_ttft.p50,
            one.server_ttft.p99,
            one.longest_pause
        );
    }
}

/// What the same servers do without bands.
struct Before {
    /// Tokens of service a second, where all that is asked has one priority.
    capacity: f64,
    /// Important work alone, more than the servers can do, that has as many requests on them at a time as the
    /// bands of `holdback.yaml` have together, or fewer.
    alone: Played,
}

impl Before {
    fn of(asked: &Trace, seed: u64) -> Self {
        let mut of_one_band = asked.clone();
        of_one_band.requests.iter_mut().for_each(|request| request.priority = 0);
        let capacity = play("one band", document("plain.yaml"), &of_one_band).throughput();
        let important = Priorities { shares: vec![(100, 1.0)], ..Priorities::default() };
        let mut alone = important.generate(&spec(PRIORITIES_TWICE, seed)).unwrap();
        alone.requests.iter_mut().for_each(|request| request.tenant = Some("important".into()));
        let text = document("plain.yaml").replace("maxConcurrency: 32", "maxConcurrency: 31");
        Self { capacity, alone: play("important alone", text, &alone) }
    }

    /// Times to the first token from the moment that the server has a request, in seconds: what waits before
    /// that is left out, so that the comparison is as strict as can be.
    fn at_server(&self) -> &Spread {
        &self.alone.groups.tenants[0].server_ttft
    }
}

/// By how much longer the important wait for their first token than they do alone.
#[derive(Clone, Copy)]
struct Slower {
    median: f64,
    slowest: f64,
}

#[test]
fn at_twice_the_capacity_the_important_keep_their_time_and_the_sheddable_pay() {
    // Without room held back they wait for the next request to end.
    let documents = [("plain.yaml", 1.6), ("holdback.yaml", 1.2)];
    let of_seeds = SEEDS.map(|seed| {
        let asked = Priorities::default().generate(&spec(PRIORITIES_TWICE, seed)).unwrap();
        let before = Before::of(&asked, seed);
        assert!(before.at_server().p50 >= 0.5, "{:?}", before.at_server());
        documents.map(|(name, _)| check_priorities(name, &asked, &before))
    });
    for (nth, (name, at_most)) in documents.into_iter().enumerate() {
        let mean = |of: fn(&Slower) -> f64| {
            of_seeds.iter().map(|slower| of(&slower[nth])).sum::<f64>() / SEEDS.len() as f64
        };
        let (median, slowest) = (mean(|one| one.median), mean(|one| one.slowest));
        println!("{name}, means: TTFT p50 × {median:.2}, p99 × {slowest:.2}");
        assert!(median <= at_most && slowest <= at_most, "{name}: {median} {slowest}");
    }
}

fn check_priorities(name: &str, asked: &Trace, before: &Before) -> Slower {
    let played = play(name, document(name), asked);
    let load = played.demand() / before.capacity;
    assert!((1.9..2.2).contains(&load), "{name}: {load}");
    let share = played.throughput() / before.capacity;
    assert!(share >= 0.95, "{name}: {share}");
    let same = played.groups.concurrency / before.alone.groups.concurrency;
    assert!(same >= 1.0, "{name}: {same}");
    check_who_pays(name, &played);
    let (now, then) = (&played.priority("100").ttft, before.at_server());
    let slower = Slower { median: now.p50 / then.p50, slowest: now.p99 / then.p99 };
    let Slower { median, slowest } = slower;
    println!(
        "  load {load:.2}, TTFT p50 × {median:.2}, p99 × {slowest:.2}, throughput × {share:.3}"
    );
    slower
}

/// All the loss is sheddable work's, which goes on all the same.
fn check_who_pays(name: &str, played: &Played) {
    for kept in ["100", "0"] {
        let kept = played.priority(kept);
        assert_eq!(kept.n_served, kept.n_requests, "{name}: {}", kept.name);
    }
    let sheddable = played.priority("-10");
    assert!(sheddable.n_served < sheddable.n_requests / 2, "{name}: {}", sheddable.n_served);
    assert!(sheddable.longest_pause < 30.0, "{name}: {}", sheddable.longest_pause);
}

#[test]
fn twenty_tenants_get_their_shares_though_one_sends_half_of_all() {
    for seed in SEEDS {
        let asked = WildTenant::default().generate(&spec(TENANTS_TWICE, seed)).unwrap();
        let first_come = play("first-come.yaml", document("first-come.yaml"), &asked);
        let fair = play("fair.yaml", document("fair.yaml"), &asked);
        let load = fair.demand() / fair.throughput();
        let kept = fair.cached_ratio / first_come.cached_ratio;
        println!("  load {load:.2}, cached × {kept:.3}");
        assert!((1.9..2.2).contains(&load), "{load}");
        assert_eq!(fair.groups.n_tenants, 20);
        let index = |played: &Played| played.groups.jain.unwrap();
        assert!(index(&fair) >= 0.95, "{}", index(&fair));
        assert!(index(&first_come) < 0.8, "{}", index(&first_come));
        assert!(kept >= 0.95, "{kept}");
    }
}
