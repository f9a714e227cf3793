//! What the runs of a cell say: the best baselines, and how much worse the judged policy is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};
use router_sim::replay::summary::Estimate;
use serde::Serialize;

use super::pairing::{Paired, Pairing, Side};
use super::plan::{Bounds, Cell, Plan};
use super::play::Run;
use super::regret::{Regret, Scale, Verdict};
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
    /// By stage, and on these as well, what is not clear of its bound on the former: regret, and late metrics.
    pub judge_more: Vec<Vec<u64>>,
    pub late_more: Vec<Vec<u64>>,
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
    /// On the first seeds alone, where those did not settle it.
    pub first: Option<Regret>,
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
    /// On the first seeds alone, where those did not settle it.
    pub first: Option<Regret>,
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
    let [goodput, ttft_p90] = regrets(plan, rows).map(|pairing| judged(plan, rows, &pairing));
    let first = rows.values().next().context("a cell without runs")?;
    Ok(CellResult {
        name: cell.name.clone(),
        load: cell.load,
        n_requests: first.n_requests,
        offered,
        goodput,
        ttft_p90,
        stale: late(plan).iter().filter_map(|pairing| stale(plan, rows, pairing)).collect(),
        policies: (0..plan.policies.len()).map(|policy| means(plan, rows, policy)).collect(),
        reason: plan.reason(cell).map(str::to_owned),
    })
}

/// The runs of the next stage, once those of the stages before are there.
pub(super) fn more_runs(plan: &Plan, rows: &Rows) -> BTreeSet<Run> {
    let pairings = regrets(plan, rows).into_iter().chain(late(plan));
    pairings.flat_map(|pairing| pairing.more_runs(rows)).collect()
}

/// Ours against the best baselines: by goodput and by TTFT p90.
fn regrets(plan: &Plan, rows: &Rows) -> [Pairing; 2] {
    let [by_goodput, by_ttft] = chosen(plan, rows);
    let against = |policy, of: fn(&Row) -> f64, scale, bound| Pairing {
        base: Side { policy, scrapes: OWN },
        ours: Side { policy: OURS, scrapes: OWN },
        of,
        scale,
        bound,
        first: plan.judge.clone(),
        more: plan.judge_more.clone(),
    };
    [
        against(by_goodput, |row| row.goodput, Scale::Points, plan.bounds.goodput_points),
        against(by_ttft, |row| row.ttft_p90, Scale::Times, plan.bounds.ttft_p90_percent),
    ]
}

/// Policies with late metrics against themselves with the pool's own scrapes.
fn late(plan: &Plan) -> Vec<Pairing> {
    let mut all = Vec::new();
    let contrast = plan.contrast.as_ref().map(|(policy, _)| *policy);
    for policy in std::iter::once(OURS).chain(contrast) {
        for scrapes in (0..plan.scrapes.len()).filter(|scrapes| *scrapes != OWN) {
            all.push(Pairing {
                base: Side { policy, scrapes: OWN },
                ours: Side { policy, scrapes },
                of: |row| row.ttft_p99,
                scale: Scale::Times,
                bound: plan.bounds.stale_ttft_p99_percent,
                first: plan.late_seeds(policy),
                // Nothing is asked of the contrast.
                more: if policy == OURS { plan.late_more.clone() } else { Vec::new() },
            });
        }
    }
    all
}

fn judged(plan: &Plan, rows: &Rows, pairing: &Pairing) -> Judged {
    let Paired { base, ours, regret, first } = pairing.outcome(rows);
    let baseline = plan.policies[pairing.base.policy].name.clone();
    Judged { baseline, best: base, ours, regret, first }
}

