//! What belongs to the process: standard streams, signals, the runtime.

use std::{future::Future, io::Write};

use anyhow::Context;
use router_telemetry::{LogFormat, LogOptions, Telemetry, TraceOptions};

/// Writes a line on standard output, for results. A closed pipe is not an error of ours.
pub(crate) fn say(line: &str) {
    let _reader_may_be_gone = writeln!(std::io::stdout(), "{line}");
}

/// Writes a line on standard error, for what goes wrong.
pub(crate) fn complain(line: &str) {
    let _reader_may_be_gone = writeln!(std::io::stderr(), "{line}");
}

/// Whether people read standard error.
pub(crate) fn is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stderr())
}

/// Runs a future on a multi-threaded runtime.
pub(crate) fn block_on<F: Future<Output = anyhow::Result<()>>>(future: F) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(future);
    // What is left has been told to stop; nothing may keep the process alive.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

/// Where traces go: nowhere, unless the flag is on and the environment says where.
pub(crate) fn trace_options(is_on: bool) -> anyhow::Result<Option<TraceOptions>> {
    if !is_on {
        return Ok(None);
    }
    Ok(TraceOptions::from_env(|name| std::env::var(name).ok())?)
}

/// Sets up logs and traces. Must run on the runtime.
pub(crate) fn init_telemetry(
    logs: &LogOptions,
    traces: Option<&TraceOptions>,
) -> anyhow::Result<Telemetry> {
    Ok(router_telemetry::init(logs, traces)?)
}

/// JSON for machines, text for people, unless a flag says which.
pub(crate) fn log_format(flag: Option<&str>) -> anyhow::Result<LogFormat> {
    match flag {
        Some(name) => Ok(name.parse()?),
        None if is_terminal() => Ok(LogFormat::Human),
        None => Ok(LogFormat::Json),
    }
}

/// Completes when the process is asked to end: SIGTERM, or SIGINT from a terminal.
pub(crate) async fn asked_to_end() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        biased;
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}
