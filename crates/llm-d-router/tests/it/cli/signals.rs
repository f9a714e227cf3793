//! How the router ends.

use anyhow::ensure;

use super::{
    CHAT, Folder, LIMIT, ONE_ENDPOINT, Outcome, PICKER, Program, SERVE, chat, document, send,
};

async fn picker(folder: &Folder, drain: &str) -> anyhow::Result<Program> {
    folder.write("endpoints.yaml", ONE_ENDPOINT)?;
    let text = document(&folder.path("endpoints.yaml"), "queue-scorer");
    let config = folder.write("config.yaml", text)?;
    let flags = ["--config-file", &config, "--drain-timeout", drain];
    Program::start(&[&PICKER[..], &flags].concat()).await
}

#[tokio::test]
async fn an_orderly_end_is_success() -> Outcome {
    let folder = Folder::new()?;
    let router = picker(&folder, "0").await?;
    ensure!(router.end().await? == Some(0), "{}", router.process.tail());
    let router = Program::start(&[&SERVE[..], &["--demo=1"]].concat()).await?;
    ensure!(router.end().await? == Some(0), "{}", router.process.tail());
    Ok(())
}

/// Nobody is waited for where nobody is.
#[tokio::test]
async fn a_picker_without_streams_does_not_wait_for_the_window() -> Outcome {
    let folder = Folder::new()?;
    folder.write("endpoints.yaml", ONE_ENDPOINT)?;
    let text = document(&folder.path("endpoints.yaml"), "queue-scorer");
    let config = folder.write("config.yaml", text)?;
    let flags = ["--config-file", &config, "--drain-timeout=1h", "--drain-idle-timeout=300ms"];
    let router = Program::start(&[&PICKER[..], &flags].concat()).await?;
    ensure!(router.end().await? == Some(0), "{}", router.process.tail());
    Ok(())
}

#[tokio::test]
async fn a_second_signal_ends_the_picker_at_once() -> Outcome {
    let folder = Folder::new()?;
    let router = picker(&folder, "1h").await?;
    router.process.terminate();
    router.logged("draining").await?;
    ensure!(router.page("/readyz").await? == (503, "shutting down\n".to_owned()));
    ensure!(router.page("/healthz").await?.0 == 200);
    ensure!(router.end().await? == Some(1));
    router.logged("error: ended by a second SIGTERM").await?;
    Ok(())
}

#[tokio::test]
async fn a_second_signal_cuts_what_serve_is_doing() -> Outcome {
    let flags = ["--demo=1", "--record-decisions=1", "--drain-timeout=1h"];
    let router = Program::start(&[&SERVE[..], &flags].concat()).await?;
    let content = chat("demo", 100_000);
    let asking = send(router.traffic, CHAT, &[], &content);
    let ending = async {
        let decided = async || {
            let decisions = router.json_page("/debug/decisions").await.ok()?;
            decisions["decisions"].get(0).map(drop)
        };
        ensure!(router_testkit::process::poll_until(LIMIT, decided).await.is_some(), "no decision");
        router.process.terminate();
        router.logged("draining").await?;
        router.end().await
    };
    let (asked, ended) = tokio::join!(asking, ending);
    ensure!(ended? == Some(1), "{}", router.process.tail());
    ensure!(asked.is_err(), "a cut answer looks whole");
    Ok(())
}
