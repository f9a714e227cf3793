//! Results as a table for people.

use router_sim::replay::summary::{Estimate, differences, over_seeds};

use super::grid::{Cell, Grid, Played};

/// A column: its title, the measure, the factor to its unit, and digits after the point.
struct Column {
    title: &'static str,
    measure: &'static str,
    factor: f64,
    digits: usize,
}

const fn column(title: &'static str, measure: &'static str, factor: f64, digits: usize) -> Column {
    Column { title, measure, factor, digits }
}

const COLUMNS: [Column; 9] = [
    column("goodput %", "goodput", 100.0, 1),
    column("TTFT p50 s", "ttft_p50", 1.0, 3),
    column("p90 s", "ttft_p90", 1.0, 2),
    column("p99 s", "ttft_p99", 1.0, 2),
    column("TPOT p50 ms", "tpot_p50", 1e3, 1),
    column("p90 ms", "tpot_p90", 1e3, 1),
    column("cached %", "cached_ratio", 100.0, 1),
    column("max/mean", "imbalance", 1.0, 2),
    column("unserved %", "unserved", 100.0, 2),
];

/// The whole report.
pub(super) fn of(grid: &Grid, results: &[Played]) -> String {
    let has_pools = grid.pools.len() > 1;
    let mut head = vec!["configuration".to_owned(), "load".to_owned()];
    if has_pools {
        head.insert(0, "pool".to_owned());
    }
    head.extend(COLUMNS.iter().map(|column| column.title.to_owned()));
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
        let show = |column: &Column| shown(estimates[column.measure], column, false);
        rows.push(row(*cell, COLUMNS.iter().map(show).collect()));
    }
    let n_text_columns = 1 + usize::from(has_pools);
    let mut text = aligned(&rows, n_text_columns);
    text += &footnote(grid);
    if grid.configurations.len() > 1 {
        let mut rows = vec![head];
        for Played { cell, summaries } in
            results.iter().filter(|played| played.cell.configuration > 0)
        {
            let first = Cell { configuration: 0, ..*cell };
            let Some(base) = results.iter().find(|played| played.cell == first) else { continue };
            let estimates = differences(&base.summaries, summaries);
            let show = |column: &Column| shown(estimates[column.measure], column, true);
            rows.push(row(*cell, COLUMNS.iter().map(show).collect()));
        }
        let base = &grid.configurations[0].name;
        text += "\nDifference to ";
        text += base;
        text += ", seed by seed:\n";
        text += &aligned(&rows, n_text_columns);
    }
    text
}

fn footnote(grid: &Grid) -> String {
    let n_seeds = grid.seeds.len();
    let (ttft, tpot) = (grid.goals.ttft, grid.goals.tpot);
    let intervals = if n_seeds > 1 {
        format!("Means of {n_seeds} seeds with 95 % intervals.")
    } else {
        "One seed: how far chance has a hand in it cannot be told.".to_owned()
    };
    format!("{intervals} Goodput: first token within {ttft:?} and {tpot:?} per token after it.\n")
}

fn shown(estimate: Estimate, column: &Column, is_difference: bool) -> String {
    let Column { factor, digits, .. } = *column;
    let mean = estimate.mean * factor;
    let mean = if is_difference { format!("{mean:+.digits$}") } else { format!("{mean:.digits$}") };
    match estimate.half_width {
        Some(half_width) => format!("{mean} ±{:.digits$}", half_width * factor),
        None => mean,
    }
}

/// Rows under each other: the first columns to the left, numbers to the right.
fn aligned(rows: &[Vec<String>], n_text_columns: usize) -> String {
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
    fn numbers_have_their_unit_and_interval() {
        let check = |mean, half_width, is_difference, expected: &str| {
            let estimate = Estimate { mean, half_width, n: 3 };
            let column = column("goodput %", "goodput", 100.0, 1);
            assert_eq!(shown(estimate, &column, is_difference), expected);
        };
        check(0.8767, Some(0.0123), false, "87.7 ±1.2");
        check(0.8767, None, false, "87.7");
        check(0.01, Some(0.02), true, "+1.0 ±2.0");
        check(-0.01, None, true, "-1.0");
    }
}
