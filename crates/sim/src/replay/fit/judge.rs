//! How far simulated times are from recorded ones, and whether that is near enough.

use std::{fmt, sync::Arc};

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
/// What a simulation must explain of how first tokens, or whole requests, differ (R²): one that explains less may
/// be right on average and still take fast requests for slow ones, and policies are about which is which.
const MIN_R2: f64 = 0.25;
/// Requests that the simulated server may not come to an end with, of all.
const MAX_UNFINISHED: f64 = 0.02;
/// Requests of several prompts or answers, whose load the simulated servers do not have, of all.
const MAX_SEVERAL: f64 = 0.05;
/// Unless nine of ten requests are met this well: where times hardly differ there is nothing to explain.
const MAX_P90_ALIKE: f64 = 0.25;
/// An endpoint by itself may be off by so many times as much, since it has fewer requests; beyond that its server
/// in the pool is another one.
const ENDPOINT_SLACK: f64 = 2.0;
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
    TtftUnexplained { r2: f64, p90: f64, limit: f64 },
    E2eUnexplained { r2: f64, p90: f64, limit: f64 },
    Several { value: f64, limit: f64 },
}

/// A fault, and the endpoint that has it; without one, all together have it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NamedFault {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Arc<str>>,
    #[serde(flatten)]
    pub fault: Fault,
}

impl fmt::Display for NamedFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(endpoint) = &self.endpoint {
            write!(f, "{endpoint}: ")?;
        }
        self.fault.fmt(f)
    }
}

impl Fault {
    /// Of requests that have several prompts or answers, and all others.
    pub(super) fn of_several(n_several: usize, n_others: usize) -> Option<Self> {
        let value = n_several as f64 / (n_several + n_others).max(1) as f64;
        (value > MAX_SEVERAL).then_some(Self::Several { value, limit: MAX_SEVERAL })
    }
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
            Self::TtftUnexplained { r2, p90, limit } => {
                unexplained(f, "first tokens", r2, p90, limit)
            }
            Self::E2eUnexplained { r2, p90, limit } => {
                unexplained(f, "whole requests", r2, p90, limit)
            }
            Self::TtftMedian { value, limit } => off("first tokens are off by", value, limit),
            Self::E2eMedian { value, limit } => off("whole requests are off by", value, limit),
            Self::TtftBias { value, limit } => off("first tokens lean by", value, limit),
            Self::E2eBias { value, limit } => off("whole requests lean by", value, limit),
            Self::Several { value, limit } => off(
                "requests with several prompts or answers, whose load simulated servers do not have, are",
                value,
                limit,
            ),
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

/// A negative R² means that the same time for all requests would be nearer to what was recorded.
fn unexplained(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    r2: f64,
    p90: f64,
    limit: f64,
) -> fmt::Result {
    let share = if r2 > 0.0 { format!("only {:.0} %", r2 * 100.0) } else { "nothing".to_owned() };
    write!(
        f,
        "the simulation explains {share} of how {what} differ (R2 {r2:.2}, at least {limit}), and one in ten is \
         off by {:.0} % or more",
        p90 * 100.0
    )
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
    fn explains_less_than(&self, least: f64) -> bool {
        self.n > 0 && self.r2 < least && self.p90 > MAX_P90_ALIKE
    }

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
        let n = self.n_judged();
        if n < MIN_JUDGED {
            faults.push(Fault::TooFewJudged { n, needed: MIN_JUDGED });
        }
        faults.extend(self.errors_beyond(1.0));
        faults
    }

    /// What keeps one endpoint's server from standing for it, where there are enough requests to tell.
    pub fn faults_of_endpoint(&self) -> Vec<Fault> {
        let is_told = self.n_judged() >= MIN_JUDGED;
        if is_told { self.errors_beyond(ENDPOINT_SLACK) } else { Vec::new() }
    }

    fn n_judged(&self) -> usize {
        self.e2e.n + self.n_unfinished
    }

