//! Two sides of a verdict, seed by seed, in stages: what is not clear of its bound on the first seeds is judged on
//! more.
//!
//! A stage is planned from the rows of those before, and the verdict of all is reached from the rows alone, so that it
//! is the same whether a run was played or kept from before. The sides are those of the first stage: the best baseline
//! is not chosen anew.

use std::collections::BTreeSet;

use router_sim::replay::summary::Estimate;

use super::judge::Rows;
use super::play::Run;
use super::regret::{Regret, Scale};
use super::store::Row;

/// What is compared with what, on which seeds.
#[derive(Clone, Debug)]
pub(super) struct Pairing {
    /// What should be reached.
    pub(super) base: Side,
    pub(super) ours: Side,
    pub(super) of: fn(&Row) -> f64,
    pub(super) scale: Scale,
    pub(super) bound: f64,
    pub(super) first: Vec<u64>,
    /// Those of each further stage, where the stages before do not settle it.
    pub(super) more: Vec<Vec<u64>>,
}

/// A policy and how it is told of its servers, as indices of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Side {
    pub(super) policy: usize,
    pub(super) scrapes: usize,
}

/// What a pairing comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Paired {
    /// Means over the seeds that the regret rests on.
    pub(super) base: f64,
    pub(super) ours: f64,
    pub(super) regret: Regret,
    /// On the first seeds alone, where that was not the end of it.
    pub(super) first: Option<Regret>,
}

// === impl Pairing ===

impl Pairing {
    /// What the next stage needs, once those before were played; nothing where they settle it.
    pub(super) fn more_runs(&self, rows: &Rows) -> BTreeSet<Run> {
        let (_, next) = self.played(rows);
        let runs = next.iter().flat_map(|&seed| [self.base.run(seed), self.ours.run(seed)]);
        runs.filter(|run| !rows.contains_key(run)).collect()
    }

    /// The verdict: on the first seeds if they settle it, or else on all of the stages that were played.
    pub(super) fn outcome(&self, rows: &Rows) -> Paired {
        let (pairs, _) = self.played(rows);
        let first = self.pairs(rows, &self.first);
        Paired {
            base: Estimate::of(pairs.iter().map(|(base, _)| *base)).mean,
            ours: Estimate::of(pairs.iter().map(|(_, ours)| *ours)).mean,
            regret: self.regret(&pairs),
            first: (pairs.len() > first.len()).then(|| self.regret(&first)),
        }
    }

    /// Of the stages that were played and asked for, and the seeds of the one that is to be played next.
    fn played(&self, rows: &Rows) -> (Vec<(f64, f64)>, &[u64]) {
        let mut pairs = self.pairs(rows, &self.first);
        for (more_idx, seeds) in self.more.iter().enumerate() {
            if !self.asks_for(more_idx, &self.regret(&pairs)) {
                break;
            }
            let more = self.pairs(rows, seeds);
            if more.len() < seeds.len() {
                return (pairs, seeds);
            }
            pairs.extend(more);
        }
        (pairs, &[])
    }

    /// Whether what comes of the stages before asks for one of `more`.
    ///
    /// On the first seeds nothing but an interval within the bound is clear. That ours is as good on every one of them
    /// is not: of two equal policies it is so on three seeds one time in eight. That it loses may be bad luck.
    /// Later an interval beyond the bound is clear, too.
    fn asks_for(&self, more_idx: usize, regret: &Regret) -> bool {
        regret.upper > self.bound && (more_idx == 0 || regret.lower <= self.bound)
    }

    fn regret(&self, pairs: &[(f64, f64)]) -> Regret {
        Regret::of(pairs, self.scale, self.bound)
    }

    /// Of those seeds on which both sides were played.
    fn pairs(&self, rows: &Rows, seeds: &[u64]) -> Vec<(f64, f64)> {
        let of = |side: Side, seed| rows.get(&side.run(seed)).map(self.of);
        seeds.iter().filter_map(|&seed| of(self.base, seed).zip(of(self.ours, seed))).collect()
    }
}

// === impl Side ===

