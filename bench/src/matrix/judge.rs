//! What the runs of a cell say: the best baselines, and how much worse the judged policy is.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use router_sim::replay::summary::Estimate;
use serde::Serialize;

use super::plan::{Bounds, Cell, Plan};
use super::play::Run;
use super::store::Row;
use crate::suite::{Machine, commit, date};

/// Index of the judged policy.
pub(super) const OURS: usize = 0;
/// Scrapes as the pool has them.
const OWN: usize = 0;

/// The runs of one cell.
pub(super) type Rows = BTreeMap<Run, Row>;

/// A matrix that was played.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// UTC, `YYYY-MM-DD`.
    pub date: String,
    pub commit: String,
    pub machine: Machine,
    /// Whether no cell, policy or scrape interval was left out.
    pub is_whole: bool,
    /// Name of the part, where one was asked for.
    pub part: Option<String>,
    /// Name of the judged policy.
    pub ours: String,
    pub minutes: f64,
    pub select: Vec<u64>,
    pub judge: Vec<u64>,
    /// Late metrics are judged on these as well.
    pub late: Vec<u64>,
    /// What the plan says of them.
    pub notes: Vec<String>,
    pub bounds: Bounds,
    /// Seconds that this call took.
    pub wall: f64,
    /// Runs that this call played, and runs that it found in the file of finished ones.
    pub n_played: usize,
    pub n_known: usize,
    pub cells: Vec<CellResult>,
}

/// One cell. Times are in seconds, shares from 0 to 1.
#[derive(Clone, Debug, Serialize)]
pub struct CellResult {
    /// `workload/load/pool`.
    pub name: String,
    pub load: f64,
    pub n_requests: usize,
    /// Work offered, as a share of what the servers can do at best.
    pub offered: f64,
    /// Regret in percentage points.
    pub goodput: Judged,
    /// Regret in percent.
    pub ttft_p90: Judged,
    pub stale: Vec<Stale>,
    /// All policies on the seeds that select.
    pub policies: Vec<Means>,
    /// Why ours loses, as the plan says.
    pub reason: Option<String>,
}

/// The judged policy against the best baseline of a measure, on the seeds that judge.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    pub baseline: String,
    /// Means.
    pub best: f64,
    pub ours: f64,
    /// How much worse ours is, seed by seed.
    pub regret: Regret,
}

/// What late metrics cost a policy, on the seeds that judge.
#[derive(Clone, Debug, Serialize)]
pub struct Stale {
    pub policy: String,
    pub scrapes: String,
    /// TTFT p99 with the pool's own scrapes, and with these.
    pub own: f64,
    pub late: f64,
    /// Percent by which it is longer, seed by seed.
    pub cost: Regret,
}

/// How much worse something is than something else, by pairs, in points or percent.
///
/// Ratios are averaged by their logarithms: of two that are equal but for chance, one is twice as long as often as
/// half as long, and that is no regret.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Regret {
    pub mean: f64,
    /// Upper end of its 95 % interval.
    pub upper: f64,
    pub verdict: Verdict,
}

/// A policy on the seeds that select.
#[derive(Clone, Debug, Serialize)]
pub struct Means {
    pub policy: String,
    pub goodput: f64,
    pub ttft_p50: f64,
    pub ttft_p90: f64,
    pub ttft_p99: f64,
    pub tpot_p90: f64,
    pub cached_ratio: f64,
    pub imbalance: f64,
    pub unserved: f64,
}

/// Where a regret lies with respect to its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The whole interval is within it, or there is no regret on any seed: a baseline that is far worse on one seed
    /// and a little on the others makes the interval wide, and that is no fault of ours.
    Holds,
    /// The mean is, the upper end is not.
    Unclear,
    /// The mean is not.
    Loses,
}

/// The best baselines for goodput and for TTFT p90, on the seeds that select.
pub(super) fn chosen(plan: &Plan, rows: &Rows) -> [usize; 2] {
    let mean = |policy, of: fn(&Row) -> f64| mean(rows, policy, OWN, &plan.select, of);
    let baselines = || (0..plan.policies.len()).filter(|policy| *policy != OURS);
    let ttft = |policy| mean(policy, |row| row.ttft_p90);
    // Where all reach the goals, the one that is the quickest is the best.
    let by_goodput = baselines().min_by(|&one, &other| {
        let goodput = |policy| mean(policy, |row| row.goodput);
        goodput(other).total_cmp(&goodput(one)).then(ttft(one).total_cmp(&ttft(other)))
    });
    let by_ttft = baselines().min_by(|&one, &other| ttft(one).total_cmp(&ttft(other)));
    [by_goodput.unwrap_or(OURS), by_ttft.unwrap_or(OURS)]
}

