//! Requests that wait in flow control, and what those are told who wait in vain.
//!
//! Requests that run until a test lets them end keep the servers busy, so that nothing here is a race with a
//! server: who waits is seen on the router's page before anything goes on.

use std::time::Duration;

use anyhow::{Context, ensure};
use router_core::header::OBJECTIVE;
use router_rt::{Task, Tasks};
use router_testkit::{process::poll_until, router::sum};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::system::{
    Front, Outcome, Plan, World,
    client::{Answer, Broken, Call},
    document::{self, Entry},
    suite::{refusal::dropped, sdk},
    world::{LIMIT, TEST_ID, header},
};

/// More tokens than a server computes while a test runs, by far.
const ENDLESS: u32 = 20_000;
/// Steps of a server take so long, in microseconds.
const STEP_US: u32 = 10_000;
const REQUESTS: &str = "llm_d_epp_flow_control_requests_total";

/// A request that takes a server as many steps as it has tokens.
fn chat(id: &str, objective: &str, n_tokens: u32) -> Call {
    let body = json!({
        "model": "sim-model", "max_tokens": n_tokens, "ignore_eos": true,
        "messages": [{ "role": "user", "content": id }],
    });
    let call = Call::json("/v1/chat/completions", &body).id(id);
    if objective.is_empty() { call } else { call.header(OBJECTIVE.as_str(), objective) }
}

/// Lets so many requests run on each server.
fn detector(max_concurrency: u32) -> Entry {
    Entry {
        plugin_type: "concurrency-detector",
        weight: None,
        parameters: json!({ "maxConcurrency": max_concurrency }),
    }
}

/// One server that takes one request at a time, a short queue for batches, and waits that a test does not see
/// the end of. What is more important always goes first.
fn plan(front: Front) -> Plan {
    let objectives = [("batch", -10), ("critical", 100)]
        .map(|(name, priority)| document::objective(name, priority))
        .join("\n---\n");
    let flow_control = json!({
        "featureGates": ["flowControl"],
        "flowControl": {
            "saturationDetector": { "pluginRef": "concurrency-detector" },
            "defaultRequestTTL": "10m",
            "noEndpointRequestTTL": "10m",
            "priorityBands": [{ "priority": -10, "maxRequests": 2 }],
            "expert": { "trickleShare": 0, "trickleInterval": "0s" },
        },
    });
    Plan::new(front, 1)
        .sim(json!({ "time-factor": 1, "step-base-us": STEP_US }))
        .entries([document::default_scorers(), vec![detector(1)]].concat())
        .more(flow_control)
        .resources(objectives)
}

/// A request that was sent, and its answer.
struct Sent {
    id: String,
    at: Instant,
    answer: Task<Result<Answer, Broken>>,
}

impl Sent {
    fn new(world: &World, id: &str, objective: &str, n_tokens: u32) -> Self {
        let (client, call) = (world.client(), chat(id, objective, n_tokens));
        let answer = world.tasks.spawn("request", async move { client.send(call).await });
        Self { id: id.to_owned(), at: Instant::now(), answer }
    }

    async fn ended(self) -> anyhow::Result<Answer> {
        let answer = tokio::time::timeout(LIMIT, self.answer.join()).await;
        answer.with_context(|| format!("{} is not answered", self.id))??.with_context(|| self.id)
    }

    async fn served(self) -> Outcome {
        let id = self.id.clone();
        let answer = self.ended().await?;
        ensure!(answer.status == 200, "{id}: {} {}", answer.status, answer.text());
        Ok(())
    }

    /// Answered by the router with this; returns how long it took.
    async fn refused(self, status: u16, reason: &str) -> anyhow::Result<Duration> {
        let (id, at) = (self.id.clone(), self.at);
        let answer = self.ended().await?;
        dropped(&answer, status, reason).context(id)?;
        Ok(answer.begun - at)
    }
}

/// Sends a request and waits until so many wait.
async fn queued(world: &World, id: &str, n_waiting: u64) -> anyhow::Result<Sent> {
    let objective = ["critical", "batch"].into_iter().find(|name| id.starts_with(name));
    let sent = Sent::new(world, id, objective.unwrap_or_default(), 2);
    waiting(world, n_waiting).await?;
    Ok(sent)
}