/// Nothing where a policy did not play with these scrapes.
fn stale(plan: &Plan, rows: &Rows, pairing: &Pairing) -> Option<Stale> {
    let Side { policy, scrapes } = pairing.ours;
    if !pairing.first.iter().any(|&seed| rows.contains_key(&pairing.ours.run(seed))) {
        return None;
    }
    let Paired { base, ours, regret, first } = pairing.outcome(rows);
    Some(Stale {
        policy: plan.policies[policy].name.clone(),
        scrapes: plan.scrapes[scrapes].name.clone(),
        own: base,
        late: ours,
        cost: regret,
        first,
    })
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

// === impl CellResult ===

impl CellResult {
    /// In one line.
    pub(super) fn line(&self, ours: &str) -> String {
        let Self { name, goodput, ttft_p90, .. } = self;
        let mut line = format!(
            "{name}: goodput {:.1} %, best {:.1} % ({}), {}; TTFT p90 {:.3} s, best {:.3} s ({}), {}",
            goodput.ours * 100.0,
            goodput.best * 100.0,
            goodput.baseline,
            goodput.regret.verdict.label(),
            ttft_p90.ours,
            ttft_p90.best,
            ttft_p90.baseline,
            ttft_p90.regret.verdict.label(),
        );
        for of in self.stale.iter().filter(|of| of.policy == ours) {
            if of.cost.verdict != Verdict::Holds {
                line.extend(["; scrapes ", of.scrapes.as_str(), " ", of.cost.verdict.label()]);
            }
        }
        line
    }

    /// The regrets that bounds are for: of goodput, of TTFT p90 and of late metrics, with those on the first seeds.
    pub(super) fn regrets(&self, ours: &str) -> Vec<(Regret, Option<Regret>)> {
        let of_cell = [&self.goodput, &self.ttft_p90].map(|judged| (judged.regret, judged.first));
        let late = self.stale.iter().filter(|of| of.policy == ours);
        of_cell.into_iter().chain(late.map(|of| (of.cost, of.first))).collect()
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
            ours: plan.ours().to_owned(),
            minutes: plan.duration.as_secs_f64() / 60.0,
            select: plan.select.clone(),
            judge: plan.judge.clone(),
            late: plan.late.clone(),
            judge_more: plan.judge_more.clone(),
            late_more: plan.late_more.clone(),
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
    use crate::matrix::{PLAN, plan_with};

    /// Of the plan's, whose own scrapes come first.
    const EVERY_5S: usize = 1;

    /// Ours and, of the baselines, the quickest and the one with the most goodput.
    fn row(run: Run, [quickest, best]: [usize; 2]) -> Row {
        let swing: f64 = if run.seed.is_multiple_of(2) { 2.0 } else { 0.5 };
        let (goodput, ttft) = match (run.policy, run.scrapes) {
            (OURS, EVERY_5S) => (0.9, 1.0),
            // Up and down on every other seed against what the others have.
            (OURS, _) => (0.9, swing),
            (policy, _) if policy == quickest => (0.5, 1.0),
            (policy, _) if policy == best => (0.91, 2.0),
            _ => (0.5, 2.0),
        };
        Row { goodput, ttft_p90: ttft, ttft_p99: ttft, n_requests: 7, ..Row::default() }
    }

    #[test]
    fn only_the_two_sides_of_what_does_not_hold_play_again() {
        let plan = plan_with(PLAN, "").unwrap();
        let of = [3, 5];
        let mut rows = Rows::new();
        for policy in 0..plan.policies.len() {
            let seeds = plan.select.iter().copied().chain(plan.late_seeds(policy));
            for run in seeds.flat_map(|seed| {
                (0..plan.scrapes.len()).map(move |scrapes| Run { seed, policy, scrapes })
            }) {
                rows.insert(run, row(run, of));
            }
        }
        assert_eq!(chosen(&plan, &rows), [of[1], of[0]]);

        // Goodput is a point behind on every seed, within its bound. TTFT p90 and scrapes every 5 s are not clear.
        let mut expected = BTreeSet::new();
        for seed in 6..=18 {
            expected.insert(Run { seed, policy: of[0], scrapes: OWN });
        }
        for seed in 11..=34 {
            expected.extend([OWN, EVERY_5S].map(|scrapes| Run { seed, policy: OURS, scrapes }));
        }
        let mut play = |expected: &BTreeSet<Run>| {
            assert_eq!(more_runs(&plan, &rows), *expected);
            rows.extend(expected.iter().map(|&run| (run, row(run, of))));
        };
        play(&expected);
        // Neither are they on these.
        expected.clear();
        for seed in 19..=66 {
            expected.extend([of[0], OURS].map(|policy| Run { seed, policy, scrapes: OWN }));
        }
        for seed in 35..=130 {
            expected.extend([OWN, EVERY_5S].map(|scrapes| Run { seed, policy: OURS, scrapes }));
        }
        // What plays in both, plays once.
        expected.retain(|run| run.seed > 34 || run.policy != OURS);
        play(&expected);
        // Nor on these.
        expected.clear();
        for seed in 67..=514 {
            expected.extend([of[0], OURS].map(|policy| Run { seed, policy, scrapes: OWN }));
        }
        for seed in 131..=514 {
            expected.extend([OWN, EVERY_5S].map(|scrapes| Run { seed, policy: OURS, scrapes }));
        }
        expected.retain(|run| run.seed > 130 || run.policy != OURS);
        play(&expected);
        // TTFT p90 holds on these, and scrapes every 5 s on the last.
        expected.clear();
        for seed in 515..=2050 {
            expected.extend([OWN, EVERY_5S].map(|scrapes| Run { seed, policy: OURS, scrapes }));
        }
        play(&expected);
        play(&BTreeSet::new());
        let cell = judge(&plan, &plan.cells[0], &rows, 0.5).unwrap();
        let rests_on = |regret: &Regret, first: Option<Regret>| {
            (regret.n_seeds, first.map(|first| first.n_seeds), regret.verdict)
        };
        let of_goodput = rests_on(&cell.goodput.regret, cell.goodput.first);
        assert_eq!(of_goodput, (3, None, Verdict::Holds));
        let of_ttft = rests_on(&cell.ttft_p90.regret, cell.ttft_p90.first);
        assert_eq!(of_ttft, (512, Some(3), Verdict::Holds));
        for late in &cell.stale {
            let found = rests_on(&late.cost, late.first);
            match (late.policy == plan.ours(), late.scrapes.as_str()) {
                (true, "5s") => assert_eq!(found, (2048, Some(8), Verdict::Holds)),
                (true, _) => assert_eq!(found, (8, None, Verdict::Holds)),
                // The contrast shows what late metrics do, and nothing is asked of it.
                (false, _) => assert_eq!(found, (3, None, Verdict::Holds)),
            }
        }
        assert_eq!(cell.stale.len(), 2 * (plan.scrapes.len() - 1));
        let regrets = cell.regrets(plan.ours());
        assert_eq!(regrets.len(), 2 + plan.scrapes.len() - 1);
        assert_eq!(regrets.iter().filter(|(_, first)| first.is_some()).count(), 2);
        let line = cell.line(plan.ours());
        assert!(line.ends_with("TTFT p90 1.250 s, best 1.000 s (least-requests), holds"), "{line}");
    }
}
