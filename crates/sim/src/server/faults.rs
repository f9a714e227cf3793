//! What can be made to go wrong. Every field can change while the server runs (`POST /admin/config`).

use http::StatusCode;
use router_rt::Rng;
use serde::{Deserialize, Serialize};

use super::{config::ConfigError, error::ApiError};

/// Failures to inject. All rates are in percent of inference requests, drawn one after the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Faults {
    /// Requests answered with an error of `failure-types`. Default 0.
    pub failure_injection_rate: f64,
    /// The errors to choose from; empty means all.
    pub failure_types: Vec<FailureType>,
    /// Requests that are accepted and never answered. Default 0.
    pub hang_rate: f64,
    /// Requests whose connection is reset before any byte of the answer. Default 0.
    pub reset_rate: f64,
    /// Streamed answers that break off. Default 0.
    pub cut_stream_rate: f64,
    /// Events that such a stream still sends. Default 3.
    pub cut_stream_after: u32,
    /// What is wrong with `GET /metrics`.
    pub metrics_fault: MetricsFault,
    /// `/health` answers 503. Default false.
    pub unhealthy: bool,
}

/// An injected error (the simulator's reference names).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureType {
    RateLimit,
    InvalidApiKey,
    ContextLength,
    ServerError,
    InvalidRequest,
    ModelNotFound,
}

/// What is wrong with a metrics page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetricsFault {
    #[default]
    None,
    /// The page stays as it was when it was first asked for under this fault.
    Stale,
    /// Status 500.
    Error,
    /// Bytes that are no metrics.
    Garbage,
    /// Every value is NaN.
    Nan,
    /// Every value is negative.
    Negative,
    /// The page never ends.
    Endless,
    /// The true page after 50 MB of other series.
    Huge,
    /// No answer.
    Hang,
}

/// What happens to one inference request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Serve,
    Fail(FailureType),
    Hang,
    Reset,
    /// Cut the stream after so many events.
    Cut(u32),
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            failure_injection_rate: 0.0,
            failure_types: Vec::new(),
            hang_rate: 0.0,
            reset_rate: 0.0,
            cut_stream_rate: 0.0,
            cut_stream_after: 3,
            metrics_fault: MetricsFault::None,
            unhealthy: false,
        }
    }
}

impl Faults {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        for (key, rate) in [
            ("failure-injection-rate", self.failure_injection_rate),
            ("hang-rate", self.hang_rate),
            ("reset-rate", self.reset_rate),
            ("cut-stream-rate", self.cut_stream_rate),
        ] {
            if !(0.0..=100.0).contains(&rate) {
                return Err(ConfigError::Range { key, value: rate.to_string(), range: "0 to 100" });
            }
        }
        Ok(())
    }

    /// Draws what happens to the next request. A rate of 0 draws nothing, so that a fault that is switched on
    /// does not shift the others.
    pub(crate) fn draw(&self, rng: &mut Rng) -> Fate {
        let mut hits = |rate: f64| rate > 0.0 && rng.chance(rate / 100.0);
        if hits(self.reset_rate) {
            return Fate::Reset;
        }
        if hits(self.hang_rate) {
            return Fate::Hang;
        }
        if hits(self.failure_injection_rate) {
            let types: &[_] =
                if self.failure_types.is_empty() { &FailureType::ALL } else { &self.failure_types };
            return rng.choose(types).map_or(Fate::Serve, |&kind| Fate::Fail(kind));
        }
        if hits(self.cut_stream_rate) {
            return Fate::Cut(self.cut_stream_after);
        }
        Fate::Serve
    }
}

impl FailureType {
    const ALL: [Self; 6] = [
        Self::RateLimit,
        Self::InvalidApiKey,
        Self::ContextLength,
        Self::ServerError,
        Self::InvalidRequest,
        Self::ModelNotFound,
    ];

    pub(crate) fn error(self, model: &str, max_model_len: u32) -> ApiError {
        let (status, message, param) = match self {
            Self::RateLimit => (429, format!("Rate limit reached for {model} (injected)"), None),
            Self::InvalidApiKey => (401, "Incorrect API key provided (injected)".to_owned(), None),
            Self::ContextLength => (
                400,
                format!("This model's maximum context length is {max_model_len} tokens (injected)"),
                Some("messages"),
            ),
            Self::ServerError => {
                (503, "The server is overloaded or not ready yet (injected)".to_owned(), None)
            }
            Self::InvalidRequest => (400, "Invalid request (injected)".to_owned(), Some("model")),
            Self::ModelNotFound => {
                (404, format!("The model `{model}` does not exist (injected)"), Some("model"))
            }
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        ApiError { param, ..ApiError::new(status, message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_kept() {
        let faults = Faults {
            reset_rate: 10.0,
            hang_rate: 20.0,
            failure_injection_rate: 50.0,
            failure_types: vec![FailureType::RateLimit],
            ..Faults::default()
        };
        let mut rng = Rng::seeded(1);
        let fates: Vec<_> = (0..10_000).map(|_| faults.draw(&mut rng)).collect();
        let share = |fate| fates.iter().filter(|&&drawn| drawn == fate).count() as f64 / 10_000.0;
        assert!((share(Fate::Reset) - 0.1).abs() < 0.02);
        assert!((share(Fate::Hang) - 0.9 * 0.2).abs() < 0.02);
        assert!((share(Fate::Fail(FailureType::RateLimit)) - 0.9 * 0.8 * 0.5).abs() < 0.02);
    }

    #[test]
    fn every_type_is_drawn_and_has_its_status() {
        let faults = Faults { failure_injection_rate: 100.0, ..Faults::default() };
        let mut rng = Rng::seeded(2);
        let mut statuses = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let Fate::Fail(kind) = faults.draw(&mut rng) else {
                panic!("a rate of 100 % always fails")
            };
            statuses.insert((kind.error("m", 10).status.as_u16(), format!("{kind:?}")));
        }
        let expected = [
            (400, "ContextLength"),
            (400, "InvalidRequest"),
            (401, "InvalidApiKey"),
            (404, "ModelNotFound"),
            (429, "RateLimit"),
            (503, "ServerError"),
        ];
        assert!(statuses.iter().map(|(status, name)| (*status, name.as_str())).eq(expected));
    }
}
