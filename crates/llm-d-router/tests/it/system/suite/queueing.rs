//! Requests that wait in flow control, and what those are told who wait in vain.

use anyhow::{Context, ensure};
use router_core::header::{DROPPED_REASON, OBJECTIVE};
use router_testkit::process::poll_until;
use serde_json::{Value, json};

use crate::system::{
    Front, Outcome, Plan, World,
    client::Call,
    document::{self, Entry},
    world::{LIMIT, TEST_ID, header},
};

/// A request that takes a server as many steps as it has tokens.
fn chat(id: &str, objective: &str, n_tokens: u32) -> Call {
    let body = json!({
        "model": "sim-model", "max_tokens": n_tokens, "ignore_eos": true,
        "messages": [{ "role": "user", "content": id }],
    });
    let call = Call::json("/v1/chat/completions", &body).id(id);
    if objective.is_empty() { call } else { call.header(OBJECTIVE.as_str(), objective) }
}

/// One server with steps of 10 ms that takes two requests at a time, and a short queue for batches.
fn plan(front: Front) -> Plan {
    let objectives = [("batch", -10), ("critical", 10)]
        .map(|(name, priority)| document::objective(name, priority))
        .join("\n---\n");
    let detector = Entry {
        plugin_type: "concurrency-detector",
        weight: None,
        parameters: json!({ "maxConcurrency": 2 }),
    };
    let flow_control = json!({
        "featureGates": ["flowControl"],
        "flowControl": {
            "saturationDetector": { "pluginRef": "concurrency-detector" },
            "priorityBands": [{ "priority": -10, "maxRequests": 2 }],
            "expert": { "trickleShare": 0, "trickleInterval": "0s" },
        },
    });
    Plan::new(front, 1)
        .sim(json!({ "time-factor": 1, "step-base-us": 10_000 }))
        .entries([document::default_scorers(), vec![detector]].concat())
        .more(flow_control)
        .resources(objectives)
}

async fn page(world: &World) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&world.page("/debug/flow-control").await?)?)
}

/// Waits until so many requests wait.
async fn waiting(world: &World, n_waiting: u64) -> Outcome {
    let are_there = || async {
        let page = page(world).await.ok()?;
        (page["waiting"]["requests"] == n_waiting).then_some(())
    };
    let found = poll_until(LIMIT, are_there).await;
    found.with_context(|| format!("there are never {n_waiting} requests that wait"))
}

/// Overload queues, the important go first, and batches are shed.
pub(crate) async fn overload(front: Front) -> Outcome {
    plan(front)
        .run(async |world| {
            let client = world.client();
            let send = |id: String, objective: &'static str, n_tokens| {
                let (client, call) = (client.clone(), chat(&id, objective, n_tokens));
                (id, world.tasks.spawn("request", async move { client.send(call).await }))
            };
            // Two that run for two seconds, then those that wait meanwhile.
            let mut sent: Vec<_> = (0..2).map(|n| send(format!("running-{n}"), "", 200)).collect();
            let server = world.server(0);
            let both_run = || async { (server.stats().in_progress == 2).then_some(()) };
            poll_until(LIMIT, both_run).await.context("the first two do not run")?;
            for n in 0..2 {
                sent.push(send(format!("batch-{n}"), "batch", 2));
                waiting(world, n + 1).await?;
            }
            sent.push(send("plain".to_owned(), "", 2));
            waiting(world, 3).await?;
            for n in 0..2 {
                sent.push(send(format!("critical-{n}"), "critical", 2));
                waiting(world, n + 4).await?;
            }
            let shed = client.send(chat("shed", "batch", 2)).await?;
            ensure!(shed.status == 429, "{} {}", shed.status, shed.text());
            let reason = shed.header(DROPPED_REASON.as_str());
            ensure!(reason == Some("rejected-saturated"), "{reason:?}");
            ensure!(shed.header("retry-after").is_some(), "{:?}", shed.headers);
            // A client that leaves while it waits leaves the queue at once.
            let leaving = world.tasks.child();
            let (gone, call) = (client.clone(), chat("gone", "critical", 2));
            drop(leaving.spawn_cancellable("leaving", async move { drop(gone.send(call).await) }));
            waiting(world, 6).await?;
            let shown = page(world).await?;
            let why = &shown["bands"][0]["flows"][0]["head"]["waitsBecause"];
            let why = why.as_str().unwrap_or_default();
            ensure!(why.contains("has reached the band's ceiling"), "{shown}");
            leaving.cancel();
            waiting(world, 5).await?;
            for (id, answer) in sent {
                let answer = answer.join().await??;
                ensure!(answer.status == 200, "{id}: {} {}", answer.status, answer.text());
            }
            let order: Vec<String> = server
                .stats()
                .requests
                .iter()
                .filter_map(|record| header(record, TEST_ID).map(str::to_owned))
                .collect();
            let place = |wanted: &str| order.iter().position(|id| id.starts_with(wanted));
            let last = |wanted: &str| order.iter().rposition(|id| id.starts_with(wanted));
            ensure!(last("critical") < place("plain"), "{order:?}");
            ensure!(place("plain") < place("batch"), "{order:?}");
            ensure!(order.len() == 7, "{order:?}");
            metrics(world).await
        })
        .await
}

async fn metrics(world: &World) -> Outcome {
    let page = world.page("/metrics").await?;
    let value = |name: &str, label: &str| -> f64 {
        let lines = page.lines().filter_map(|line| line.strip_prefix(name));
        let series = lines.filter(|rest| rest.starts_with('{') && rest.contains(label));
        series.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let requests = "llm_d_epp_flow_control_requests_total";
    for (outcome, n_requests) in
        [("Dispatched", 7.0), ("RejectedCapacity", 1.0), ("EvictedContextCancelled", 1.0)]
    {
        let found = value(requests, &format!("outcome=\"{outcome}\""));
        ensure!(found == n_requests, "{found} requests are {outcome}\n{page}");
    }
    ensure!(value("llm_d_epp_flow_control_queue_size", "") == 0.0, "{page}");
    Ok(())
}

/// What waits when the router is told to end is served within the drain's window; what cannot be is told so.
pub(crate) async fn drain(front: Front) -> Outcome {
    plan(front)
        .flag("--drain-timeout=6s")
        .run(async |world| {
            let client = world.client();
            let send = |id: &'static str, n_tokens| {
                let (client, call) = (client.clone(), chat(id, "", n_tokens));
                world.tasks.spawn("request", async move { client.send(call).await })
            };
            let (short, long) = (send("short", 100), send("long", 900));
            let server = world.server(0);
            let both_run = || async { (server.stats().in_progress == 2).then_some(()) };
            poll_until(LIMIT, both_run).await.context("the first two do not run")?;
            let next = send("next", 900);
            waiting(world, 1).await?;
            let never = send("never", 2);
            waiting(world, 2).await?;
            world.router.terminate();
            let short = short.join().await??;
            ensure!(short.status == 200, "{}", short.status);
            let never = never.join().await??;
            let reason = never.header(DROPPED_REASON.as_str());
            ensure!(never.status == 503, "{} {}", never.status, never.text());
            ensure!(reason == Some("rejected-shutting-down"), "{reason:?}");
            let begun = world.records("next").len();
            ensure!(begun == 1, "what waited was not let go during the drain");
            drop((long, next));
            world.router.kill();
            world.router.wait_exit(LIMIT).await?;
            Ok(())
        })
        .await
}
