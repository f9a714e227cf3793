//! Two sides of a verdict, seed by seed, in two stages: what is not clear of its bound on the first seeds is judged on
//! more.
//!
//! The second stage is planned from the rows of the first, and the verdict of both is reached from the rows alone,
//! so that it is the same whether a run was played or kept from before. The sides of the second stage are those of
//! the first: the best baseline is not chosen anew.

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
    /// Besides the first, where those do not settle it.
    pub(super) more: Vec<u64>,
}

/// A policy and how it is told of its servers, as indices of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Side {
    pub(super) policy: usize,
    pub(super) scrapes: usize,
}

/// What a pairing comes to.
#[derive(Clone, Copy, Debug)]
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
    /// What the second stage needs, once the first was played; nothing where the whole interval is within the
    /// bound.
    pub(super) fn more_runs(&self, rows: &Rows) -> BTreeSet<Run> {
        if self.is_settled(&self.regret(&self.pairs(rows, &self.first))) {
            return BTreeSet::new();
        }
        let runs = self.more.iter().flat_map(|&seed| [self.base.run(seed), self.ours.run(seed)]);
        runs.filter(|run| !rows.contains_key(run)).collect()
    }

    /// The verdict: on the first seeds if they settle it, or else on all that were played.
    pub(super) fn outcome(&self, rows: &Rows) -> Paired {
        let mut pairs = self.pairs(rows, &self.first);
        let first = self.regret(&pairs);
        let is_settled = self.is_settled(&first);
        let more = if is_settled { Vec::new() } else { self.pairs(rows, &self.more) };
        pairs.extend(&more);
        Paired {
            base: Estimate::of(pairs.iter().map(|(base, _)| *base)).mean,
            ours: Estimate::of(pairs.iter().map(|(_, ours)| *ours)).mean,
            regret: self.regret(&pairs),
            first: (!more.is_empty()).then_some(first),
        }
    }

    /// Whether a regret is clear of its bound. That ours is as good on every one of a few seeds is not: of two equal
    /// policies it is so on three seeds one time in eight.
    fn is_settled(&self, regret: &Regret) -> bool {
        regret.upper <= self.bound
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

    fn pairing() -> Pairing {
        Pairing {
            base: BASE,
            ours: LATE,
            of: |row| row.ttft_p90,
            scale: Scale::Times,
            bound: 10.0,
            first: vec![3, 4, 5],
            more: (6..=18).collect(),
        }
    }

    /// Plays the second side so many times as long as the first, by seed: the first stage, then what it asks for.
    /// The runs of the second stage, and what comes of all.
    fn play(times: impl Fn(u64) -> f64) -> (BTreeSet<Run>, Paired) {
        let pairing = pairing();
        let mut rows = Rows::new();
        let row = |run: Run| Row {
            ttft_p90: if run.policy == LATE.policy { 2.0 * times(run.seed) } else { 2.0 },
            ..Row::default()
        };
        for &seed in &pairing.first {
            rows.extend([BASE, LATE].map(|side| (side.run(seed), row(side.run(seed)))));
        }
        let at_first = pairing.outcome(&rows);
        assert!(at_first.first.is_none() && at_first.regret.n_seeds == 3, "{at_first:?}");
        let runs = pairing.more_runs(&rows);
        rows.extend(runs.iter().map(|&run| (run, row(run))));
        // Whatever came of it, there is no third stage.
        assert_eq!(pairing.more_runs(&rows), BTreeSet::new());
        (runs, pairing.outcome(&rows))
    }

    /// So much more on even seeds and so much less on odd ones.
    fn swing(by: f64) -> impl Fn(u64) -> f64 {
        move |seed| if seed % 2 == 0 { 1.0 + by } else { 1.0 - by }
    }

    #[test]
    fn what_is_clear_of_its_bound_at_first_is_left_at_that() {
        let check = |times: fn(u64) -> f64| {
            let (runs, paired) = play(times);
            assert_eq!(runs, BTreeSet::new());
            assert_eq!((paired.regret.n_seeds, paired.regret.verdict), (3, Verdict::Holds));
            assert!(paired.first.is_none());
        };
        check(|_| 1.05);
        // More seeds would say otherwise, and nobody asks them.
        check(|seed| if seed > 5 { 3.0 } else { 1.0 });
        check(|_| 1.0);
    }

    #[test]
    fn what_was_as_good_on_each_of_a_few_seeds_is_judged_on_all() {
        let check = |times: fn(u64) -> f64, in_the_end| {
            let (runs, paired) = play(times);
            assert_eq!(runs.len(), 26);
            assert_eq!(paired.first.unwrap().verdict, Verdict::Holds);
            assert_eq!((paired.regret.n_seeds, paired.regret.verdict), (16, in_the_end));
        };
        check(|seed| if seed == 3 { 0.1 } else { 1.0 }, Verdict::Holds);
        let worse_later = |seed| match seed {
            3 => 0.1,
            4 | 5 => 1.0,
            _ => 1.0 + 0.4 * (seed % 2) as f64,
        };
        check(worse_later, Verdict::Unclear);
    }

    #[test]
    fn what_does_not_hold_at_first_is_judged_on_all_seeds() {
        let check = |times: &dyn Fn(u64) -> f64, at_first, in_the_end| {
            let (runs, paired) = play(times);
            let expected = (6..=18).flat_map(|seed| [BASE.run(seed), LATE.run(seed)]);
            assert_eq!(runs, expected.collect());
            let first = paired.first.unwrap();
            assert_eq!((first.n_seeds, first.verdict), (3, at_first));
            assert_eq!((paired.regret.n_seeds, paired.regret.verdict), (16, in_the_end));
        };
        check(&swing(0.1), Verdict::Unclear, Verdict::Holds);
        check(&swing(0.5), Verdict::Unclear, Verdict::Unclear);
        let worse_later = |seed| if seed > 5 { 1.3 } else { swing(0.1)(seed) };
        check(&worse_later, Verdict::Unclear, Verdict::Loses);
        check(&|_| 1.2, Verdict::Loses, Verdict::Loses);
        // The first seeds were bad luck, and they still count.
        let better_later = |seed| if seed > 5 { 1.0 } else { 1.2 };
        check(&better_later, Verdict::Loses, Verdict::Holds);
    }

    #[test]
    fn means_are_those_of_the_seeds_that_the_verdict_rests_on() {
        let (_, paired) = play(|seed| if seed > 5 { 1.0 } else { 1.2 });
        let expected = 2.0 * (3.0 * 1.2 + 13.0) / 16.0;
        assert!((paired.ours - expected).abs() < 1e-9 && (paired.base - 2.0).abs() < 1e-9);
        let logs = 3.0 * 1.2_f64.ln() / 16.0;
        assert!((paired.regret.mean - logs.exp_m1() * 100.0).abs() < 1e-9, "{paired:?}");
    }
}
