//! The scheduling cycle: profiles as the handler asks for them, each filter → score → pick
//! (`spec/scheduling.md` §4).

use std::sync::Arc;

use router_core::{Position, Rejection};
use router_framework::{
    Cycle, Filter, FilterKind, MAX_TARGETS, Outcome, Picker, ProfileHandler, ProfileIndex,
    ProfileRun, RequestCx, Scorer, loader::Ident,
};
use router_rt::Rng;
use smallvec::SmallVec;

use crate::{
    explain::{FilterRecord, ProfileRecord, ProfileTrace},
    observe::{Point, Timed},
    trace,
};

/// Rounds that a profile handler may ask for; more is a bug in the handler.
const MAX_ROUNDS: usize = 16;

/// The profiles of a configuration, ready to run.
pub(crate) struct Scheduler {
    pub(crate) handler: Timed<dyn ProfileHandler>,
    pub(crate) profiles: Vec<Profile>,
    pub(crate) names: Arc<[Arc<str>]>,
}

/// One scheduling profile.
pub(crate) struct Profile {
    pub(crate) name: Arc<str>,
    pub(crate) filters: Vec<Timed<dyn Filter>>,
    pub(crate) scorers: Vec<(Timed<dyn Scorer>, f64)>,
    pub(crate) picker: Timed<dyn Picker>,
}

impl Scheduler {
    /// Runs the cycle. `records` takes one record per profile run when the decision is to be explained.
    pub(crate) fn schedule(
        &self,
        cx: &RequestCx<'_>,
        rng: &mut Rng,
        mut records: Option<&mut Vec<ProfileRecord>>,
    ) -> Result<Outcome, Rejection> {
        let mut runs: Vec<Option<Result<ProfileRun, Rejection>>> =
            self.profiles.iter().map(|_| None).collect();
        for _round in 0..MAX_ROUNDS {
            let cycle = Cycle { names: &self.names, runs: &runs };
            let wanted = self
                .handler
                .call(Point::ProfilePicker, |handler| handler.next(cx, &cycle))
                .unwrap_or_else(|| Err(Rejection::internal("the profile handler panicked")))?;
            if wanted.is_empty() {
                return self.finish(cx, runs);
            }
            for ProfileIndex(at) in wanted {
                if let (Some(profile), Some(place)) = (self.profiles.get(at), runs.get_mut(at)) {
                    *place = Some(profile.run(cx, rng, records.as_deref_mut()));
                }
            }
        }
        Err(Rejection::internal("the profile handler asks for profiles without end"))
    }

    fn finish(
        &self,
        cx: &RequestCx<'_>,
        runs: Vec<Option<Result<ProfileRun, Rejection>>>,
    ) -> Result<Outcome, Rejection> {
        let cycle = Cycle { names: &self.names, runs: &runs };
        let primary = self
            .handler
            .call(Point::ProcessProfilesResults, |handler| handler.primary(cx, &cycle))
            .unwrap_or_else(|| Err(Rejection::internal("the profile handler panicked")))?;
        if cycle.run(primary).is_none() {
            let cause = cycle.error(primary).cloned();
            return Err(
                cause.unwrap_or_else(|| Rejection::internal("failed to run any scheduler profile"))
            );
        }
        let runs = runs.into_iter().map(|run| run.and_then(Result::ok)).collect();
        Ok(Outcome { names: Arc::clone(&self.names), runs, primary })
    }
}

impl Profile {
    fn run(
        &self,
        cx: &RequestCx<'_>,
        rng: &mut Rng,
        records: Option<&mut Vec<ProfileRecord>>,
    ) -> Result<ProfileRun, Rejection> {
        let _inside = trace::profile(&self.name).entered();
        let mut steps = records.is_some().then(ProfileTrace::default);
        let mut positions: Vec<Position> = cx.candidates.positions().collect();
        let drained = self.filter(cx, &mut positions, steps.as_mut());
        let scored = self.score(cx, &positions, steps.as_mut());
        let (ranked, n_shown) = match drained {
            None => self.pick(cx, &scored, rng),
            Some(_) => (SmallVec::new(), 0),
        };
        if let (Some(records), Some(steps)) = (records, steps) {
            records.push(steps.finish(
                &self.name,
                &self.picker.ident().name,
                cx.candidates,
                &scored,
                &ranked,
            ));
        }
        match drained {
            Some(rejection) => Err(rejection),
            None if ranked.is_empty() => Err(Rejection::internal("the picker picked nothing")),
            None => Ok(ProfileRun { n_shown: n_shown.min(ranked.len()), ranked, scored }),
        }
    }

