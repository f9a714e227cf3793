//! What is to be played: `matrix.toml`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use router_sim::replay::policy;
use router_sim::replay::pool::Pool;
use router_sim::replay::summary::Goals;
use router_sim::replay::workload::WORKLOADS;
use serde::Deserialize;

use super::MatrixArgs;
use super::judge::OURS;

/// More seconds than a run lasts.
const MAX_SECONDS: f64 = 1e6;

/// What one call plays, checked.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Length of a run until the last arrival, as servers see it.
    pub(super) duration: Duration,
    pub(super) select: Vec<u64>,
    pub(super) judge: Vec<u64>,
    /// Late metrics are judged on these as well: the slowest requests differ more from seed to seed.
    pub(super) late: Vec<u64>,
    /// By stage; what is open after the seeds before is judged on these as well.
    pub(super) judge_more: Vec<Vec<u64>>,
    pub(super) late_more: Vec<Vec<u64>>,
    pub(super) goals: Goals,
    pub(super) bounds: Bounds,
    /// The one that is judged comes first.
    pub(super) policies: Vec<Policy>,
    /// The pool's own scrapes come first.
    pub(super) scrapes: Vec<Scrapes>,
    /// Index of the policy that late metrics are shown with besides the one that is judged, and pools by index.
    pub(super) contrast: Option<(usize, BTreeSet<usize>)>,
    pub(super) pools: Vec<NamedPool>,
    pub(super) workloads: Vec<Workload>,
    pub(super) cells: Vec<Cell>,
    pub(super) reasons: Vec<Reason>,
    /// Whether nothing was left out.
    pub(super) is_whole: bool,
    /// Of a part.
    pub(super) part: Option<String>,
}

/// How much worse than the best a cell may be.
#[derive(Clone, Copy, Debug, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Percentage points of goodput.
    pub goodput_points: f64,
    /// Percent of TTFT p90.
    pub ttft_p90_percent: f64,
    /// Percent of TTFT p99 that late metrics may cost.
    pub stale_ttft_p99_percent: f64,
}

#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) document: String,
}

#[derive(Clone, Debug)]
pub(super) struct Scrapes {
    pub(super) name: String,
    pub(super) interval: Option<Duration>,
    pub(super) note: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct NamedPool {
    pub(super) name: String,
    /// As the plan has it.
    pub(super) document: String,
    pub(super) pool: Pool,
    /// As much as so many servers of the default profile.
    pub(super) capacity: f64,
    load_factor: f64,
}

#[derive(Clone, Debug)]
pub(super) struct Workload {
    pub(super) name: String,
    /// File of a recorded trace; made up where there is none.
    pub(super) trace: Option<String>,
    /// The most requests of a run.
    pub(super) limit: usize,
}

/// A workload at a load on a pool. Indices are those of the plan.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) workload: usize,
    pub(super) load: f64,
    pub(super) pool: usize,
    /// `workload/load/pool`.
    pub(super) name: String,
}

