//! Files that change while the router serves.

use std::{fs, path::Path};

use anyhow::{Context, ensure};
use router_rt::Tasks;
use router_testkit::process::poll_until;
use tokio::{io::AsyncReadExt, net::TcpListener};

use super::{
    CHAT, Folder, LIMIT, ONE_ENDPOINT, Outcome, PICKER, Program, SERVE, chat, document, send,
};

/// Plugins of a type that serve.
async fn has_plugin(router: &Program, name: &str) -> anyhow::Result<bool> {
    Ok(!router.json_page("/debug/plugins/state").await?["plugins"][name].is_null())
}

/// Successes and failures that were counted, and whether the last reload succeeded.
async fn reloads(router: &Program, what: &str) -> anyhow::Result<(f64, f64, f64)> {
    let (_, page) = router.page("/metrics").await?;
    let value = |series: String| {
        let rest =
            page.lines().find_map(|line| line.strip_prefix(&format!("llm_d_epp_{series}}} ")));
        rest.and_then(|rest| rest.parse::<f64>().ok()).with_context(|| format!("{series}: {page}"))
    };
    let at = value(format!("last_reload_success_timestamp_seconds{{what=\"{what}\""))?;
    ensure!(at > 1.7e9, "{at}");
    Ok((
        value(format!("reloads_total{{result=\"success\",what=\"{what}\""))?,
        value(format!("reloads_total{{result=\"failure\",what=\"{what}\""))?,
        value(format!("last_reload_successful{{what=\"{what}\""))?,
    ))
}

#[tokio::test]
async fn the_last_good_configuration_serves() -> Outcome {
    let folder = Folder::new()?;
    let endpoints = folder.path("endpoints.yaml");
    folder.write("endpoints.yaml", ONE_ENDPOINT)?;
    let good = |scorer: &str| document(&endpoints, scorer);
    let config = folder.write("config.yaml", good("queue-scorer"))?;
    let router = Program::start(&[&PICKER[..], &["--config-file", &config]].concat()).await?;
    ensure!(has_plugin(&router, "queue-scorer").await?);
    // It serves before it looks after its file.
    let at_first = poll_until(LIMIT, async || reloads(&router, "configuration").await.ok()).await;
    ensure!(at_first.context("nobody looks after the configuration")? == (0.0, 0.0, 1.0));

    folder.write("config.yaml", good("queue-scorrer"))?;
    let line = router.logged("going on with the last good configuration").await?;
    ensure!(line.contains("did you mean `queue-scorer`?"), "{line}");
    ensure!(reloads(&router, "configuration").await? == (0.0, 1.0, 0.0));
    ensure!(has_plugin(&router, "queue-scorer").await?);

    folder.write("config.yaml", good("queue-scorer"))?;
    router.logged("the configuration file is as it was").await?;
    ensure!(reloads(&router, "configuration").await? == (1.0, 1.0, 1.0));

    folder.write("config.yaml", good("kv-cache-utilization-scorer"))?;
    router.logged("configuration reloaded").await?;
    ensure!(reloads(&router, "configuration").await? == (2.0, 1.0, 1.0));
    ensure!(has_plugin(&router, "kv-cache-utilization-scorer").await?);
    ensure!(!has_plugin(&router, "queue-scorer").await?);

    // Right in itself, but its endpoints are not there: what serves goes on.
    folder.write("config.yaml", document(&folder.path("later.yaml"), "queue-scorer"))?;
    router.logged("later.yaml does not exist").await?;
    ensure!(has_plugin(&router, "kv-cache-utilization-scorer").await?);
    ensure!(router.page("/readyz").await?.0 == 200);
    folder.write("later.yaml", ONE_ENDPOINT)?;
    let is_taken = async || has_plugin(&router, "queue-scorer").await.ok()?.then_some(());
    poll_until(LIMIT, is_taken).await.context("the configuration is not tried again")?;

    fs::remove_file(&config)?;
    router.logged("config.yaml does not exist").await?;
    ensure!(reloads(&router, "configuration").await?.2 == 0.0);
    ensure!(router.page("/readyz").await?.0 == 200);
    Ok(())
}

/// The same with queues, and one request at a time on each endpoint.
fn queueing(endpoints: &Path, scorer: &str) -> String {
    let detector = "plugins:\n- type: concurrency-detector\n  parameters: {maxConcurrency: 1}\n";
    let queues = "featureGates: [flowControl]\n\
                  flowControl: {saturationDetector: {pluginRef: concurrency-detector}}\n";
    let profile =
        format!("schedulingProfiles: [{{name: default, plugins: [{{pluginRef: {scorer}}}]}}]\n");
    let followed = document(endpoints, scorer).replace("{path: ", "{watchFile: true, path: ");
    followed.replace("plugins:\n", detector) + &profile + queues
}

/// A model server that takes requests and never answers; the listener, and its file of endpoints.
async fn silent() -> anyhow::Result<(TcpListener, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    Ok((listener, format!("endpoints: [{{name: a, address: 127.0.0.1, port: {port}}}]\n")))
}

async fn n_waiting(router: &Program, wanted: u64) -> Outcome {
    let are_there = async || {
        let page = router.json_page("/debug/flow-control").await.ok()?;
        (page["waiting"]["requests"] == wanted).then_some(())
    };
    let found = poll_until(LIMIT, are_there).await;
    found.with_context(|| format!("there are never {wanted} requests that wait"))
}