/// What the cell says, once all its runs are there.
pub(super) fn judge(plan: &Plan, cell: &Cell, rows: &Rows, offered: f64) -> Result<CellResult> {
    let [by_goodput, by_ttft] = chosen(plan, rows);
    let goodput = judged(
        plan,
        rows,
        by_goodput,
        |row| row.goodput,
        |pairs| {
            let points = pairs.iter().map(|(best, ours)| (best - ours) * 100.0);
            Regret::of_points(&points.collect::<Vec<_>>(), plan.bounds.goodput_points)
        },
    );
    let ttft_p90 = judged(
        plan,
        rows,
        by_ttft,
        |row| row.ttft_p90,
        |pairs| Regret::of_times(pairs, plan.bounds.ttft_p90_percent),
    );
    let first = rows.values().next().context("a cell without runs")?;
    Ok(CellResult {
        name: cell.name.clone(),
        load: cell.load,
        n_requests: first.n_requests,
        offered,
        goodput,
        ttft_p90,
        stale: stale(plan, rows),
        policies: (0..plan.policies.len()).map(|policy| means(plan, rows, policy)).collect(),
        reason: plan.reason(cell).map(str::to_owned),
    })
}

fn judged(
    plan: &Plan,
    rows: &Rows,
    baseline: usize,
    of: fn(&Row) -> f64,
    regret: impl Fn(&[(f64, f64)]) -> Regret,
) -> Judged {
    let best = values(rows, baseline, OWN, &plan.judge, of);
    let ours = values(rows, OURS, OWN, &plan.judge, of);
    let pairs: Vec<(f64, f64)> = best.iter().copied().zip(ours.iter().copied()).collect();
    Judged {
        baseline: plan.policies[baseline].name.clone(),
        best: Estimate::of(best.into_iter()).mean,
        ours: Estimate::of(ours.into_iter()).mean,
        regret: regret(&pairs),
    }
}

fn stale(plan: &Plan, rows: &Rows) -> Vec<Stale> {
    let mut all = Vec::new();
    let contrast = plan.contrast.as_ref().map(|(policy, _)| *policy);
    for policy in std::iter::once(OURS).chain(contrast) {
        let seeds = plan.late_seeds(policy);
        for (scrapes, named) in plan.scrapes.iter().enumerate().filter(|(at, _)| *at != OWN) {
            let late = values(rows, policy, scrapes, &seeds, |row| row.ttft_p99);
            if late.is_empty() {
                continue;
            }
            let own = values(rows, policy, OWN, &seeds, |row| row.ttft_p99);
            let pairs: Vec<(f64, f64)> = own.iter().copied().zip(late.iter().copied()).collect();
            all.push(Stale {
                policy: plan.policies[policy].name.clone(),
                scrapes: named.name.clone(),
                own: Estimate::of(own.iter().copied()).mean,
                late: Estimate::of(late.iter().copied()).mean,
                cost: Regret::of_times(&pairs, plan.bounds.stale_ttft_p99_percent),
            });
        }
    }
    all
}

fn means(plan: &Plan, rows: &Rows, policy: usize) -> Means {
    let mean = |of| mean(rows, policy, OWN, &plan.select, of);
    Means {
        policy: plan.policies[policy].name.clone(),
        goodput: mean(|row| row.goodput),
        ttft_p50: mean(|row| row.ttft_p50),
        ttft_p90: mean(|row| row.ttft_p90),
        ttft_p99: mean(|row| row.ttft_p99),
        tpot_p90: mean(|row| row.tpot_p90),
        cached_ratio: mean(|row| row.cached_ratio),
        imbalance: mean(|row| row.imbalance),
        unserved: mean(|row| row.unserved),
    }
}

fn mean(rows: &Rows, policy: usize, scrapes: usize, seeds: &[u64], of: fn(&Row) -> f64) -> f64 {
    Estimate::of(values(rows, policy, scrapes, seeds, of).into_iter()).mean
}

/// In the order of seeds.
fn values(
    rows: &Rows,
    policy: usize,
    scrapes: usize,
    seeds: &[u64],
    of: fn(&Row) -> f64,
) -> Vec<f64> {
    let row = |&seed: &u64| rows.get(&Run { seed, policy, scrapes });
    seeds.iter().filter_map(row).map(of).collect()
}

