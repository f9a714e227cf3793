//! Results as JSON for programs.

use std::collections::BTreeMap;

use router_sim::replay::summary::{Estimate, SHARES, Summary, differences, over_seeds};
use serde::Serialize;

use super::grid::{Cell, Grid, Played, Requests};

/// Grows when a field changes its meaning or goes.
const VERSION: u32 = 1;

#[derive(Serialize)]
pub(super) struct Report<'a> {
    version: u32,
    requests: Input<'a>,
    /// Seconds.
    goal_ttft: f64,
    /// Seconds.
    goal_tpot: f64,
    seeds: &'a [u64],
    /// Shares of requests that the curves of runs have a value for.
    shares: &'static [f64],
    cells: Vec<Line<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Input<'a> {
    Trace {
        name: &'a str,
        n_requests: usize,
        block_tokens: u32,
    },
    /// Seconds.
    Workload {
        name: &'a str,
        duration: f64,
    },
}

#[derive(Serialize)]
struct Line<'a> {
    configuration: &'a str,
    pool: &'a str,
    load: f64,
    /// Seconds; absent where nothing is scraped.
    scrape_interval: Option<f64>,
    /// Seconds.
    scrape_delay: f64,
    estimates: BTreeMap<&'static str, Estimate>,
    /// To the first configuration with the same pool and load, seed by seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    differences: Option<BTreeMap<&'static str, Estimate>>,
    /// One for each seed.
    runs: &'a [Summary],
}

pub(super) fn of<'a>(grid: &'a Grid, results: &'a [Played]) -> Report<'a> {
    let requests = match &grid.requests {
        Requests::Trace { name, trace } => Input::Trace {
            name,
            n_requests: trace.requests.len(),
            block_tokens: trace.block_tokens,
        },
        Requests::Workload { name, duration, .. } => {
            Input::Workload { name, duration: duration.as_secs_f64() }
        }
    };
    Report {
        version: VERSION,
        requests,
        goal_ttft: grid.goals.ttft.as_secs_f64(),
        goal_tpot: grid.goals.tpot.as_secs_f64(),
        seeds: &grid.seeds,
        shares: &SHARES,
        cells: results.iter().map(|played| line(grid, results, played)).collect(),
    }
}

fn line<'a>(grid: &'a Grid, results: &'a [Played], played: &'a Played) -> Line<'a> {
    let Played { cell, summaries } = played;
    let first = Cell { configuration: 0, ..*cell };
    let base = results.iter().find(|other| other.cell == first && cell.configuration > 0);
    let pool = &grid.pools[cell.pool];
    Line {
        configuration: &grid.configurations[cell.configuration].name,
        pool: &pool.name,
        load: grid.loads[cell.load],
        scrape_interval: pool.pool.scrape.interval.map(|interval| interval.as_secs_f64()),
        scrape_delay: pool.pool.scrape.delay.as_secs_f64(),
        estimates: over_seeds(summaries),
        differences: base.map(|base| differences(&base.summaries, summaries)),
        runs: summaries,
    }
}
