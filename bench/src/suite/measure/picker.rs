//! Decisions over ext-proc, in turns with the floor.

use anyhow::Result;

use super::{Contender, interleave};
use crate::suite::scenario::Picker;
use crate::suite::{Bench, Figure};

/// Variants of the small metrics page: load that moves, as in practice.
const PAGE_VARIANTS: usize = 8;

pub(super) async fn measure(bench: &Bench, scenario: &Picker) -> Result<Vec<Figure>> {
    let pool = bench.pool(scenario.endpoints, "minimal", PAGE_VARIANTS).await?;
    let mut contenders = [
        Contender::new("router", bench.picker(&pool, &scenario.refresh).await?),
        Contender::new("floor", bench.picker_floor().await?),
    ];
    let args =
        [format!("--concurrency={}", scenario.streams), format!("--body-size={}", scenario.body)];
    interleave(bench, "extproc-load", &args, &mut contenders).await?;
    let [router, floor] = &contenders;
    let (cpu_ms, floor_cpu_ms) = (router.cpu_ms_per_request(), floor.cpu_ms_per_request());
    Ok(vec![
        Figure::new("cpu_ms_per_request", cpu_ms),
        Figure::new("floor_cpu_ms_per_request", floor_cpu_ms),
        Figure::new("floor_ratio", cpu_ms / floor_cpu_ms),
        Figure::new("decisions_per_s", router.median(|turn| turn.per_second)),
        Figure::new("decision_p50_ms", router.p50_us("decision") / 1000.0),
        Figure::new("decision_p99_ms", router.p99_us("decision") / 1000.0),
        Figure::new("rss_mib", router.rss_mib()),
    ])
}
