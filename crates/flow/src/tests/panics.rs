//! Policies that panic: nobody is lost, and what is counted stays right.

use std::{
    collections::BTreeMap,
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use router_core::Stamp;

use crate::{
    Arrival, Ask, BandTemplate, Config, Cost, Effect, Eviction, EvictionFilter, EvictionOrder,
    Fairness, FairnessPolicy, FlowControl, FlowId, FlowKey, Head, LimitCx, OrderingPolicy,
    PolicyFailure, PolicyKind, PoolSignal, Rank, Refusal, StageLoad, Ticket, Trickle, Usage,
    UsageLimit, UsageLimitPolicy, Victim,
    policy::{
        deficit::Deficit, ordering::Fcfs, program_aware::ProgramAware,
        usage_limit::SoftReflectiveCeiling,
    },
};

/// Panics at every so-manieth call of any policy, in a random order. Without the hook's message, of which
/// there would be thousands.
struct Fuse {
    state: AtomicU64,
    one_in: u64,
    is_out: AtomicBool,
}

impl Fuse {
    fn new(seed: u64, one_in: u64) -> Arc<Self> {
        Arc::new(Self { state: AtomicU64::new(seed), one_in, is_out: AtomicBool::new(false) })
    }

    fn burn(&self) {
        let mut rng =
            Rng::with_seed(self.state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed));
        if rng.u64(..self.one_in) == 0 && !self.is_out.load(Ordering::Relaxed) {
            resume_unwind(Box::new("blown"));
        }
    }
}

struct Fragile<P>(P, Arc<Fuse>);

impl<P> Fragile<P> {
    /// The fuse may blow before the policy has changed anything, or after.
    fn call<R>(&mut self, call: impl FnOnce(&mut P) -> R) -> R {
        self.1.burn();
        let result = call(&mut self.0);
        self.1.burn();
        result
    }
}

impl<P> Drop for Fragile<P> {
    fn drop(&mut self) {
        // A second panic while one unwinds would be the end.
        if !std::thread::panicking() {
            self.1.burn();
        }
    }
}

impl FairnessPolicy for Fragile<Arc<dyn FairnessPolicy>> {
    fn start(&self) -> Box<dyn Fairness> {
        self.1.burn();
        Box::new(Fragile(self.0.start(), Arc::clone(&self.1)))
    }

    fn weight(&self, id: &FlowId) -> f64 {
        self.1.burn();
        self.0.weight(id)
    }

    fn drops_from_longest(&self) -> bool {
        self.1.burn();
        self.0.drops_from_longest()
    }
}

impl Fairness for Fragile<Box<dyn Fairness>> {
    fn join(&mut self, flow: FlowKey, id: &FlowId) {
        self.call(|policy| policy.join(flow, id));
    }

    fn offer(&mut self, flow: FlowKey, head: &Head) {
        self.call(|policy| policy.offer(flow, head));
    }

    fn withdraw(&mut self, flow: FlowKey) {
        self.call(|policy| policy.withdraw(flow));
    }

    fn next(&mut self) -> Option<FlowKey> {
        self.call(|policy| policy.next())
    }

    fn dispatched(&mut self, flow: FlowKey, sent: &Head, next: Option<&Head>) {
        self.call(|policy| policy.dispatched(flow, sent, next));
    }

    fn settled(&mut self, now: Stamp, flow: FlowKey, charged: &Cost, used: Option<&Usage>) {
        self.call(|policy| policy.settled(now, flow, charged, used));
    }

    fn forget(&mut self, flow: FlowKey) {
        self.call(|policy| policy.forget(flow));
    }
}

impl OrderingPolicy for Fragile<Fcfs> {
    fn rank(&self, arrival: &Arrival) -> Rank {
        self.1.burn();
        self.0.rank(arrival)
    }
}

impl UsageLimitPolicy for Fragile<SoftReflectiveCeiling> {
    fn start(&self) -> Box<dyn UsageLimit> {
        self.1.burn();
        Box::new(Fragile(self.0.start(), Arc::clone(&self.1)))
    }
}

impl UsageLimit for Fragile<Box<dyn UsageLimit>> {
    fn ceilings(&mut self, cx: &LimitCx<'_>, ceilings: &mut [f64]) -> Option<Stamp> {
        self.call(|policy| policy.ceilings(cx, ceilings))
    }

    fn dispatched(&mut self, now: Stamp, band: usize) {
        self.call(|policy| policy.dispatched(now, band));
    }
}

impl EvictionFilter for Fragile<()> {
    fn accepts(&self, _: &Victim) -> bool {
        self.1.burn();
        true
    }
}