    /// Errors that are more than `slack` times as large as they may be.
    fn errors_beyond(&self, slack: f64) -> Vec<Fault> {
        let Self { ttft, e2e, .. } = self;
        let mut faults = Vec::new();
        let share = self.n_unfinished as f64 / self.n_judged().max(1) as f64;
        if share > MAX_UNFINISHED * slack {
            faults.push(Fault::Unfinished { share });
        }
        let mut check = |value: f64, limit: f64, fault: fn(f64, f64) -> Fault| {
            if value.abs() > limit * slack {
                faults.push(fault(value, limit * slack));
            }
        };
        check(ttft.median, MAX_TTFT_MEDIAN, |value, limit| Fault::TtftMedian { value, limit });
        check(ttft.bias, MAX_BIAS, |value, limit| Fault::TtftBias { value, limit });
        check(ttft.tail, MAX_TAIL, |value, limit| Fault::TtftTail { value, limit });
        check(e2e.median, MAX_E2E_MEDIAN, |value, limit| Fault::E2eMedian { value, limit });
        check(e2e.bias, MAX_BIAS, |value, limit| Fault::E2eBias { value, limit });
        let limit = MIN_R2 / slack;
        if ttft.explains_less_than(limit) {
            faults.push(Fault::TtftUnexplained { r2: ttft.r2, p90: ttft.p90, limit });
        }
        if e2e.explains_less_than(limit) {
            faults.push(Fault::E2eUnexplained { r2: e2e.r2, p90: e2e.p90, limit });
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(times: &[(f64, f64)]) -> Judgement {
        let pairs = Pairs { ttft: times.to_vec(), e2e: times.to_vec(), ..Pairs::default() };
        pairs.judge()
    }

    #[test]
    fn a_fit_that_tells_no_request_from_another_is_not_good_enough() {
        // Recorded times from 50 ms to 5 s. Six of ten are met, the others are off by nine times either way, so
        // that neither the medians nor the tail shows it.
        let off =
            |nth: usize| [1.0, 1.0, 1.0, 9.0, 1.0, 1.0, 1.0, 1.0 / 9.0, 9.0, 1.0 / 9.0][nth % 10];
        let seen = |nth: usize| 0.05 * 100_f64.powf((nth * 7 % 100) as f64 / 100.0);
        let times: Vec<_> = (0..100).map(|nth| (seen(nth) * off(nth), seen(nth))).collect();
        let judgement = judged(&times);
        assert!(judgement.ttft.median < 0.01 && judgement.ttft.r2 < 0.0, "{judgement:?}");
        let faults: Vec<String> = judgement.faults().iter().map(Fault::to_string).collect();
        let has = |what: &str| faults.iter().any(|fault| fault.contains(what));
        assert!(has("explains nothing of how first tokens differ (R2 -"), "{faults:?}");
        assert!(has("explains nothing of how whole requests differ (R2 -"), "{faults:?}");
        assert!(has("one in ten is off by 800 % or more"), "{faults:?}");
    }

    #[test]
    fn one_endpoint_that_is_far_off_is_named() {
        let times = |factor: f64, n: u32| -> Vec<(f64, f64)> {
            (0..n).map(|nth| 1.0 + f64::from(nth)).map(|seen| (seen * factor, seen)).collect()
        };
        let said = |factor, n| -> Vec<String> {
            judged(&times(factor, n)).faults_of_endpoint().iter().map(Fault::to_string).collect()
        };
        assert_eq!(
            said(1.25, 100),
            Vec::<String>::new(),
            "off, and not by more than chance may do"
        );
        assert_eq!(said(4.0, 10), Vec::<String>::new(), "too few to tell");
        let faults = said(1.8, 100);
        assert!(
            faults.contains(&"first tokens are off by 80 % (at most 50 %)".to_owned()),
            "{faults:?}"
        );
    }

    #[test]
    fn many_requests_of_several_sequences_are_a_fault() {
        let fault = Fault::of_several(20, 80).map(|fault| fault.to_string());
        let fault = fault.unwrap_or_default();
        assert!(fault.starts_with("requests with several prompts or answers"), "{fault}");
        assert!(fault.ends_with("are 20 % (at most 5 %)"), "{fault}");
        assert_eq!((Fault::of_several(5, 95), Fault::of_several(0, 0)), (None, None));
    }

    #[test]
    fn where_times_are_alike_there_is_nothing_to_explain() {
        let times: Vec<_> = (0..100).map(|nth| (0.052, 0.05 + f64::from(nth % 3) * 1e-3)).collect();
        let judgement = judged(&times);
        assert!(judgement.ttft.r2 < 0.0, "{judgement:?}");
        assert_eq!(judgement.faults(), []);
    }
}
