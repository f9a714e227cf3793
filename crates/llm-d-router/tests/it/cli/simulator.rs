//! `sim`, and `serve --endpoint` in front of it.

use std::{
    fs,
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, ensure};
use router_testkit::process::{Launch, Process, START_LIMIT, Stream, poll_until};

use super::{
    CHAT, Folder, LIMIT, Outcome, Program, SERVE, chat, document, ends_with, executable, send,
};

/// Starts simulated servers and waits until they have said where they are.
async fn simulated(args: &[&str], n_servers: usize) -> anyhow::Result<(Process, Vec<SocketAddr>)> {
    let process = Launch::new(executable()).arg("sim").args(args).spawn()?;
    let addresses = || async {
        let text = process.text(Stream::Stdout);
        let addresses: Option<Vec<_>> =
            text.lines().map(|line| line.strip_prefix("http://")?.parse().ok()).collect();
        addresses.filter(|addresses: &Vec<SocketAddr>| addresses.len() == n_servers)
    };
    let addresses = process.wait_ready("the servers", START_LIMIT, addresses).await?;
    Ok((process, addresses))
}

#[tokio::test]
async fn many_servers_are_listed_in_a_file() -> Outcome {
    let folder = Folder::new()?;
    let file = folder.write("endpoints.yaml", "endpoints: []\n")?;
    let flags = ["--port=0", "--servers=40", "--endpoints-file", &file];
    let (process, addresses) = simulated(&flags, 40).await?;
    let written = || async {
        let text = fs::read_to_string(&file).ok()?;
        text.contains("sim-39").then_some(text)
    };
    let text = poll_until(LIMIT, written).await.context("the file is not written")?;
    for address in &addresses {
        ensure!(text.contains(&format!("port: \"{}\"", address.port())), "{address}: {text}");
    }
    let left: Vec<_> = fs::read_dir(folder.0.path())?.collect::<Result<_, _>>()?;
    ensure!(left.len() == 1, "something is left beside the file: {left:?}");
    // The router takes the file as it is.
    let config = folder.write("config.yaml", document(file.as_ref(), "queue-scorer"))?;
    let router = Program::start(&[&SERVE[..], &["--config-file", &config]].concat()).await?;
    let (status, _, answer) = send(router.traffic, CHAT, &[], &chat("sim-model", 2)).await?;
    ensure!(status == 200, "{answer}");
    process.terminate();
    ensure!(process.wait_exit(LIMIT).await?.success());
    Ok(())
}

#[tokio::test]
async fn servers_are_spread_over_addresses() -> Outcome {
    let (_process, addresses) = simulated(&["--port=0", "--servers=3", "--spread"], 3).await?;
    let hosts: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
    ensure!(hosts == ["127.0.0.1", "127.0.0.2", "127.0.0.3"], "{hosts:?}");
    Ok(())
}

#[tokio::test]
async fn settings_are_checked() -> Outcome {
    let folder = Folder::new()?;
    let faulty = folder.write("faulty.yaml", "max-num-seqz: 3\nmodell: x\n")?;
    let list = folder.write("list.yaml", "- a\n")?;
    let cut = folder.write("cut.yaml", "model: [\n")?;
    let check = async |args: &[&str], said: &[&str]| {
        let (_, stderr) = ends_with(2, &[&["sim", "--port=0"], args].concat()).await?;
        for said in said {
            ensure!(stderr.contains(said), "{args:?}: {said:?} is missing in {stderr}");
        }
        anyhow::Ok(())
    };
    check(&["--set", "max-num-seq=3"], &["the nearest is `max-num-seqs`"]).await?;
    check(&["--set", "nothing"], &["expected KEY=VALUE"]).await?;
    check(&["--config", &faulty], &["`max-num-seqz`", "`max-num-seqs`", "`modell`"]).await?;
    check(&["--config", &list], &["list.yaml: expected keys with values"]).await?;
    check(&["--config", &cut], &["cut.yaml:2:1: error: "]).await?;
    check(&["--config", "/nowhere"], &["/nowhere does not exist"]).await?;
    check(&["--servers=0"], &["it must be 1 to 4096"]).await?;
    check(&["--endpoints-file=/nowhere/file"], &["cannot write /nowhere/file"]).await?;
    Ok(())
}

#[tokio::test]
async fn flags_count_before_the_file() -> Outcome {
    let folder = Folder::new()?;
    let file = folder.write("sim.yaml", "model: of-the-file\nservers: 3\nseed: 9\n")?;
    let flags = ["--config", &file, "--port=0", "--servers=1", "--set", "model=of-the-flag"];
    let (_process, addresses) = simulated(&flags, 1).await?;
    let (status, _, models) = send(addresses[0], "/v1/models", &[], "").await?;
    ensure!(status == 200 && models.contains("of-the-flag"), "{models}");
    Ok(())
}

/// A name, and an address.
#[tokio::test]
async fn urls_name_model_servers() -> Outcome {
    let (_process, addresses) = simulated(&["--port=0", "--servers=2"], 2).await?;
    let urls = [
        format!("--endpoint=http://localhost:{}", addresses[0].port()),
        format!("--endpoint=http://{}/", addresses[1]),
    ];
    let args = [&SERVE[..], &[&urls[0], &urls[1]]].concat();
    let router = Program::start(&args).await?;
    let has_served = async |address: &SocketAddr| {
        let (_, _, page) = send(*address, "/metrics", &[], "").await.ok()?;
        let mut lines = page.lines().filter(|line| line.starts_with("vllm:request_success_total"));
        Some(lines.any(|line| !line.ends_with(" 0") && !line.ends_with(" 0.0")))
    };
    let asked = AtomicU32::new(0);
    let both = async || {
        // Prompts that have nothing in common are spread.
        let number = asked.fetch_add(1, Ordering::Relaxed);
        let content = chat("sim-model", 1).replace("hello", &format!("{number} is all"));
        let (status, ..) = send(router.traffic, CHAT, &[], &content).await.ok()?;
        let all = has_served(&addresses[0]).await? && has_served(&addresses[1]).await?;
        (status == 200 && all).then_some(())
    };
    poll_until(LIMIT, both).await.context("one of the servers gets nothing")?;
    Ok(())
}