impl EvictionOrder for Fragile<()> {
    fn rank(&self, victim: &Victim) -> (i64, u64) {
        self.1.burn();
        (victim.priority.into(), 0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Queue,
    Endpoint,
    End,
}

/// Counts what was said of every request, and nothing else.
struct Books {
    flow: FlowControl<u64>,
    requests: BTreeMap<u64, (At, Ticket)>,
    now: Stamp,
    effects: Vec<Effect<u64>>,
    /// By what failed.
    failures: BTreeMap<PolicyKind, usize>,
    n_internal: usize,
}

impl Books {
    fn new(config: Config) -> Self {
        Self {
            flow: FlowControl::new(config),
            requests: BTreeMap::new(),
            now: Stamp::ORIGIN,
            effects: Vec::new(),
            failures: BTreeMap::new(),
            n_internal: 0,
        }
    }

    fn arrive(&mut self, ask: Ask) {
        let id = self.requests.len() as u64;
        let ticket = self.flow.arrive(self.now, ask, id, &mut self.effects);
        self.requests.insert(id, (At::Queue, ticket));
        self.settle();
    }

    fn signal(&mut self, saturation: f64, per_request: f64) {
        let load = StageLoad { saturation, per_request, per_token: 0.0 };
        self.flow.signal(self.now, PoolSignal::of_pool(load, self.now), &mut self.effects);
        self.settle();
    }

    fn finish(&mut self, id: u64) {
        let (at, ticket) = self.requests[&id];
        let used = Usage { prompt: id % 90, cached: 0, output: id % 40 };
        assert_eq!(
            self.flow.finished(self.now, ticket, Some(used), &mut self.effects),
            at == At::Endpoint
        );
        if at == At::Endpoint {
            self.requests.insert(id, (At::End, ticket));
        }
        self.settle();
    }

    fn cancel(&mut self, id: u64) {
        let (at, ticket) = self.requests[&id];
        assert_eq!(self.flow.cancel(self.now, ticket, &mut self.effects), at == At::Queue);
        self.settle();
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        while self.flow.next_deadline().is_some_and(|deadline| deadline <= self.now) {
            self.flow.wake(self.now, &mut self.effects);
            self.settle();
        }
    }

    /// Enters what was said, and compares with what flow control counts.
    fn settle(&mut self) {
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Dispatch { payload, ticket, .. } => {
                    let known = self.requests.insert(payload, (At::Endpoint, ticket));
                    assert_eq!(known, Some((At::Queue, ticket)));
                }
                Effect::Drop { payload, ticket, refusal, .. } => {
                    let known = self.requests.insert(payload, (At::End, ticket));
                    assert_eq!(known, Some((At::Queue, ticket)));
                    self.n_internal += usize::from(refusal == Refusal::RejectedInternal);
                }
                Effect::Evict { payload, .. } => {
                    assert_eq!(self.requests[&payload].0, At::Endpoint);
                }
                Effect::FlowGone { .. } => {}
                Effect::PolicyFailed(PolicyFailure { kind, message }) => {
                    assert_eq!(message, "blown");
                    *self.failures.entry(kind).or_default() += 1;
                }
            }
        }
        let count = |what: At| self.requests.values().filter(|(at, _)| *at == what).count() as u64;
        assert_eq!(self.flow.n_waiting(), count(At::Queue));
        assert_eq!(self.flow.in_flight().requests, count(At::Endpoint));
        let bands = self.flow.snapshot(0).bands;
        assert_eq!(bands.iter().map(|band| band.n_waiting).sum::<u64>(), count(At::Queue));
    }
}

fn fragile(fairness: Arc<dyn FairnessPolicy>, fuse: &Arc<Fuse>) -> Config {
    let eviction = Eviction {
        filter: Arc::new(Fragile((), Arc::clone(fuse))),
        order: Arc::new(Fragile((), Arc::clone(fuse))),
        grace: Duration::from_millis(5),
        ..Eviction::default()
    };
    Config {
        max_requests: Some(30),
        ttl: Some(Duration::from_millis(500)),
        template: BandTemplate {
            max_requests: 20,
            ordering: Arc::new(Fragile(Fcfs, Arc::clone(fuse))),
            fairness: Arc::new(Fragile(fairness, Arc::clone(fuse))),
            ..BandTemplate::default()
        },
        usage_limit: Arc::new(Fragile(SoftReflectiveCeiling, Arc::clone(fuse))),
        trickle: Some(Trickle { share_ppm: 100_000, every: Duration::from_millis(50) }),
        eviction: Some(eviction),
        ..Config::default()
    }
}

