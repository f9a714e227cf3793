//! A stretch of a trace, for both the live run and replay.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router_core::Stamp;
use router_rt::Rng;
use router_sim::replay::read;
use router_sim::replay::trace::{Start, Trace, TraceRequest};
use serde::Serialize;

/// What is played: requests that arrived in a window of a trace, under a load factor.
#[derive(Clone, Debug)]
pub struct Stretch {
    /// Times count from the beginning of the window.
    pub trace: Arc<Trace>,
    /// Times of arrival are divided by it.
    pub load: f64,
}

/// The stretch in numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    pub n_requests: usize,
    pub load: f64,
    /// From the beginning to the last arrival, in seconds of the run.
    pub seconds: f64,
    pub mean_prompt_tokens: f64,
    pub mean_output_tokens: f64,
}

impl Stretch {
    /// The requests of the trace file that arrive in `minutes` of the run, from the trace's minute `from` on.
    ///
    /// # Errors
    /// A trace that cannot be read, or one that has requests which only replay can play.
    pub fn read(path: &Path, from: f64, minutes: f64, load: f64) -> Result<Self> {
        let file = std::fs::File::open(path).with_context(|| format!("{}", path.display()))?;
        let name = path.display().to_string();
        let trace = read::read(&name, std::io::BufReader::new(file), None, usize::MAX)?;
        Self::of(&trace, from, minutes, load)
    }

    fn of(trace: &Trace, from: f64, minutes: f64, load: f64) -> Result<Self> {
        ensure!(load.is_finite() && load > 0.0, "--load must be above 0");
        ensure!(minutes.is_finite() && minutes > 0.0, "--minutes must be above 0");
        ensure!(from.is_finite() && from >= 0.0, "--from must not be negative");
        let first = Duration::from_secs_f64(from * 60.0);
        let after = first + Duration::from_secs_f64(minutes * load * 60.0);
        let mut requests = Vec::new();
        for request in &trace.requests {
            let Start::At(at) = request.start else {
                anyhow::bail!("only requests with times of their own can be played live");
            };
            let at = at.since(Stamp::ORIGIN);
            if (first..after).contains(&at) {
                playable(request)?;
                let start = Start::At(Stamp::ORIGIN + at.saturating_sub(first));
                requests.push(TraceRequest { start, ..request.clone() });
            }
        }
        ensure!(!requests.is_empty(), "no request of the trace arrives in that stretch");
        let trace = Trace { block_tokens: trace.block_tokens, requests };
        Ok(Self { trace: Arc::new(trace), load })
    }

    /// The same requests at other times of the run.
    #[must_use]
    pub fn arriving(&self, arrivals: impl Iterator<Item = Duration>) -> Self {
        let moved = self.trace.requests.iter().zip(arrivals).map(|(request, at)| TraceRequest {
            start: Start::At(Stamp::ORIGIN + at.mul_f64(self.load)),
            ..request.clone()
        });
        let mut requests: Vec<TraceRequest> = moved.collect();
        requests.sort_by_key(|request| match request.start {
            Start::At(at) => at,
            Start::After { .. } => Stamp::NEVER,
        });
        let trace = Trace { block_tokens: self.trace.block_tokens, requests };
        Self { trace: Arc::new(trace), load: self.load }
    }

    /// The same requests, each later by up to `jitter` of the run: a trace whose times are rounded is less bunched
    /// then. The seed decides by how much.
    #[must_use]
    pub fn jittered(&self, jitter: Duration, seed: u64) -> Self {
        let mut rng = Rng::seeded(seed);
        self.arriving(self.arrivals().map(|due| due + jitter.mul_f64(rng.f64())))
    }

    /// When each request is due, from the start of the run, in the order of the trace.
    pub fn arrivals(&self) -> impl Iterator<Item = Duration> {
        self.trace.requests.iter().map(|request| match request.start {
            Start::At(at) => at.since(Stamp::ORIGIN).div_f64(self.load),
            Start::After { .. } => Duration::ZERO,
        })
    }

