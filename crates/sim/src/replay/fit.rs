//! Server profiles estimated from a recorded trace with response times.
//!
//! The record says which endpoint served each request, when its first token and its last one came, and, where
//! the server says so, how much of the prompt was cached. [`fit`] looks for the profiles under which the engine
//! model, given the same requests at the same times, takes as long.
//!
//! 1. Equations that are linear in the costs ([`load`]) give a first guess, and tell endpoints apart
//!    ([`groups`]); what was cached tells how large caches are ([`cache`]).
//! 2. The engine model plays the record again and again, and costs and capacities move to where its times are
//!    nearest to the recorded ones ([`search`]).
//! 3. All of the record is played with the profiles found, each request at the endpoint that it went to, and the
//!    part that was not fitted to, the last 30 % of the time, says how good they are ([`judge`]).
//!
//! One record gives one result: nothing is random, and work is bounded by counts rather than by clocks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;

use self::{
    cache::Size,
    candidate::{COST_KEYS, Fixed},
    judge::Pairs,
    load::{Course, Equation},
    play::play,
    samples::{Endpoint, Sample, Samples},
    search::{Found, Search, Window},
    solve::Solution,
};
use super::trace::Trace;
use crate::model::Profile;

mod cache;
mod candidate;
mod groups;
mod judge;
mod load;
mod play;
mod samples;
mod search;
mod solve;
#[cfg(test)]
mod tests;
mod write;

pub use self::{
    judge::{Errors, Fault, Judgement, NamedFault},
    write::to_yaml,
};

/// The most endpoints of one record: each is compared with each.
pub const MAX_ENDPOINTS: usize = 512;
/// Requests that a fit needs, of all endpoints together, in the part that is fitted to.
pub const MIN_REQUESTS: usize = 100;
/// Requests that an endpoint needs there to be a kind of its own.
pub const MIN_PER_ENDPOINT: usize = 40;
/// Share of the time that is fitted to; the rest judges.
const TRAIN_SHARE: f64 = 0.7;
/// Work that the engine model does in all, about, in units of [`work`]: minutes at most.
const MAX_WORK: usize = 2_500_000;
/// The most work of one play of a kind.
const MAX_WINDOW: usize = 10_000;
/// A play has as many requests as this, whatever work they are.
const MIN_WINDOW: usize = 300;
/// KV blocks that are as much work as a request.
const BLOCKS_PER_REQUEST: usize = 32;
/// Share of a cut window that only fills the cache.
const WARM_SHARE: f64 = 0.2;
/// A cost whose standard error, doubled because requests are not independent, is below this share of what one
/// would guess anyway has been told by the record.
const TOLD: f64 = 0.5;

/// How to fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Each endpoint is a kind of its own.
    pub per_endpoint: bool,
}

/// How far a fit is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Requests played so far.
    pub n_played: AtomicU64,
    /// Requests that will have been played at the end, at most; 0 while that is not known.
    pub n_planned: AtomicU64,
}

/// Profiles, and how good they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    pub kinds: Vec<Kind>,
    /// In the order of their names.
    pub endpoints: Vec<EndpointFit>,
    /// On the part of the record that was not fitted to, all endpoints together.
    pub overall: Judgement,
    pub left_out: LeftOut,
    pub waits: Waits,
    /// Tokens of prompts as the trace counts them, for one as the servers do, where they say; profiles are in
    /// those of the trace.
    pub token_ratio: Option<f64>,
    /// How long the record is, from the first arrival to the last, and how long its part that judges.
    pub length: Duration,
    pub judged: Duration,
}