/// Sends a request whose client leaves when what this returns is cancelled.
fn until_cancelled(world: &World, id: &str, objective: &str) -> Tasks {
    let (client, call) = (world.client(), chat(id, objective, ENDLESS));
    let tasks = world.tasks.child();
    drop(tasks.spawn_cancellable("request", async move { drop(client.send(call).await) }));
    tasks
}

/// A request that runs until the server is hastened.
async fn running(world: &World) -> anyhow::Result<Sent> {
    let sent = Sent::new(world, "running", "", ENDLESS);
    run(world, 1).await?;
    Ok(sent)
}

/// Waits until so many requests run at servers.
async fn run(world: &World, n_running: u64) -> Outcome {
    let servers = world.sim.servers();
    let all_run = || async {
        let n: u64 = servers.iter().map(|server| server.stats().in_progress).sum();
        (n == n_running).then_some(())
    };
    let found = poll_until(LIMIT, all_run).await;
    found.with_context(|| format!("there are never {n_running} requests that run"))
}

async fn page(world: &World) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&world.page("/debug/flow-control").await?)?)
}

/// Waits until the page shows what is wanted.
async fn shown(world: &World, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Outcome {
    let found = poll_until(LIMIT, || async {
        let page = page(world).await.ok()?;
        is_wanted(&page).then_some(())
    });
    match found.await {
        Some(()) => Ok(()),
        None => anyhow::bail!("never {what}: {}", page(world).await?),
    }
}

/// Waits until so many requests wait.
async fn waiting(world: &World, n_waiting: u64) -> Outcome {
    let what = format!("{n_waiting} requests wait");
    shown(world, &what, |page| page["waiting"]["requests"] == n_waiting).await
}

/// Every band's first request waits for this reason.
async fn all_wait_because(world: &World, reason: &str) -> Outcome {
    let page = page(world).await?;
    let bands = page["bands"].as_array().context("no bands")?;
    for band in bands.iter().filter(|band| band["waiting"]["requests"] != 0) {
        let why = band["flows"][0]["head"]["waitsBecause"].as_str();
        ensure!(why.is_some_and(|why| why.contains(reason)), "not {reason:?}: {page}");
    }
    Ok(())
}

/// The only server got these requests, in this order.
fn ensure_order(world: &World, expected: &[&str]) -> Outcome {
    let records = world.server(0).stats().requests;
    let order: Vec<_> = records.iter().filter_map(|record| header(record, TEST_ID)).collect();
    ensure!(order == expected, "{order:?} instead of {expected:?}");
    Ok(())
}

/// So many requests ended so, by outcome and priority, and no others.
async fn ensure_outcomes(world: &World, expected: &[(&str, &str, u64)]) -> Outcome {
    let page = world.page("/metrics").await?;
    for &(outcome, priority, n_requests) in expected {
        let found = sum(&page, REQUESTS, &[("outcome", outcome), ("priority", priority)]);
        ensure!(found == n_requests as f64, "{found} of {priority} are {outcome}\n{page}");
    }
    let (all, n_listed) =
        (sum(&page, REQUESTS, &[]), expected.iter().map(|(.., n)| n).sum::<u64>());
    ensure!(all == n_listed as f64, "{all} requests ended\n{page}");
    ensure!(sum(&page, "llm_d_epp_flow_control_queue_size", &[]) == 0.0, "{page}");
    Ok(())
}

/// Overload queues, the important go first, and batches are shed.
pub(crate) async fn overload(front: Front) -> Outcome {
    plan(front)
        .run(async |world| {
            let mut sent = vec![running(world).await?];
            for (nth, id) in (1..).zip(["batch-0", "batch-1", "plain", "critical-0", "critical-1"])
            {
                sent.push(queued(world, id, nth).await?);
            }
            Sent::new(world, "shed", "batch", 2).refused(429, "rejected-saturated").await?;
            // A client that leaves while it waits leaves the queue at once.
            let leaving = until_cancelled(world, "gone", "critical");
            waiting(world, 6).await?;
            let shown = page(world).await?;
            let why = |band: usize| {
                let why = &shown["bands"][band]["flows"][0]["head"]["waitsBecause"];
                why.as_str().unwrap_or_default()
            };
            ensure!(why(0).contains("has reached the band's ceiling"), "{shown}");
            ensure!(why(1).contains("requests of priority 100 go first"), "{shown}");
            leaving.cancel();
            waiting(world, 5).await?;
            world.hasten(0).await?;
            for sent in sent {
                sent.served().await?;
            }
            ensure_order(
                world,
                &["running", "critical-0", "critical-1", "plain", "batch-0", "batch-1"],
            )?;
            let outcomes = [
                ("Dispatched", "100", 2),
                ("Dispatched", "0", 2),
                ("Dispatched", "-10", 2),
                ("RejectedCapacity", "-10", 1),
                ("EvictedContextCancelled", "100", 1),
            ];
            ensure_outcomes(world, &outcomes).await
        })
        .await
}

/// From zero: who comes while there is no endpoint waits, and once there is one all are served, the important
/// first.
pub(crate) async fn from_zero(front: Front) -> Outcome {
    plan(front)
        .listed(0)
        .run(async |world| {
            let mut sent = Vec::new();
            let ids = ["batch-0", "plain-0", "critical-0", "batch-1", "plain-1", "critical-1"];
            for (nth, id) in (1..).zip(ids) {
                sent.push(queued(world, id, nth).await?);
            }
            all_wait_because(world, "the pool has no endpoints").await?;
            Sent::new(world, "full", "batch", 2).refused(503, "rejected-no-endpoints").await?;
            ensure!(world.received() == [0], "{:?}", world.received());
            world.list(&[0])?;
            for sent in sent {
                sent.served().await?;
            }
            ensure_order(
                world,
                &["critical-0", "critical-1", "plain-0", "plain-1", "batch-0", "batch-1"],
            )?;
            let outcomes = [
                ("Dispatched", "100", 2),
                ("Dispatched", "0", 2),
                ("Dispatched", "-10", 2),
                ("RejectedNoEndpoints", "-10", 1),
            ];
            ensure_outcomes(world, &outcomes).await
        })
        .await
}

/// A pool that empties under load: who runs is served to the end, who waits is told why once its budget is
/// spent, and so is who comes later. Then the pool fills again.
pub(crate) async fn to_zero(front: Front) -> Outcome {
    const BUDGET: Duration = Duration::from_secs(2);
    let mut plan = plan(front);
    plan.more["flowControl"]["noEndpointRequestTTL"] = json!("2s");
    plan.run(async |world| {
        let running = running(world).await?;
        let left = [queued(world, "batch", 1).await?, queued(world, "critical", 2).await?];
        let emptied = Instant::now();
        world.list(&[])?;
        shown(world, "empty", |page| page["pool"]["hasEndpoints"] == false).await?;
        let late = Sent::new(world, "late", "", 2);
        // What ends there makes no room: there is nowhere to go.
        world.hasten(0).await?;
        running.served().await?;
        for sent in left {
            let before = emptied - sent.at;
            let waited = sent.refused(503, "rejected-no-endpoints").await?;
            ensure!(waited >= before + BUDGET, "{waited:?}, {before:?} of it with an endpoint");
        }
        let waited = late.refused(503, "rejected-no-endpoints").await?;
        ensure!(waited >= BUDGET, "{waited:?}");
        ensure_order(world, &["running"])?;
        world.list(&[0])?;
        shown(world, "filled", |page| page["pool"]["hasEndpoints"] == true).await?;
        Sent::new(world, "again", "", 2).served().await?;
        let outcomes = [
            ("Dispatched", "0", 2),
            ("EvictedNoEndpoints", "100", 1),
            ("EvictedNoEndpoints", "0", 1),
            ("EvictedNoEndpoints", "-10", 1),
        ];
        ensure_outcomes(world, &outcomes).await
    })
    .await
}

/// A sheddable request that runs makes room for an important one, and its client is told why.
pub(crate) async fn evicted(front: Front) -> Outcome {
    let mut plan = plan(front);
    plan.more["flowControl"]["enableEviction"] = json!(true);
    plan.run(async |world| {
        let batch = Sent::new(world, "batch", "batch", ENDLESS);
        run(world, 1).await?;
        Sent::new(world, "critical", "critical", 2).served().await?;
        batch.refused(429, "evicted").await?;
        run(world, 0).await?;
        ensure_outcomes(world, &[("Dispatched", "100", 1), ("Dispatched", "-10", 1)]).await?;
        let page = world.page("/metrics").await?;
        let confirmed = [("outcome", "confirmed")];
        let n = sum(&page, "llm_d_epp_flow_control_revocations_total", &confirmed);
        ensure!(n == 1.0, "{n} are confirmed\n{page}");
        Ok(())
    })
    .await
}

/// A new configuration: who waits under the old one is served, and who comes afterwards does not wait for them.
pub(crate) async fn reloaded(front: Front) -> Outcome {
    plan(front)
        .run(async |world| {
            let running = running(world).await?;
            let mut old = Vec::new();
            for (nth, id) in (1..).zip(["batch-0", "plain", "critical", "batch-1"]) {
                old.push(queued(world, id, nth).await?);
            }
            world.configure(&[document::scorer("queue-scorer", 1), detector(2)])?;
            world.logged("configuration reloaded").await?;
            for id in ["new-0", "new-1", "new-2"] {
                Sent::new(world, id, "", 2).served().await?;
            }
            ensure_order(world, &["running", "new-0", "new-1", "new-2"])?;
            world.hasten(0).await?;
            running.served().await?;
            for sent in old {
                sent.served().await?;
            }
            let order =
                ["running", "new-0", "new-1", "new-2", "critical", "plain", "batch-0", "batch-1"];
            ensure_order(world, &order)?;
            // The page and the metrics are those of the configuration in use; counters go on.
            let outcomes =
                [("Dispatched", "100", 1), ("Dispatched", "0", 5), ("Dispatched", "-10", 2)];
            ensure_outcomes(world, &outcomes).await
        })
        .await
}

/// Twice the load that two servers can do, sent by the OpenAI SDK. Clients that send their next request when
/// one is served keep the servers busy, however slow the machine is.
pub(crate) async fn openai_sdk(front: Front) -> Outcome {
    const PER_SERVER: u32 = 2;
    const N_SLOTS: u64 = 2 * PER_SERVER as u64;
    const MAX_QUEUED: u64 = 4;
    const N_CLIENTS: u64 = 10;
    /// Batches that come before anything is served.
    const N_BURST: u64 = 12;
    /// One batch for so many requests that are more important.
    const TURN: u64 = 8;
    let mut plan =
        plan(front).entries(vec![document::scorer("queue-scorer", 1), detector(PER_SERVER)]);
    plan.sim["servers"] = json!(2);
    plan.sim["step-base-us"] = json!(2 * STEP_US);
    plan.more["flowControl"]["priorityBands"][0]["maxRequests"] = json!(MAX_QUEUED);
    plan.more["flowControl"]["expert"]["trickleShare"] = json!(1.0 / TURN as f64);
    plan.run(async |world| {
        let holding: Vec<_> = (0..N_SLOTS).map(|_| until_cancelled(world, "holds", "")).collect();
        run(world, N_SLOTS).await?;
        let args = [N_CLIENTS, N_BURST, TURN].map(|number| number.to_string());
        let script = sdk::script(world, "openai_sdk_overload.py", "/v1", &args);
        let shed = [("outcome", "RejectedCapacity"), ("priority", "-10")];
        let full = async {
            waiting(world, N_CLIENTS + MAX_QUEUED).await?;
            let refused = || async {
                let page = world.page("/metrics").await.ok()?;
                (sum(&page, REQUESTS, &shed) == (N_BURST - MAX_QUEUED) as f64).then_some(())
            };
            poll_until(LIMIT, refused).await.context("what has no place is not refused")?;
            holding.iter().for_each(Tasks::cancel);
            anyhow::Ok(())
        };
        let (said, ()) = tokio::try_join!(script, full)?;
        let said: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        let n = |key: &str| said[key].as_u64().with_context(|| said.to_string());
        let outcomes = [
            ("Dispatched", "100", n("critical")?),
            ("Dispatched", "0", n("plain")? + N_SLOTS),
            ("Dispatched", "-10", n("batch")?),
            ("RejectedCapacity", "-10", n("refused")?),
        ];
        ensure_outcomes(world, &outcomes).await
    })
    .await
}

/// What waits when the router is told to end is served within the drain's window; what cannot be is told so.
pub(crate) async fn drain(front: Front) -> Outcome {
    plan(front)
        .flag("--drain-timeout=6s")
        .run(async |world| {
            let leaving = until_cancelled(world, "first", "");
            run(world, 1).await?;
            let next = Sent::new(world, "next", "", ENDLESS);
            waiting(world, 1).await?;
            let never = queued(world, "never", 2).await?;
            world.router.terminate();
            leaving.cancel();
            never.refused(503, "rejected-shutting-down").await?;
            ensure_order(world, &["first", "next"])?;
            drop(next);
            world.router.kill();
            world.router.wait_exit(LIMIT).await?;
            Ok(())
        })
        .await
}
