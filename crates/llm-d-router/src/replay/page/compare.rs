//! The difference between any two configurations: the data that the script takes it from.

use router_sim::replay::summary::{Better, MEASURES, half_width_factor, measure_named};
use serde::Serialize;

use super::{View, verdict};
use crate::replay::columns::COLUMNS;

/// What the script gets. It puts names in as text, never as HTML.
#[derive(Serialize)]
pub(super) struct Data<'a> {
    configurations: &'a [String],
    pools: &'a [String],
    loads: &'a [f64],
    measures: Vec<Row>,
    /// Half of a 95 % interval over the standard deviation, for this number of seeds.
    half_width_factor: Option<f64>,
    cells: Vec<Cell>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    unit: &'static str,
    factor: f64,
    digits: usize,
    /// 1 where more is better, -1 where less is, 0 where nothing follows from it.
    better: i8,
}

/// The runs of a configuration with a pool and a load.
#[derive(Serialize)]
struct Cell {
    pool: usize,
    load: usize,
    configuration: usize,
    /// By measure, then by seed.
    values: Vec<Vec<f64>>,
}

pub(super) fn data<'a>(view: &'a View<'_>) -> Data<'a> {
    let row = |column: &crate::replay::columns::Column| Row {
        name: format!("{} {}", column.group, column.name).trim().to_owned(),
        unit: column.unit,
        factor: column.factor,
        digits: column.digits,
        better: match measure_named(column.measure).and_then(|measure| measure.better) {
            Some(Better::Higher) => 1,
            Some(Better::Lower) => -1,
            None => 0,
        },
    };
    let cells = view.panels.iter().flat_map(|panel| panel.played).map(|played| Cell {
        pool: played.cell.pool,
        load: played.cell.load,
        configuration: played.cell.configuration,
        values: MEASURES
            .iter()
            .map(|measure| played.summaries.iter().map(measure.of).collect())
            .collect(),
    });
    Data {
        configurations: &view.names,
        pools: &view.pools,
        loads: &view.grid.loads,
        measures: COLUMNS.iter().map(row).collect(),
        half_width_factor: half_width_factor(view.n_seeds()),
        cells: cells.collect(),
    }
}

/// The selectors and the place of the tables.
pub(super) fn section(view: &View<'_>) -> String {
    if view.names.len() < 2 {
        return String::new();
    }
    // The first configuration against the one that did best, or against the second where it did best itself.
    let other = match verdict::champion(view) {
        0 => 1,
        best => best,
    };
    let select = |id: &str, label: &str, chosen: usize| {
        let option = |nth: usize| {
            let selected = if nth == chosen { " selected" } else { "" };
            format!("<option value=\"{nth}\"{selected}>{}</option>", view.name(nth))
        };
        let options: String = (0..view.names.len()).map(option).collect();
        format!("<label>{label} <select id=\"{id}\">{options}</select></label>")
    };
    format!(
        "<section id=\"compare\"><h2>Difference between two configurations</h2>\n\
         <p>B minus A, seed by seed: what a seed does to both cancels out, so these intervals are narrower than \
         those of A and B alone.</p>\n\
         <div class=\"controls\">{}{}<button type=\"button\" id=\"swap\">Swap</button></div>\n\
         <div id=\"differences\" aria-live=\"polite\"><noscript>This part needs JavaScript.</noscript></div></section>\n",
        select("a", "A", 0),
        select("b", "B", other)
    )
}
