//! Who got what: requests by priority and by tenant, and how fairly tenants were served.
//!
//! *Service* is tokens that a server computes for a request: its prompt without what was cached, and its answer.
//! What counts is what was served while requests came: after the last arrival everybody gets what waits.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use router_core::Stamp;
use serde::Serialize;

use super::{Spread, distribution, ratio};
use crate::replay::{
    outcome::{Fate, Outcome, RequestOutcome},
    trace::{Trace, TraceRequest},
};

/// The most tenants that a summary lists; those that were served most come first. Indices are over all.
pub const MAX_TENANTS: usize = 1_000;

/// Requests by priority and by tenant.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Groups {
    /// The most important first; empty where all requests have one priority.
    pub priorities: Vec<Group>,
    /// Those that were served most first; empty where no request names one.
    pub tenants: Vec<Group>,
    pub n_tenants: usize,
    /// Jain's index of what each tenant got of its max-min share: 1 is fair, one over their number is the
    /// opposite. The shares divide what all of them got; nobody's is more than it asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jain: Option<f64>,
    /// From the first arrival to the last, in seconds.
    pub seconds: f64,
    /// Tokens of service of all requests.
    pub service: f64,
    /// Requests that servers have at a time, all together, on average.
    pub concurrency: f64,
}

/// Requests that have a priority or a tenant in common.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Group {
    pub name: String,
    pub n_requests: usize,
    pub n_served: usize,
    /// Seconds from the arrival at the router to the server's, of requests that were served.
    pub wait: Spread,
    /// Seconds from the arrival at the router to the first token.
    pub ttft: Spread,
    /// Seconds from the arrival at the server to the first token.
    pub server_ttft: Spread,
    /// The longest time without a request of the group that begins to be served while requests come, in seconds.
    pub longest_pause: f64,
    /// Tokens of service.
    pub service: f64,
    /// Tokens of service that it asked for.
    pub demand: f64,
    /// Its max-min share of all service.
    pub max_min_share: f64,
    /// Share of the prompt tokens of served requests that were in a cache.
    pub cached_ratio: f64,
}

type Pair<'a> = (&'a TraceRequest, &'a RequestOutcome);

/// The time in which requests come.
#[derive(Clone, Copy)]
struct Window {
    first: Stamp,
    last: Stamp,
}

impl Groups {
    pub fn of(trace: &Trace, outcome: &Outcome) -> Self {
        Self::since(Stamp::ORIGIN, trace, outcome)
    }

