//! Memory: idle, after many prompts, and of requests that wait.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, sleep};

use crate::extproc::hold::Held;
use crate::procfs::{self, Usage};
use crate::suite::programs::Pool;
use crate::suite::{Bench, Figure, scenario};

/// Scraping is no part of these, so it is rare where it would only take time.
const RARE: &str = "5s";
/// Requests in flight while memory is filled.
const FILL_CONCURRENCY: usize = 32;
/// What a held request may take beside its body: this many times the body.
const BODY_ALLOWANCE: f64 = 1.1;
/// How long every endpoint may take to have been scraped twice.
const SCRAPE_LIMIT: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(super) async fn after_prompts(
    bench: &Bench,
    scenario: &scenario::Memory,
) -> Result<Vec<Figure>> {
    let pool = bench.pool(scenario.endpoints, "minimal", 1).await?;
    let router = bench.picker(&pool, RARE).await?;
    let idle = usage(router.pid()?)?;
    let mut args = bench.turn_args(&router);
    args.extend([
        format!("--requests={}", scenario.prompts),
        format!("--concurrency={FILL_CONCURRENCY}"),
        format!("--body-size={}", scenario.body),
    ]);
    let report = bench.load("extproc-load", &args).await?;
    let used = report.summary.server.context("the router has ended")?;
    Ok(vec![
        Figure::new("rss_mib", used.rss_mib),
        Figure::new("peak_rss_mib", used.peak_rss_mib),
        Figure::new("idle_rss_mib", idle.rss_mib()),
        Figure::new("cpu_ms_per_request", used.cpu_ms_per_request),
    ])
}

pub(super) async fn idle(bench: &Bench, scenario: &scenario::Idle) -> Result<Vec<Figure>> {
    let pool = bench.pool(scenario.endpoints, &scenario.page, 1).await?;
    let router = bench.picker(&pool, "1s").await?;
    wait_scraped(&pool, 2 * scenario.endpoints as u64).await?;
    let (begin, from) = (usage(router.pid()?)?, Instant::now());
    sleep(Duration::from_secs_f64(bench.args.seconds)).await;
    let end = usage(router.pid()?)?;
    Ok(vec![
        Figure::new("rss_mib", end.rss_mib()),
        Figure::new("cores", (end.cpu_s - begin.cpu_s) / from.elapsed().as_secs_f64()),
    ])
}

pub(super) async fn held(bench: &Bench, scenario: &scenario::Held) -> Result<Vec<Figure>> {
    let pool = bench.pool(scenario.endpoints, "minimal", 1).await?;
    let router = bench.picker(&pool, RARE).await?;
    let mut args = bench.turn_args(&router);
    args.extend([
        "--hold".to_owned(),
        format!("--concurrency={}", scenario.streams),
        format!("--body-size={}", scenario.body),
    ]);
    if scenario.token_digits > 0 {
        args.push(format!("--token-digits={}", scenario.token_digits));
        args.push("--path=/v1/completions".to_owned());
    }
    let held: Held = serde_json::from_str(&bench.run_own("extproc-load", &args).await?)?;
    let sent_kib = held.sent as f64 / 1024.0;
    Ok(vec![
        Figure::new("kib_per_stream", held.kib_per_stream),
        Figure::new("kib_over_body", held.kib_per_stream - BODY_ALLOWANCE * sent_kib),
    ])
}

async fn wait_scraped(pool: &Pool, n: u64) -> Result<()> {
    let deadline = Instant::now() + SCRAPE_LIMIT;
    while pool.stats().await?.scrapes < n {
        ensure!(Instant::now() < deadline, "the endpoints are not scraped");
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

fn usage(pid: u32) -> Result<Usage> {
    procfs::usage(pid).context("the router has ended")
}