/// Endpoints that cannot be told apart, and their profile.
#[derive(Clone, Debug, PartialEq)]
pub struct Kind {
    /// As pool files take it.
    pub name: String,
    /// In the order of their names.
    pub endpoints: Vec<Arc<str>>,
    pub profile: Profile,
    /// Where the values of the profile come from, for the keys that the fit is about.
    pub origins: Vec<(&'static str, Origin)>,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Origin {
    /// The record tells it; with its error in the same unit, where one is known.
    Record { error: Option<f64> },
    /// The record only tells that it is no less.
    AtLeast,
    /// The record does not tell: a default, with costs taken so many times as the servers are slow.
    Default { slowness: f64 },
}

/// How one endpoint was fitted.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointFit {
    pub name: Arc<str>,
    /// Index of its kind.
    pub kind: usize,
    /// Requests that it answered and that can be used.
    pub n_requests: usize,
    /// Requests that were fitted to.
    pub n_fitted: usize,
    pub judgement: Judgement,
}

impl Fit {
    /// What keeps it from being good enough to compare policies by; nothing if it is.
    pub fn faults(&self) -> Vec<NamedFault> {
        let n_others = self.endpoints.iter().map(|endpoint| endpoint.n_requests).sum();
        let several = Fault::of_several(self.left_out.several, n_others);
        let of_all = self.overall.faults().into_iter().chain(several);
        let mut faults: Vec<NamedFault> =
            of_all.map(|fault| NamedFault { endpoint: None, fault }).collect();
        // Of one endpoint there is nothing to say that was not said of all.
        for endpoint in self.endpoints.iter().filter(|_| self.endpoints.len() > 1) {
            let of_one = endpoint.judgement.faults_of_endpoint().into_iter();
            let name = || Some(Arc::clone(&endpoint.name));
            faults.extend(of_one.map(|fault| NamedFault { endpoint: name(), fault }));
        }
        faults
    }
}

/// Requests that could not be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Nothing was recorded of them.
    pub not_observed: usize,
    /// They waited for one of which nothing was recorded.
    pub no_arrival: usize,
    /// They were refused, failed, or took no time.
    pub failed: usize,
    /// They had several prompts or answers, which one sequence cannot stand for.
    pub several: usize,
    /// Their first tokens only: answers that were not streamed, or whose first piece came with the last one.
    pub no_first_token: usize,
}

/// How long requests waited in the router before they were sent to their endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    pub median: Duration,
    pub most: Duration,
    /// Requests of which nobody wrote it down: their waits count as their endpoints' time.
    pub n_unknown: usize,
}

/// Why there is no fit.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FitError {
    #[error(
        "none of the {n_requests} requests says what became of it; a trace that `serve --record FILE` or \
         `epp --record FILE` wrote does (`observed`)"
    )]
    NothingObserved { n_requests: usize },
    #[error(
        "{n_fitted} of {n_requests} requests can be fitted to and {MIN_REQUESTS} are needed: those that were answered \
         in the first {:.0} % of the record's time, one prompt and one answer each, so about {} in all; record longer, \
         or under more traffic", 100.0 * TRAIN_SHARE, n_in_all(MIN_REQUESTS)
    )]
    TooFew { n_fitted: usize, n_requests: usize },
    #[error(
        "endpoint {endpoint} answered {n_fitted} requests in the first {:.0} % of the record's time and \
         {MIN_PER_ENDPOINT} are needed: leave --per-endpoint away, or record longer", 100.0 * TRAIN_SHARE
    )]
    TooFewOf { endpoint: Arc<str>, n_fitted: usize },
    #[error(
        "no request says when its first token came: record streamed answers of several pieces, whose first byte is their \
         first token"
    )]
    NoFirstTokens,
    #[error("the record has {n_endpoints} endpoints; {MAX_ENDPOINTS} is the most")]
    TooManyEndpoints { n_endpoints: usize },
    #[error("the trace cannot be fitted to: {0}")]
    Trace(String),
}

