//! `--record`: live traffic of the real executable is written down, plays, and its decisions are made again to
//! the last one.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use router_testkit::process::{Launch, Stream, poll_until, run_to_end};
use serde_json::{Value, json};

use crate::system::{
    Front, Outcome, Plan, World,
    client::Call,
    document::{self, Entry, scorer},
    world::LIMIT,
};

/// Text and values that clients send or get, none of which may stand in a recording.
const SECRETS: [&str; 6] =
    ["walrus", "top-secret-key", "x-forwarded-secret", "sim-model", "acme-tenant", "a-client-id"];
const N_SESSIONS: u64 = 12;
const N_TURNS: u64 = 6;

/// A picker whose threads are one, so that the order of the recording is that of decisions.
fn recorded(front: Front, entries: Vec<Entry>, file: &Path, more: &[&str]) -> Plan {
    // Answers take some milliseconds, so that decisions find requests under way.
    let sim = json!({ "time-factor": 0.2, "kv-cache-size": 2_000 });
    let plan = Plan::new(front, 3)
        .sim(sim)
        .entries(entries)
        .resources(document::objective("batch", -5))
        .threads(1)
        .flag("--allow-experimental-plugins")
        .flag(format!("--record={}", file.display()));
    let plan = if front == Front::Serve { plan } else { plan.flag("--drain-idle-timeout=10ms") };
    more.iter().fold(plan, |plan, flag| plan.flag(*flag))
}

/// A turn of a conversation: a system prompt that several share, and all that was said before.
fn turn(session: u64, nth: u64) -> Call {
    let shared = "The walrus and the carpenter were walking close at hand. ".repeat(30);
    let said = |turn: u64| {
        let question = format!("walrus {session} asks {turn}: {}", "why? ".repeat(40));
        json!({ "role": "user", "content": question })
    };
    let mut messages =
        vec![json!({ "role": "system", "content": format!("{shared}{}", session % 3) })];
    messages.extend((0..=nth).map(said));
    let is_streamed = session.is_multiple_of(2);
    let body = json!({
        "model": "sim-model", "max_tokens": 5 + session, "ignore_eos": true, "stream": is_streamed,
        "stream_options": is_streamed.then(|| json!({ "include_usage": session.is_multiple_of(4) })),
        "messages": messages,
    });
    let call = Call::json("/v1/chat/completions", &body)
        .header("authorization", "Bearer top-secret-key")
        .header("cookie", "x-forwarded-secret");
    let call =
        if session.is_multiple_of(3) { call.header("x-request-id", "a-client-id") } else { call };
    let call = if session.is_multiple_of(5) {
        call.header("x-llm-d-inference-objective", "batch")
    } else {
        call
    };
    call.header("x-llm-d-inference-fairness-id", "acme-tenant")
}

/// Traffic, and an endpoint that goes while it has requests.
async fn traffic_and_a_change(world: &World) -> Outcome {
    traffic(world).await?;
    let long =
        json!({ "model": "sim-model", "max_tokens": 200, "ignore_eos": true, "prompt": "walrus" });
    let client = world.client();
    let long: Vec<_> = (0..6)
        .map(|_| {
            let (client, call) = (client.clone(), Call::json("/v1/completions", &long));
            world.tasks.spawn("long", async move { client.send(call).await })
        })
        .collect();
    world.list(&[0, 1])?;
    let has_gone =
        |line: &str| line.contains("endpoints changed") && line.contains("\"removed\":1");
    world.router.wait_line(Stream::Stderr, "an endpoint to go", LIMIT, has_gone).await?;
    traffic(world).await?;
    for task in long {
        task.join().await??;
    }
    Ok(())
}

