//! What a load generator prints.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The outcome of a run with what was asked for: one line of JSON, or text.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report<S> {
    pub label: String,
    #[serde(flatten)]
    pub settings: S,
    #[serde(flatten)]
    pub summary: Summary,
}

/// The outcome of a run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Measured time.
    pub seconds: f64,
    pub ok: u64,
    pub failed: u64,
    pub rejected: u64,
    /// Good answers per second.
    pub per_second: f64,
    /// By phase.
    pub latency_us: BTreeMap<String, Latency>,
    pub endpoints_picked: usize,
    /// Share of the endpoint that was picked most.
    pub top_pick_share: f64,
    pub errors: BTreeMap<String, u64>,
    pub server: Option<ServerUse>,
    /// Near 100 the client is the limit, and the server's rate is a lower bound.
    pub client_cpu_percent: f64,
}

/// Quantiles of one latency, in microseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Latency {
    pub mean: f64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

/// What the server's process used.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ServerUse {
    /// Per request that ended, in whichever way. Equals CPU seconds per 1,000 requests.
    pub cpu_ms_per_request: f64,
    /// Of one core.
    pub cpu_percent: f64,
    /// At the end of the run.
    pub rss_mib: f64,
    pub peak_rss_mib: f64,
}

/// Prints a line to standard output at once: whoever started this program may wait for it.
pub fn print_line(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

impl Latency {
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            mean: histogram.mean(),
            p50: histogram.value_at_quantile(0.50),
            p90: histogram.value_at_quantile(0.90),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}

impl<S: Serialize> Report<S> {
    /// Prints the report to standard output.
    pub fn print(&self, as_json: bool) -> Result<()> {
        if as_json {
            return print_line(&serde_json::to_string(self)?);
        }
        let name = if self.label.is_empty() { "load" } else { &self.label };
        print_line(&format!("{name}: {}", self.summary))
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0}/s ok={} failed={} rejected={} in {:.1} s, {} endpoints",
            self.per_second,
            self.ok,
            self.failed,
            self.rejected,
            self.seconds,
            self.endpoints_picked
        )?;
        for (phase, latency) in &self.latency_us {
            let Latency { mean, p50, p90, p99, p999, max } = latency;
            write!(
                f,
                "\n  {phase:10} us: mean {mean:.0} p50 {p50} p90 {p90} p99 {p99} p999 {p999} max {max}"
            )?;
        }
        if let Some(server) = &self.server {
            write!(
                f,
                "\n  server: {:.3} CPU-ms per request, {:.0}% CPU, {:.1} MiB",
                server.cpu_ms_per_request, server.cpu_percent, server.rss_mib
            )?;
        }
        write!(f, "\n  client: {:.0}% CPU", self.client_cpu_percent)?;
        for (error, n) in &self.errors {
            write!(f, "\n  {n} x {error}")?;
        }
        Ok(())
    }
}
