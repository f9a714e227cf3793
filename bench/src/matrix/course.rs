//! The runs of each cell in their order: what selects, what is judged, and then the baselines that were chosen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Result;
use futures_util::future::try_join_all;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::MatrixArgs;
use super::judge::{self, CellResult, Results, Rows};
use super::plan::{Cell, Plan};
use super::play::{Player, Run};

/// Cells at once, so that the last runs of one leave no core idle.
const CELLS_AT_ONCE: usize = 2;
/// One for each measure.
const MOST_CHOSEN: usize = 2;

/// Plays all cells and judges them.
pub(super) async fn play(plan: Plan, args: &MatrixArgs) -> Result<Results> {
    let player = Arc::new(Player::new(plan, args).await?);
    let cells: Vec<Arc<Cell>> = player.plan.cells.iter().cloned().map(Arc::new).collect();
    for cell in &cells {
        player.progress.plan(first_runs(&player.plan, cell).len() + n_more(&player.plan));
    }
    let n_cells = cells.len();
    let running = stream::iter(cells.into_iter().enumerate()).map(|(at, cell)| {
        let player = Arc::clone(&player);
        async move {
            let result = play_cell(&player, &cell).await?;
            player.progress.say(&format!("[{}/{n_cells}] {}", at + 1, result.line()));
            Ok::<_, anyhow::Error>((at, result))
        }
    });
    let mut results: Vec<(usize, CellResult)> =
        running.buffer_unordered(CELLS_AT_ONCE).try_collect().await?;
    results.sort_by_key(|(at, _)| *at);
    let cells = results.into_iter().map(|(_, result)| result).collect();
    Ok(Results::of(&player.plan, cells, player.progress.elapsed(), player.progress.counts()))
}

async fn play_cell(player: &Arc<Player>, cell: &Arc<Cell>) -> Result<CellResult> {
    let plan = &player.plan;
    let mut rows = Rows::new();
    let first = first_runs(plan, cell);
    play_runs(player, cell, &first, &mut rows).await?;
    let chosen: BTreeSet<usize> = judge::chosen(plan, &rows).into();
    let runs = chosen
        .iter()
        .flat_map(|&policy| plan.judge.iter().map(move |&seed| Run { seed, policy, scrapes: 0 }));
    let runs: BTreeSet<Run> = runs.filter(|run| !first.contains(run)).collect();
    player.progress.unplan(n_more(plan).saturating_sub(runs.len()));
    play_runs(player, cell, &runs, &mut rows).await?;
    judge::judge(plan, cell, &rows, player.offered(cell)?)
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

/// The most runs that the chosen baselines need.
fn n_more(plan: &Plan) -> usize {
    MOST_CHOSEN * plan.judge.len()
}