/// Why ours loses in some cells, in a person's words.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reason {
    /// What their names contain.
    pub(super) cells: Vec<String>,
    pub(super) why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPlan {
    minutes: f64,
    ours: String,
    seeds: RawSeeds,
    goals: RawGoals,
    bounds: Bounds,
    #[serde(default)]
    stale: Vec<RawScrapes>,
    contrast: Option<RawContrast>,
    pool: Vec<RawPool>,
    workload: Vec<RawWorkload>,
    #[serde(default)]
    part: Vec<RawPart>,
    #[serde(default)]
    reason: Vec<Reason>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSeeds {
    select: Vec<u64>,
    judge: Vec<u64>,
    #[serde(default)]
    late: Vec<u64>,
    /// How many there are after each further stage.
    #[serde(default)]
    judge_in_all: Vec<usize>,
    #[serde(default)]
    late_in_all: Vec<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGoals {
    ttft_s: f64,
    tpot_s: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScrapes {
    name: String,
    /// Never where nothing is said.
    seconds: Option<f64>,
    /// What readers should know of it.
    note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawContrast {
    policy: String,
    pools: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPool {
    name: String,
    servers: String,
    /// On the loads of all workloads.
    #[serde(default = "one")]
    load_factor: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWorkload {
    name: String,
    trace: Option<String>,
    loads: BTreeMap<String, f64>,
    /// By name of the pool, in place of its own.
    #[serde(default)]
    load_factors: BTreeMap<String, f64>,
    limit: Option<usize>,
    #[serde(default)]
    is_extra: bool,
}

/// Some cells, played for less long and against fewer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPart {
    name: String,
    cells: Vec<String>,
    minutes: Option<f64>,
    /// In place of the plan's.
    judge_in_all: Option<Vec<usize>>,
    /// All where nothing is said.
    baselines: Option<Vec<String>>,
}

// === impl Plan ===

impl Plan {
    /// Reads a plan and takes from it what the flags ask for.
    pub(super) fn parse(text: &str, args: &MatrixArgs) -> Result<Self> {
        let raw: RawPlan = toml::from_str(text)?;
        let part = match &args.part {
            None => None,
            Some(name) => {
                let found = raw.part.iter().find(|part| part.name == *name);
                Some(found.with_context(|| format!("there is no part called {name}"))?)
            }
        };
        let pools = raw.pool.iter().map(pool).collect::<Result<Vec<_>>>()?;
        let workloads = raw.workload.iter().map(workload).collect::<Result<Vec<_>>>()?;
        let policies = policies(&raw, part, args)?;
        let cells = cells(&raw, part, &pools, &args.cells);
        let contrast = match (&raw.contrast, part, args.no_stale) {
            (Some(contrast), None, false) => Some(contrasted(contrast, &policies, &pools)?),
            _ => None,
        };
        let has_stale = part.is_none() && !args.no_stale;
        let is_whole = part.is_none() && args.cells.is_empty() && has_stale && args.ours.is_none();
        ensure!(
            !raw.seeds.select.is_empty() && !raw.seeds.judge.is_empty(),
            "seeds to select and seeds to judge by must be named"
        );
        ensure!(
            raw.seeds.select.iter().all(|seed| !raw.seeds.judge.contains(seed)),
            "a seed cannot both select and judge"
        );
        ensure!(
            raw.seeds.late.iter().all(|seed| !raw.seeds.judge.contains(seed)),
            "seeds that judge judge late metrics, too"
        );
        let of_part = part.and_then(|part| part.judge_in_all.as_ref());
        let judge_in_all = of_part.unwrap_or(&raw.seeds.judge_in_all);
        let judge_more = more_seeds(&raw.seeds.select, &raw.seeds.judge, judge_in_all)?;
        let late = [&raw.seeds.judge[..], &raw.seeds.late].concat();
        let late_more = more_seeds(&raw.seeds.select, &late, &raw.seeds.late_in_all)?;
        Ok(Self {
            duration: seconds(part.and_then(|part| part.minutes).unwrap_or(raw.minutes) * 60.0)?,
            select: raw.seeds.select,
            judge: raw.seeds.judge,
            late: raw.seeds.late,
            judge_more,
            late_more,
            goals: Goals { ttft: seconds(raw.goals.ttft_s)?, tpot: seconds(raw.goals.tpot_s)? },
            bounds: raw.bounds,
            policies,
            scrapes: scrapes(if has_stale { &raw.stale } else { &[] })?,
            contrast,
            pools,
            workloads,
            cells,
            reasons: raw.reason,
            is_whole,
            part: args.part.clone(),
        })
    }

    /// Name of the policy that is judged.
    pub(super) fn ours(&self) -> &str {
        &self.policies[OURS].name
    }

    /// Seeds on which late metrics of a policy are judged.
    pub(super) fn late_seeds(&self, policy: usize) -> Vec<u64> {
        let more = if policy == OURS && self.scrapes.len() > 1 { &self.late[..] } else { &[] };
        self.judge.iter().chain(more).copied().collect()
    }

    /// Why ours loses in this cell, as far as the plan says.
    pub(super) fn reason(&self, cell: &Cell) -> Option<&str> {
        let matches = |reason: &&Reason| is_chosen(&cell.name, &reason.cells);
        self.reasons.iter().find(matches).map(|reason| reason.why.as_str())
    }
}

fn one() -> f64 {
    1.0
}

/// For each stage the next numbers after the last of `first` that do not select, until there are so many in all.
fn more_seeds(select: &[u64], first: &[u64], in_all: &[usize]) -> Result<Vec<Vec<u64>>> {
    let last = first.iter().copied().max().unwrap_or_default();
    let mut numbers = (last.saturating_add(1)..).filter(|seed| !select.contains(seed));
    let mut stages = Vec::new();
    let mut n_before = first.len();
    for &n_in_all in in_all {
        ensure!(n_in_all > n_before, "{n_in_all} seeds in all, and {n_before} before");
        stages.push(numbers.by_ref().take(n_in_all - n_before).collect::<Vec<_>>());
        n_before = n_in_all;
    }
    Ok(stages)
}

fn is_chosen(name: &str, patterns: &[String]) -> bool {
    patterns.iter().any(|pattern| name.contains(pattern.as_str()))
}

fn cells(
    raw: &RawPlan,
    part: Option<&RawPart>,
    pools: &[NamedPool],
    patterns: &[String],
) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (workload_idx, workload) in raw.workload.iter().enumerate() {
        let mut loads: Vec<(&String, f64)> =
            workload.loads.iter().map(|(name, load)| (name, *load)).collect();
        loads.sort_by(|one, other| one.1.total_cmp(&other.1));
        for (load_name, load) in loads {
            for (pool_idx, pool) in pools.iter().enumerate() {
                let name = format!("{}/{load_name}/{}", workload.name, pool.name);
                let is_in_part = part.is_none_or(|part| is_chosen(&name, &part.cells));
                // An extra one must be asked for by its name.
                let is_offered = !workload.is_extra
                    || patterns.iter().any(|pattern| pattern.contains(&workload.name));
                let is_asked_for =
                    is_offered && (patterns.is_empty() || is_chosen(&name, patterns));
                if is_in_part && is_asked_for {
                    let load =
                        load * workload.load_factors.get(&pool.name).unwrap_or(&pool.load_factor);
                    cells.push(Cell { workload: workload_idx, load, pool: pool_idx, name });
                }
            }
        }
    }
    cells
}

fn policies(raw: &RawPlan, part: Option<&RawPart>, args: &MatrixArgs) -> Result<Vec<Policy>> {
    let preset = |name: &str| {
        let preset = policy::preset(name);
        let preset = preset.with_context(|| format!("there is no preset called {name}"))?;
        Ok::<_, anyhow::Error>(Policy {
            name: name.to_owned(),
            document: preset.document.to_owned(),
        })
    };
    let mut ours = preset(&raw.ours)?;
    if let Some(path) = &args.ours {
        ours.document =
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    }
    let mut policies = vec![ours];
    match part.and_then(|part| part.baselines.as_ref()) {
        Some(names) => {
            for name in names {
                policies.push(preset(name)?);
            }
        }
        None => {
            for known in policy::PRESETS.iter().filter(|preset| preset.name != raw.ours) {
                policies.push(preset(known.name)?);
            }
        }
    }
    ensure!(policies.len() > 1, "there is no baseline");
    Ok(policies)
}

fn contrasted(
    raw: &RawContrast,
    policies: &[Policy],
    pools: &[NamedPool],
) -> Result<(usize, BTreeSet<usize>)> {
    let policy = policies.iter().position(|policy| policy.name == raw.policy);
    let policy = policy.with_context(|| format!("there is no policy called {}", raw.policy))?;
    let mut of_pools = BTreeSet::new();
    for name in &raw.pools {
        let at = pools.iter().position(|pool| pool.name == *name);
        of_pools.insert(at.with_context(|| format!("there is no pool called {name}"))?);
    }
    Ok((policy, of_pools))
}

fn scrapes(raw: &[RawScrapes]) -> Result<Vec<Scrapes>> {
    let own = Scrapes {
        name: "50ms".to_owned(),
        interval: router_sim::replay::pool::Scrape::default().interval,
        note: None,
    };
    let mut scrapes = vec![own];
    for RawScrapes { name, seconds: length, note } in raw {
        let interval = length.map(seconds).transpose()?;
        scrapes.push(Scrapes { name: name.clone(), interval, note: note.clone() });
    }
    Ok(scrapes)
}

fn pool(raw: &RawPool) -> Result<NamedPool> {
    let pool = Pool::parse(&raw.name, raw.servers.as_bytes())?;
    let factors = pool.servers.iter().map(|server| server.profile.time_factor);
    ensure!(factors.clone().all(|factor| factor > 0.0), "pool {}: a time factor of 0", raw.name);
    let capacity = factors.map(|factor| 1.0 / factor).sum();
    let load_factor = raw.load_factor;
    ensure!(load_factor > 0.0 && load_factor.is_finite(), "pool {}: load_factor", raw.name);
    let (name, document) = (raw.name.clone(), raw.servers.clone());
    Ok(NamedPool { name, document, pool, capacity, load_factor })
}

fn workload(raw: &RawWorkload) -> Result<Workload> {
    let is_known = WORKLOADS.iter().any(|workload| workload.name == raw.name);
    if !is_known && raw.trace.is_none() {
        bail!("there is no workload called {}, and no trace is named", raw.name);
    }
    let is_load = |load: &f64| *load > 0.0 && load.is_finite();
    let mut loads = raw.loads.values().chain(raw.load_factors.values());
    ensure!(loads.all(is_load), "loads of {} must be above 0", raw.name);
    Ok(Workload {
        name: raw.name.clone(),
        trace: raw.trace.clone(),
        limit: raw.limit.unwrap_or(usize::MAX),
    })
}

fn seconds(seconds: f64) -> Result<Duration> {
    ensure!(seconds > 0.0 && seconds < MAX_SECONDS, "{seconds} s is no length of time to play");
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::{PLAN, plan_with};

    fn plan(flags: &str) -> Result<Plan> {
        plan_with(PLAN, flags)
    }

    #[test]
    fn the_whole_matrix_is_what_it_is_said_to_be() {
        let plan = plan("").unwrap();
        assert!(plan.is_whole);
        // Eight workloads, four loads, two pools.
        assert_eq!(plan.cells.len(), 8 * 4 * 2);
        assert_eq!(plan.policies.len(), policy::PRESETS.len());
        assert_eq!(plan.policies[0].name, "estimated-ttft");
        assert_eq!(plan.duration, Duration::from_mins(15));
        assert_eq!(plan.goals, Goals::default());
        let scrapes: Vec<&str> = plan.scrapes.iter().map(|scrapes| &*scrapes.name).collect();
        assert_eq!(scrapes, ["50ms", "5s", "60s", "never"]);
        let capacities: Vec<f64> = plan.pools.iter().map(|pool| pool.capacity).collect();
        assert_eq!(capacities, [8.0, 6.0]);
        // Regret is judged on 16, 64, 512 and in the end 2,048 seeds, late metrics on 32, 128, 512 and 2,048.
        let stages = |stages: [std::ops::RangeInclusive<u64>; 4]| stages.map(Vec::from_iter);
        assert_eq!(plan.judge_more, stages([6..=18, 19..=66, 67..=514, 515..=2050]));
        assert_eq!(plan.late_more, stages([11..=34, 35..=130, 131..=514, 515..=2050]));
    }

    #[test]
    fn more_seeds_follow_those_at_first_and_do_not_select() {
        let check = |in_all: &[usize], expected: &[&[u64]]| {
            assert_eq!(more_seeds(&[1, 7], &[3, 5], in_all).unwrap(), expected);
        };
        check(&[], &[]);
        check(&[5], &[&[6, 8, 9]]);
        check(&[3, 5, 6], &[&[6], &[8, 9], &[10]]);
    }

    #[test]
    fn cells_are_chosen_by_what_their_names_contain() {
        let check = |flags: &str, n_cells| {
            let plan = plan(flags).unwrap();
            assert_eq!((plan.cells.len(), plan.is_whole), (n_cells, false), "{flags}");
        };
        check("--cells sessions/", 8);
        check("--cells sessions/near/mixed --cells agents/near", 3);
        check("--cells past/homogeneous", 8);
        check("--cells diurnal", 8);
        check("--cells nowhere", 0);
        check("--part smoke", 4);
        check("--part smoke --cells rag", 1);
        let of_part = plan("--part smoke").unwrap();
        assert_eq!((of_part.policies.len(), of_part.scrapes.len()), (4, 1));
        assert_eq!(of_part.judge_more, [[6, 7]]);
        assert!(plan("--part nothing").is_err());
    }

    #[test]
    fn what_cannot_be_played_is_refused() {
        let check = |from: &str, to: &str, expected: &str| {
            assert!(PLAN.contains(from), "{from}");
            let error = plan_with(&PLAN.replacen(from, to, 1), "").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("judge = [3, 4, 5]", "judge = [2, 3]", "a seed cannot both select and judge");
        check("judge = [3, 4, 5]", "judge = []", "must be named");
        check("late = [6", "late = [5", "judge late metrics, too");
        check("judge_in_all = [16", "judge_in_all = [3", "3 seeds in all, and 3 before");
        check(
            "late_in_all = [32, 128, 512, 2048]",
            "late_in_all = [32, 9]",
            "9 seeds in all, and 32 before",
        );
        check("minutes = 15", "minutes = 0", "no length of time");
        check("ours = \"estimated-ttft\"", "ours = \"theirs\"", "no preset called theirs");
        check("policy = \"go-default\"", "policy = \"none\"", "no policy called none");
        check("time-factor: 2", "time-factor: 0", "a time factor of 0");
        check("load_factor = ", "load_factor = -", "load_factor");
        check("name = \"rag\"", "name = \"rags\"", "no workload called rags");
        check("light = 0.25", "light = -1.0", "must be above 0");
    }
}