/// Estimates the servers of a recorded trace.
pub fn fit(trace: &Trace, options: Options, progress: &Progress) -> Result<Fit, FitError> {
    trace.check().map_err(FitError::Trace)?;
    let samples = Samples::of(trace, TRAIN_SHARE)?;
    check(&samples, trace.requests.len(), options)?;
    let views: Vec<View<'_>> = samples.endpoints.iter().map(View::of).collect();
    let guess = Guess::of(&views, samples.block_tokens);
    let mut groups = if options.per_endpoint {
        (0..views.len()).map(|at| vec![at]).collect()
    } else {
        guess.groups(&views, samples.block_tokens)
    };
    let limit = (MAX_WORK / (groups.len().max(1) * search::MAX_PLAYS)).min(MAX_WINDOW);
    let n_windowed = |group: &Vec<usize>| -> usize {
        windows(group, &samples, limit).iter().map(|window| window.samples.len()).sum()
    };
    let n_windowed_once: usize = groups.iter().map(n_windowed).sum();
    let n_all: usize = samples.endpoints.iter().map(|endpoint| endpoint.samples.len()).sum();
    let n_planned = n_windowed_once * search::MAX_PLAYS + n_all;
    progress.n_planned.store(n_planned as u64, Ordering::Relaxed);
    groups.reverse();
    let mut searched: Vec<(Vec<usize>, Searched)> = Vec::new();
    while let Some(group) = groups.pop() {
        let windows = windows(&group, &samples, limit);
        let found = guess.search(&group, &views, &windows, trace, progress);
        match apart(&group, &samples, &found.profile()) {
            Some(parts) => {
                let n_more = parts.iter().map(n_windowed).sum::<usize>() * search::MAX_PLAYS;
                progress.n_planned.fetch_add(n_more as u64, Ordering::Relaxed);
                groups.extend(parts);
            }
            None => searched.push((group, found)),
        }
    }
    searched.sort_by_key(|(group, _)| group.first().copied());
    let mut kinds = Vec::new();
    let mut judged: Vec<(usize, EndpointFit)> = Vec::new();
    let mut all = Pairs::default();
    for (nth, (group, searched)) in searched.iter().enumerate() {
        let name = if options.per_endpoint {
            endpoint_kind_name(nth, group.first().and_then(|at| samples.endpoints.get(*at)))
        } else {
            format!("kind-{}", nth + 1)
        };
        kinds.push(kind(name, group, &samples, searched));
        let profile = searched.profile();
        for &at in group {
            let Some(endpoint) = samples.endpoints.get(at) else { continue };
            let pairs = judge(endpoint, &profile);
            progress.n_played.fetch_add(endpoint.samples.len() as u64, Ordering::Relaxed);
            all.join(&pairs);
            let fit = EndpointFit {
                name: Arc::clone(&endpoint.name),
                kind: nth,
                n_requests: endpoint.samples.len(),
                n_fitted: endpoint.n_fitted(),
                judgement: pairs.judge(),
            };
            judged.push((at, fit));
        }
    }
    judged.sort_by_key(|(at, _)| *at);
    let first = samples.endpoints.iter().flat_map(|one| &one.samples).map(|one| one.arrived).min();
    Ok(Fit {
        kinds,
        endpoints: judged.into_iter().map(|(_, fit)| fit).collect(),
        overall: all.judge(),
        left_out: samples.left_out,
        waits: samples.waits,
        token_ratio: samples.token_ratio,
        length: first.map_or(Duration::ZERO, |first| samples.last.since(first)),
        judged: samples.last.since(samples.split),
    })
}

/// Whether there is enough to go by of so many requests.
fn check(samples: &Samples, n_requests: usize, options: Options) -> Result<(), FitError> {
    let n_fitted: usize = samples.endpoints.iter().map(Endpoint::n_fitted).sum();
    if n_fitted < MIN_REQUESTS {
        return Err(FitError::TooFew { n_fitted, n_requests });
    }
    let few = samples.endpoints.iter().find(|endpoint| endpoint.n_fitted() < MIN_PER_ENDPOINT);
    if let Some(few) = few.filter(|_| options.per_endpoint) {
        let (endpoint, n_fitted) = (Arc::clone(&few.name), few.n_fitted());
        return Err(FitError::TooFewOf { endpoint, n_fitted });
    }
    let mut train = samples.endpoints.iter().flat_map(Endpoint::train);
    if train.any(|sample| sample.first_is_fitted) { Ok(()) } else { Err(FitError::NoFirstTokens) }
}

