//! `llm-d-router serve`: the suite, and what only the embedded proxy has.

use std::{fs, path::Path};

use anyhow::{Context, ensure};
use router_net::{
    ClientTls, Target, Upstream, UpstreamOptions, body,
    tls::{ClientTlsOptions, Roots},
};
use router_sim::server::{Faults, Runtime};
use router_testkit::process::{http_get, poll_until};
use serde_json::{Value, json};

use crate::system::{
    Front, Outcome, Plan, World,
    client::{Broken, Call, Stage},
    load::{Load, all_served},
    suite::suite,
    world::LIMIT,
};

suite! { Front::Serve }

fn chat(number: u64, n_tokens: u32) -> Call {
    let body = json!({
        "model": "sim-model", "max_tokens": n_tokens, "ignore_eos": true,
        "stream": number.is_multiple_of(2),
        "messages": [{ "role": "user", "content": format!("number {number}") }],
    });
    Call::json("/v1/chat/completions", &body)
}

#[tokio::test]
async fn models_of_all_endpoints_are_listed_once() -> Outcome {
    let other = json!({ "overrides": { "1": { "served-model-name": ["sim-model", "other"] } } });
    Plan::new(Front::Serve, 3)
        .sim(other)
        .run(async |world| {
            let answer = world.client().send(Call::get("/v1/models")).await?;
            let list = answer.json()?;
            let mut ids: Vec<&str> = list["data"]
                .as_array()
                .context("no list")?
                .iter()
                .filter_map(|m| m["id"].as_str())
                .collect();
            ids.sort_unstable();
            ensure!(ids == ["other", "sim-model"], "{list}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a4_34_a_drain_serves_who_waits_and_tells_the_others_at_its_end() -> Outcome {
    crate::system::suite::queueing::drain(Front::Serve).await
}

/// Whatever an endpoint does before its first response byte, another one serves.
#[tokio::test]
async fn requests_move_on_from_an_endpoint_that_fails() -> Outcome {
    let plan = Plan::new(Front::Serve, 3).flag("--response-head-timeout=1s");
    plan.run(async |world| {
        for faults in [
            Faults { reset_rate: 100.0, ..Faults::default() },
            Faults { hang_rate: 100.0, ..Faults::default() },
            Faults {
                failure_injection_rate: 100.0,
                failure_types: vec![router_sim::server::FailureType::ServerError],
                ..Faults::default()
            },
        ] {
            let victim = world.server(0);
            victim.reset_stats();
            victim.set_runtime(Runtime { faults: faults.clone(), ..Runtime::default() })?;
            let load = Load::start(&world.client(), 4, |number| chat(number, 3));
            let tried = || async { (victim.stats().received > 0).then_some(()) };
            poll_until(LIMIT, tried).await.context("the failing server is not tried")?;
            load.more(30).await?;
            victim.set_runtime(Runtime::default())?;
            load.served_by(victim.address().port()).await?;
            all_served(&load.stop().await?).with_context(|| format!("{faults:?}"))?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_drain_lets_every_request_end() -> Outcome {
    // Steps of 10 ms: answers of 2 seconds.
    let slow = json!({ "time-factor": 1, "step-base-us": 10_000 });
    let plan = Plan::new(Front::Serve, 2).sim(slow).flag("--drain-timeout=25s");
    plan.run(async |world| {
        let client = world.client();
        let sending: Vec<_> = (0..8)
            .map(|number| {
                let call = chat(number, 200).id(&format!("draining-{number}"));
                let client = client.clone();
                world.tasks.spawn("draining", async move { client.send(call).await })
            })
            .collect();
        let all_there = || async {
            let n_running: u64 = world.sim.servers().iter().map(|s| s.stats().in_progress).sum();
            (n_running == 8).then_some(())
        };
        poll_until(LIMIT, all_there).await.context("not all requests arrive")?;
        world.router.terminate();
        let refused = || async {
            let answer = client.send(Call::get("/healthz")).await;
            matches!(answer, Err(Broken { stage: Stage::Connecting, .. })).then_some(())
        };
        poll_until(LIMIT, refused).await.context("connections are accepted while draining")?;
        ensure!(world.page("/readyz").await.is_err(), "a router that drains says it is ready");
        for (number, sent) in sending.into_iter().enumerate() {
            let answer = sent.join().await??;
            let (_, record) = world.record(&format!("draining-{number}")).await?;
            ensure!(answer.status == 200 && answer.hash() == record.sent_xxh64, "{number} was cut");
        }
        let status = world.router.wait_exit(LIMIT).await?;
        ensure!(status.code() == Some(0), "{status}");
        world.no_bug()
    })
    .await
}

#[tokio::test]
async fn a_new_certificate_is_served_without_a_restart() -> Outcome {
    let folder = tempfile::tempdir()?;
    let first = certificate(folder.path())?;
    let plan =
        Plan::new(Front::Serve, 1).flag(format!("--tls-cert-path={}", folder.path().display()));
    plan.run(async |world| {
        let answers = async |trusted: &Path| answers_over_tls(world, trusted, false).await;
        ensure!(answers(&first).await, "the first certificate is not served");
        let second = certificate(folder.path())?;
        let reloaded = || async { answers(&second).await.then_some(()) };
        poll_until(LIMIT, reloaded).await.context("the new certificate is not served")?;
        ensure!(!answers(&first).await, "the first certificate is still served");
        let is_successful = async |expected: &str| {
            let series = "llm_d_epp_last_reload_successful{what=\"certificate\"}";
            let page = world.page("/metrics").await.ok()?;
            page.contains(&format!("{series} {expected}\n")).then_some(())
        };
        let counted = async || is_successful("1").await;
        poll_until(LIMIT, counted).await.context("the reload is not counted")?;
        // Half a pair is no certificate.
        fs::write(folder.path().join("tls.key"), "no key")?;
        world.logged("certificate").await?;
        let counted = async || is_successful("0").await;
        poll_until(LIMIT, counted).await.context("the failed reload is not counted")?;
        ensure!(answers(&second).await, "the last good certificate is not kept");
        Ok(())
    })
    .await
}

/// Writes a new certificate and key for loopback into a folder, and a copy of the certificate for clients.
pub(crate) fn certificate(folder: &Path) -> anyhow::Result<std::path::PathBuf> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let copies = fs::read_dir(folder)?.count();
    let copy = folder.join(format!("trusted-{copies}.pem"));
    fs::write(&copy, made.cert.pem())?;
    fs::write(folder.join("tls.crt"), made.cert.pem())?;
    fs::write(folder.join("tls.key"), made.signing_key.serialize_pem())?;
    Ok(copy)
}

/// Whether the router answers a client that trusts this certificate alone.
pub(crate) async fn answers_over_tls(world: &World, trusted: &Path, is_grpc: bool) -> bool {
    let roots = Roots::File(trusted.to_owned());
    let Ok(tls) = ClientTls::new(&ClientTlsOptions { roots, ..ClientTlsOptions::default() }) else {
        return false;
    };
    let options = UpstreamOptions { tls: Some(tls), ..UpstreamOptions::default() };
    let upstream = Upstream::new(options, &world.tasks);
    let target = Target::tls(world.router_addr(), "localhost");
    let target = if is_grpc { target.http2() } else { target };
    let mut request = http::Request::new(body::empty());
    *request.uri_mut() = http::Uri::from_static("/healthz");
    upstream.send(&target, request).await.is_ok()
}

#[tokio::test]
async fn api_keys_are_asked_for() -> Outcome {
    let folder = tempfile::tempdir()?;
    let keys = folder.path().join("keys");
    fs::write(&keys, "# for tests\nsecret-of-the-first-client\nsecret-of-the-second-client\n")?;
    let plan = Plan::new(Front::Serve, 1).flag(format!("--api-keys={}", keys.display()));
    plan.run(async |world| {
        let ask = async |authorization: &str| -> anyhow::Result<u16> {
            let call = chat(1, 2).header("authorization", authorization);
            Ok(world.client().send(call).await?.status)
        };
        ensure!(ask("Bearer secret-of-the-second-client").await? == 200, "a good key");
        ensure!(ask("Bearer secret-of-the-third-client").await? == 401, "a bad key");
        ensure!(world.client().send(chat(1, 2)).await?.status == 401, "no key");
        ensure!(world.client().send(Call::get("/healthz")).await?.status == 200, "health");
        ensure!(world.received() == [1], "a refused request reached a server");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn heads_over_the_bound_are_refused() -> Outcome {
    Plan::new(Front::Serve, 1)
        .run(async |world| {
            let long = chat(1, 2).header("x-long", &"x".repeat(100_000));
            let many =
                (0..200).fold(chat(1, 2), |call, number| call.header(&format!("x-{number}"), "x"));
            for call in [long, many] {
                let answer = world.client().send(call).await?;
                ensure!(answer.status == 431, "{}", answer.status);
            }
            ensure!(world.received() == [0], "a refused request reached a server");
            Ok(())
        })
        .await
}

/// No file at all: what the README shows.
#[tokio::test]
async fn urls_are_enough() -> Outcome {
    Plan::new(Front::Serve, 2)
        .bare()
        .run(async |world| {
            let load = Load::start(&world.client(), 4, |number| chat(number, 3));
            for server in world.sim.servers() {
                load.served_by(server.address().port()).await?;
            }
            all_served(&load.stop().await?)?;
            for path in ["/healthz", "/readyz"] {
                let answer = http_get(world.addr(), path).await?;
                ensure!(answer.status == 200, "{path}: {}", answer.text());
            }
            let state: Value = serde_json::from_str(&world.page("/debug/plugins/state").await?)?;
            ensure!(state["plugins"]["estimated-ttft-scorer"].is_object(), "{state}");
            Ok(())
        })
        .await
}
