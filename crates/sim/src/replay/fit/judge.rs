//! How far simulated times are from recorded ones, and whether that is near enough.

use std::fmt;

use serde::Serialize;

use super::{play::Played, samples::Sample, solve::quantile};

/// Fits with a larger median error of first tokens, as a share of the recorded time, are not good enough: what
/// tells good policies from bad ones is tens of percent.
const MAX_TTFT_MEDIAN: f64 = 0.25;
/// The same for whole requests, whose times are longer and steadier.
const MAX_E2E_MEDIAN: f64 = 0.15;
/// Half of all requests must not be off by more than this in one direction: a bias moves the load at which a
/// pool is full.
const MAX_BIAS: f64 = 0.15;
/// The 90th percentile of first-token times must be met this well; it is what policies are chosen by.
const MAX_TAIL: f64 = 0.3;
/// Judged on fewer requests, errors say little.
const MIN_JUDGED: usize = 30;

/// Errors of simulated times against recorded ones; shares of the recorded time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Errors {
    /// Requests that were compared.
    pub n: usize,
    /// Median of the error without its sign.
    pub median: f64,
    /// 90th percentile of the error without its sign.
    pub p90: f64,
    /// Median of the error with its sign; above zero where simulated servers are slower.
    pub bias: f64,
    /// 90th percentile of simulated times over that of recorded ones, less 1.
    pub tail: f64,
    /// Share of the variance of the logarithms of recorded times that the simulation explains.
    pub r2: f64,
}

/// Errors of one endpoint, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Judgement {
    pub ttft: Errors,
    pub e2e: Errors,
    /// Shares of prompt tokens that were cached, recorded and simulated; where the record says.
    pub cached: Option<(f64, f64)>,
    /// Requests that the simulated server did not come to an end with.
    pub n_unfinished: usize,
    /// Requests left out because the server had text cached that the record does not know.
    pub n_unforeseen: usize,
}

/// Why a fit is not good enough.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fault {
    TooFewJudged { n: usize, needed: usize },
    Unfinished { share: f64 },
    TtftMedian { value: f64, limit: f64 },
    TtftBias { value: f64, limit: f64 },
    TtftTail { value: f64, limit: f64 },
    E2eMedian { value: f64, limit: f64 },
    E2eBias { value: f64, limit: f64 },
}

/// Pairs of simulated and recorded, gathered over endpoints.
#[derive(Clone, Debug, Default)]
pub(super) struct Pairs {
    ttft: Vec<(f64, f64)>,
    e2e: Vec<(f64, f64)>,
    prompt: f64,
    cached: (f64, f64),
    n_unfinished: usize,
    n_unforeseen: usize,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |value: f64| value * 100.0;
        let mut off = |what: &str, value: f64, limit: f64| {
            write!(f, "{what} {:.0} % (at most {:.0} %)", percent(value), percent(limit))
        };
        match *self {
            Self::TtftMedian { value, limit } => off("first tokens are off by", value, limit),
            Self::E2eMedian { value, limit } => off("whole requests are off by", value, limit),
            Self::TtftBias { value, limit } => off("first tokens lean by", value, limit),
            Self::E2eBias { value, limit } => off("whole requests lean by", value, limit),
            Self::TtftTail { value, limit } => {
                off("the 90th percentile of first tokens is off by", value, limit)
            }
            Self::Unfinished { share } => {
                write!(f, "{:.0} % of requests never end in the simulation", percent(share))
            }
            Self::TooFewJudged { n, needed } => {
                write!(f, "only {n} requests are left to judge by, {needed} are needed")
            }
        }
    }
}

