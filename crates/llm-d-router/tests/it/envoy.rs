//! Real Envoy (full-duplex ext-proc, `ORIGINAL_DST`) in front of `llm-d-router epp`: the suite, and what only
//! this pair has.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, ensure};
use router_proto::health::health_check_response::ServingStatus;
use router_testkit::{
    envoy::SubsetHint,
    process::{grpc_status, poll_until},
};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    serve::{answers_over_tls, certificate},
    system::{
        Front, Outcome, Plan,
        client::Call,
        load::{Load, all_served},
        suite::{bytes, sdk, suite},
        world::LIMIT,
    },
};

suite! { Front::Envoy }

/// The picker's default: TLS with a certificate that it signs itself.
mod over_tls {
    use super::{Front, bytes, sdk, suite};

    suite! { Front::EnvoyTls;
        the_anthropic_sdk_works => sdk::anthropic;
        bytes_pass_unchanged_both_ways => bytes::unchanged;
    }
}

fn chat(number: u64, n_tokens: u32) -> Call {
    let body = json!({
        "model": "sim-model", "max_tokens": n_tokens, "ignore_eos": true,
        "stream": number.is_multiple_of(2),
        "messages": [{ "role": "user", "content": format!("number {number}") }],
    });
    Call::json("/v1/chat/completions", &body)
}

#[tokio::test]
async fn the_gateways_subset_is_kept_to() -> Outcome {
    for hint in [
        SubsetHint::List(vec!["127.0.0.2".to_owned(), "127.0.0.3".to_owned()]),
        SubsetHint::Text("127.0.0.2,127.0.0.3".to_owned()),
    ] {
        // An address for each server, as the hint names addresses.
        let spread = json!({ "spread": "addresses" });
        let plan = Plan::new(Front::Envoy, 4).sim(spread).subset_hint(hint);
        plan.run(async |world| {
            for number in 0..30 {
                let answer = world.client().send(chat(number, 2)).await?;
                ensure!(answer.status == 200, "{}", answer.text());
            }
            let received = world.received();
            ensure!(received[0] == 0 && received[3] == 0, "{received:?}");
            ensure!(received[1] + received[2] == 30, "{received:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_drain_loses_no_request() -> Outcome {
    // Steps of 10 ms. The window of the drain is 4 s; the longest answer takes longer.
    let slow = json!({ "time-factor": 1, "step-base-us": 10_000 });
    let plan = Plan::new(Front::Envoy, 2).sim(slow).flag("--drain-timeout=4s");
    plan.run(async |world| {
        let (traffic, health) = (world.router_addr(), world.health_addr()?);
        for addr in [traffic, health] {
            is_now(addr, ServingStatus::Serving).await?;
        }
        let (client, call) = (world.client(), chat(0, 550).id("longest"));
        let longest = world.tasks.spawn("longest", async move { client.send(call).await });
        let load = Load::start(&world.client(), 4, |number| chat(number, 10));
        load.more(8).await?;
        let begun = Instant::now();
        world.router.terminate();
        for addr in [traffic, health] {
            is_now(addr, ServingStatus::NotServing).await?;
            let liveness = grpc_status(addr, "liveness").await?;
            ensure!(liveness == ServingStatus::Serving, "a picker that drains is not alive");
        }
        // What goes on coming until the proxy has noticed is served.
        load.more(20).await?;
        ensure!(begun.elapsed() < Duration::from_secs(4), "the machine is too slow for this test");
        all_served(&load.stop().await?)?;
        let answer = longest.join().await??;
        let (_, record) = world.record("longest").await?;
        ensure!(answer.status == 200 && answer.hash() == record.sent_xxh64, "the answer was cut");
        let status = world.router.wait_exit(LIMIT).await?;
        ensure!(status.code() == Some(0), "{status}");
        world.no_bug()
    })
    .await
}

async fn is_now(addr: SocketAddr, wanted: ServingStatus) -> Outcome {
    for service in ["", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor"] {
        let says_so = || async { (grpc_status(addr, service).await.ok()? == wanted).then_some(()) };
        let said = poll_until(LIMIT, says_so).await;
        said.with_context(|| format!("{service:?} at {addr} is not {wanted:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_new_certificate_is_served_without_a_restart() -> Outcome {
    let folder = tempfile::tempdir()?;
    let first = certificate(folder.path())?;
    let plan = Plan::new(Front::EnvoyTls, 1)
        .flag(format!("--cert-path={}", folder.path().display()))
        .flag("--enable-cert-reload");
    plan.run(async |world| {
        ensure!(answers_over_tls(world, &first, true).await, "the first is not served");
        let load = Load::start(&world.client(), 2, |number| chat(number, 2));
        let second = certificate(folder.path())?;
        let reloaded = || async { answers_over_tls(world, &second, true).await.then_some(()) };
        poll_until(LIMIT, reloaded).await.context("the new certificate is not served")?;
        ensure!(!answers_over_tls(world, &first, true).await, "the first is still served");
        all_served(&load.stop().await?)
    })
    .await
}
