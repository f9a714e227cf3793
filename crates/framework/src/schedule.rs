//! Extension points of the scheduling cycle. All of them are synchronous, take no lock and do no I/O.

use std::sync::Arc;

use router_core::{Endpoint, Position, Rejection};
use router_rt::Rng;
use smallvec::SmallVec;

use crate::cx::RequestCx;

/// Ranked candidates that a request may fall back to, at most (design §3).
pub const MAX_TARGETS: usize = 8;

/// Mandatory constraints for all profiles, before any data is produced.
pub trait Screener: Send + Sync {
    /// Clears the places of candidates that must not serve this request. Every screener sees all
    /// candidates; `keep` has one place per candidate.
    fn screen(&self, cx: &RequestCx<'_>, rng: &mut Rng, keep: &mut [bool]);
}

/// May refuse a request after data has been produced.
pub trait Admitter: Send + Sync {
    fn admit(&self, cx: &RequestCx<'_>, rng: &mut Rng) -> Result<(), Rejection>;
}

/// Decides which profiles run, and which of them gives the destination.
pub trait ProfileHandler: Send + Sync {
    /// Profiles to run next; none ends the cycle. `cycle` tells what has run so far.
    fn next(
        &self,
        cx: &RequestCx<'_>,
        cycle: &Cycle<'_>,
    ) -> Result<SmallVec<[ProfileIndex; 4]>, Rejection>;

    /// The profile whose targets are the destination.
    fn primary(&self, cx: &RequestCx<'_>, cycle: &Cycle<'_>) -> Result<ProfileIndex, Rejection>;
}

/// Number of a scheduling profile, in the order of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProfileIndex(pub usize);

/// The scheduling cycle of one request as a profile handler sees it.
#[derive(Clone, Copy, Debug)]
pub struct Cycle<'a> {
    /// Profile names, by index.
    pub names: &'a [Arc<str>],
    /// What ran so far, by index.
    pub runs: &'a [Option<Result<ProfileRun, Rejection>>],
}

impl Cycle<'_> {
    pub fn by_name(&self, name: &str) -> Option<ProfileIndex> {
        self.names.iter().position(|have| &**have == name).map(ProfileIndex)
    }

    /// The profile's result, if it ran and found a target.
    pub fn run(&self, profile: ProfileIndex) -> Option<&ProfileRun> {
        self.runs.get(profile.0)?.as_ref()?.as_ref().ok()
    }

    pub fn has_run(&self, profile: ProfileIndex) -> bool {
        self.runs.get(profile.0).is_some_and(Option::is_some)
    }

    /// The error of the profile's last run.
    pub fn error(&self, profile: ProfileIndex) -> Option<&Rejection> {
        self.runs.get(profile.0)?.as_ref()?.as_ref().err()
    }
}

/// What one profile found: its candidates best first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProfileRun {
    /// Best first, at most [`MAX_TARGETS`] unless the picker shows more.
    pub ranked: SmallVec<[Position; MAX_TARGETS]>,
    /// How many of them the destination header shows.
    pub n_shown: usize,
    /// Total score of every candidate that the filters left.
    pub scored: Vec<(Position, f64)>,
}

impl ProfileRun {
    /// The endpoint that the request goes to.
    pub fn target(&self) -> Option<Position> {
        self.ranked.first().copied()
    }

    /// Those that the destination header shows.
    pub fn shown(&self) -> &[Position] {
        self.ranked.get(..self.n_shown).unwrap_or(&self.ranked)
    }
}

/// The whole scheduling cycle's result.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub names: Arc<[Arc<str>]>,
    pub runs: Vec<Option<ProfileRun>>,
    pub primary: ProfileIndex,
}

impl Outcome {
    pub fn primary_run(&self) -> Option<&ProfileRun> {
        self.runs.get(self.primary.0)?.as_ref()
    }

    /// First target of the primary profile.
    pub fn target<'a>(&self, cx: &RequestCx<'a>) -> Option<&'a Arc<Endpoint>> {
        cx.endpoint(self.primary_run()?.target()?)
    }

    /// Name and first target of every profile that found one, in the order of the configuration.
    pub fn targets<'a>(
        &'a self,
        cx: &RequestCx<'a>,
    ) -> impl Iterator<Item = (ProfileIndex, &'a str, &'a Arc<Endpoint>)> {
        let cx = *cx;
        self.runs.iter().zip(self.names.iter()).enumerate().filter_map(move |(at, (run, name))| {
            let endpoint = cx.endpoint(run.as_ref()?.target()?)?;
            Some((ProfileIndex(at), &**name, endpoint))
        })
    }
}

/// Why a filter drops endpoints; decides the status when none is left (design §9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterKind {
    /// Labels, roles, attributes: 503 `rejected-no-endpoints`.
    Constraint,
    /// Load: 429 `rejected-saturated`.
    Capacity,
}

/// Narrows the candidates of a profile.
pub trait Filter: Send + Sync {
    fn kind(&self) -> FilterKind;

    /// Keeps some of `positions`, in order.
    fn filter(&self, cx: &RequestCx<'_>, positions: &mut Vec<Position>);
}

/// Rates candidates from 0 to 1.
pub trait Scorer: Send + Sync {
    /// Writes one score per position into `out`, which comes filled with NaN. NaN says "no opinion": the
    /// engine replaces it by the mean of the scorer's other values. Values outside 0..=1 are clamped.
    fn score(&self, cx: &RequestCx<'_>, positions: &[Position], out: &mut [f64]);
}

/// Ranks candidates by their total scores.
pub trait Picker: Send + Sync {
    /// How many endpoints the destination header shows (`maxNumOfEndpoints`).
    fn n_shown(&self) -> usize;

    /// Puts up to `n_wanted` candidates into `ranked`, best first.
    fn pick(
        &self,
        cx: &RequestCx<'_>,
        scored: &[(Position, f64)],
        rng: &mut Rng,
        n_wanted: usize,
        ranked: &mut SmallVec<[Position; MAX_TARGETS]>,
    );
}