impl Pairs {
    pub(super) fn add(&mut self, sample: &Sample, played: Option<&Played>) {
        if !sample.is_foreseeable {
            self.n_unforeseen += 1;
            return;
        }
        let Some(played) = played else {
            self.n_unfinished += 1;
            return;
        };
        if let Some(ttft) = sample.ttft {
            self.ttft.push((played.ttft, ttft));
        }
        self.e2e.push((played.e2e, sample.e2e));
        if let Some(cached) = sample.cached {
            self.prompt += f64::from(sample.prompt);
            self.cached.0 += f64::from(cached);
            self.cached.1 += f64::from(played.cached);
        }
    }

    pub(super) fn join(&mut self, other: &Self) {
        self.ttft.extend_from_slice(&other.ttft);
        self.e2e.extend_from_slice(&other.e2e);
        self.prompt += other.prompt;
        self.cached.0 += other.cached.0;
        self.cached.1 += other.cached.1;
        self.n_unfinished += other.n_unfinished;
        self.n_unforeseen += other.n_unforeseen;
    }

    pub(super) fn judge(&self) -> Judgement {
        let share = |tokens: f64| tokens / self.prompt;
        Judgement {
            ttft: Errors::of(&self.ttft),
            e2e: Errors::of(&self.e2e),
            cached: (self.prompt > 0.0).then(|| (share(self.cached.0), share(self.cached.1))),
            n_unfinished: self.n_unfinished,
            n_unforeseen: self.n_unforeseen,
        }
    }
}

impl Errors {
    /// Of simulated and recorded times.
    fn of(pairs: &[(f64, f64)]) -> Self {
        let errors = || pairs.iter().map(|(played, seen)| played / seen - 1.0);
        let at = |values: Vec<f64>, share| quantile(values, share).unwrap_or(0.0);
        let p90 = |values: Vec<f64>| quantile(values, 0.9).unwrap_or(1.0);
        let logs = || pairs.iter().map(|(_, seen)| seen.ln());
        let mean = logs().sum::<f64>() / pairs.len().max(1) as f64;
        let variance: f64 = logs().map(|log| (log - mean).powi(2)).sum();
        let unexplained: f64 =
            pairs.iter().map(|(played, seen)| (played.max(1e-9) / seen).ln().powi(2)).sum();
        Self {
            n: pairs.len(),
            median: at(errors().map(f64::abs).collect(), 0.5),
            p90: at(errors().map(f64::abs).collect(), 0.9),
            bias: at(errors().collect(), 0.5),
            tail: if pairs.is_empty() {
                0.0
            } else {
                p90(pairs.iter().map(|(played, _)| *played).collect())
                    / p90(pairs.iter().map(|(_, seen)| *seen).collect())
                    - 1.0
            },
            r2: if variance > 0.0 { 1.0 - unexplained / variance } else { 0.0 },
        }
    }
}

impl Judgement {
    /// What keeps the fit from being good enough to compare policies by; nothing if it is.
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let Self { ttft, e2e, .. } = self;
        let n_all = e2e.n + self.n_unfinished;
        if n_all < MIN_JUDGED {
            faults.push(Fault::TooFewJudged { n: n_all, needed: MIN_JUDGED });
        }
        let share = self.n_unfinished as f64 / n_all.max(1) as f64;
        if share > 0.02 {
            faults.push(Fault::Unfinished { share });
        }
        if ttft.median > MAX_TTFT_MEDIAN {
            faults.push(Fault::TtftMedian { value: ttft.median, limit: MAX_TTFT_MEDIAN });
        }
        if ttft.bias.abs() > MAX_BIAS {
            faults.push(Fault::TtftBias { value: ttft.bias, limit: MAX_BIAS });
        }
        if ttft.tail.abs() > MAX_TAIL {
            faults.push(Fault::TtftTail { value: ttft.tail, limit: MAX_TAIL });
        }
        if e2e.median > MAX_E2E_MEDIAN {
            faults.push(Fault::E2eMedian { value: e2e.median, limit: MAX_E2E_MEDIAN });
        }
        if e2e.bias.abs() > MAX_BIAS {
            faults.push(Fault::E2eBias { value: e2e.bias, limit: MAX_BIAS });
        }
        faults
    }
}