    /// The same without what was before: a pool that begins idle takes all that comes until it is full.
    /// Requests that came before count in no group, what servers do for them afterwards is service.
    pub fn since(begin: Stamp, trace: &Trace, outcome: &Outcome) -> Self {
        let pairs = || trace.requests.iter().zip(&outcome.requests);
        let arrivals = outcome.requests.iter().filter(|one| one.has_arrived()).map(|r| r.arrived);
        let first = arrivals.clone().min().unwrap_or_default().max(begin);
        let window = Window { first, last: arrivals.max().unwrap_or_default().max(first) };
        let mut by_priority: BTreeMap<i32, Vec<Pair<'_>>> = BTreeMap::new();
        let mut by_tenant: BTreeMap<&Arc<str>, Vec<Pair<'_>>> = BTreeMap::new();
        for pair in pairs() {
            by_priority.entry(pair.0.priority).or_default().push(pair);
            if let Some(tenant) = &pair.0.tenant {
                by_tenant.entry(tenant).or_default().push(pair);
            }
        }
        if by_priority.len() < 2 {
            by_priority.clear();
        }
        let group = |name: String, pairs: &[Pair<'_>]| Group::of(name, pairs, window);
        let mut priorities: Vec<Group> =
            by_priority.iter().rev().map(|(name, pairs)| group(name.to_string(), pairs)).collect();
        let mut tenants: Vec<Group> =
            by_tenant.iter().map(|(name, pairs)| group(name.to_string(), pairs)).collect();
        share_out(&mut priorities);
        share_out(&mut tenants);
        tenants.sort_by(|a, b| b.service.total_cmp(&a.service));
        let jain = (!tenants.is_empty()).then(|| jain(&tenants));
        let n_tenants = tenants.len();
        tenants.truncate(MAX_TENANTS);
        let seconds = window.last.since(first).as_secs_f64();
        let served = outcome.requests.iter().filter(|end| is_in_time(end, window));
        let service = served.map(service).sum();
        let busy = outcome.requests.iter().filter_map(|end| {
            let sent = end.sent?.clamp(first, window.last);
            Some(end.ended.clamp(first, window.last).since(sent).as_secs_f64())
        });
        let concurrency = ratio(busy.sum(), seconds);
        Self { priorities, tenants, n_tenants, jain, seconds, service, concurrency }
    }

    /// Whether there is nothing to tell apart.
    pub fn is_empty(&self) -> bool {
        self.priorities.is_empty() && self.tenants.is_empty()
    }
}

impl Group {
    fn of(name: String, pairs: &[Pair<'_>], window: Window) -> Self {
        let came: Vec<_> =
            pairs.iter().filter(|(_, end)| end.arrived >= window.first).copied().collect();
        let served = || came.iter().map(|(_, end)| *end).filter(|end| end.fate == Fate::Served);
        let ended = || pairs.iter().map(|(_, end)| *end).filter(|end| is_in_time(end, window));
        let times = |of: fn(&RequestOutcome) -> Option<Duration>| {
            Spread::of(&distribution::sorted(served().filter_map(of)))
        };
        let sum = |of: fn(&RequestOutcome) -> u32| served().map(|r| f64::from(of(r))).sum::<f64>();
        let cached_ratio = ratio(sum(|r| r.cached_tokens), sum(|r| r.prompt_tokens));
        let asked = |(request, end): &Pair<'_>| match end.fate {
            Fate::Served => service(end),
            // Nobody knows what would have been cached: as much as of the others.
            _ => {
                f64::from(request.prompt_tokens) * (1.0 - cached_ratio)
                    + f64::from(request.output_tokens)
            }
        };
        Self {
            name,
            n_requests: came.len(),
            n_served: served().count(),
            wait: times(|end| Some(end.sent?.since(end.arrived))),
            ttft: times(RequestOutcome::ttft),
            server_ttft: times(|end| Some(end.first_token?.since(end.sent?))),
            longest_pause: longest_pause(pairs, window).as_secs_f64(),
            service: ended().map(service).sum(),
            demand: came.iter().map(asked).sum(),
            max_min_share: 0.0,
            cached_ratio,
        }
    }

