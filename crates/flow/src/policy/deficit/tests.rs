use proptest::prelude::*;

use super::*;
use crate::policy::Rank;

const LARGEST: u32 = 300;

fn head(seq: u64, service: u32, cached: u32) -> Head {
    let cost = Cost { cached, uncached: service, output: 0 };
    Head { rank: Rank::default(), seq, enqueued: Stamp::ORIGIN, cost }
}

fn policy(quantum: u64, weights: &[(&str, f64)]) -> Deficit {
    let weights = weights.iter().map(|(id, weight)| ((*id).to_owned(), *weight)).collect();
    let quantum = NonZeroU64::new(quantum).unwrap();
    Deficit { quantum, default_weight: 1.0, weights: Arc::new(weights) }
}

/// Tokens that each flow gets of `n` requests when all always have one waiting, of this service and cached
/// prefix.
fn shares(policy: &Deficit, flows: &[(&str, u32, u32)], n: usize) -> Vec<u64> {
    let mut fairness = policy.start();
    for (at, (id, service, cached)) in flows.iter().enumerate() {
        let key = FlowKey(at as u32);
        fairness.join(key, &FlowId::from(*id));
        fairness.offer(key, &head(0, *service, *cached));
    }
    let mut tokens = vec![0; flows.len()];
    for _ in 0..n {
        let key = fairness.next().unwrap();
        let (_, service, cached) = flows[key.index()];
        tokens[key.index()] += u64::from(service);
        let head = head(0, service, cached);
        fairness.dispatched(key, &head, Some(&head));
    }
    tokens
}

#[test]
fn service_is_by_weight_whatever_the_size_of_requests_and_their_prefixes() {
    let flows = [("a", 10, 0), ("b", 900, 5_000), ("c", 33, 100), ("half", 10, 80_000)];
    let policy = policy(1_000, &[("half", 0.5), ("nonsense", f64::NAN)]);
    let tokens = shares(&policy, &flows, 100_000);
    for (got, weight) in tokens.iter().zip([1.0, 1.0, 1.0, 0.5]) {
        let ratio = *got as f64 / tokens[0] as f64;
        assert!((ratio - weight).abs() < 0.02, "{tokens:?}");
    }
    assert_eq!(policy.weight(&FlowId::from("nonsense")), 1.0);
}

#[test]
fn within_a_round_the_longest_cached_prefix_goes_first_and_equals_in_turn() {
    let policy = policy(20, &[]);
    let mut fairness = policy.start();
    let flows = [(0, 10), (1, 500), (2, 500), (3, 0)];
    for (at, _) in flows {
        fairness.join(FlowKey(at), &FlowId::from(format!("{at}").as_str()));
    }
    let offer = |fairness: &mut dyn Fairness, at: usize| {
        fairness.offer(FlowKey(flows[at].0), &head(0, 10, flows[at].1));
    };
    (0..4).for_each(|at| offer(&mut *fairness, at));
    // The first rounds are short, as only so many may join them.
    let mut order = Vec::new();
    for _ in 0..32 {
        let key = fairness.next().unwrap();
        let head = head(0, 10, flows[key.index()].1);
        fairness.dispatched(key, &head, Some(&head));
        order.push(key.0);
    }
    assert_eq!(order[order.len() - 8..], [3, 3, 1, 2, 1, 2, 0, 0]);
}

#[test]
fn what_was_not_needed_is_given_back_and_what_was_needed_beyond_is_charged() {
    let mut account = Account::new(NonZeroU64::new(100).unwrap());
    account.charge(1_250);
    assert_eq!((account.level, account.used), (12, 50));
    account.refund(30, 0);
    assert_eq!((account.level, account.used), (12, 20));
    account.refund(320, 0);
    assert_eq!((account.level, account.used), (9, 0));
    account.refund(250, 0);
    assert_eq!((account.level, account.used), (6, 50));
    // Never further back than the floor, but never forward either.
    account.refund(10_000, 4);
    assert_eq!((account.level, account.used), (4, 0));
    account.charge(30);
    for tokens in [10, 50] {
        account.refund(tokens, 7);
        assert_eq!((account.level, account.used), (4, 30));
    }
}

