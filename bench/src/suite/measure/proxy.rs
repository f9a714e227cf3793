//! The embedded proxy, in turns with proxies that decide nothing and with none.

use anyhow::Result;

use super::{Contender, interleave};
use crate::suite::{Bench, Figure, scenario};

/// Variants of the small metrics page: load that moves, as in practice.
const PAGE_VARIANTS: usize = 8;
/// The most requests in flight where the rate is given.
const RATE_CONCURRENCY: usize = 64;

pub(super) async fn throughput(bench: &Bench, scenario: &scenario::Proxy) -> Result<Vec<Figure>> {
    let pool = bench.pool(scenario.endpoints, "minimal", PAGE_VARIANTS).await?;
    let mut contenders = vec![
        Contender::new("router", bench.proxy(&pool).await?),
        Contender::new("hyper", bench.proxy_floor(&pool).await?),
    ];
    contenders.extend(bench.envoy(&pool).await?.map(|server| Contender::new("envoy", server)));
    let args = [
        format!("--concurrency={}", scenario.connections),
        format!("--body-size={}", scenario.body),
        format!("--stream={}", scenario.stream),
    ];
    interleave(bench, "http-load", &args, &mut contenders).await?;
    let rate = |contender: &Contender| contender.median(|turn| turn.per_second);
    let [router, floors @ ..] = contenders.as_slice() else { return Ok(Vec::new()) };
    let mut figures = vec![
        Figure::new("requests_per_s", rate(router)),
        Figure::new("cpu_ms_per_request", router.cpu_ms_per_request()),
        Figure::new("p50_us", router.p50_us("total")),
        Figure::new("p99_us", router.p99_us("total")),
        Figure::new("rss_mib", router.rss_mib()),
    ];
    for floor in floors {
        let name = floor.name;
        figures.extend([
            Figure::new(&format!("{name}_requests_per_s"), rate(floor)),
            Figure::new(&format!("{name}_ratio"), rate(router) / rate(floor)),
        ]);
    }
    Ok(figures)
}

/// What the proxy adds is the difference of quantiles, each the median of its turns.
pub(super) async fn latency(
    bench: &Bench,
    scenario: &scenario::ProxyLatency,
) -> Result<Vec<Figure>> {
    let pool = bench.pool(scenario.endpoints, "minimal", PAGE_VARIANTS).await?;
    let router = bench.proxy(&pool).await?;
    let args = [
        format!("--rate={}", scenario.rate),
        format!("--concurrency={RATE_CONCURRENCY}"),
        format!("--body-size={}", scenario.body),
    ];
    let mut contenders = [
        Contender::new("router", router),
        Contender::new("hyper", bench.proxy_floor(&pool).await?),
        Contender::new("direct", bench.direct(&pool)?),
    ];
    interleave(bench, "http-load", &args, &mut contenders).await?;
    let [router, hyper, direct] = &contenders;
    let p50 = |contender: &Contender| contender.p50_us("total") - direct.p50_us("total");
    let p99 = |contender: &Contender| contender.p99_us("total") - direct.p99_us("total");
    Ok(vec![
        Figure::new("added_p50_us", p50(router)),
        Figure::new("added_p99_us", p99(router)),
        Figure::new("hyper_added_p50_us", p50(hyper)),
        Figure::new("hyper_added_p99_us", p99(hyper)),
        Figure::new("direct_p50_us", direct.p50_us("total")),
        Figure::new("direct_p99_us", direct.p99_us("total")),
    ])
}