/// Conversations side by side, clients that leave, a batch of prompts.
async fn traffic(world: &World) -> Outcome {
    let client = world.client();
    let sessions = (0..N_SESSIONS).map(|session| {
        let client = client.clone();
        world.tasks.spawn("session", async move {
            for nth in 0..N_TURNS {
                // Refused for being unimportant is an outcome, too.
                let answer = client.send(turn(session, nth)).await?;
                ensure!([200, 429, 503].contains(&answer.status), "{}", answer.text());
            }
            anyhow::Ok(())
        })
    });
    let sessions: Vec<_> = sessions.collect();
    let leaving = (100..108).map(|session| {
        let client = client.clone();
        world.tasks.spawn("leaving", async move {
            let mut opened = client.open(turn(session, 1)).await?;
            if session.is_multiple_of(4) {
                opened.piece().await?;
            }
            anyhow::Ok(())
        })
    });
    let leaving: Vec<_> = leaving.collect();
    let batch = json!({
        "model": "sim-model", "max_tokens": 3,
        "prompt": ["walrus ".repeat(100), "walrus ".repeat(150)],
    });
    client.send(Call::json("/v1/completions", &batch)).await?;
    for task in sessions.into_iter().chain(leaving) {
        task.join().await??;
    }
    Ok(())
}

/// Ends the router in order, so that the recording is closed.
async fn stop(world: &World) -> Outcome {
    world.settle().await?;
    world.router.terminate();
    let status = world.router.wait_exit(LIMIT).await?;
    ensure!(status.code() == Some(0), "{status}");
    Ok(())
}

async fn replay(args: &[&str]) -> anyhow::Result<(bool, String)> {
    let launch = Launch::new(env!("CARGO_BIN_EXE_llm-d-router")).arg("replay").args(args);
    let done = run_to_end(launch, LIMIT).await?;
    Ok((done.status.success(), done.stdout + &done.stderr))
}

fn lines(file: &Path) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read_to_string(file)?;
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

fn requests(lines: &[Value]) -> Vec<&Value> {
    lines.iter().filter(|line| !line["prompt_tokens"].is_null()).collect()
}

/// Records, stops, and holds the decisions that are made again against those that were made.
async fn check(front: Front, entries: Vec<Entry>) -> Outcome {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("recording.jsonl");
    let path = file.display().to_string();
    recorded(front, entries, &file, &["--record-inputs"])
        .run(async |world| {
            traffic_and_a_change(world).await?;
            stop(world).await
        })
        .await?;
    let lines = lines(&file)?;
    let of_kind = |kind: &str| lines.iter().filter(|line| !line["input"][kind].is_null()).count();
    let n_decisions = of_kind("decision");
    ensure!(n_decisions as u64 > 2 * N_SESSIONS * N_TURNS, "{n_decisions} decisions");
    ensure!(of_kind("members") == 2 && of_kind("configuration") == 1);
    ensure!(of_kind("ended") == of_kind("decision"), "some have not ended");
    let left = requests(&lines).iter().filter(|r| r["observed"]["status"] == 499).count();
    ensure!(left > 0, "no client has left");
    no_secrets(&file)?;

    let (is_equal, said) = replay(&["--reproduce", &path, "--allow-experimental-plugins"]).await?;
    ensure!(
        is_equal && said.contains(&format!("{n_decisions} of {n_decisions} decisions equal")),
        "{said}"
    );
    let other = ["--reproduce", &path, "--config", "random"];
    let (is_shown, said) = replay(&other).await?;
    ensure!(is_shown && said.contains("under random") && said.contains("\n  recorded  "), "{said}");
    let (is_played, said) = replay(&["--trace", &path, "--servers=2", "--seeds=1"]).await?;
    ensure!(is_played && said.contains("goodput"), "{said}");

    // A decision that was made otherwise is found.
    let forged = forge(&lines, folder.path())?;
    let (is_equal, said) =
        replay(&["--reproduce", &forged, "--allow-experimental-plugins"]).await?;
    let found = format!("{} of {n_decisions} decisions equal", n_decisions - 1);
    ensure!(!is_equal && said.contains(&found) && said.contains("\n  again     "), "{said}");
    Ok(())
}

/// The recording, with the targets of its last decision turned round.
fn forge(lines: &[Value], folder: &Path) -> anyhow::Result<String> {
    let mut lines = lines.to_vec();
    let targets = lines
        .iter_mut()
        .rev()
        .find_map(|line| line.pointer_mut("/input/decision/targets")?.as_array_mut())
        .context("no decision")?;
    targets.reverse();
    let path = folder.join("forged.jsonl");
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    std::fs::write(&path, text.join("\n") + "\n")?;
    Ok(path.display().to_string())
}