    pub fn facts(&self) -> Facts {
        let requests = &self.trace.requests;
        let mean = |of: fn(&TraceRequest) -> u32| {
            let sum: u64 = requests.iter().map(|request| u64::from(of(request))).sum();
            sum as f64 / requests.len().max(1) as f64
        };
        Facts {
            n_requests: requests.len(),
            load: self.load,
            seconds: self.arrivals().max().unwrap_or_default().as_secs_f64(),
            mean_prompt_tokens: mean(|request| request.prompt_tokens),
            mean_output_tokens: mean(|request| request.output_tokens),
        }
    }
}

/// Whether the client can send it.
fn playable(request: &TraceRequest) -> Result<()> {
    let TraceRequest { prompt_tokens, output_tokens, tenant, priority, lora, .. } = request;
    let TraceRequest { streams, max_output_tokens, .. } = request;
    ensure!(*prompt_tokens > 0 && *output_tokens > 0, "a request without a prompt or an answer");
    let is_plain = tenant.is_none() && *priority == 0 && lora.is_none();
    ensure!(is_plain, "requests with tenants, priorities or adapters cannot be played live");
    let is_open = *streams && max_output_tokens.is_none();
    ensure!(
        is_open,
        "requests that do not stream or name their longest answer cannot be played live"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &str = "\
{\"timestamp\": 0, \"input_length\": 600, \"output_length\": 5, \"hash_ids\": [1, 2]}
{\"timestamp\": 60000, \"input_length\": 700, \"output_length\": 7, \"hash_ids\": [1, 3]}
{\"timestamp\": 90000, \"input_length\": 900, \"output_length\": 9, \"hash_ids\": [1, 4]}
{\"timestamp\": 180000, \"input_length\": 600, \"output_length\": 5, \"hash_ids\": [1, 5]}
";

    fn stretch(rows: &str, from: f64, minutes: f64, load: f64) -> Result<Stretch> {
        let trace = read::read("rows", rows.as_bytes(), None, usize::MAX)?;
        Stretch::of(&trace, from, minutes, load)
    }

    #[test]
    fn a_window_begins_at_zero_and_its_minutes_are_those_of_the_run() {
        let stretch = stretch(ROWS, 1.0, 1.0, 1.5).unwrap();
        let arrivals: Vec<_> = stretch.arrivals().collect();
        assert_eq!(arrivals, [Duration::ZERO, Duration::from_secs(20)]);
        let facts = stretch.facts();
        assert_eq!((facts.n_requests, facts.seconds), (2, 20.0));
        assert_eq!((facts.mean_prompt_tokens, facts.mean_output_tokens), (800.0, 8.0));
    }

    #[test]
    fn jitter_is_time_of_the_run() {
        let rows =
            "{\"timestamp\": 0, \"input_length\": 6, \"output_length\": 5, \"hash_ids\": []}\n";
        let bunched = stretch(&rows.repeat(200), 0.0, 1.0, 4.0).unwrap();
        let arrivals: Vec<_> = bunched.jittered(Duration::from_secs(1), 1).arrivals().collect();
        assert!(arrivals.is_sorted());
        let (first, last) = (arrivals[0], arrivals[199]);
        assert!(first < Duration::from_millis(100) && last <= Duration::from_secs(1), "{first:?}");
        assert!(last > Duration::from_millis(900), "{last:?}");
    }

    #[test]
    fn what_cannot_be_played_is_refused() {
        let header = "{\"llm-d-router-trace\": 1, \"block_tokens\": 64}\n";
        let after = "{\"at\": 0, \"prompt_tokens\": 9, \"output_tokens\": 1}\n\
                     {\"after\": 0, \"think\": 1, \"prompt_tokens\": 9, \"output_tokens\": 1}\n";
        let tenant = "{\"at\": 0, \"prompt_tokens\": 9, \"output_tokens\": 1, \"tenant\": \"a\"}\n";
        let silent = "{\"at\": 0, \"prompt_tokens\": 9, \"output_tokens\": 0}\n";
        for (rows, expected) in [
            (format!("{header}{after}"), "times of their own"),
            (format!("{header}{tenant}"), "tenants"),
            (format!("{header}{silent}"), "without a prompt or an answer"),
        ] {
            let error = stretch(&rows, 0.0, 1.0, 1.0).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        for (from, minutes, load) in
            [(-1.0, 1.0, 1.0), (0.0, 0.0, 1.0), (0.0, 1.0, f64::NAN), (9.0, 1.0, 1.0)]
        {
            stretch(ROWS, from, minutes, load).unwrap_err();
        }
    }
}
