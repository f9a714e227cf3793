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

/// A flow that always has a request waiting, beside others that come and go.
fn longest_wait(
    quantum: u64,
    weights: &[f64],
    events: &[(u32, u32, u32, bool)],
) -> Result<(), TestCaseError> {
    let ids: Vec<String> = (0..weights.len()).map(|at| format!("flow-{at}")).collect();
    let named: Vec<(&str, f64)> =
        ids.iter().map(String::as_str).zip(weights.iter().copied()).collect();
    let policy = policy(quantum, &named);
    let share = |at: usize| policy.share(&FlowId::from(ids[at].as_str())).get();
    let mut fairness = policy.start();
    let mut heads: Vec<Option<Head>> = vec![None; weights.len()];
    for (at, id) in ids.iter().enumerate() {
        fairness.join(FlowKey(at as u32), &FlowId::from(id.as_str()));
    }
    let mut charged = vec![0u64; weights.len()];
    let mut is_counting = false;
    for &(which, service, cached, stays) in events {
        let at = 1 + which as usize % (weights.len() - 1);
        for (at, service, cached) in [(0, service, 0), (at, service, cached)] {
            if heads[at].is_none() {
                let new = head(0, service % LARGEST + 1, cached);
                heads[at] = Some(new);
                fairness.offer(FlowKey(at as u32), &new);
            }
        }
        let key = fairness.next().unwrap();
        let sent = heads[key.index()].unwrap();
        let next = stays.then(|| head(0, (service / 7) % LARGEST + 1, cached / 3));
        heads[key.index()] = next.filter(|_| key.0 > 0).or((key.0 == 0).then_some(sent));
        fairness.dispatched(key, &sent, heads[key.index()].as_ref());
        if key.0 == 0 {
            is_counting = true;
            charged.fill(0);
            continue;
        }
        charged[key.index()] += sent.cost.service();
        let n_rounds = u64::from(LARGEST).div_ceil(share(0)) + 1;
        let others = (1..weights.len()).filter(|&at| charged[at] > 0);
        let bound: u64 = others.map(|at| n_rounds * share(at) + u64::from(LARGEST)).sum();
        prop_assert!(!is_counting || charged.iter().sum::<u64>() < bound.max(1));
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_flow_starves_beyond_the_bound_of_the_docs(
        quantum in 1u64..500,
        weights in prop::collection::vec(0.05f64..4.0, 2..8),
        events in prop::collection::vec((any::<u32>(), any::<u32>(), 0u32..9_000, any::<bool>()), 1..400),
    ) {
        longest_wait(quantum, &weights, &events)?;
    }
}
