//! The table of results of one pool and load.

use router_sim::replay::summary::{
    Better, Estimate, Summary, differences, measure_named, over_seeds,
};

use super::{
    Panel, View,
    verdict::{EQUAL_GOODPUT, EQUAL_TIME},
};
use crate::replay::{
    columns::{self, Column},
    grid::Played,
    reasons,
};

pub(super) fn table(view: &View<'_>, panel: &Panel<'_>) -> String {
    let best: Vec<Vec<bool>> = columns::in_table().map(|column| bests(panel, column)).collect();
    let row = |nth: usize, summaries: &[Summary]| {
        let estimates = over_seeds(summaries);
        let has_times = columns::has_times(summaries);
        let cell = |(column, best): (&Column, &Vec<bool>)| {
            if !column.is_shown(has_times) {
                return "<td>-</td>".to_owned();
            }
            let estimate = estimates.get(column.measure).copied().unwrap_or_default();
            let is_best = best.get(nth).copied().unwrap_or_default();
            cell(column, estimate, is_best)
        };
        let cells: String = columns::in_table().zip(&best).map(cell).collect();
        format!("<tr data-c=\"{nth}\"><th scope=\"row\">{}</th>{cells}</tr>\n", view.name(nth))
    };
    let rows: String =
        panel.played.iter().enumerate().map(|(nth, played)| row(nth, &played.summaries)).collect();
    let bold = match (panel.played.len(), view.n_seeds()) {
        (1, _) => "",
        (_, 1) => " Bold is the best of a column and what is as good.",
        _ => " Bold is the best of a column, what is as good, and what cannot be told from it.",
    };
    let intervals = if view.n_seeds() > 1 {
        format!("Means of {} seeds, ± half of the 95 % interval.", view.n_seeds())
    } else {
        "One seed: how far chance has a hand in it cannot be told.".to_owned()
    };
    let reasons = panel.played.iter().filter_map(|played| reasons::of(view.grid, played));
    let reasons: String =
        reasons.map(|reason| format!("<p class=\"note\">{}</p>\n", super::html(&reason))).collect();
    format!(
        "<div class=\"scroll\" role=\"region\" aria-label=\"Results\" tabindex=\"0\"><table class=\"results\">{}<tbody>{rows}</tbody></table></div>\n\
         <p class=\"note\">{intervals}{bold}</p>\n{reasons}",
        head()
    )
}

/// Each column says all that it is: on a narrow screen its neighbours are out of sight.
fn head() -> String {
    let name = |column: &Column| {
        let group = if column.group.is_empty() { "" } else { &format!("{}<br>", column.group) };
        let unit = if column.unit.is_empty() { "" } else { &format!(", {}", column.unit) };
        format!("<th scope=\"col\">{group}{}{unit}</th>", column.name)
    };
    let names: String = columns::in_table().map(name).collect();
    format!("<thead><tr><th scope=\"col\">configuration</th>{names}</tr></thead>")
}

fn cell(column: &Column, estimate: Estimate, is_best: bool) -> String {
    let shown = column.shown(Estimate { half_width: None, ..estimate }, false);
    let interval = super::plus_minus(estimate, column.factor, column.digits);
    let class = if is_best { " class=\"best\"" } else { "" };
    format!("<td{class}>{shown}<small>{interval}</small></td>")
}

/// Which configurations have the best value of a column, one that is as good as equal, or one that cannot be
/// told from it.
fn bests(panel: &Panel<'_>, column: &Column) -> Vec<bool> {
    let none = vec![false; panel.played.len()];
    let is_shown = |played: &Played| column.is_shown(columns::has_times(&played.summaries));
    let Some(measure) = measure_named(column.measure) else { return none };
    let Some(better) = measure.better.filter(|_| panel.played.len() > 1) else { return none };
    let sign = if better == Better::Higher { 1.0 } else { -1.0 };
    let means: Vec<f64> = panel
        .played
        .iter()
        .map(|played| sign * Estimate::of(played.summaries.iter().map(measure.of)).mean)
        .collect();
    let shown = (0..means.len()).filter(|&nth| panel.played.get(nth).is_some_and(is_shown));
    let best = shown.max_by(|&a, &b| means[a].total_cmp(&means[b]));
    let Some(best) = best.and_then(|best| panel.played.get(best)) else { return none };
    let most = Estimate::of(best.summaries.iter().map(measure.of)).mean;
    let equal = if column.unit == "%" { EQUAL_GOODPUT } else { EQUAL_TIME * most };
    let is_best = |summaries: &[Summary]| {
        let difference = differences(&best.summaries, summaries);
        let difference = difference.get(column.measure).copied().unwrap_or_default();
        let is_unclear = difference.half_width.is_some() && !difference.is_clear();
        is_unclear || difference.mean.abs() <= equal
    };
    panel.played.iter().map(|played| is_best(&played.summaries)).collect()
}
