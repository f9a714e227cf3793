//! The metrics port: readiness, metrics in both formats, debug pages, profiles.

use std::{fs, process::Command, thread};

use anyhow::ensure;
use router_testkit::process::Launch;

use super::{
    CHAT, Folder, LIMIT, ONE_ENDPOINT, Outcome, PICKER, Program, SERVE, chat, document, executable,
    send,
};

/// Discovery reads a pipe, so that the test decides when it has something to report.
#[tokio::test]
async fn the_picker_answers_before_it_knows_endpoints() -> Outcome {
    let folder = Folder::new()?;
    let pipe = folder.path("endpoints.yaml");
    ensure!(Command::new("mkfifo").arg(&pipe).status()?.success());
    let config = folder.write("config.yaml", document(&pipe, "queue-scorer"))?;
    let args = [&PICKER[..], &["--config-file", &config]].concat();
    let launch = Launch::new(executable());
    let router = Program::launch(launch, &args, "\"listening\"").await?;
    ensure!(router.page("/healthz").await? == (200, "ok\n".to_owned()));
    let not_ready = (503, "the endpoints are not known yet\n".to_owned());
    ensure!(router.page("/readyz").await? == not_ready);
    ensure!(router.page("/metrics").await?.0 == 200);
    // Opening a pipe blocks until the other end is open.
    let writing = thread::spawn(move || fs::write(pipe, ONE_ENDPOINT));
    router.logged("endpoint picker is serving").await?;
    ensure!(router.page("/readyz").await? == (200, "ok\n".to_owned()));
    writing.join().expect("the writer does not panic")?;
    ensure!(router.process.exit_status().is_none());
    Ok(())
}

#[tokio::test]
async fn a_start_can_be_given_up() -> Outcome {
    let folder = Folder::new()?;
    let pipe = folder.path("endpoints.yaml");
    ensure!(Command::new("mkfifo").arg(&pipe).status()?.success());
    let config = folder.write("config.yaml", document(&pipe, "queue-scorer"))?;
    let args = [&PICKER[..], &["--config-file", &config]].concat();
    let launch = Launch::new(executable());
    let router = Program::launch(launch, &args, "\"listening\"").await?;
    router.process.terminate();
    ensure!(router.process.wait_exit(LIMIT).await?.code() == Some(0));
    Ok(())
}

/// Clients invent names; the pages of the demo's servers say which model there is.
#[tokio::test]
async fn a_model_is_known_from_its_first_request_and_made_up_ones_never() -> Outcome {
    let router = Program::start(&[&SERVE[..], &["--demo=2"]].concat()).await?;
    let (status, _, answer) = send(router.traffic, CHAT, &[], &chat("demo", 2)).await?;
    ensure!(status == 200, "{answer}");
    for n in 0..20 {
        let (status, ..) =
            send(router.traffic, CHAT, &[], &chat(&format!("invented-{n}"), 2)).await?;
        ensure!(status == 404, "{status}");
    }
    let (_, page) = router.page("/metrics").await?;
    let shown = |model: &str, n: u32| {
        let line = format!(
            "llm_d_epp_request_total{{fairness_id=\"default-flow\",model_name=\"{model}\",\
             priority=\"0\",target_model_name=\"{model}\"}} {n}\n"
        );
        page.contains(&line)
    };
    ensure!(shown("demo", 1) && shown("other", 20), "{page}");
    ensure!(!page.contains("invented"), "{page}");
    Ok(())
}

#[tokio::test]
async fn pages_of_the_metrics_port() -> Outcome {
    let args = [&SERVE[..], &["--demo=2", "--record-decisions=1", "--enable-pprof"]].concat();
    let router = Program::start(&args).await?;
    let (status, _, answer) = send(router.traffic, CHAT, &[], &chat("demo", 2)).await?;
    ensure!(status == 200, "{answer}");
    let decisions = router.json_page("/debug/decisions").await?;
    ensure!(decisions["hint"].is_null(), "{decisions}");
    let decision = &decisions["decisions"][0];
    ensure!(decision["model"] == "demo" && decision["nCandidates"] == 2, "{decisions}");
    let state = router.json_page("/debug/plugins/state").await?;
    ensure!(state["plugins"]["max-score-picker"].is_object(), "{state}");
    for (accept, expected) in [
        ("", "text/plain; version=0.0.4"),
        ("text/plain", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text"),
    ] {
        let (status, kind, page) =
            send(router.metrics, "/metrics", &[("accept", accept)], "").await?;
        ensure!(status == 200 && kind.starts_with(expected), "{accept}: {kind}");
        let is_open = page.trim_end().ends_with("# EOF");
        ensure!(is_open == expected.contains("openmetrics"), "{accept}: {kind}");
        ensure!(page.contains("inference_objective_request_total"), "{page}");
    }
    let (status, known) = router.page("/nonsense").await?;
    ensure!(status == 404 && known.contains("/debug/decisions"), "{known}");
    let (status, _) = router.page("/debug/pprof/profile?seconds=1").await?;
    ensure!(status == 200, "{status}");
    Ok(())
}

#[tokio::test]
async fn what_costs_is_off_unless_asked_for() -> Outcome {
    let router = Program::start(&[&SERVE[..], &["--demo=1"]].concat()).await?;
    let (status, _) = router.page("/debug/pprof/profile?seconds=1").await?;
    ensure!(status == 404, "{status}");
    let decisions = router.json_page("/debug/decisions").await?;
    ensure!(decisions["hint"].as_str().is_some_and(|hint| hint.contains("--record-decisions")));
    Ok(())
}
