//! Runs in numbers: one run, several seeds with their interval, and two configurations against each other.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{
    outcome::{Choice, Fate, Outcome, RequestOutcome},
    pool::Pool,
    trace::Trace,
};

mod course;
mod distribution;
mod estimate;
mod groups;
mod not_served;

pub use self::{
    course::{Course, MAX_ROWS, MAX_STEPS},
    distribution::{Distribution, SHARES, Spread},
    estimate::{Estimate, half_width_factor},
    groups::{Group, Groups, MAX_TENANTS},
    not_served::{Cause, NotServed, Tokens},
};

/// What a request must reach to count as good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goals {
    /// Longest time to the first token.
    pub ttft: Duration,
    /// Longest time per token after the first, on average over the request.
    pub tpot: Duration,
}

impl Default for Goals {
    fn default() -> Self {
        Self { ttft: Duration::from_secs(5), tpot: Duration::from_millis(100) }
    }
}

/// One run in numbers. Times are in seconds, over the requests that were served; shares are of all requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub n_requests: usize,
    /// Requests by their fate, as [`Fate::label`] calls it.
    pub fates: BTreeMap<&'static str, usize>,
    /// Why requests were not served, where the trace and the pool were looked at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_served: Vec<NotServed>,
    /// Requests that were sent to a server by how it stood among all, as [`Choice::label`] calls it.
    pub choices: BTreeMap<&'static str, usize>,
    pub ttft: Spread,
    pub tpot: Spread,
    /// The values at [`SHARES`].
    pub ttft_curve: Distribution,
    /// The values at [`SHARES`].
    pub tpot_curve: Distribution,
    /// Share of requests that reached the goals. One that was not served did not.
    pub goodput: f64,
    /// Such requests per second, from the first arrival to the last.
    pub good_per_second: f64,
    /// Share of the prompt tokens of served requests that were in a cache.
    pub cached_ratio: f64,
    /// The most requests that a server got, over the mean of all servers.
    pub imbalance: f64,
    /// From the first arrival to the last end, in seconds.
    pub duration: f64,
    pub servers: Vec<ServerLoad>,
    pub course: Course,
    /// Who got what, where the trace was looked at.
    #[serde(skip_serializing_if = "Groups::is_empty")]
    pub groups: Groups,
    /// Hash of all decisions, in hexadecimal.
    pub decisions: String,
}

/// What one server did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ServerLoad {
    pub name: String,
    pub n_requests: usize,
    /// Prompt tokens that it computed.
    pub computed_tokens: u64,
    /// Prompt tokens that it had cached.
    pub cached_tokens: u64,
    pub output_tokens: u64,
}

/// A number of a summary that runs are compared by.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    pub name: &'static str,
    /// Whether more is better; neither where nothing follows from it.
    pub better: Option<Better>,
    pub of: fn(&Summary) -> f64,
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
}

/// What runs are compared by, in the order of tables.
pub const MEASURES: [Measure; 13] = [
    measure("goodput", Some(Better::Higher), |s| s.goodput),
    measure("good_per_second", Some(Better::Higher), |s| s.good_per_second),
    measure("ttft_mean", Some(Better::Lower), |s| s.ttft.mean),
    measure("ttft_p50", Some(Better::Lower), |s| s.ttft.p50),
    measure("ttft_p90", Some(Better::Lower), |s| s.ttft.p90),
    measure("ttft_p99", Some(Better::Lower), |s| s.ttft.p99),
    measure("tpot_mean", Some(Better::Lower), |s| s.tpot.mean),
    measure("tpot_p50", Some(Better::Lower), |s| s.tpot.p50),
    measure("tpot_p90", Some(Better::Lower), |s| s.tpot.p90),
    measure("tpot_p99", Some(Better::Lower), |s| s.tpot.p99),
    measure("cached_ratio", None, |s| s.cached_ratio),
    measure("imbalance", None, |s| s.imbalance),
    measure("unserved", Some(Better::Lower), |s| 1.0 - s.served_share()),
];

const fn measure(name: &'static str, better: Option<Better>, of: fn(&Summary) -> f64) -> Measure {
    Measure { name, better, of }
}

/// The measure of that name.
pub fn measure_named(name: &str) -> Option<&'static Measure> {
    MEASURES.iter().find(|measure| measure.name == name)
}

/// Every measure over several seeds, by name.
pub fn over_seeds(summaries: &[Summary]) -> BTreeMap<&'static str, Estimate> {
    let of = |measure: &Measure| Estimate::of(summaries.iter().map(measure.of));
    MEASURES.iter().map(|measure| (measure.name, of(measure))).collect()
}

/// Every measure of `other` less that of `base`, seed by seed: both must have the same seeds in the same order.
/// What the seed does to both cancels out, so the interval is narrower than those of the two.
pub fn differences(base: &[Summary], other: &[Summary]) -> BTreeMap<&'static str, Estimate> {
    let pairs = || base.iter().zip(other);
    let of = |measure: &Measure| {
        Estimate::of(pairs().map(|(base, other)| (measure.of)(other) - (measure.of)(base)))
    };
    MEASURES.iter().map(|measure| (measure.name, of(measure))).collect()
}

