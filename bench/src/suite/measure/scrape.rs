//! Scraping without requests.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, sleep};

use crate::http::upstream::Stats;
use crate::procfs::{self, Usage};
use crate::suite::programs::Pool;
use crate::suite::scenario::Scrape;
use crate::suite::{Bench, Figure, median};

/// The interval that the router is asked to keep, as its flag takes it and in seconds.
const REFRESH: &str = "50ms";
const REFRESH_S: f64 = 0.05;

struct Mark {
    at: Instant,
    usage: Usage,
    stats: Stats,
}

pub(super) async fn measure(bench: &Bench, scenario: &Scrape) -> Result<Vec<Figure>> {
    let pool = bench.pool(scenario.endpoints, &scenario.page, scenario.page_variants).await?;
    let router = bench.picker(&pool, REFRESH).await?;
    let pid = router.pid()?;
    sleep(Duration::from_secs_f64(bench.args.warmup)).await;
    let mut turns = Vec::new();
    let mut begin = Mark::now(pid, &pool).await?;
    for _round in 0..bench.args.rounds {
        sleep(Duration::from_secs_f64(bench.args.seconds)).await;
        let end = Mark::now(pid, &pool).await?;
        let n_scrapes = (end.stats.scrapes - begin.stats.scrapes) as f64;
        ensure!(n_scrapes > 0.0, "nothing was scraped");
        let cpu_s = end.usage.cpu_s - begin.usage.cpu_s;
        turns.push((n_scrapes, cpu_s, (end.at - begin.at).as_secs_f64()));
        begin = end;
    }
    let asked_per_s = scenario.endpoints as f64 / REFRESH_S;
    let over_turns = |of: fn(&(f64, f64, f64)) -> f64| median(turns.iter().map(of));
    let per_s = over_turns(|(n_scrapes, _, seconds)| n_scrapes / seconds);
    Ok(vec![
        Figure::new("cpu_us_per_scrape", over_turns(|(n, cpu_s, _)| cpu_s * 1e6 / n)),
        Figure::new("cores", over_turns(|(_, cpu_s, seconds)| cpu_s / seconds)),
        Figure::new("scrapes_per_s", per_s),
        Figure::new("share_of_asked", per_s / asked_per_s),
        Figure::new("rss_mib", begin.usage.rss_mib()),
    ])
}

impl Mark {
    async fn now(pid: u32, pool: &Pool) -> Result<Self> {
        let stats = pool.stats().await?;
        let usage = procfs::usage(pid).context("the router has ended")?;
        Ok(Self { at: Instant::now(), usage, stats })
    }
}