#[test]
fn made_up_ids_do_not_keep_anybody_waiting() {
    let mut fairness = policy(50, &[]).start();
    let victim = FlowKey(0);
    fairness.join(victim, &FlowId::from("victim"));
    fairness.offer(victim, &head(0, 50, 0));
    let mut since = 0;
    for n in 1..5_000u32 {
        // One newcomer for every request that is let go, always with the longest prefix.
        fairness.join(FlowKey(n), &FlowId::from(format!("{n}").as_str()));
        fairness.offer(FlowKey(n), &head(u64::from(n), 50, 9_000));
        let key = fairness.next().unwrap();
        since = if key == victim { 0 } else { since + 1 };
        let sent = head(0, 50, 0);
        fairness.dispatched(key, &sent, (key == victim).then_some(&sent));
        // A round has at most twice as many as there were at its beginning, and all of these have one
        // request each.
        assert!(since <= 2 * n + 2 && since < 4_000, "{since} at {n}");
    }
}

/// One event: which flow besides the first asks or ends, what for, its cached prefix, whether it has more
/// waiting, and what one of its requests turns out to have needed.
type Event = (u32, u32, u32, bool, Option<u32>);

/// Flows that come and go beside the first, which always has a request waiting.
struct Contest {
    fairness: Box<dyn Fairness>,
    shares: Vec<u64>,
    heads: Vec<Option<Head>>,
    /// Expected needs of requests that run.
    running: Vec<Vec<u32>>,
    /// Since the first flow was served last: tokens that others were let go with, less what was given back.
    let_go: Vec<i64>,
    /// What the first flow was charged since, itself included; nothing before its first turn.
    own: Option<u64>,
    gives_back: bool,
}

impl Contest {
    fn new(quantum: u64, weights: &[f64]) -> Self {
        let ids: Vec<String> = (0..weights.len()).map(|at| format!("flow-{at}")).collect();
        let named: Vec<(&str, f64)> =
            ids.iter().map(String::as_str).zip(weights.iter().copied()).collect();
        let policy = policy(quantum, &named);
        let mut fairness = policy.start();
        for (at, id) in ids.iter().enumerate() {
            fairness.join(FlowKey(at as u32), &FlowId::from(id.as_str()));
        }
        let shares = ids.iter().map(|id| policy.share(&FlowId::from(id.as_str())).get());
        Self {
            fairness,
            shares: shares.collect(),
            heads: vec![None; weights.len()],
            running: vec![Vec::new(); weights.len()],
            let_go: vec![0; weights.len()],
            own: None,
            gives_back: false,
        }
    }

    fn offer(&mut self, at: usize, service: u32, cached: u32) {
        if self.heads[at].is_none() {
            let new = head(0, service % LARGEST + 1, cached);
            self.heads[at] = Some(new);
            self.fairness.offer(FlowKey(at as u32), &new);
        }
    }

    /// One request of the flow ends, which needed so much.
    fn end(&mut self, at: usize, used: u32) {
        let Some(charged) = self.running[at].pop() else { return };
        let cost = Cost { uncached: charged, ..Cost::default() };
        let usage = Usage { output: used.into(), ..Usage::default() };
        self.fairness.settled(Stamp::ORIGIN, FlowKey(at as u32), &cost, Some(&usage));
        let more = u64::from(used.saturating_sub(charged));
        let back = i64::from(charged.saturating_sub(used));
        if at == 0 {
            self.own = self.own.map(|own| own + more);
        } else {
            self.let_go[at] -= back;
            self.gives_back |= back > 0;
        }
    }

    /// Lets the next request go.
    fn turn(&mut self, stays: bool) {
        let key = self.fairness.next().unwrap();
        let at = key.index();
        let sent = self.heads[at].unwrap();
        let next = stays.then(|| head(0, sent.cost.uncached / 7 + 1, sent.cost.cached / 3));
        self.heads[at] = if at == 0 { Some(sent) } else { next };
        self.fairness.dispatched(key, &sent, self.heads[at].as_ref());
        self.running[at].push(sent.cost.uncached);
        if at == 0 {
            self.own = Some(sent.cost.service());
            self.let_go.fill(0);
        } else {
            self.let_go[at] += sent.cost.service() as i64;
        }
    }

    /// Tokens that others were let go with since the first flow was, and the bound of the docs.
    fn measure(&self) -> Option<(i64, i64)> {
        let n_rounds = self.own?.div_ceil(self.shares[0]) + 1;
        let credit = if self.gives_back { MAX_CREDIT_ROUNDS } else { 0 };
        let of = |at: &usize| (n_rounds + credit) * self.shares[*at] + u64::from(LARGEST);
        // Who was let go nothing adds nothing; who was given more back than that adds less.
        let others = (1..self.shares.len()).filter(|at| self.let_go[*at] != 0);
        let bound: u64 = others.map(|at| of(&at)).sum();
        Some((self.let_go.iter().sum(), bound as i64))
    }
}

