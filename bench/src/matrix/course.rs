//! The runs in their order: in each cell what selects, what is judged, and the baselines that were chosen; then, of
//! all cells, what is not clear of its bound on further seeds, stage by stage.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Result;
use futures_util::future::try_join_all;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::MatrixArgs;
use super::judge::{self, CellResult, Results, Rows};
use super::plan::{Cell, Plan};
use super::play::{Player, Run};
use super::regret::Verdict;

/// Cells at once, so that the last runs of one leave no core idle.
const CELLS_AT_ONCE: usize = 2;
/// One for each measure.
const MOST_CHOSEN: usize = 2;

/// A cell and what was played of it.
struct Played {
    cell: Arc<Cell>,
    rows: Rows,
    /// See [`CellResult::offered`].
    offered: f64,
}

/// Plays all cells and judges them.
pub(super) async fn play(plan: Plan, args: &MatrixArgs) -> Result<Results> {
    let player = Arc::new(Player::new(plan, args).await?);
    let plan = &player.plan;
    let mut played = first_stage(&player).await?;
    loop {
        let more = |of: &Played| judge::more_runs(plan, &of.rows);
        let runs: Vec<BTreeSet<Run>> = played.iter().map(more).collect();
        if runs.iter().all(BTreeSet::is_empty) {
            break;
        }
        played = next_stage(&player, played, runs).await?;
    }
    let cells = played.iter().map(|of| of.judge(plan)).collect::<Result<Vec<CellResult>>>()?;
    Ok(Results::of(plan, cells, player.progress.elapsed(), player.progress.counts()))
}

/// Plays the first seeds of all cells.
async fn first_stage(player: &Arc<Player>) -> Result<Vec<Played>> {
    let cells: Vec<Arc<Cell>> = player.plan.cells.iter().cloned().map(Arc::new).collect();
    for cell in &cells {
        let n_chosen = MOST_CHOSEN * player.plan.judge.len();
        player.progress.plan(first_runs(&player.plan, cell).len() + n_chosen);
    }
    let n_cells = cells.len();
    let playing = cells.into_iter().enumerate().map(|(at, cell)| async move {
        let played = play_cell(player, cell).await?;
        let line = played.judge(&player.plan)?.line(player.plan.ours());
        player.progress.say(&format!("[{}/{n_cells}] {line}", at + 1));
        Ok(played)
    });
    in_order(playing).await
}

/// Plays what each cell needs of a further stage.
async fn next_stage(
    player: &Arc<Player>,
    cells: Vec<Played>,
    runs: Vec<BTreeSet<Run>>,
) -> Result<Vec<Played>> {
    let plan = &player.plan;
    let (mut n_open, mut n_verdicts) = (0, 0);
    for played in &cells {
        let regrets = played.judge(plan)?.regrets(plan.ours());
        n_verdicts += regrets.len();
        n_open += regrets.iter().filter(|(of, _)| of.verdict != Verdict::Holds).count();
    }
    let n_cells = runs.iter().filter(|runs| !runs.is_empty()).count();
    player.progress.begin_stage();
    player.progress.plan(runs.iter().map(BTreeSet::len).sum());
    player.progress.say(&format!(
        "{n_open} of {n_verdicts} verdicts do not hold so far; {n_cells} cells play on more seeds, for what is not clear of its bound"
    ));
    let playing = cells.into_iter().zip(runs).map(|(mut played, runs)| async move {
        if !runs.is_empty() {
            play_runs(player, &played.cell, &runs, &mut played.rows).await?;
            player.progress.say(&played.judge(plan)?.line(plan.ours()));
        }
        Ok(played)
    });
    in_order(playing).await
}

/// Some cells at once; their results in the order of cells.
async fn in_order<T>(
    cells: impl Iterator<Item = impl Future<Output = Result<T>>>,
) -> Result<Vec<T>> {
    let numbered = cells.enumerate().map(|(at, cell)| async move { anyhow::Ok((at, cell.await?)) });
    let running = stream::iter(numbered).buffer_unordered(CELLS_AT_ONCE);
    let mut results: Vec<(usize, T)> = running.try_collect().await?;
    results.sort_by_key(|(at, _)| *at);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

/// The first seeds of a cell.
async fn play_cell(player: &Arc<Player>, cell: Arc<Cell>) -> Result<Played> {
    let plan = &player.plan;
    let mut rows = Rows::new();
    let first = first_runs(plan, &cell);
    play_runs(player, &cell, &first, &mut rows).await?;
    let chosen: BTreeSet<usize> = judge::chosen(plan, &rows).into();
    let runs = chosen
        .iter()
        .flat_map(|&policy| plan.judge.iter().map(move |&seed| Run { seed, policy, scrapes: 0 }));
    let runs: BTreeSet<Run> = runs.filter(|run| !first.contains(run)).collect();
    player.progress.unplan((MOST_CHOSEN * plan.judge.len()).saturating_sub(runs.len()));
    play_runs(player, &cell, &runs, &mut rows).await?;
    let offered = player.offered(&cell)?;
    Ok(Played { cell, rows, offered })
}

async fn play_runs(
    player: &Arc<Player>,
    cell: &Arc<Cell>,
    runs: &BTreeSet<Run>,
    rows: &mut Rows,
) -> Result<()> {
    let playing = runs.iter().map(|&run| {
        let row = Arc::clone(player).row(Arc::clone(cell), run);
        async move { Ok::<_, anyhow::Error>((run, row.await?)) }
    });
    rows.extend(try_join_all(playing).await?.into_iter().collect::<BTreeMap<_, _>>());
    Ok(())
}

/// All runs but those of the chosen baselines on the seeds that judge.
fn first_runs(plan: &Plan, cell: &Cell) -> BTreeSet<Run> {
    let mut runs = BTreeSet::new();
    for &seed in &plan.select {
        runs.extend((0..plan.policies.len()).map(|policy| Run { seed, policy, scrapes: 0 }));
    }
    let contrast = plan.contrast.as_ref();
    let contrast =
        contrast.filter(|(_, pools)| pools.contains(&cell.pool)).map(|(policy, _)| *policy);
    for policy in std::iter::once(judge::OURS).chain(contrast) {
        for seed in plan.late_seeds(policy) {
            runs.extend((0..plan.scrapes.len()).map(|scrapes| Run { seed, policy, scrapes }));
        }
    }
    runs
}

// === impl Played ===

impl Played {
    fn judge(&self, plan: &Plan) -> Result<CellResult> {
        judge::judge(plan, &self.cell, &self.rows, self.offered)
    }
}
