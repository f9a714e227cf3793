//! Installing logs and traces for the whole process: the executable does it once, at its start.

use std::{
    future::Future,
    io::{self, Stderr},
    time::Duration,
};

use thiserror::Error;
use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    build::BuildInfo,
    logs::{self, Lines, LogOptions},
    traces::{TraceError, TraceOptions, Traces},
};

/// Keeps logs and traces going out; [`Telemetry::shutdown`] sends the last of them.
#[derive(Debug)]
#[must_use = "traces are lost when this is dropped at once"]
pub struct Telemetry {
    traces: Option<Traces>,
    lines: Lines<Stderr>,
}

/// Why logs or traces could not be set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InitError {
    #[error("logs are set up already")]
    Twice,
    #[error(transparent)]
    Traces(#[from] TraceError),
}

/// Sets up logs on standard error and, if asked for, traces. With traces it must run on a tokio
/// runtime. Only once per process: tracing's subscriber is global by nature.
pub fn init(
    logs: &LogOptions,
    traces: Option<&TraceOptions>,
    build: &BuildInfo,
) -> Result<Telemetry, InitError> {
    let (traces, layer) = match traces {
        None => (None, None),
        Some(options) => {
            let (traces, layer) = Traces::start(options, build)?;
            (Some(traces), Some(layer))
        }
    };
    let lines = Lines::new(io::stderr());
    tracing_subscriber::registry()
        .with(layer)
        .with(logs::layer(logs, lines.clone()))
        .try_init()
        .map_err(|_| InitError::Twice)?;
    Ok(Telemetry { traces, lines })
}

impl Telemetry {
    /// While this is polled, lines of the access log are gathered for at most a tenth of a second.
    pub fn gather_lines(&self) -> impl Future<Output = ()> + Send + 'static {
        self.lines.clone().follow()
    }

    /// Sends what is left, for at most `limit`. Blocks.
    pub fn shutdown(mut self, limit: Duration) {
        if let Some(traces) = self.traces.take() {
            traces.shutdown(limit);
        }
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.lines.flush();
    }
}