/// Requests that a record has in all, in tens, if they come evenly and so many of them can be fitted to.
fn n_in_all(n_fitted: usize) -> usize {
    (n_fitted as f64 / TRAIN_SHARE / 10.0).ceil() as usize * 10
}

/// The part of an endpoint's record that is fitted to, and what follows from it at once.
struct View<'a> {
    samples: &'a [Sample],
    course: Course,
    equations: Vec<Equation>,
}

/// What was found of one kind.
struct Searched {
    fixed: Fixed,
    found: Found,
    /// Standard errors of the costs.
    errors: solve::Costs,
    /// How slow they are, in times of the default profile.
    slowness: f64,
    size: Size,
}

impl Searched {
    /// In blocks of the trace.
    fn profile(&self) -> Profile {
        self.found.candidate.played(&self.fixed)
    }
}

/// What equations say of all endpoints together.
struct Guess {
    slowness: f64,
    costs: solve::Costs,
    /// Sizes of caches that are worth trying.
    sizes: Vec<u32>,
    block_tokens: u32,
}

impl Endpoint {
    fn train(&self) -> &[Sample] {
        self.samples.get(..self.n_train).unwrap_or_default()
    }

    /// Requests that ended before the part that judges.
    fn n_fitted(&self) -> usize {
        self.train().iter().filter(|sample| sample.end_is_fitted).count()
    }
}

impl<'a> View<'a> {
    fn of(endpoint: &'a Endpoint) -> Self {
        let samples = endpoint.train();
        let course = Course::of(samples);
        let max_batched = Profile::default().max_num_batched_tokens;
        let equations = load::equations(samples, &course, max_batched);
        Self { samples, course, equations }
    }
}

// === impl Guess ===

