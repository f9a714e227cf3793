//! Families about the files that a running router follows.

use std::sync::Arc;

use crate::metrics::{Counter, Def, Family, Gauge, RegisterError, Registry};

/// Families about reloads.
#[derive(Clone, Debug)]
pub struct ReloadMetrics {
    /// Labels: `what`, `result` (`success`, `failure`).
    total: Family<Counter, 2>,
    /// Label: `what`.
    is_successful: Family<Gauge, 1>,
    /// Label: `what`. Seconds since the epoch.
    succeeded_at: Family<Gauge, 1>,
}

/// What is followed: values of the `what` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Followed {
    /// `--config-file`.
    Configuration,
    /// The file of a `file-discovery`.
    Endpoints,
    /// `--resources`.
    Resources,
    /// The certificate that clients see.
    Certificate,
    /// The certificate of the metrics port.
    MetricsCertificate,
    /// `--api-keys`.
    ApiKeys,
}

/// The series of one thing that is followed.
#[derive(Clone, Debug)]
pub struct Reloads {
    successes: Arc<Counter>,
    failures: Arc<Counter>,
    is_successful: Arc<Gauge>,
    succeeded_at: Arc<Gauge>,
}

// === impl ReloadMetrics ===

impl ReloadMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, RegisterError> {
        let total = Def::alpha(
            "llm_d_epp_reloads_total",
            "Total number of reloads of a file that is followed, by result; the start is none.",
            ["what", "result"],
        );
        let is_successful = Def::alpha(
            "llm_d_epp_last_reload_successful",
            "Whether the last reload succeeded (1) or what was there before is still in use (0).",
            ["what"],
        );
        let succeeded_at = Def::alpha(
            "llm_d_epp_last_reload_success_timestamp_seconds",
            "When what is in use was loaded, in seconds since the epoch.",
            ["what"],
        );
        Ok(Self {
            total: registry.counter(total)?,
            is_successful: registry.gauge(is_successful)?,
            succeeded_at: registry.gauge(succeeded_at)?,
        })
    }

    /// The series of something that was loaded at `now`, in seconds since the epoch, and is followed from
    /// here on. They are on the page at once, so that the first failure is an increase.
    pub fn follow(&self, what: Followed, now: f64) -> Reloads {
        let what = what.as_str();
        let reloads = Reloads {
            successes: self.total.with([what, "success"]),
            failures: self.total.with([what, "failure"]),
            is_successful: self.is_successful.with([what]),
            succeeded_at: self.succeeded_at.with([what]),
        };
        reloads.is_successful.set(1.0);
        reloads.succeeded_at.set(now);
        reloads
    }
}

impl Followed {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Endpoints => "endpoints",
            Self::Resources => "resources",
            Self::Certificate => "certificate",
            Self::MetricsCertificate => "metrics_certificate",
            Self::ApiKeys => "api_keys",
        }
    }
}

// === impl Reloads ===

impl Reloads {
    /// What was read is in use since `now`, in seconds since the epoch.
    pub fn succeeded(&self, now: f64) {
        self.successes.inc();
        self.is_successful.set(1.0);
        self.succeeded_at.set(now);
    }

    /// What was there before stays in use, at least in part.
    pub fn failed(&self) {
        self.failures.inc();
        self.is_successful.set(0.0);
    }
}