fn check_bound(quantum: u64, weights: &[f64], events: &[Event]) -> Result<(), TestCaseError> {
    let mut contest = Contest::new(quantum, weights);
    for &(which, service, cached, stays, used) in events {
        let at = 1 + which as usize % (weights.len() - 1);
        contest.offer(0, service, 0);
        contest.offer(at, service, cached);
        if let Some(used) = used {
            // The first flow's requests end as well.
            let at = if used % 3 == 0 { 0 } else { at };
            contest.end(at, used % (2 * LARGEST));
        }
        contest.turn(stays);
        if let Some((let_go, bound)) = contest.measure() {
            prop_assert!(let_go < bound.max(1), "{let_go} of {bound}");
        }
    }
    Ok(())
}

/// Others that have all that they may: large requests, and always one waiting.
#[test]
fn the_bound_is_kept_and_not_much_larger_than_what_happens() {
    const QUANTUM: u64 = LARGEST as u64;
    for weight in [0.05, 0.3, 1.0, 4.0] {
        for n_others in [1, 7, 40] {
            let mut weights = vec![weight];
            weights.extend((0..n_others).map(|at| [0.5, 1.0, 2.0][at % 3]));
            let mut contest = Contest::new(QUANTUM, &weights);
            let mut most = 0.0f64;
            for n in 0..20_000 {
                (0..weights.len()).for_each(|at| {
                    // The first ones are large, so that it waits long; others have the longer prefixes.
                    contest.offer(at, LARGEST - 1, if at == 0 { 0 } else { 100 });
                });
                contest.turn(false);
                let Some((let_go, bound)) = contest.measure() else { continue };
                assert!(let_go < bound.max(1), "{let_go} of {bound} at {n}");
                most = most.max(let_go as f64 / bound.max(1) as f64);
            }
            assert!(most > 0.45, "{most} of the bound, {weight} beside {n_others}");
        }
    }
}

proptest! {
    #[test]
    fn no_flow_starves_beyond_the_bound_of_the_docs(
        quantum in 1u64..500,
        weights in prop::collection::vec(0.05f64..4.0, 2..8),
        corrects in any::<bool>(),
        mut events in prop::collection::vec(
            (any::<u32>(), any::<u32>(), 0u32..9_000, any::<bool>(), any::<Option<u32>>()),
            1..400,
        ),
    ) {
        if !corrects {
            events.iter_mut().for_each(|event| event.4 = None);
        }
        check_bound(quantum, &weights, &events)?;
    }
}

#[test]
fn a_flow_that_is_held_stands_still_and_keeps_nobody_waiting() {
    let mut fairness = policy(100, &[]).start();
    let [held, other] = [0, 1].map(FlowKey);
    let request = head(0, 100, 0);
    for (key, id) in [(held, "held"), (other, "other")] {
        fairness.join(key, &FlowId::from(id));
        fairness.offer(key, &request);
    }
    let serve = |fairness: &mut Box<dyn Fairness>, n: usize| -> Vec<u32> {
        let mut served = Vec::new();
        for _ in 0..n {
            let key = fairness.next().unwrap();
            fairness.dispatched(key, &request, Some(&request));
            served.push(key.0);
        }
        served
    };
    // It took 4 shares less than was expected, and is held before it can make use of that.
    let big = head(0, 500, 0);
    assert_eq!(serve(&mut fairness, 2), [0, 1]);
    fairness.dispatched(held, &big, Some(&request));
    let used = Usage { prompt: 100, cached: 0, output: 0 };
    fairness.settled(Stamp::ORIGIN, held, &big.cost, Some(&used));
    fairness.settled(Stamp::ORIGIN, held, &big.cost, Some(&used));
    fairness.hold(held);
    fairness.hold(held);
    assert_eq!(serve(&mut fairness, 50), [1; 50]);
    fairness.offer(held, &request);
    let served = serve(&mut fairness, 12);
    let (first, rest) = served.split_at(4);
    assert!(first.iter().filter(|key| **key == 0).count() >= 3, "its credit is lost: {served:?}");
    let n_held = rest.iter().filter(|key| **key == 0).count();
    assert!((3..=5).contains(&n_held), "it is given what it missed: {served:?}");
    // What it owes is paid by the rounds of others, as if it had waited.
    fairness.dispatched(held, &big, Some(&request));
    fairness.hold(held);
    serve(&mut fairness, 20);
    fairness.offer(held, &request);
    assert!(serve(&mut fairness, 3).contains(&0));
}
