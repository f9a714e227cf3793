//! `--record`: live traffic of the real executable is written down, plays, and its decisions are made again to
//! the last one.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use router_testkit::{
    process::{Launch, Stream, poll_until, run_to_end},
    router::sum,
};
use serde_json::{Value, json};

use crate::system::{
    Front, Outcome, Plan, World,
    client::{Call, Client},
    document::{self, Entry, scorer},
    world::LIMIT,
};

/// Text and values that clients send or get, none of which may stand in a recording.
const SECRETS: [&str; 6] =
    ["walrus", "top-secret-key", "x-forwarded-secret", "sim-model", "acme-tenant", "a-client-id"];
/// Answers of 503 in a row that take an endpoint out.
const REFUSALS_UNTIL_OUT: u64 = 3;
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
    // Most clients leave it to the model how long it answers, so that only usage tells.
    let is_limited = session % 4 == 1;
    let body = json!({
        "model": "sim-model", "max_tokens": is_limited.then_some(5 + session),
        "ignore_eos": is_limited, "stream": is_streamed,
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

/// Changes how a server behaves.
async fn set(world: &World, number: usize, keys: Value) -> Outcome {
    let control = Client::new(world.server(number).address(), world.tasks.clone());
    let answer = control.send(Call::json("/admin/config", &keys)).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    Ok(())
}

/// Traffic; then with two endpoints that fail, one that breaks connections and one that is overloaded; then with one
/// that goes while it has requests.
async fn traffic_and_changes(world: &World) -> Outcome {
    traffic(world).await?;
    let overloaded = overload(world).await?;
    let breaking = (overloaded + 1) % 3;
    set(world, breaking, json!({ "reset-rate": 30 })).await?;
    traffic(world).await?;
    set(world, breaking, json!({ "reset-rate": 0 })).await?;
    set(world, overloaded, json!({ "failure-injection-rate": 0 })).await?;
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

/// Lets the endpoint that gets a request refuse all that come after it, until it gets no more for a while, and sends
/// another request then. Gives its number.
async fn overload(world: &World) -> anyhow::Result<usize> {
    let client = world.client();
    let ask = async || {
        let short = json!({ "model": "sim-model", "max_tokens": 2, "prompt": "carpenter" });
        client.send(Call::json("/v1/completions", &short)).await
    };
    let before = world.received();
    ask().await?;
    let after = world.received();
    let chosen = before.iter().zip(&after).position(|(before, after)| before < after);
    let chosen = chosen.context("no endpoint got it")?;
    let overloaded = json!({ "failure-injection-rate": 100, "failure-types": ["server_error"] });
    set(world, chosen, overloaded).await?;
    let is_out = async || {
        ask().await.ok()?;
        (world.received()[chosen] - after[chosen] >= REFUSALS_UNTIL_OUT).then_some(())
    };
    poll_until(LIMIT, is_out).await.context("it is asked no more")?;
    ask().await?;
    Ok(chosen)
}

/// Conversations side by side, clients that leave, a batch of prompts.
async fn traffic(world: &World) -> Outcome {
    let client = world.client();
    let sessions = (0..N_SESSIONS).map(|session| {
        let client = client.clone();
        world.tasks.spawn("session", async move {
            for nth in 0..N_TURNS {
                // Refused for being unimportant is an outcome, too, and so is that no endpoint answered.
                let answer = client.send(turn(session, nth)).await?;
                ensure!([200, 429, 502, 503].contains(&answer.status), "{}", answer.text());
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

/// What a recording can lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lacking {
    /// What endpoints say that a request took.
    Usage,
    /// Attempts that failed.
    Failures,
    /// Every second scrape.
    Scrapes,
    /// The marks of what flow control refused.
    Marks,
}

impl Lacking {
    /// Changes the line, or says that it goes; `nth` is the number of scrapes before it.
    fn keeps(self, line: &mut Value, nth: u64) -> bool {
        let mut remove = |pointer: &str, key: &str| {
            let object = line.pointer_mut(pointer).and_then(Value::as_object_mut);
            object.and_then(|object| object.remove(key));
        };
        match self {
            Self::Usage => remove("/input/ended", "usage"),
            Self::Marks => remove("/input/decision", "by_flow_control"),
            Self::Failures => return line["input"]["failed"].is_null(),
            Self::Scrapes => return line["input"]["scrape"].is_null() || nth.is_multiple_of(2),
        }
        true
    }

    /// The lines without it.
    fn of(self, lines: &[Value]) -> Vec<Value> {
        let mut n_scrapes = 0;
        let mut lines = lines.to_vec();
        lines.retain_mut(|line| {
            let is_scrape = !line["input"]["scrape"].is_null();
            let keeps = self.keeps(line, n_scrapes);
            n_scrapes += u64::from(is_scrape);
            keeps
        });
        lines
    }
}

/// Makes the decisions again; all of them are the same.
async fn all_equal(path: &Path, n_decisions: usize) -> anyhow::Result<String> {
    let path = path.display().to_string();
    let (is_equal, said) = replay(&["--reproduce", &path, "--allow-experimental-plugins"]).await?;
    let expected = format!("{n_decisions} of {n_decisions} decisions equal");
    ensure!(is_equal && said.contains(&expected), "{said}");
    Ok(said)
}

/// Makes the decisions of other lines again; as many of them differ as may.
async fn differ(lines: &[Value], may: impl Fn(usize) -> bool) -> anyhow::Result<String> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("other.jsonl").display().to_string();
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    std::fs::write(&path, text.join("\n") + "\n")?;
    let (is_equal, said) = replay(&["--reproduce", &path, "--allow-experimental-plugins"]).await?;
    let counts = said.lines().find_map(|line| {
        let (equal, all) = line.strip_suffix(" decisions equal")?.split_once(" of ")?;
        Some((equal.parse::<usize>().ok()?, all.parse::<usize>().ok()?))
    });
    let (n_equal, n_all) = counts.with_context(|| said.clone())?;
    ensure!(!is_equal && may(n_all - n_equal), "{said}");
    ensure!(said.contains("\n  recorded  ") && said.contains("\n  again     "), "{said}");
    Ok(said)
}

/// Records, stops, and holds the decisions that are made again against those that were made. Of a recording that
/// lacks one of these, some are found to differ.
async fn check(front: Front, entries: Vec<Entry>, needed: &[Lacking]) -> Outcome {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("recording.jsonl");
    let path = file.display().to_string();
    recorded(front, entries, &file, &["--record-inputs"])
        .run(async |world| {
            traffic_and_changes(world).await?;
            stop(world).await
        })
        .await?;
    let lines = lines(&file)?;
    let of_kind = |kind: &str| lines.iter().filter(|line| !line["input"][kind].is_null()).count();
    let n_decisions = of_kind("decision");
    ensure!(n_decisions as u64 > 3 * N_SESSIONS * N_TURNS, "{n_decisions} decisions");
    ensure!(of_kind("members") == 2 && of_kind("configuration") == 1);
    let is_refused = |line: &&Value| !line["input"]["decision"]["refused"].is_null();
    let n_refused = lines.iter().filter(is_refused).count();
    ensure!(of_kind("ended") + n_refused == n_decisions, "some have not ended");
    let left = requests(&lines).iter().filter(|r| r["observed"]["status"] == 499).count();
    ensure!(left > 0, "no client has left");
    no_secrets(&file)?;

    let said = all_equal(&file, n_decisions).await?;
    ensure!(!said.contains("missing"), "{said}");
    let other = ["--reproduce", &path, "--config", "random"];
    let (is_shown, said) = replay(&other).await?;
    ensure!(is_shown && said.contains("under random") && said.contains("\n  recorded  "), "{said}");
    let (is_played, said) = replay(&["--trace", &path, "--servers=2", "--seeds=1"]).await?;
    ensure!(is_played && said.contains("goodput"), "{said}");

    // A decision that was made otherwise is found, be it by its targets or by its scores.
    differ(&forged(&lines, "targets", |targets| targets.reverse())?, |n| n == 1).await?;
    let other_score = |scores: &mut Vec<Value>| scores[0][1] = json!(0.123_456);
    let said = differ(&forged(&lines, "scores", other_score)?, |n| n == 1).await?;
    ensure!(said.contains("1 of the others: only scores differ"), "{said}");
    for lacking in needed {
        let said = differ(&lacking.of(&lines), |n| n > 0).await;
        said.with_context(|| format!("without {lacking:?}"))?;
    }
    Ok(())
}

/// The recording up to its last decision that has more than one in this list, with that list changed. What comes after
/// may follow from what was decided.
fn forged(
    lines: &[Value],
    list: &str,
    change: impl FnOnce(&mut Vec<Value>),
) -> anyhow::Result<Vec<Value>> {
    let pointer = format!("/input/decision/{list}");
    let has_several = |line: &Value| {
        line.pointer(&pointer).and_then(Value::as_array).is_some_and(|list| list.len() > 1)
    };
    let last = lines.iter().rposition(has_several).context("no decision")?;
    let mut lines = lines[..=last].to_vec();
    change(lines[last].pointer_mut(&pointer).and_then(Value::as_array_mut).context("a list")?);
    Ok(lines)
}

/// Nothing that anybody wrote or is called stands in the file.
fn no_secrets(file: &Path) -> Outcome {
    let text = std::fs::read_to_string(file)?;
    for secret in SECRETS {
        ensure!(!text.contains(secret), "{secret} stands in the recording");
    }
    Ok(())
}

/// These go by scrapes.
#[tokio::test]
async fn decisions_of_the_go_default_are_made_again() -> Outcome {
    let needed = [Lacking::Scrapes, Lacking::Failures];
    check(Front::Serve, document::default_scorers(), &needed).await
}

/// These go by what answers took.
#[tokio::test]
async fn decisions_by_estimated_ttft_are_made_again() -> Outcome {
    let needed = [Lacking::Usage, Lacking::Failures];
    check(Front::Serve, vec![scorer("estimated-ttft-scorer", 1)], &needed).await
}

#[tokio::test]
async fn decisions_behind_envoy_are_made_again() -> Outcome {
    check(Front::Envoy, vec![scorer("estimated-ttft-scorer", 1)], &[Lacking::Usage]).await
}

/// Two servers take one request at a time each, and of batches one may wait.
fn queued(file: &Path) -> Plan {
    let detector = Entry {
        plugin_type: "concurrency-detector",
        weight: None,
        parameters: json!({ "maxConcurrency": 1 }),
    };
    let entries = vec![scorer("estimated-ttft-scorer", 1), detector];
    recorded(Front::Serve, entries, file, &["--record-inputs"]).listed(2).more(json!({
        "featureGates": ["flowControl"],
        "flowControl": {
            "saturationDetector": { "pluginRef": "concurrency-detector" },
            "defaultRequestTTL": "1m",
            "priorityBands": [{ "priority": -5, "maxRequests": 1 }],
            "expert": { "trickleShare": 0, "trickleInterval": "0s" },
        },
        // Without the detector, which as a filter would refuse what flow control refuses.
        "schedulingProfiles": [{
            "name": "default",
            "plugins": [{ "pluginRef": "estimated-ttft-scorer", "weight": 1 }],
        }],
    }))
}

/// Four batches while both servers are busy: one waits and three are refused.
async fn refused_batches(world: &World) -> Outcome {
    let client = world.client();
    let send = |body: &Value, objective: &'static str| {
        let client = client.clone();
        let call = Call::json("/v1/completions", body);
        let call = call.header("x-llm-d-inference-objective", objective);
        world.tasks.spawn("request", async move { client.send(call).await })
    };
    let long = json!({
        "model": "sim-model", "max_tokens": 20_000, "ignore_eos": true, "prompt": "walrus",
    });
    let busy = [0, 1].map(|_| send(&long, "none"));
    let servers = &world.sim.servers()[..2];
    let are_busy = || async {
        let n: u64 = servers.iter().map(|server| server.stats().in_progress).sum();
        (n == 2).then_some(())
    };
    poll_until(LIMIT, are_busy).await.context("the servers are never busy")?;
    let short = json!({ "model": "sim-model", "max_tokens": 2, "prompt": "carpenter" });
    let batches = [0; 4].map(|_| send(&short, "batch"));
    let are_refused = || async {
        let page = world.page("/metrics").await.ok()?;
        let shed = [("outcome", "RejectedCapacity")];
        (sum(&page, "llm_d_epp_flow_control_requests_total", &shed) == 3.0).then_some(())
    };
    poll_until(LIMIT, are_refused).await.context("three batches are never refused")?;
    for number in [0, 1] {
        world.hasten(number).await?;
    }
    let mut statuses = Vec::new();
    for task in batches.into_iter().chain(busy) {
        statuses.push(task.join().await??.status);
    }
    statuses.sort_unstable();
    ensure!(statuses == [200, 200, 200, 429, 429, 429], "{statuses:?}");
    for number in [0, 1] {
        set(world, number, json!({ "time-factor": 0.2 })).await?;
    }
    Ok(())
}

/// What flow control refuses is no decision, and what it lets go is decided when it goes.
#[tokio::test]
async fn what_waited_is_made_again_and_what_flow_control_refused_is_left_out() -> Outcome {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("recording.jsonl");
    queued(&file)
        .run(async |world| {
            refused_batches(world).await?;
            traffic(world).await?;
            stop(world).await
        })
        .await?;
    let lines = lines(&file)?;
    let decisions = lines.iter().map(|line| &line["input"]["decision"]);
    let decisions: Vec<_> = decisions.filter(|decision| !decision.is_null()).collect();
    let n_refused = decisions.iter().filter(|d| d["by_flow_control"] == true).count();
    ensure!((3..decisions.len() / 2).contains(&n_refused), "{n_refused} of {}", decisions.len());
    let rows = requests(&lines);
    let n_rows = rows.iter().filter(|row| row["refused"]["by_flow_control"] == true).count();
    ensure!(n_rows == n_refused, "{n_rows} rows, {n_refused} decisions");
    let waits: Vec<_> =
        rows.iter().filter_map(|row| row["observed"]["dispatched"].as_f64()).collect();
    ensure!(waits.iter().any(|waited| *waited > 0.01), "nothing waited: {waits:?}");

    let said = all_equal(&file, decisions.len() - n_refused).await?;
    let expected = format!("{n_refused} more requests were refused by flow control");
    ensure!(said.contains(&expected) && said.contains("rejected-saturated"), "{said}");
    differ(&Lacking::Marks.of(&lines), |n| n >= n_refused).await?;
    Ok(())
}

/// What was recorded before stays where it is until the router serves; then it is kept.
#[tokio::test]
async fn a_router_that_cannot_start_touches_no_recording_and_one_that_starts_keeps_it() -> Outcome {
    let folder = tempfile::tempdir()?;
    let (file, kept) = (folder.path().join("r.jsonl"), folder.path().join("r.jsonl.1"));
    let (config, endpoints) = (folder.path().join("c.yaml"), folder.path().join("e.yaml"));
    std::fs::write(
        &config,
        document::document(&endpoints, &document::default_scorers(), &json!({})),
    )?;
    let serve = || {
        let launch = Launch::new(env!("CARGO_BIN_EXE_llm-d-router"));
        let launch = launch.args(["serve", "--listen=127.0.0.1:0", "--metrics-port=0"]);
        launch.arg("--config-file").arg(&config).arg("--record").arg(&file)
    };
    std::fs::write(&file, "earlier")?;
    // Its ports are open by then, and what its configuration names is not there.
    let done = run_to_end(serve(), LIMIT).await?;
    ensure!(!done.status.success() && done.stderr.contains("e.yaml"), "{}", done.stderr);
    ensure!(std::fs::read_to_string(&file)? == "earlier" && !kept.try_exists()?);
    std::fs::remove_file(&file)?;
    run_to_end(serve(), LIMIT).await?;
    ensure!(!file.try_exists()?, "a start that failed left a recording");

    std::fs::write(&file, "earlier")?;
    recorded(Front::Serve, document::default_scorers(), &file, &[])
        .run(async |world| {
            world.logged("the earlier recording is kept under another name").await?;
            stop(world).await
        })
        .await?;
    ensure!(std::fs::read_to_string(&kept)? == "earlier");
    ensure!(lines(&file)?.len() == 2, "its first and its last line");
    Ok(())
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