impl Guess {
    fn of(views: &[View<'_>], block_tokens: u32) -> Self {
        let equations: Vec<&Equation> = views.iter().flat_map(|view| &view.equations).collect();
        let samples: Vec<&[Sample]> = views.iter().map(|view| view.samples).collect();
        let slowness = slowness(&equations);
        Self {
            slowness,
            costs: solve::solve(&equations, &candidate::prior(slowness)).costs,
            sizes: cache::sizes(&samples, block_tokens),
            block_tokens,
        }
    }

    fn groups(&self, views: &[View<'_>], block_tokens: u32) -> Vec<Vec<usize>> {
        let prefill = prefill_of(self.costs);
        let curves: Vec<Option<cache::Curve>> = views
            .iter()
            .map(|view| cache::curve(view.samples, block_tokens, &self.sizes, &prefill))
            .collect();
        let traits = |ats: &[usize], costs: &solve::Costs| -> Vec<groups::Traits> {
            let of_one = |at: &usize| {
                let (view, curve) = (views.get(*at)?, curves.get(*at)?);
                Some(groups::Traits::of(&view.equations, costs, curve.clone()))
            };
            ats.iter().filter_map(of_one).collect()
        };
        let together = |ats: &[usize]| {
            let of_some = ats.iter().filter_map(|at| views.get(*at));
            let equations: Vec<&Equation> = of_some.flat_map(|view| &view.equations).collect();
            let prior = candidate::prior(slowness(&equations));
            traits(ats, &solve::solve(&equations, &prior).costs)
        };
        let all: Vec<usize> = (0..views.len()).collect();
        groups::kinds(&traits(&all, &self.costs), &together)
    }

    /// Looks for the profile of one kind.
    fn search(
        &self,
        group: &[usize],
        views: &[View<'_>],
        windows: &[Window],
        trace: &Trace,
        progress: &Progress,
    ) -> Searched {
        let views: Vec<&View<'_>> = group.iter().filter_map(|at| views.get(*at)).collect();
        let equations: Vec<&Equation> = views.iter().flat_map(|view| &view.equations).collect();
        let slowness = if equations.is_empty() { self.slowness } else { slowness(&equations) };
        let prior = candidate::prior(slowness);
        let Solution { costs, errors } = solve::solve(&equations, &prior);
        let samples: Vec<&[Sample]> = views.iter().map(|view| view.samples).collect();
        let size = cache::size(&samples, self.block_tokens, &self.sizes, &prefill_of(costs));
        let fixed = fixed(trace, self.block_tokens);
        let default = Profile::default();
        let usual = u64::from(default.kv_cache_size) * u64::from(default.block_size)
            / u64::from(self.block_tokens);
        let usual = u32::try_from(usual).unwrap_or(u32::MAX).max(1);
        let kv_blocks = match size {
            Size::Found { n_blocks } => n_blocks,
            Size::AtLeast { n_blocks } => usual.max(n_blocks),
            Size::Unknown { n_blocks_at_least } => usual.max(n_blocks_at_least),
        };
        let search = Search {
            windows,
            fixed,
            prior,
            most_at_once: views
                .iter()
                .map(|view| view.course.most_at_once(0.02))
                .max()
                .unwrap_or(0),
            knows_cached: !matches!(size, Size::Unknown { .. }),
            n_played: &progress.n_played,
        };
        let found = search.run(&[costs, prior.mean], kv_blocks);
        Searched { fixed, found, errors, slowness, size }
    }
}

/// How slow servers are, in times of the default profile.
fn slowness(equations: &[&Equation]) -> f64 {
    let usual = candidate::prior(1.0).mean;
    let ratios = equations.iter().map(|one| one.seconds / solve::predicted(one, &usual).max(1e-9));
    solve::quantile(ratios.collect(), 0.5).unwrap_or(1.0).clamp(1e-4, 1e4)
}

/// How long a prompt takes by itself.
fn prefill_of(costs: solve::Costs) -> impl Fn(&Sample) -> f64 {
    let [step, _, _, prompt, token, pair] = costs;
    move |sample| step + prompt + token * sample.computed() + pair * sample.pairs()
}

/// What the record says or nothing does.
fn fixed(trace: &Trace, block_tokens: u32) -> Fixed {
    let default = Profile::default();
    let longest =
        trace.requests.iter().map(|one| one.prompt_tokens.saturating_add(one.output_tokens));
    let longest = longest.max().unwrap_or(0).saturating_add(1);
    let mut adapters: Vec<&str> =
        trace.requests.iter().filter_map(|request| request.lora.as_deref()).collect();
    adapters.sort_unstable();
    adapters.dedup();
    Fixed {
        block_tokens,
        max_model_len: default.max_model_len.max(longest),
        max_loras: default.max_loras.max(adapters.len() as u32).min(1 << 12),
    }
}

/// The samples that a search of one kind plays: of the busiest endpoints, the last ones before the part that
/// judges, up to a limit of work.
fn windows(group: &[usize], samples: &Samples, limit: usize) -> Vec<Window> {
    let mut endpoints: Vec<&Endpoint> =
        group.iter().filter_map(|at| samples.endpoints.get(*at)).collect();
    endpoints.sort_by_key(|endpoint| std::cmp::Reverse(endpoint.n_train));
    let mut left = limit;
    let mut windows: Vec<Window> = Vec::new();
    for endpoint in endpoints {
        let train = endpoint.train();
        let mut n_taken = 0;
        for sample in train.iter().rev() {
            let work = work(sample, samples.block_tokens);
            if work > left && (n_taken >= MIN_WINDOW || !windows.is_empty()) {
                break;
            }
            left = left.saturating_sub(work);
            n_taken += 1;
        }
        let is_cut = n_taken < train.len();
        if is_cut && !windows.is_empty() {
            break;
        }
        let mut taken: Vec<Sample> =
            train.get(train.len() - n_taken..).unwrap_or_default().to_vec();
        if is_cut {
            samples::foresee(&mut taken, samples.block_tokens);
        }
        let n_warm = if is_cut { (taken.len() as f64 * WARM_SHARE) as usize } else { 0 };
        windows.push(Window { samples: taken, n_warm });
    }
    windows
}

/// How much work it is to play a request, in requests of a few blocks.
fn work(sample: &Sample, block_tokens: u32) -> usize {
    let n_tokens = u64::from(sample.prompt) + u64::from(sample.output);
    1 + (n_tokens / u64::from(block_tokens.max(1))) as usize / BLOCKS_PER_REQUEST
}

/// The two parts of a group whose endpoints one profile does not fit, by how far it is from each of them in the part
/// of the record that was fitted to. Few equations under changing load may not have told them apart.
fn apart(group: &[usize], samples: &Samples, profile: &Profile) -> Option<[Vec<usize>; 2]> {
    let mut off: Vec<(usize, Option<f64>)> = Vec::new();
    for at in group.iter().filter(|_| group.len() > 1) {
        let endpoint = samples.endpoints.get(*at)?;
        let train = endpoint.train();
        let is_told = endpoint.n_fitted() >= MIN_PER_ENDPOINT;
        let played = play(profile, train).ok().filter(|_| is_told).unwrap_or_default();
        let pairs = train.iter().zip(&played).filter(|(sample, _)| sample.end_is_fitted);
        let logs =
            pairs.filter_map(|(sample, played)| Some((played.as_ref()?.e2e / sample.e2e).ln()));
        off.push((*at, solve::quantile(logs.collect(), 0.5)));
    }
    groups::split(&off)
}

/// Plays the whole record of an endpoint and compares the part that was not fitted to.
fn judge(endpoint: &Endpoint, profile: &Profile) -> Pairs {
    let mut pairs = Pairs::default();
    let n_samples = endpoint.samples.len();
    let played = play(profile, &endpoint.samples).unwrap_or_else(|_| vec![None; n_samples]);
    for (sample, played) in endpoint.samples.iter().zip(&played).skip(endpoint.n_train) {
        pairs.add(sample, played.as_ref());
    }
    pairs
}

fn kind(name: String, group: &[usize], samples: &Samples, searched: &Searched) -> Kind {
    let Searched { fixed, found, errors, slowness, size } = searched;
    let slowness = *slowness;
    let default = Origin::Default { slowness: 1.0 };
    let prior = candidate::prior(slowness);
    let mut origins: Vec<(&'static str, Origin)> = Vec::new();
    for (at, key) in COST_KEYS.into_iter().enumerate() {
        let (error, cost) = (2.0 * errors[at], found.candidate.costs[at]);
        origins.push((
            key,
            if error < TOLD * prior.spread[at].max(cost) {
                Origin::Record { error: Some(error * 1e6) }
            } else {
                Origin::Default { slowness }
            },
        ));
    }
    let told = |is_told: bool| if is_told { Origin::Record { error: None } } else { default };
    origins.push(("max-num-seqs", told(found.tells_seqs)));
    origins.push(("max-num-batched-tokens", told(found.tells_batched)));
    let cache = match size {
        _ if found.tells_cache => Origin::Record { error: None },
        // Less would contradict the record; whether more does, nobody knows.
        Size::Found { n_blocks } | Size::AtLeast { n_blocks }
            if found.candidate.kv_blocks <= *n_blocks =>
        {
            Origin::AtLeast
        }
        Size::Unknown { .. } | Size::Found { .. } | Size::AtLeast { .. } => default,
    };
    origins.push(("kv-cache-size", cache));
    let names = group.iter().filter_map(|at| samples.endpoints.get(*at));
    Kind {
        name,
        endpoints: names.map(|endpoint| Arc::clone(&endpoint.name)).collect(),
        profile: found.candidate.written(fixed),
        origins,
    }
}

/// A name for a kind of one endpoint, as pool files take it: numbers keep names apart that differ only in what
/// such names cannot have.
fn endpoint_kind_name(nth: usize, endpoint: Option<&Endpoint>) -> String {
    const MAX_CHARS: usize = 48;
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' }
    };
    let name = endpoint.map_or("", |endpoint| &endpoint.name);
    // Of long names, the end tells more.
    let n_skipped = name.chars().count().saturating_sub(MAX_CHARS);
    let name: String = name.chars().skip(n_skipped).map(plain).collect();
    format!("{}.{name}", nth + 1)
}
