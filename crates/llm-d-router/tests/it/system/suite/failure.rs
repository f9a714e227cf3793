//! A model server that dies under load, or whose metrics page does not tell the truth.

use std::time::Duration;

use anyhow::ensure;
use router_sim::server::{Faults, MetricsFault, Runtime};
use serde_json::json;
use tokio::time::Instant;

use crate::system::{
    Front, Outcome, Plan, World,
    client::Call,
    load::{Ended, Load, all_served},
    world::rss_kib,
};

const VICTIM: usize = 0;
const N_WORKERS: usize = 8;
/// Long enough for an endpoint's first time out of rotation to pass while it is still dead.
const DEAD: Duration = Duration::from_millis(2_500);

pub(crate) async fn killed(front: Front) -> Outcome {
    let plan = Plan::new(front, 3).sim(json!({ "time-factor": 0.2 })).alone();
    plan.run(async |world| {
        let load = Load::start(&world.client(), N_WORKERS, request);
        let victim = world.server(VICTIM);
        load.served_by(victim.address().port()).await?;
        let killed = Instant::now();
        victim.kill().await;
        while killed.elapsed() < DEAD {
            load.more(N_WORKERS).await?;
        }
        victim.revive().await?;
        load.served_by(victim.address().port()).await?;
        check(world, &load.stop().await?)
    })
    .await
}

/// Streamed and whole answers of about 20 ms.
fn request(number: u64) -> Call {
    let body = json!({
        "model": "sim-model", "max_tokens": 12, "ignore_eos": true, "stream": number.is_multiple_of(2),
        "messages": [{ "role": "user", "content": format!("number {number}") }],
    });
    Call::json("/v1/chat/completions", &body)
}

/// Answers that had begun may break off. Beside these, nothing fails in `serve`; behind Envoy, only what was
/// sent before the first failure was seen.
fn check(world: &World, ends: &[Ended]) -> Outcome {
    let failed: Vec<&Ended> = ends.iter().filter(|end| !end.is_ok() && !end.broke_off()).collect();
    let broken = ends.iter().filter(|end| end.broke_off()).count();
    ensure!(broken <= N_WORKERS, "{broken} answers broke off");
    if world.front == Front::Serve {
        ensure!(failed.is_empty(), "{} requests failed, first {:?}", failed.len(), failed.first());
        return Ok(());
    }
    let Some(first_seen) = failed.iter().map(|end| end.at).min() else { return Ok(()) };
    let later: Vec<_> = failed.iter().filter(|end| end.sent > first_seen).collect();
    ensure!(
        later.is_empty(),
        "{} of {} failed requests were sent after the first failure was seen: {:?} later {:?}",
        later.len(),
        failed.len(),
        later[0].sent - first_seen,
        later[0].outcome
    );
    ensure!(failed.len() <= N_WORKERS, "{} requests failed", failed.len());
    Ok(())
}

/// What a broken metrics page may cost at most, in KiB: it is read up to 8 MiB, into a buffer that doubles, and
/// the allocator of each thread keeps some of those.
const PAGE_COST_KIB: u64 = 128 << 10;

pub(crate) async fn metrics(front: Front) -> Outcome {
    Plan::new(front, 2)
        .run(async |world| {
            let load = Load::start(&world.client(), 2, request);
            load.more(50).await?;
            let before = rss_kib(world.router.pid())?;
            for metrics_fault in [
                MetricsFault::Stale,
                MetricsFault::Error,
                MetricsFault::Garbage,
                MetricsFault::Nan,
                MetricsFault::Negative,
                MetricsFault::Endless,
                MetricsFault::Huge,
                MetricsFault::Hang,
            ] {
                let faults = Faults { metrics_fault, ..Faults::default() };
                let victim = world.server(VICTIM);
                victim.set_runtime(Runtime { faults, ..Runtime::default() })?;
                world.asked_for_metrics(victim, 1).await?;
                load.more(50).await?;
                let grown = rss_kib(world.router.pid())?.saturating_sub(before);
                ensure!(grown < PAGE_COST_KIB, "{metrics_fault:?}: memory grew by {grown} KiB");
            }
            world.server(VICTIM).set_runtime(Runtime::default())?;
            load.served_by(world.server(VICTIM).address().port()).await?;
            all_served(&load.stop().await?)
        })
        .await
}