/// How much more of a measure `other` has than `base`, as a share of that, seed by seed. `None` where `base` has
/// nothing.
pub fn relative_difference(
    measure: &Measure,
    base: &[Summary],
    other: &[Summary],
) -> Option<Estimate> {
    let pairs =
        base.iter().zip(other).map(|(base, other)| ((measure.of)(base), (measure.of)(other)));
    let has_all = pairs.clone().all(|(base, _)| base != 0.0);
    has_all.then(|| Estimate::of(pairs.map(|(base, other)| (other - base) / base)))
}

// === impl Summary ===

impl Summary {
    pub fn of(outcome: &Outcome, goals: Goals) -> Self {
        let requests = &outcome.requests;
        let mut fates = BTreeMap::new();
        for request in requests {
            *fates.entry(request.fate.label()).or_default() += 1;
        }
        let mut choices = BTreeMap::new();
        for choice in requests.iter().filter_map(|request| request.choice) {
            *choices.entry(Choice::label(choice)).or_default() += 1;
        }
        let ttft = distribution::sorted(requests.iter().filter_map(RequestOutcome::ttft));
        let tpot = distribution::sorted(requests.iter().filter_map(RequestOutcome::tpot));
        let arrivals = requests.iter().filter(|one| one.has_arrived()).map(|one| one.arrived);
        let first = arrivals.clone().min().unwrap_or_default();
        let last = arrivals.max().unwrap_or_default();
        let n_good = requests.iter().filter(|request| is_good(request, goals)).count();
        let served = || requests.iter().filter(|request| request.fate == Fate::Served);
        let sum = |of: fn(&RequestOutcome) -> u32| served().map(|r| u64::from(of(r))).sum::<u64>();
        let servers = server_loads(outcome);
        Self {
            n_requests: requests.len(),
            fates,
            not_served: Vec::new(),
            choices,
            ttft: Spread::of(&ttft),
            tpot: Spread::of(&tpot),
            ttft_curve: Distribution::of(&ttft),
            tpot_curve: Distribution::of(&tpot),
            goodput: ratio(n_good as f64, requests.len() as f64),
            good_per_second: ratio(n_good as f64, last.since(first).as_secs_f64()),
            cached_ratio: ratio(sum(|r| r.cached_tokens) as f64, sum(|r| r.prompt_tokens) as f64),
            imbalance: imbalance(&servers),
            duration: outcome.ended.since(first).as_secs_f64(),
            servers,
            course: Course::of(outcome),
            groups: Groups::default(),
            decisions: format!("{:016x}", outcome.decisions),
        }
    }

    /// The same with its requests by priority and tenant, which the trace knows, and the reasons of those that were
    /// not served, which the pool knows.
    pub fn of_played(trace: &Trace, pool: &Pool, outcome: &Outcome, goals: Goals) -> Self {
        let groups = Groups::of(trace, outcome);
        let not_served = NotServed::of(trace, pool, outcome);
        Self { not_served, groups, ..Self::of(outcome, goals) }
    }

    /// Requests that had not ended when the run was stopped.
    pub fn n_unfinished(&self) -> usize {
        self.fates.get(Fate::Unfinished.label()).copied().unwrap_or_default()
    }

    /// Share of requests that were answered to the last token.
    pub fn served_share(&self) -> f64 {
        let n_served = self.fates.get(Fate::Served.label()).copied().unwrap_or_default();
        ratio(n_served as f64, self.n_requests as f64)
    }
}

/// Whether a request reached the goals. One without a second token has no time per token to miss.
fn is_good(request: &RequestOutcome, goals: Goals) -> bool {
    request.ttft().is_some_and(|ttft| ttft <= goals.ttft)
        && request.tpot().is_none_or(|tpot| tpot <= goals.tpot)
}

fn server_loads(outcome: &Outcome) -> Vec<ServerLoad> {
    let named =
        |name: &std::sync::Arc<str>| ServerLoad { name: name.to_string(), ..ServerLoad::default() };
    let mut loads: Vec<ServerLoad> = outcome.servers.iter().map(named).collect();
    for request in &outcome.requests {
        let Some(load) = request.server.and_then(|at| loads.get_mut(at as usize)) else { continue };
        load.n_requests += 1;
        if request.fate == Fate::Served {
            load.cached_tokens += u64::from(request.cached_tokens);
            load.computed_tokens +=
                u64::from(request.prompt_tokens.saturating_sub(request.cached_tokens));
            load.output_tokens += u64::from(request.output_tokens);
        }
    }
    loads
}

fn imbalance(servers: &[ServerLoad]) -> f64 {
    let most = servers.iter().map(|server| server.n_requests).max().unwrap_or_default();
    let all: usize = servers.iter().map(|server| server.n_requests).sum();
    ratio(most as f64, ratio(all as f64, servers.len() as f64))
}

/// 0 where there is nothing to divide by.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests;
