//! Results by priority and by tenant, below the table of all.

use router_sim::replay::summary::{Group, Groups};

use super::aligned;
use crate::replay::grid::{Grid, Played};

const OF_PRIORITIES: [&str; 12] = [
    "configuration",
    "load",
    "priority",
    "served %",
    "TTFT p50 s",
    "p99 s",
    "wait p50 s",
    "p99 s",
    "at server p50 s",
    "p99 s",
    "tokens/s",
    "longest pause s",
];
const OF_TENANTS: [&str; 7] =
    ["configuration", "load", "tenants", "Jain's index", "least", "most", "cached %"];

/// Both tables; nothing where requests do not differ in this.
pub(super) fn of(grid: &Grid, results: &[Played]) -> String {
    let of_priorities: Vec<_> = results.iter().flat_map(|one| priorities(grid, one)).collect();
    let of_tenants: Vec<_> = results.iter().filter_map(|one| tenants(grid, one)).collect();
    let mut text = String::new();
    for (title, head, rows) in [
        ("By priority", &OF_PRIORITIES[..], of_priorities),
        ("Service of tenants over their max-min share", &OF_TENANTS[..], of_tenants),
    ] {
        if !rows.is_empty() {
            let head = head.iter().map(|&title| title.to_owned()).collect();
            let rows: Vec<Vec<String>> = [vec![head], rows].concat();
            text.extend(["\n", title, ", means of the seeds:\n", &aligned(&rows, 1)]);
        }
    }
    text
}

/// The first columns: which configuration at which load, and on which pool if there are several.
fn first_columns(grid: &Grid, played: &Played) -> Option<Vec<String>> {
    let mut name = grid.configurations.get(played.cell.configuration)?.name.clone();
    if grid.pools.len() > 1 {
        name = format!("{} {name}", grid.pools.get(played.cell.pool)?.name);
    }
    Some(vec![name, grid.loads.get(played.cell.load)?.to_string()])
}

fn groups(played: &Played) -> impl Iterator<Item = &Groups> {
    played.summaries.iter().map(|summary| &summary.groups)
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), value| (sum + value, n + 1.0));
    if n > 0.0 { sum / n } else { 0.0 }
}

fn priorities(grid: &Grid, played: &Played) -> Vec<Vec<String>> {
    let Some((first, names)) = first_columns(grid, played).zip(groups(played).next()) else {
        return Vec::new();
    };
    let row = |named: &Group| {
        let of_seeds = groups(played).filter_map(|groups| {
            let found = groups.priorities.iter().find(|group| group.name == named.name)?;
            Some((found, ratio(found.service, groups.seconds)))
        });
        let of_seeds: Vec<_> = of_seeds.collect();
        let mean_of = |of: fn(&Group) -> f64| mean(of_seeds.iter().map(|(group, _)| of(group)));
        let served = mean_of(|one| 100.0 * ratio(one.n_served as f64, one.n_requests as f64));
        let times: [fn(&Group) -> f64; 6] = [
            |one| one.ttft.p50,
            |one| one.ttft.p99,
            |one| one.wait.p50,
            |one| one.wait.p99,
            |one| one.server_ttft.p50,
            |one| one.server_ttft.p99,
        ];
        let per_second = mean(of_seeds.iter().map(|(_, per_second)| *per_second));
        let mut row = first.clone();
        row.extend([named.name.clone(), format!("{served:.1}")]);
        row.extend(times.map(|of| format!("{:.3}", mean_of(of))));
        row.push(format!("{per_second:.0}"));
        row.push(format!("{:.1}", mean_of(|one| one.longest_pause)));
        row
    };
    names.priorities.iter().map(row).collect()
}

fn tenants(grid: &Grid, played: &Played) -> Option<Vec<String>> {
    let first = groups(played).next().filter(|groups| groups.n_tenants > 0)?;
    let got = |groups: &Groups, choose: fn(f64, f64) -> f64| {
        let shares =
            groups.tenants.iter().filter(|one| one.max_min_share > 0.0).map(Group::of_share);
        shares.reduce(choose).unwrap_or_default()
    };
    let mut row = first_columns(grid, played)?;
    row.push(first.n_tenants.to_string());
    let values = [
        mean(groups(played).filter_map(|groups| groups.jain)),
        mean(groups(played).map(|groups| got(groups, f64::min))),
        mean(groups(played).map(|groups| got(groups, f64::max))),
    ];
    row.extend(values.map(|value| format!("{value:.3}")));
    let cached = mean(played.summaries.iter().map(|summary| summary.cached_ratio));
    row.push(format!("{:.1}", cached * 100.0));
    Some(row)
}

/// 0 of nothing.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