/// Nothing that anybody wrote or is called stands in the file.
fn no_secrets(file: &Path) -> Outcome {
    let text = std::fs::read_to_string(file)?;
    for secret in SECRETS {
        ensure!(!text.contains(secret), "{secret} stands in the recording");
    }
    Ok(())
}

#[tokio::test]
async fn decisions_of_the_go_default_are_made_again() -> Outcome {
    check(Front::Serve, document::default_scorers()).await
}

#[tokio::test]
async fn decisions_by_estimated_ttft_are_made_again() -> Outcome {
    check(Front::Serve, vec![scorer("estimated-ttft-scorer", 1)]).await
}

#[tokio::test]
async fn decisions_behind_envoy_are_made_again() -> Outcome {
    check(Front::Envoy, vec![scorer("estimated-ttft-scorer", 1)]).await
}

/// Without inputs, and without a plugin that would cut prompts into blocks.
#[tokio::test]
async fn a_trace_alone_has_what_playing_needs_and_nothing_else() -> Outcome {
    let folder = tempfile::tempdir()?;
    let file: PathBuf = folder.path().join("trace.jsonl");
    recorded(Front::Serve, vec![scorer("queue-scorer", 1)], &file, &[])
        .run(async |world| {
            traffic(world).await?;
            let written = async || {
                let page = world.page("/metrics").await.ok()?;
                page.contains("llm_d_epp_recording 1\n").then_some(())
            };
            poll_until(LIMIT, written).await.context("it does not say that it records")?;
            stop(world).await
        })
        .await?;
    let lines = lines(&file)?;
    ensure!(lines.iter().all(|line| line["input"].is_null()), "there are inputs");
    let requests = requests(&lines);
    let (first, last) = (&lines[0], lines.last().context("no line")?);
    ensure!(first["recorded"]["inputs"].is_null(), "{first}");
    ensure!(last["end"]["why"] == "stopped" && last["end"]["dropped"] == 0, "{last}");
    ensure!(last["end"]["requests"] == requests.len(), "{last}");
    let served: Vec<_> = requests.iter().filter(|r| r["observed"]["status"] == 200).collect();
    ensure!(served.len() > 40, "{} served", served.len());
    for request in &served {
        let has_times = request["observed"]["e2e"].is_number();
        let has_blocks = request["blocks"].as_array().is_some_and(|blocks| !blocks.is_empty());
        ensure!(
            has_times && has_blocks && request["output_tokens"].as_u64() > Some(0),
            "{request}"
        );
    }
    // Half of the sessions have their answers streamed, and one request has two prompts.
    let n_streamed = served.iter().filter(|r| r["observed"]["ttft"].is_number()).count();
    ensure!((1..served.len()).contains(&n_streamed), "{n_streamed} of {}", served.len());
    let several: Vec<_> = served.iter().filter(|r| r["prompts"] != Value::Null).collect();
    ensure!(several.len() == 1 && several[0]["prompts"] == 2, "{several:?}");
    ensure!(
        served.iter().any(|r| r["observed"]["cached_tokens"].as_u64() > Some(0)),
        "nothing cached"
    );
    // Conversations share their beginnings: fewer different first blocks than requests.
    let mut firsts: Vec<_> = requests.iter().map(|r| r["blocks"][0].as_u64()).collect();
    firsts.sort_unstable();
    firsts.dedup();
    ensure!(firsts.len() * 4 < requests.len(), "{} first blocks", firsts.len());
    no_secrets(&file)?;
    let path = file.display().to_string();
    let (is_equal, said) = replay(&["--reproduce", &path]).await?;
    ensure!(!is_equal && said.contains("--record-inputs makes one that has"), "{said}");
    let (is_played, said) = replay(&["--trace", &path, "--servers=2", "--seeds=1"]).await?;
    ensure!(is_played && said.contains("goodput"), "{said}");
    Ok(())
}