impl Side {
    pub(super) fn run(self, seed: u64) -> Run {
        Run { seed, policy: self.policy, scrapes: self.scrapes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::regret::Verdict;

    const BASE: Side = Side { policy: 1, scrapes: 0 };
    const LATE: Side = Side { policy: 0, scrapes: 2 };

    /// On 3, on 16, and on 64 seeds.
    fn pairing() -> Pairing {
        Pairing {
            base: BASE,
            ours: LATE,
            of: |row| row.ttft_p90,
            scale: Scale::Times,
            bound: 10.0,
            first: vec![3, 4, 5],
            more: vec![(6..=18).collect(), (19..=66).collect()],
        }
    }

    /// Both sides on these seeds, the second so many times as long as the first, by seed.
    fn rows(seeds: &[u64], times: impl Fn(u64) -> f64) -> Rows {
        let row = |run: Run| Row {
            ttft_p90: if run.policy == LATE.policy { 2.0 * times(run.seed) } else { 2.0 },
            ..Row::default()
        };
        let runs = seeds.iter().flat_map(|&seed| [BASE.run(seed), LATE.run(seed)]);
        runs.map(|run| (run, row(run))).collect()
    }

    /// Plays the first seeds, then what is asked for; what came of it after each stage.
    fn play(times: impl Fn(u64) -> f64) -> Vec<Paired> {
        let pairing = pairing();
        let mut played = rows(&pairing.first, &times);
        let mut outcomes = vec![pairing.outcome(&played)];
        assert!(outcomes[0].first.is_none(), "{outcomes:?}");
        for seeds in &pairing.more {
            let stage = rows(seeds, &times);
            let runs = pairing.more_runs(&played);
            if runs.is_empty() {
                break;
            }
            assert!(runs.iter().eq(stage.keys()), "both sides on every seed: {runs:?}");
            // One that was interrupted says nothing, and goes on.
            let (last, _) = stage.last_key_value().unwrap();
            let before = pairing.outcome(&played).regret;
            played.extend(stage.clone());
            played.remove(last);
            assert_eq!(pairing.outcome(&played).regret, before);
            assert_eq!(pairing.more_runs(&played), BTreeSet::from([*last]));
            played.extend(stage);
            outcomes.push(pairing.outcome(&played));
            assert_eq!(outcomes.last().unwrap().first, Some(outcomes[0].regret));
        }
        assert_eq!(pairing.more_runs(&played), BTreeSet::new());
        outcomes
    }

    /// So many times as long, on some seeds much more and on some much less.
    fn swing(times: f64, by: f64) -> impl Fn(u64) -> f64 {
        move |seed| times * if seed % 2 == 0 { 1.0 + by } else { 1.0 / (1.0 + by) }
    }

    /// The verdict after each stage that is played, the same when all rows are there from before.
    fn check(times: impl Fn(u64) -> f64, expected: &[Verdict]) {
        let outcomes = play(&times);
        let found: Vec<Verdict> = outcomes.iter().map(|paired| paired.regret.verdict).collect();
        assert_eq!(found, expected, "{outcomes:?}");
        let n_seeds: Vec<usize> = outcomes.iter().map(|paired| paired.regret.n_seeds).collect();
        assert_eq!(n_seeds, [3, 16, 64][..expected.len()]);

        let pairing = pairing();
        let kept = rows(&(1..=100).collect::<Vec<_>>(), times);
        assert_eq!(pairing.more_runs(&kept), BTreeSet::new());
        assert_eq!(pairing.outcome(&kept), *outcomes.last().unwrap());
    }

    #[test]
    fn what_is_clear_of_its_bound_at_first_is_left_at_that() {
        check(|_| 1.05, &[Verdict::Holds]);
        // More seeds would say otherwise, and nobody asks them.
        check(|seed| if seed > 5 { 3.0 } else { 1.0 }, &[Verdict::Holds]);
        check(|_| 1.0, &[Verdict::Holds]);
    }

    #[test]
    fn what_was_as_good_on_each_of_a_few_seeds_is_judged_on_more() {
        let luck = |seed: u64, later| match seed {
            3 => 0.5,
            4 | 5 => 1.0,
            _ => later,
        };
        check(|seed| luck(seed, 1.0), &[Verdict::Holds, Verdict::Holds]);
        check(|seed| luck(seed, 1.5), &[Verdict::Holds, Verdict::Loses]);
        // Never worse on 16 either, and so much better on one that the interval says nothing.
        let once = |seed| if seed == 3 { 0.1 } else { 1.0 };
        check(once, &[Verdict::Holds, Verdict::Holds, Verdict::Holds]);
    }

    #[test]
    fn what_is_not_clear_of_its_bound_at_first_is_judged_on_more() {
        check(swing(1.0, 0.1), &[Verdict::Unclear, Verdict::Holds]);
        // The first seeds were bad luck, and they still count.
        let better_later = |seed| if seed > 5 { 1.0 } else { 1.2 };
        check(better_later, &[Verdict::Loses, Verdict::Holds]);
    }

    #[test]
    fn what_loses_clearly_in_the_second_stage_is_not_played_on() {
        check(|_| 1.2, &[Verdict::Loses, Verdict::Loses]);
        let worse_later = |seed| if seed > 5 { 1.3 } else { swing(1.0, 0.1)(seed) };
        check(worse_later, &[Verdict::Unclear, Verdict::Loses]);
        // More seeds would say otherwise, and nobody asks them.
        let better_in_the_end = |seed| if seed > 18 { 1.0 } else { 1.2 };
        check(better_in_the_end, &[Verdict::Loses, Verdict::Loses]);
    }

    #[test]
    fn an_interval_with_the_bound_in_it_is_played_on_whatever_its_mean() {
        use Verdict::{Holds, Loses, Unclear};
        check(swing(1.0, 0.3), &[Unclear, Unclear, Holds]);
        check(swing(1.0, 0.6), &[Unclear, Unclear, Unclear]);
        // The mean is above the bound, some 20 % either way of it.
        check(swing(1.15, 0.4), &[Unclear, Loses, Loses]);
        let better_in_the_end =
            |seed| if seed > 18 { swing(0.9, 0.1)(seed) } else { swing(1.15, 0.4)(seed) };
        check(better_in_the_end, &[Unclear, Loses, Holds]);
        let worse_in_the_end = |seed| if seed > 18 { 1.3 } else { swing(1.0, 0.3)(seed) };
        check(worse_in_the_end, &[Unclear, Unclear, Loses]);
    }

    #[test]
    fn means_are_those_of_the_seeds_that_the_verdict_rests_on() {
        let outcomes = play(|seed| if seed > 5 { 1.0 } else { 1.2 });
        let paired = outcomes.last().unwrap();
        let expected = 2.0 * (3.0 * 1.2 + 13.0) / 16.0;
        assert!((paired.ours - expected).abs() < 1e-9 && (paired.base - 2.0).abs() < 1e-9);
        let logs = 3.0 * 1.2_f64.ln() / 16.0;
        assert!((paired.regret.mean - logs.exp_m1() * 100.0).abs() < 1e-9, "{paired:?}");
    }
}
