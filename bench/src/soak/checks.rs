//! What must hold after a soak.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, sleep};

use crate::extproc::Course;
use crate::http::get::get;
use crate::load::Summary;
use crate::procfs;

/// Memory may be this many times what it was, and this much beside: allocators keep free pages.
const GROWTH_FACTOR: f64 = 1.1;
const GROWTH_MIB: f64 = 8.0;
/// How long the last streams may take to be cleaned up.
const IDLE_LIMIT: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Every request ended as its course says.
pub(super) fn all_as_they_should(
    summary: &Summary,
    n_requests: u64,
    course: fn(u64) -> Course,
) -> Result<()> {
    let mut n_ok = 0;
    let mut rejected: BTreeMap<String, u64> = BTreeMap::new();
    for n in 0..n_requests {
        match course(n) {
            Course::Whole | Course::Bodyless | Course::Trailers | Course::ServerError => n_ok += 1,
            other => *rejected.entry(format!("{other:?}")).or_default() += 1,
        }
    }
    ensure!(
        summary.failed == 0 && summary.ok == n_ok && summary.errors == rejected,
        "{n_ok} should have ended well and {rejected:?} otherwise; {} did, {} failed, {:?}",
        summary.ok,
        summary.failed,
        summary.errors
    );
    Ok(())
}

/// Waits until every in-flight count is zero, and returns how many there are.
pub(super) async fn wait_idle(metrics: &str) -> Result<usize> {
    let deadline = Instant::now() + IDLE_LIMIT;
    loop {
        let page = get(metrics, "/metrics").await?;
        let page = String::from_utf8_lossy(&page);
        let counts = in_flight(&page);
        ensure!(!counts.is_empty(), "the metrics page has no in-flight count");
        let left: Vec<_> = counts.iter().filter(|(_, value)| *value != 0.0).collect();
        if left.is_empty() {
            return Ok(counts.len());
        }
        ensure!(Instant::now() < deadline, "still in flight: {left:?}");
        sleep(LOOK_EVERY).await;
    }
}

/// The series that count what is in flight in the router, with their values.
fn in_flight(page: &str) -> Vec<(&str, f64)> {
    let is_count = |series: &str| {
        let name = series.split('{').next().unwrap_or(series);
        // Averages over the pool are of what model servers say.
        name.ends_with("request_running")
            || name == "inference_objective_running_requests"
            || name.contains("inflight")
            || name.contains("in_flight")
    };
    page.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(series, _)| is_count(series))
        // A value that is no number is not zero either.
        .map(|(series, value)| (series, value.parse().unwrap_or(f64::NAN)))
        .collect()
}

pub(super) fn no_growth(before_mib: f64, after_mib: f64) -> Result<()> {
    let limit = before_mib * GROWTH_FACTOR + GROWTH_MIB;
    ensure!(after_mib <= limit, "memory grew from {before_mib:.1} to {after_mib:.1} MiB");
    Ok(())
}

pub(super) fn no_panic(log: &str) -> Result<()> {
    let line = log.lines().find(|line| line.contains("panic"));
    ensure!(line.is_none(), "the log tells of a panic: {}", line.unwrap_or_default());
    Ok(())
}

pub(super) fn rss_mib(pid: u32) -> Result<f64> {
    Ok(procfs::usage(pid).context("the router has ended")?.rss_mib())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_the_router_are_found_and_averages_are_not() {
        let page = "\
# TYPE llm_d_epp_request_running gauge
llm_d_epp_request_running{model_name=\"m\",fairness_id=\"a b\"} 2
inference_objective_running_requests{model_name=\"m\"} 0
llm_d_epp_average_running_requests{name=\"pool\"} 3.5
llm_d_epp_inflight_tokens nonsense
";
        let counts = in_flight(page);
        assert_eq!(counts.len(), 3);
        assert_eq!(counts[0].1, 2.0);
        assert_eq!(counts[1], ("inference_objective_running_requests{model_name=\"m\"}", 0.0));
        assert!(counts[2].1.is_nan());
    }

    #[test]
    fn growth_and_panics_are_errors() {
        no_growth(100.0, 117.0).unwrap();
        no_growth(100.0, 119.0).unwrap_err();
        no_panic("all is well\n").unwrap();
        let error = no_panic("first\nthread 'main' panicked at x\n").unwrap_err();
        assert!(error.to_string().contains("panicked at x"));
    }
}