/// Plays random events with a fuse that blows so often; gives what failed.
fn play(seed: u64, one_in: u64) -> Books {
    let fuse = Fuse::new(seed, one_in);
    let fairness: Arc<dyn FairnessPolicy> = if seed.is_multiple_of(2) {
        Arc::new(Deficit::default())
    } else {
        Arc::new(ProgramAware::default())
    };
    let mut books = Books::new(fragile(fairness, &fuse));
    let mut rng = Rng::with_seed(seed);
    for _ in 0..300 {
        let some = rng.u64(..=books.requests.len() as u64);
        match rng.u32(..10) {
            0..4 => {
                let flow = FlowId::from(["a", "b", "c"][rng.usize(..3)]);
                let cost = Cost { uncached: rng.u32(..100), ..Cost::default() };
                books.arrive(Ask { priority: rng.i32(-1..2), flow, cost, ..Ask::default() });
            }
            4 if some < books.requests.len() as u64 => books.cancel(some),
            5..8 if some < books.requests.len() as u64 => {
                let (_, ticket) = books.requests[&some];
                books.flow.placed(books.now, ticket, None, &mut Vec::new());
                if rng.bool() {
                    books.finish(some);
                }
            }
            8 => books.signal(rng.f64() * 1.1, 0.1),
            _ => books.pass(Duration::from_millis(rng.u64(..100))),
        }
    }
    // Whatever failed: who waits goes, and who runs ends.
    books.signal(0.0, 0.0);
    assert_eq!(books.flow.n_waiting(), 0, "stuck");
    for id in 0..books.requests.len() as u64 {
        books.finish(id);
    }
    assert!(books.requests.values().all(|(at, _)| *at == At::End));
    (0..3).for_each(|_| books.pass(Duration::from_hours(1)));
    assert_eq!(books.flow.next_deadline(), None);
    fuse.is_out.store(true, Ordering::Relaxed);
    books
}

#[test]
fn whatever_panics_nobody_is_lost_and_counters_are_right() {
    let mut failures = BTreeMap::<PolicyKind, usize>::new();
    for seed in 0..120 {
        let books = play(seed, [5, 50, 500][seed as usize % 3]);
        let ordering = books.failures.get(&PolicyKind::Ordering).copied().unwrap_or_default();
        assert_eq!(books.n_internal, ordering, "one error for each that could not be ranked");
        books.failures.iter().for_each(|(kind, n)| *failures.entry(*kind).or_default() += n);
    }
    assert_eq!(failures.len(), 4, "{failures:?}");
    assert!(failures.values().all(|n| *n > 20), "{failures:?}");
}

/// Chooses nobody, or somebody who does not exist.
struct Lost(Option<FlowKey>);

impl FairnessPolicy for Lost {
    fn start(&self) -> Box<dyn Fairness> {
        Box::new(Self(self.0))
    }
}

impl Fairness for Lost {
    fn join(&mut self, _: FlowKey, _: &FlowId) {}
    fn offer(&mut self, _: FlowKey, _: &Head) {}
    fn withdraw(&mut self, _: FlowKey) {}
    fn next(&mut self) -> Option<FlowKey> {
        self.0
    }
    fn dispatched(&mut self, _: FlowKey, _: &Head, _: Option<&Head>) {}
    fn forget(&mut self, _: FlowKey) {}
}

#[test]
fn a_policy_that_does_not_choose_keeps_nobody_waiting() {
    for nonsense in [None, Some(FlowKey(7)), Some(FlowKey(u32::MAX))] {
        let fairness = Arc::new(Lost(nonsense));
        let template = BandTemplate { fairness, ..BandTemplate::default() };
        let mut flow = FlowControl::new(Config { template, ..Config::default() });
        let mut effects = Vec::new();
        let now = Stamp::ORIGIN;
        for n in 0..6 {
            let id = FlowId::from(["b", "a"][n % 2]);
            flow.arrive(now, Ask { flow: id, ..Ask::default() }, n, &mut effects);
        }
        flow.signal(now, PoolSignal::of_pool(StageLoad::default(), now), &mut effects);
        let gone = effects.iter().filter_map(|effect| match effect {
            Effect::Dispatch { payload, .. } => Some(*payload),
            _ => None,
        });
        assert!(gone.eq(0..6), "as they came: {effects:?}");
        let failed = |effect: &Effect<usize>| matches!(effect, Effect::PolicyFailed(_));
        assert_eq!(effects.iter().filter(|effect| failed(effect)).count(), 1);
    }
}