// === impl Regret ===

impl Regret {
    fn of_points(points: &[f64], bound: f64) -> Self {
        Self::of(points, bound, |points| points)
    }

    /// In percent, of pairs of what should be reached and what was; pairs without a time say nothing.
    fn of_times(pairs: &[(f64, f64)], bound: f64) -> Self {
        let has_both = |&&(base, time): &&(f64, f64)| base > 0.0 && time > 0.0;
        let logs = pairs.iter().filter(has_both).map(|(base, time)| (time / base).ln());
        Self::of(&logs.collect::<Vec<_>>(), bound, |log| log.exp_m1() * 100.0)
    }

    /// `shown` grows with the regret, and is 0 where that is.
    fn of(regrets: &[f64], bound: f64, shown: fn(f64) -> f64) -> Self {
        let estimate = Estimate::of(regrets.iter().copied());
        let (mean, upper) = (shown(estimate.mean), shown(estimate.upper()));
        let verdict = if mean > bound {
            Verdict::Loses
        } else if upper <= bound || regrets.iter().all(|regret| *regret <= 0.0) {
            Verdict::Holds
        } else {
            Verdict::Unclear
        };
        Self { mean, upper, verdict }
    }
}

// === impl Verdict ===

impl Verdict {
    /// What reports call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Unclear => "unclear",
            Self::Loses => "loses",
        }
    }
}

// === impl CellResult ===

impl CellResult {
    /// In one line.
    pub(super) fn line(&self) -> String {
        let Self { name, goodput, ttft_p90, .. } = self;
        format!(
            "{name}: goodput {:.1} %, best {:.1} % ({}), {}; TTFT p90 {:.3} s, best {:.3} s ({}), {}",
            goodput.ours * 100.0,
            goodput.best * 100.0,
            goodput.baseline,
            goodput.regret.verdict.label(),
            ttft_p90.ours,
            ttft_p90.best,
            ttft_p90.baseline,
            ttft_p90.regret.verdict.label(),
        )
    }
}

// === impl Results ===

impl Results {
    pub(super) fn of(
        plan: &Plan,
        cells: Vec<CellResult>,
        wall: Duration,
        (n_played, n_known): (usize, usize),
    ) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            date: date(now.map_or(0, |now| now.as_secs())),
            commit: commit(),
            machine: Machine::here(),
            is_whole: plan.is_whole,
            part: plan.part.clone(),
            ours: plan.policies[OURS].name.clone(),
            minutes: plan.duration.as_secs_f64() / 60.0,
            select: plan.select.clone(),
            judge: plan.judge.clone(),
            late: plan.late.clone(),
            notes: plan.scrapes.iter().filter_map(|scrapes| scrapes.note.clone()).collect(),
            bounds: plan.bounds,
            wall: wall.as_secs_f64(),
            n_played,
            n_known,
            cells,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_goes_by_the_interval_and_by_each_seed() {
        let check = |regrets: &[f64], expected| {
            assert_eq!(Regret::of_points(regrets, 3.0).verdict, expected);
        };
        check(&[0.1, 0.2, 0.3], Verdict::Holds);
        check(&[3.1, 3.1, 3.1], Verdict::Loses);
        // The mean is 2, the upper end 2 + 4.303 / sqrt(3).
        check(&[1.0, 2.0, 3.0], Verdict::Unclear);
        // Wide, but never worse.
        check(&[-16.0, -0.1, 0.0], Verdict::Holds);
        check(&[-16.0, -0.1, 0.1], Verdict::Unclear);
        check(&[2.0], Verdict::Holds);
    }

    #[test]
    fn twice_as_long_and_half_as_long_are_no_regret() {
        let of = |pairs: &[(f64, f64)]| Regret::of_times(pairs, 5.0);
        let longer = of(&[(2.0, 3.0), (4.0, 6.0)]);
        assert!((longer.mean - 50.0).abs() < 1e-9 && (longer.upper - 50.0).abs() < 1e-9);
        assert_eq!(longer.verdict, Verdict::Loses);
        let chance = of(&[(1.0, 2.0), (2.0, 1.0)]);
        assert!(chance.mean.abs() < 1e-9 && chance.upper > 100.0, "{chance:?}");
        assert_eq!(chance.verdict, Verdict::Unclear);
        let nothing = Regret { mean: 0.0, upper: 0.0, verdict: Verdict::Holds };
        assert_eq!(of(&[(0.0, 1.0), (1.0, 0.0)]), nothing);
    }
}
