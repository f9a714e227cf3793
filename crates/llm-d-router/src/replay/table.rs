//! Results as a table for people.

use router_sim::replay::summary::{Estimate, differences, over_seeds};

use super::{
    columns::{self, Column, has_times},
    grid::{Cell, Grid, Played, Requests},
    reasons,
};

mod groups;

/// The whole report.
pub(super) fn of(grid: &Grid, results: &[Played]) -> String {
    let has_pools = grid.pools.len() > 1;
    let mut head = vec!["configuration".to_owned(), "load".to_owned()];
    if has_pools {
        head.insert(0, "pool".to_owned());
    }
    head.extend(titles());
    let row = |cell: Cell, values: Vec<String>| {
        let mut row = vec![
            grid.configurations[cell.configuration].name.clone(),
            grid.loads[cell.load].to_string(),
        ];
        if has_pools {
            row.insert(0, grid.pools[cell.pool].name.clone());
        }
        row.extend(values);
        row
    };
    let mut rows = vec![head.clone()];
    for Played { cell, summaries } in results {
        let estimates = over_seeds(summaries);
        let has_times = has_times(summaries);
        let show = |column: &Column| shown(column, estimates[column.measure], false, has_times);
        rows.push(row(*cell, columns::in_table().map(show).collect()));
    }
    let n_text_columns = 1 + usize::from(has_pools);
    let mut text = aligned(&rows, n_text_columns);
    text += &footnote(grid);
    for reason in results.iter().filter_map(|played| reasons::of(grid, played)) {
        text.extend([&*reason, "\n"]);
    }
    if grid.configurations.len() > 1 {
        let mut rows = vec![head];
        for Played { cell, summaries } in
            results.iter().filter(|played| played.cell.configuration > 0)
        {
            let first = Cell { configuration: 0, ..*cell };
            let Some(base) = results.iter().find(|played| played.cell == first) else { continue };
            let estimates = differences(&base.summaries, summaries);
            let has_times = [summaries, &base.summaries].into_iter().all(|one| has_times(one));
            let show = |column: &Column| shown(column, estimates[column.measure], true, has_times);
            rows.push(row(*cell, columns::in_table().map(show).collect()));
        }
        let base = &grid.configurations[0].name;
        text += "\nDifference to ";
        text += base;
        text += ", seed by seed:\n";
        text += &aligned(&rows, n_text_columns);
    }
    text + &groups::of(grid, results)
}

fn shown(column: &Column, estimate: Estimate, is_difference: bool, has_times: bool) -> String {
    if column.is_shown(has_times) { column.shown(estimate, is_difference) } else { "-".to_owned() }
}

fn footnote(grid: &Grid) -> String {
    let n_seeds = grid.seeds.len();
    let (ttft, tpot) = (grid.goals.ttft, grid.goals.tpot);
    let intervals = if n_seeds > 1 {
        format!("Means of {n_seeds} seeds with 95 % intervals.")
    } else {
        "One seed: how far chance has a hand in it cannot be told.".to_owned()
    };
    let played = played(grid);
    format!(
        "{played}. {intervals} Goodput: first token within {ttft:?} and {tpot:?} per token after it.\n"
    )
}

fn n_requests(n: usize) -> String {
    format!("{n} {}", if n == 1 { "request" } else { "requests" })
}

/// What was played on what.
fn played(grid: &Grid) -> String {
    let requests = match &grid.requests {
        Requests::Trace { name, trace } => {
            format!("{} of {name}", n_requests(trace.requests.len()))
        }
        Requests::Workload { name, duration, limit: usize::MAX } => {
            format!("{name} for {}", super::page::length(*duration))
        }
        Requests::Workload { name, limit, .. } => {
            format!("{name}, {} at most,", n_requests(*limit))
        }
    };
    match &grid.pools[..] {
        [only] => format!("{requests} on {}", only.name),
        several => format!("{requests} on {} pools", several.len()),
    }
}

/// Titles of the columns: only the first of a group names it.
fn titles() -> Vec<String> {
    let mut group = "";
    let title = |column: &Column| {
        let shown_group = if column.group == group { "" } else { column.group };
        group = column.group;
        let parts = [shown_group, column.name, column.unit];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    };
    columns::in_table().map(title).collect()
}

/// Rows under each other: the first columns to the left, numbers to the right.
pub(super) fn aligned(rows: &[Vec<String>], n_text_columns: usize) -> String {
    let n_columns = rows.first().map_or(0, Vec::len);
    let width = |nth: usize| {
        let cells = rows.iter().filter_map(|row| row.get(nth));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..n_columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(nth, (cell, &width))| {
                if nth < n_text_columns {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            })
            .collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_aligned() {
        let rows = [["configuration", "load", "x"], ["a", "1.3", "12.0 ±1.5"]];
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.map(str::to_owned).into()).collect();
        let expected = "configuration  load          x\na               1.3  12.0 ±1.5\n";
        assert_eq!(aligned(&rows, 1), expected);
    }

    #[test]
    fn the_first_of_a_group_names_it() {
        assert_eq!(titles()[..5], ["goodput %", "TTFT p50 s", "p90 s", "p99 s", "TPOT p50 ms"]);
    }
}
