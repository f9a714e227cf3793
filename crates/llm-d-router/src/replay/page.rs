//! Results as one page for a browser: everything is in it, and it loads nothing.
//!
//! Plots are drawn here, as SVG; the script only shows and hides, and takes the differences of two
//! configurations. Names of files, configurations and servers are others' text: they pass
//! [`escape`] on their way in, and a content security policy keeps what slips through from loading anything.

#![expect(
    clippy::format_push_string,
    clippy::format_collect,
    reason = "a page is made once, and what it says is easier to see in whole strings"
)]

use std::{fmt::Display, time::Duration};

use router_sim::replay::summary::Estimate;

use self::escape::{html, json_in_script};
use super::grid::{Grid, Played};

mod axis;
mod choices;
mod compare;
mod curves;
mod escape;
mod facts;
mod loads;
mod plot;
mod results;
mod servers;
mod verdict;
mod words;

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// Names in plots and legends are cut to so many characters; the whole name is in the facts.
const MAX_NAME: usize = 40;

/// The results as the parts of the page see them.
struct View<'a> {
    grid: &'a Grid,
    /// Short names of the configurations.
    names: Vec<String>,
    /// Short names of the pools.
    pools: Vec<String>,
    panels: Vec<Panel<'a>>,
}

/// The results of one pool at one load, by configuration.
struct Panel<'a> {
    pool: usize,
    load: usize,
    played: &'a [Played],
}

/// The page. `results` are in the order of the grid's cells.
pub(super) fn of(grid: &Grid, results: &[Played]) -> anyhow::Result<String> {
    let view = View::of(grid, results);
    let data = serde_json::to_string(&compare::data(&view))?;
    let panels: String = view.panels.iter().map(|panel| section(&view, panel)).collect();
    Ok(fill(
        TEMPLATE,
        &[
            ("title", &html(&facts::title(grid))),
            ("style", STYLE),
            ("lead", &facts::lead(&view)),
            ("verdict", &verdict::of(&view)),
            ("facts", &facts::of(&view)),
            ("controls", &facts::controls(&view)),
            ("panels", &panels),
            ("loads", &loads::sections(&view)),
            ("compare", &compare::section(&view)),
            ("words", &words::of(grid)),
            ("data", &json_in_script(&data)),
            ("script", SCRIPT),
        ],
    ))
}

/// All about one pool and load.
fn section(view: &View<'_>, panel: &Panel<'_>) -> String {
    let Panel { pool, load, .. } = panel;
    let title = html(&view.title(panel));
    let parts = [
        results::table(view, panel),
        "<div class=\"plots\">".to_owned(),
        curves::figures(view, panel),
        choices::figure(view, panel),
        "</div>".to_owned(),
        servers::figures(view, panel),
    ];
    format!(
        "<section class=\"panel\" data-pool=\"{pool}\" data-load=\"{load}\">\n<h2>{title}</h2>\n{}</section>\n",
        parts.concat()
    )
}

/// Puts the parts in the places of the template, in one pass: what a part says is not looked at.
fn fill(template: &str, parts: &[(&str, &str)]) -> String {
    let mut page = String::new();
    let mut rest = template;
    while let Some((before, place)) = rest.split_once("{{") {
        let Some((name, after)) = place.split_once("}}") else { break };
        page += before;
        let part = parts.iter().find(|(part, _)| *part == name);
        page += part.map_or("", |(_, text)| text);
        rest = after;
    }
    page + rest
}

// === impl View ===

impl<'a> View<'a> {
    fn of(grid: &'a Grid, results: &'a [Played]) -> Self {
        let n_configurations = grid.configurations.len().max(1);
        let panels = results.chunks(n_configurations).filter_map(|played| {
            let cell = played.first()?.cell;
            Some(Panel { pool: cell.pool, load: cell.load, played })
        });
        let names: Vec<&str> = grid.configurations.iter().map(|c| c.name.as_str()).collect();
        let pools: Vec<&str> = grid.pools.iter().map(|pool| pool.name.as_str()).collect();
        Self {
            grid,
            names: short_names(&names),
            pools: short_names(&pools),
            panels: panels.collect(),
        }
    }

    fn n_seeds(&self) -> usize {
        self.grid.seeds.len()
    }

    /// The short name of a configuration, for HTML.
    fn name(&self, configuration: usize) -> String {
        self.names.get(configuration).map(|name| html(name)).unwrap_or_default()
    }

    /// `Load 1.3 on 8 servers`, as text.
    fn title(&self, panel: &Panel<'_>) -> String {
        let load = self.grid.loads[panel.load];
        format!("Load {load} on {}", self.pools[panel.pool])
    }

    /// Which configurations the lines of a plot are.
    fn legend(&self) -> String {
        let entry = |nth: usize| {
            let (sample, name) = (plot::sample(nth), self.name(nth));
            format!("<li data-c=\"{nth}\">{sample}{name}</li>")
        };
        let entries: String = (0..self.names.len()).map(entry).collect();
        format!("<ul class=\"legend\">{entries}</ul>")
    }
}

/// File names without their folders, where that leaves them different.
fn short_names(names: &[&str]) -> Vec<String> {
    let base = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
    names
        .iter()
        .map(|name| {
            let is_only = names.iter().filter(|other| base(other) == base(name)).count() == 1;
            short(&if is_only { base(name) } else { (*name).to_owned() })
        })
        .collect()
}

/// The end of a long name tells more than its start.
fn short(name: &str) -> String {
    let n_chars = name.chars().count();
    if n_chars <= MAX_NAME {
        return name.to_owned();
    }
    let end: String = name.chars().skip(n_chars - MAX_NAME + 1).collect();
    format!("…{end}")
}

/// A figure: its heading, what it draws, and what must be said of it. All three are HTML.
fn figure(class: &str, heading: &str, drawing: &str, caption: &str) -> String {
    format!(
        "<figure class=\"{class}\"><h3>{heading}</h3>\n{drawing}\n<figcaption>{caption}</figcaption></figure>\n"
    )
}

/// ` ±5`, nothing where there is no interval.
fn plus_minus(estimate: Estimate, factor: f64, digits: usize) -> String {
    let shown = |half_width| format!(" ±{:.digits$}", half_width * factor);
    estimate.half_width.map(shown).unwrap_or_default()
}

/// `3 seeds`, `1 seed`.
fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{} {what}s", thousands(n)) }
}

/// `15 min`, `90 s`.
pub(super) fn length(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.subsec_nanos() == 0 && seconds > 0 && seconds.is_multiple_of(60) {
        format!("{} min", seconds / 60)
    } else {
        axis::seconds(duration.as_secs_f64())
    }
}

/// `12,031`.
fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `a, b and c`.
fn listed(items: &[impl Display]) -> String {
    match items {
        [] => String::new(),
        [one] => one.to_string(),
        [first @ .., last] => {
            let first: Vec<_> = first.iter().map(ToString::to_string).collect();
            format!("{} and {last}", first.join(", "))
        }
    }
}

#[cfg(test)]
mod tests;