    /// What it got of its max-min share: 1 is all of it.
    pub fn of_share(&self) -> f64 {
        ratio(self.service, self.max_min_share)
    }
}

/// Whether it was served while requests came.
fn is_in_time(end: &RequestOutcome, window: Window) -> bool {
    end.fate == Fate::Served && end.ended >= window.first && end.ended <= window.last
}

/// Tokens that were computed for a request.
fn service(end: &RequestOutcome) -> f64 {
    f64::from(end.prompt_tokens.saturating_sub(end.cached_tokens)) + f64::from(end.output_tokens)
}

fn longest_pause(pairs: &[Pair<'_>], window: Window) -> Duration {
    let sent = pairs
        .iter()
        .filter_map(|(_, end)| end.sent)
        .filter(|at| (window.first..window.last).contains(at));
    let mut sent: Vec<Stamp> = sent.chain([window.first, window.last]).collect();
    sent.sort_unstable();
    let pauses = sent.windows(2).filter_map(|two| Some(two.get(1)?.since(*two.first()?)));
    pauses.max().unwrap_or_default()
}

/// Divides what all groups got: those that ask for least first, each gets an equal part of what is left or all
/// that it asked for.
fn share_out(groups: &mut [Group]) {
    let mut left: f64 = groups.iter().map(|group| group.service).sum();
    let mut by_demand: Vec<&mut Group> = groups.iter_mut().collect();
    by_demand.sort_by(|a, b| a.demand.total_cmp(&b.demand));
    let n_groups = by_demand.len();
    for (nth, group) in by_demand.into_iter().enumerate() {
        group.max_min_share = group.demand.min(left / (n_groups - nth) as f64);
        left -= group.max_min_share;
    }
}

fn jain(groups: &[Group]) -> f64 {
    let got = || groups.iter().map(Group::of_share);
    let (sum, squares): (f64, f64) = (got().sum(), got().map(|got| got * got).sum());
    if squares > 0.0 { sum * sum / (groups.len() as f64 * squares) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(of: &[(f64, f64)]) -> Vec<Group> {
        let one = |&(service, demand): &(f64, f64)| Group { service, demand, ..Group::default() };
        let mut groups: Vec<Group> = of.iter().map(one).collect();
        share_out(&mut groups);
        groups
    }

    #[test]
    fn who_asks_for_little_has_it_and_the_others_share_the_rest() {
        let shares = |of: &[(f64, f64)]| {
            groups(of).iter().map(|group| group.max_min_share).collect::<Vec<_>>()
        };
        assert_eq!(shares(&[(60.0, 90.0), (30.0, 80.0), (10.0, 10.0)]), [45.0, 45.0, 10.0]);
        assert_eq!(shares(&[(5.0, 5.0), (7.0, 7.0)]), [5.0, 7.0]);
        assert_eq!(shares(&[]), [0.0; 0]);
    }

    #[test]
    fn fair_is_what_max_min_gives() {
        assert_eq!(jain(&groups(&[(45.0, 90.0), (45.0, 80.0), (10.0, 10.0)])), 1.0);
        let unfair = jain(&groups(&[(100.0, 100.0), (0.0, 100.0), (0.0, 100.0), (0.0, 100.0)]));
        assert!((unfair - 0.25).abs() < 1e-12, "{unfair}");
    }

    #[test]
    fn requests_are_told_apart_and_what_comes_late_is_no_service() {
        let at = |seconds: u64| Stamp::ORIGIN + Duration::from_secs(seconds);
        let asked = |priority, tenant: &str| TraceRequest {
            start: crate::replay::trace::Start::At(Stamp::ORIGIN),
            chain: Arc::from([]),
            prompt_tokens: 100,
            output_tokens: 10,
            tenant: Some(tenant.into()),
            priority,
            lora: None,
            streams: true,
            max_output_tokens: None,
            n_sequences: 1,
            observed: None,
        };
        let served = |arrived, ended| RequestOutcome {
            fate: Fate::Served,
            sent: Some(at(arrived + 1)),
            first_token: Some(at(arrived + 3)),
            ended: at(ended),
            cached_tokens: 50,
            output_tokens: 10,
            ..RequestOutcome::arriving(at(arrived), 100)
        };
        let trace = Trace {
            block_tokens: 16,
            requests: vec![asked(1, "a"), asked(1, "b"), asked(0, "b"), asked(0, "a")],
        };
        let refused = RequestOutcome::arriving(at(9), 100);
        let requests = vec![served(0, 5), served(2, 11), served(10, 14), refused];
        let outcome = Outcome { requests, servers: Vec::new(), decisions: 0, ended: at(14) };
        let groups = Groups::of(&trace, &outcome);
        let told = |group: &Group| (group.name.clone(), group.n_requests, group.n_served);
        let priorities: Vec<_> = groups.priorities.iter().map(told).collect();
        assert_eq!(priorities, [("1".to_owned(), 2, 2), ("0".to_owned(), 2, 1)]);
        let [a, b] = &groups.tenants[..] else { panic!("{groups:?}") };
        assert_eq!((a.name.as_str(), a.service, a.demand), ("a", 60.0, 120.0));
        assert_eq!((b.name.as_str(), b.service, b.demand), ("b", 0.0, 120.0));
        assert_eq!((a.wait.p50, a.server_ttft.p50, a.ttft.p50), (1.0, 2.0, 3.0));
        assert_eq!((a.longest_pause, b.longest_pause), (9.0, 7.0));
        assert_eq!(groups.jain, Some(0.5));
        // Five seconds, eight, and none of the last, which comes last of all.
        assert_eq!((groups.seconds, groups.service, groups.concurrency), (10.0, 60.0, 1.1));
        // Who came first counts no more, but the server was at it for two seconds.
        let later = Groups::since(at(3), &trace, &outcome);
        assert_eq!(
            later.priorities.iter().map(|group| group.n_requests).collect::<Vec<_>>(),
            [0, 2]
        );
        assert_eq!((later.seconds, later.service, later.concurrency), (7.0, 60.0, 9.0 / 7.0));
    }
}
