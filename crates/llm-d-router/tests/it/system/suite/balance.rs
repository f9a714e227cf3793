//! `active-request-scorer` alone: each of a burst of requests goes where this router has least in flight.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use crate::system::{
    Front, Outcome, Plan, World,
    client::{Answer, Call},
    document::scorer,
};

const N_SERVERS: usize = 4;
const N_REQUESTS: usize = 64;

/// With one thread decisions come one after the other, so that each sees all before it.
pub(crate) async fn burst(front: Front) -> Outcome {
    check(plan(front).threads(1), 0).await
}

/// Two threads may decide in the same instant; then each may miss the other's request, and no more.
pub(crate) async fn parallel(front: Front) -> Outcome {
    check(plan(front).threads(2), 1).await
}

fn plan(front: Front) -> Plan {
    // Steps of 10 ms, so that no request ends before the last one has begun.
    let slow = json!({ "time-factor": 1, "step-base-us": 10_000 });
    Plan::new(front, N_SERVERS as u32)
        .sim(slow)
        .entries(vec![scorer("active-request-scorer", 1)])
        .flag("--record-decisions=1")
        .flag("--max-recorded-decisions=1000")
        .alone()
}

/// No request may land on an endpoint that has more in flight than another has, plus `n_missed`.
async fn check(plan: Plan, n_missed: u64) -> Outcome {
    plan.run(async |world| {
        let answers = burst_of(world).await?;
        let last_begun = answers.iter().map(|answer| answer.begun).max();
        let first_ended = answers.iter().map(|answer| answer.ended).min();
        ensure!(last_begun < first_ended, "a request ended before all had begun");
        let decisions = world.decisions().await?;
        ensure!(decisions.len() == N_REQUESTS, "{} decisions were recorded", decisions.len());
        let mut in_flight: BTreeMap<String, u64> =
            (0..N_SERVERS).map(|number| (format!("default/server-{number}"), 0)).collect();
        for (nth, decision) in decisions.iter().enumerate() {
            let target = decision["targets"][0].as_str().context("no target")?;
            let least = in_flight.values().min().copied().unwrap_or_default();
            let taken = in_flight.get_mut(target).context("an unknown target")?;
            ensure!(*taken <= least + n_missed, "request {nth} went to {target}: {in_flight:?}");
            *taken += 1;
        }
        // What the router believes is what the servers saw.
        for (number, received) in world.received().into_iter().enumerate() {
            let counted = in_flight[&format!("default/server-{number}")];
            ensure!(received == counted, "server {number} got {received} instead of {counted}");
        }
        Ok(())
    })
    .await
}

/// Unrelated prompts, 1 ms apart.
async fn burst_of(world: &World) -> anyhow::Result<Vec<Answer>> {
    let mut ticks = interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sending = Vec::new();
    for number in 0..N_REQUESTS {
        ticks.tick().await;
        let (client, call) = (world.client(), Call::json("/v1/chat/completions", &body(number)));
        let task = world.tasks.spawn("burst", async move { client.send(call).await });
        sending.push(task);
    }
    let mut answers = Vec::new();
    for task in sending {
        let answer = task.join().await??;
        ensure!(answer.status == 200, "{}", answer.text());
        answers.push(answer);
    }
    Ok(answers)
}

fn body(number: usize) -> Value {
    json!({
        "model": "sim-model", "stream": true, "max_tokens": 250, "ignore_eos": true,
        "messages": [{ "role": "user", "content": format!("{number} is unlike any other") }],
    })
}