#[tokio::test]
async fn a_drain_answers_who_waits_under_a_replaced_configuration() -> Outcome {
    let (folder, tasks) = (Folder::new()?, Tasks::new());
    let (_server, endpoints) = silent().await?;
    let endpoints = folder.write("endpoints.yaml", endpoints)?;
    let config = |scorer| queueing(Path::new(&endpoints), scorer);
    let file = folder.write("config.yaml", config("queue-scorer"))?;
    let flags = ["--drain-timeout=2s", "--config-file", &file];
    let router = Program::start(&[&SERVE[..], &flags].concat()).await?;
    let address = router.traffic;
    let ask =
        || tasks.spawn("request", async move { send(address, CHAT, &[], &chat("m", 1)).await });
    let _running = ask();
    let in_flight = async || {
        let page = router.json_page("/debug/flow-control").await.ok()?;
        (page["pool"]["inFlight"]["requests"] == 1).then_some(())
    };
    poll_until(LIMIT, in_flight).await.context("nothing runs")?;
    let waiting = ask();
    n_waiting(&router, 1).await?;
    folder.write("config.yaml", config("kv-cache-utilization-scorer"))?;
    router.logged("configuration reloaded").await?;
    n_waiting(&router, 0).await?;
    // What runs under the old configuration takes up the endpoint.
    let late = ask();
    n_waiting(&router, 1).await?;
    router.process.terminate();
    for waiting in [waiting, late] {
        let (status, _, text) = waiting.join().await??;
        ensure!(status == 503 && text.contains("shutting down"), "{status} {text}");
    }
    tasks.cancel();
    Ok(())
}

#[tokio::test]
async fn who_waits_under_a_replaced_configuration_hears_of_new_endpoints() -> Outcome {
    let (folder, tasks) = (Folder::new()?, Tasks::new());
    let endpoints = folder.write("endpoints.yaml", "endpoints: []\n")?;
    let config = |scorer| queueing(Path::new(&endpoints), scorer);
    let file = folder.write("config.yaml", config("queue-scorer"))?;
    let router = Program::start(&[&SERVE[..], &["--config-file", &file]].concat()).await?;
    let address = router.traffic;
    drop(tasks.spawn("request", async move { send(address, CHAT, &[], &chat("m", 1)).await }));
    n_waiting(&router, 1).await?;
    folder.write("config.yaml", config("kv-cache-utilization-scorer"))?;
    router.logged("configuration reloaded").await?;
    n_waiting(&router, 0).await?;
    let (server, found) = silent().await?;
    folder.write("endpoints.yaml", found)?;
    let served = async {
        loop {
            let (mut stream, _) = server.accept().await?;
            let mut start = [0; 4];
            // The other connections are those of scrapes.
            if stream.read_exact(&mut start).await.is_ok() && start == *b"POST" {
                return Ok::<_, std::io::Error>(());
            }
        }
    };
    tokio::time::timeout(LIMIT, served).await.context("the request is not sent on")??;
    tasks.cancel();
    Ok(())
}

fn objective(priority: i32) -> String {
    format!(
        "apiVersion: llm-d.ai/v1alpha2\nkind: InferenceObjective\nmetadata: {{name: premium}}\n\
         spec: {{priority: {priority}, poolRef: {{name: pool}}}}\n"
    )
}

#[tokio::test]
async fn objectives_are_kept_over_configurations() -> Outcome {
    let folder = Folder::new()?;
    folder.write("endpoints.yaml", ONE_ENDPOINT)?;
    let good = |scorer: &str| document(&folder.path("endpoints.yaml"), scorer);
    let config = folder.write("config.yaml", good("queue-scorer"))?;
    let resources = folder.write("resources.yaml", objective(3))?;
    let flags =
        ["--demo=1", "--record-decisions=1", "--config-file", &config, "--resources", &resources];
    let router = Program::start(&[&SERVE[..], &flags].concat()).await?;
    ensure!(
        router
            .logged("the configuration's discovery is not used")
            .await?
            .contains("file-discovery")
    );
    let priority = async || {
        let headers = [("x-llm-d-inference-objective", "premium")];
        send(router.traffic, CHAT, &headers, &chat("demo", 1)).await?;
        let decisions = router.json_page("/debug/decisions").await?;
        decisions["decisions"][0]["priority"].as_i64().context("no decision")
    };
    ensure!(priority().await? == 3);
    folder.write("resources.yaml", objective(5))?;
    router.logged("resources reloaded").await?;
    ensure!(priority().await? == 5);
    folder.write("resources.yaml", "kind: [\n")?;
    router.logged("going on with the last good resources").await?;
    ensure!(reloads(&router, "resources").await? == (1.0, 1.0, 0.0));
    folder.write("config.yaml", good("kv-cache-utilization-scorer"))?;
    router.logged("configuration reloaded").await?;
    ensure!(priority().await? == 5);
    Ok(())
}

#[tokio::test]
async fn api_keys_change_without_a_restart() -> Outcome {
    let folder = Folder::new()?;
    let keys = folder.write("keys", "old-key\n")?;
    let router = Program::start(&[&SERVE[..], &["--demo=1", "--api-keys", &keys]].concat()).await?;
    let ask = async |key: &str| {
        let headers = [("authorization", &*format!("Bearer {key}"))];
        send(router.traffic, CHAT, &headers, &chat("demo", 1)).await.map(|(status, ..)| status)
    };
    ensure!((ask("old-key").await?, ask("new-key").await?) == (200, 401));
    folder.write("keys", "new-key\n")?;
    let is_taken = async || (ask("new-key").await.ok()? == 200).then_some(());
    poll_until(LIMIT, is_taken).await.context("the new key is not taken")?;
    ensure!(ask("old-key").await? == 401);
    folder.write("keys", "")?;
    router.logged("going on with the last good API keys").await?;
    ensure!(reloads(&router, "api_keys").await? == (1.0, 1.0, 0.0));
    ensure!(ask("new-key").await? == 200);
    Ok(())
}