    /// The candidates best first, and how many of them are shown. Without a picker that works, the highest
    /// totals go first.
    fn pick(
        &self,
        cx: &RequestCx<'_>,
        scored: &[(Position, f64)],
        rng: &mut Rng,
    ) -> (SmallVec<[Position; MAX_TARGETS]>, usize) {
        let _inside = trace::pick(scored.len()).entered();
        let mut ranked = SmallVec::new();
        let picked = self.picker.call(Point::Picker, |picker| {
            let n_shown = picker.n_shown().max(1);
            picker.pick(cx, scored, rng, n_shown.max(MAX_TARGETS), &mut ranked);
            n_shown
        });
        if picked.is_none() {
            let mut by_total = scored.to_vec();
            by_total.sort_by(|(_, a), (_, b)| b.total_cmp(a));
            ranked = by_total.into_iter().map(|(position, _)| position).take(MAX_TARGETS).collect();
        }
        // A picker that makes up positions must not send a request nowhere.
        ranked.retain(|position| cx.endpoint(*position).is_some());
        (ranked, picked.unwrap_or(1))
    }

    /// Narrows the positions; the rejection when none is left.
    fn filter(
        &self,
        cx: &RequestCx<'_>,
        positions: &mut Vec<Position>,
        mut trace: Option<&mut ProfileTrace>,
    ) -> Option<Rejection> {
        if self.filters.is_empty() {
            return positions.is_empty().then(|| drained(FilterKind::Constraint, "screening"));
        }
        let span = trace::filters(positions.len()).entered();
        for filter in &self.filters {
            let n_in = positions.len();
            let mut kept = positions.clone();
            // A filter that panics filters nothing.
            let kind = filter.call(Point::Filter, |filter| {
                filter.filter(cx, &mut kept);
                filter.kind()
            });
            if kind.is_some() {
                *positions = kept;
            }
            if let Some(trace) = trace.as_deref_mut() {
                let n_out = positions.len();
                trace.filters.push(FilterRecord {
                    filter: filter.ident().name.to_string(),
                    n_in,
                    n_out,
                });
            }
            if positions.is_empty() {
                let kind = kind.unwrap_or(FilterKind::Constraint);
                return Some(drained(kind, &filter.ident().name));
            }
        }
        span.record("llm_d.epp.filter.filtered_endpoints", positions.len());
        None
    }

    fn score(
        &self,
        cx: &RequestCx<'_>,
        positions: &[Position],
        mut trace: Option<&mut ProfileTrace>,
    ) -> Vec<(Position, f64)> {
        let mut scored: Vec<(Position, f64)> =
            positions.iter().map(|&position| (position, 0.0)).collect();
        let mut scores = vec![f64::NAN; positions.len()];
        let _inside = trace::scoring(self.scorers.len(), positions.len()).entered();
        for (scorer, weight) in &self.scorers {
            let Ident { name, plugin_type } = scorer.ident();
            let _inside = trace::scorer(plugin_type, name, *weight).entered();
            scores.fill(f64::NAN);
            if scorer
                .call(Point::Scorer, |scorer| scorer.score(cx, positions, &mut scores))
                .is_none()
            {
                scores.fill(f64::NAN);
            }
            let raw = trace.is_some().then(|| scores.clone());
            fill_in(&mut scores);
            for (score, (_, total)) in scores.iter_mut().zip(&mut scored) {
                *score = score.clamp(0.0, 1.0) * weight;
                *total += *score;
            }
            if let (Some(trace), Some(raw)) = (trace.as_deref_mut(), raw) {
                trace.scorers.push((Arc::clone(&scorer.ident().name), raw, scores.clone()));
            }
        }
        scored
    }
}

/// Replaces "no opinion" by the mean of the opinions there are, and by 0 where there is none (design §9).
fn fill_in(scores: &mut [f64]) {
    if !scores.iter().any(|score| score.is_nan()) {
        return;
    }
    let (mut sum, mut n) = (0.0, 0usize);
    for score in scores.iter().filter(|score| !score.is_nan()) {
        sum += score.clamp(0.0, 1.0);
        n += 1;
    }
    let mean = if n == 0 { 0.0 } else { sum / n as f64 };
    for score in scores.iter_mut().filter(|score| score.is_nan()) {
        *score = mean;
    }
}

/// What the client hears when no candidate is left: constraints are not load (defect A-2b).
fn drained(kind: FilterKind, filter: &str) -> Rejection {
    let rejection = match kind {
        FilterKind::Constraint => {
            Rejection::no_endpoints("no endpoints available for the given request")
        }
        FilterKind::Capacity => {
            Rejection::saturated("no endpoints available for the given request")
        }
    };
    rejection.with_detail(format!("{filter} left no endpoint"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a18_no_opinion_takes_the_mean_of_the_opinions() {
        let check = |mut scores: Vec<f64>, filled: &[f64]| {
            fill_in(&mut scores);
            assert_eq!(scores, filled);
        };
        check(vec![1.0, f64::NAN, 0.0], &[1.0, 0.5, 0.0]);
        check(vec![f64::NAN, f64::NAN], &[0.0, 0.0]);
        check(vec![7.0, f64::NAN], &[7.0, 1.0]);
        check(vec![], &[]);
    }
}
