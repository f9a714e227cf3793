//! What belongs to the process: standard streams, signals, the runtime.

use std::{
    future::Future,
    io::{ErrorKind, Write},
    net::SocketAddr,
};

use anyhow::Context;
use router_net::tls;
use router_telemetry::{LogFormat, LogOptions, Telemetry, TraceOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{cli::UsageError, origin::BUILD};

/// Certificates are small; a larger file is something else.
const MAX_PEM_BYTES: u64 = 4 << 20;

/// Requests of the system or a person to end. It listens from its creation on, so that none is lost between
/// two waits.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// Writes lines on standard output, for results. Who closes the pipe has read enough: that is no error.
pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    said(writeln!(out, "{text}").and_then(|()| out.flush()))
}

/// Writes the help or the version that was asked for on standard output.
pub(crate) fn say_help(help: &clap::Error) -> anyhow::Result<()> {
    said(help.print().and_then(|()| std::io::stdout().flush()))
}

fn said(written: std::io::Result<()>) -> anyhow::Result<()> {
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            anyhow::bail!("cannot write the results to standard output: {error}")
        }
        _ => Ok(()),
    }
}

/// Writes a line on standard error, for what goes wrong.
pub(crate) fn complain(line: &str) {
    let _reader_may_be_gone = writeln!(std::io::stderr(), "{line}");
}

/// Whether people read standard error.
pub(crate) fn is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stderr())
}

/// Allows as many open files as the system lets this process have: every connection is one, and the limit
/// that a shell hands down is often a thousand.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // Otherwise it works with what it has, and says so when a connection cannot be accepted.
    let _raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Runs a future on a multi-threaded runtime.
pub(crate) fn block_on<F: Future<Output = anyhow::Result<()>>>(future: F) -> anyhow::Result<()> {
    raise_open_files();
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
    let pem = |path: Option<&str>| match path {
        None => tls::system_roots().map_err(|error| error.to_string()),
        Some(path) => router_rt::read_file_bounded(path.as_ref(), MAX_PEM_BYTES)
            .map_err(|error| error.to_string()),
    };
    Ok(TraceOptions::from_env(|name| std::env::var(name).ok(), pem).map_err(UsageError::of)?)
}

/// Sets up logs and traces. Must run on the runtime.
pub(crate) fn init_telemetry(
    logs: &LogOptions,
    traces: Option<&TraceOptions>,
) -> anyhow::Result<Telemetry> {
    Ok(router_telemetry::init(logs, traces, &BUILD)?)
}

/// JSON for machines, text for people, unless a flag says which.
pub(crate) fn log_format(flag: Option<&str>) -> Result<LogFormat, UsageError> {
    match flag {
        Some(name) => name.parse().map_err(UsageError::of),
        None if is_terminal() => Ok(LogFormat::Human),
        None => Ok(LogFormat::Json),
    }
}

/// Which flags say where a server listens.
#[derive(Clone, Copy)]
pub(crate) struct ListenFlag {
    pub(crate) port: &'static str,
    pub(crate) address: &'static str,
}

/// Listens on an address; the error says which, and the flag that chooses another.
pub(crate) async fn listen(address: SocketAddr, flag: ListenFlag) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| {
        // Another port of an address that this machine does not have would be no better.
        let (flag, what) = match error.kind() {
            ErrorKind::AddrNotAvailable => (flag.address, "address"),
            _ if flag.port == flag.address => (flag.port, "address"),
            _ => (flag.port, "port"),
        };
        anyhow::anyhow!("cannot listen on {address}: {error}; {flag} chooses another {what}")
    })
}

// === impl Signals ===

impl Signals {
    /// Must run on the runtime.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let catch = |kind| signal(kind).context("cannot wait for signals");
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
        })
    }

    /// The next request to end: SIGTERM, or SIGINT from a terminal.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Lets `orderly` come to its end, unless a second request to end comes first: that is an error, since
    /// what was still going on is cut.
    pub(crate) async fn unless_again<T>(
        &mut self,
        orderly: impl Future<Output = T>,
    ) -> anyhow::Result<T> {
        tokio::select! {
            biased;
            signal = self.next() => anyhow::bail!("ended by a second {signal} before everything was served"),
            done = orderly => Ok(done),
        }
    }
}
