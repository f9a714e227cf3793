use std::time::Duration;

use router_testkit::process::{self, Launch, Process, ProcessError, ReservedPort, Stream};

const LIMIT: Duration = Duration::from_secs(30);

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn shell(script: &str) -> Result<Process, std::io::Error> {
    Launch::new("/bin/sh").arg("-c").arg(script).spawn()
}

fn is_running(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).try_exists().unwrap_or(false)
}

#[tokio::test]
async fn a_line_of_either_stream_is_found() -> Outcome {
    let child = shell("echo one; echo port 4711; echo two >&2; sleep 100")?;
    let line = child.wait_line(Stream::Stdout, "port", LIMIT, |l| l.starts_with("port ")).await?;
    assert_eq!(line, "port 4711");
    child.wait_line(Stream::Stderr, "two", LIMIT, |line| line == "two").await?;
    assert!(child.tail().contains("sh stdout: one"), "{}", child.tail());
    Ok(())
}

#[tokio::test]
async fn a_child_that_ends_early_says_why() -> Outcome {
    let child = shell("echo broken config >&2; exit 3")?;
    let waited = child.wait_line(Stream::Stdout, "ready", LIMIT, |_| true).await;
    let error = waited.err().ok_or("there was a line")?;
    assert!(matches!(&error, ProcessError::Ended { status, .. } if status.code() == Some(3)));
    assert!(error.to_string().contains("broken config"), "{error}");
    let waited = child.wait_tcp(ReservedPort::new()?.release(), LIMIT).await;
    assert!(matches!(waited, Err(ProcessError::Ended { .. })), "{waited:?}");
    Ok(())
}

#[tokio::test]
async fn a_wait_has_a_limit() -> Outcome {
    let child = shell("echo started; sleep 100")?;
    child.wait_line(Stream::Stdout, "start", LIMIT, |_| true).await?;
    let short = Duration::from_millis(30);
    let waited = child.wait_line(Stream::Stdout, "ready", short, |line| line == "ready").await;
    let error = waited.err().ok_or("there was a line")?.to_string();
    assert!(error.contains("ready did not happen within 30ms"), "{error}");
    assert!(error.contains("started"), "{error}");
    Ok(())
}

#[tokio::test]
async fn dropping_kills_and_reaps() -> Outcome {
    let child = shell("trap '' TERM; echo started; while :; do sleep 1; done")?;
    child.wait_line(Stream::Stdout, "start", LIMIT, |_| true).await?;
    let pid = child.pid();
    assert!(is_running(pid));
    drop(child);
    assert!(!is_running(pid));
    Ok(())
}

#[tokio::test]
async fn a_child_outlives_the_thread_that_asked_for_it() -> Outcome {
    let started = std::thread::spawn(|| shell("echo started; sleep 100")).join();
    let child = started.map_err(|_| "the thread panicked")??;
    child.wait_line(Stream::Stdout, "start", LIMIT, |_| true).await?;
    assert!(child.exit_status().is_none());
    child.terminate();
    let status = child.wait_exit(LIMIT).await?;
    assert!(!status.success());
    assert_eq!(child.exit_status(), Some(status));
    // Its number may belong to another process by then.
    child.kill();
    Ok(())
}

#[tokio::test]
async fn a_missing_program_is_an_error() {
    let error = Launch::new("/nowhere/at-all").spawn().map(|child| child.pid());
    let message = error.map_err(|error| error.to_string()).err().unwrap_or_default();
    assert!(message.contains("/nowhere/at-all"), "{message}");
}

#[tokio::test]
async fn output_is_complete_at_the_end() -> Outcome {
    let count = Launch::new("/bin/sh").arg("-c").arg("seq 1 15000; echo done >&2; exit $CODE");
    let finished = process::run_to_end(count.env("CODE", "7"), LIMIT).await?;
    assert_eq!(finished.status.code(), Some(7));
    assert_eq!(finished.stdout.lines().count(), 15_000);
    assert_eq!(finished.stderr, "done");
    Ok(())
}

#[tokio::test]
async fn reserved_ports_differ() -> Outcome {
    let (one, two) = (ReservedPort::new()?, ReservedPort::new()?);
    assert_ne!(one.addr(), two.addr());
    assert!(std::net::TcpListener::bind(one.addr()).is_err(), "nobody else gets it");
    let addr = one.release();
    assert!(std::net::TcpListener::bind(addr).is_ok(), "given up");
    Ok(())
}
