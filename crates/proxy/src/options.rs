//! What the proxy can be told, with its bounds and their defaults.

use std::{sync::Arc, time::Duration};

use http::HeaderValue;

use crate::keys::ApiKeys;

/// Settings of a [`Proxy`](crate::Proxy). Bounds on bodies and on what is held over all requests are the
/// engine's, bounds on connections and heads are the server's.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// How long a request body may stop coming before the request is answered 408.
    pub body_idle_timeout: Duration,
    /// Time from sending a request to the head of its response, per attempt; then the request moves on to
    /// the next endpoint. A model server may queue and generate for long before it answers, so the default
    /// only ends what hangs.
    pub response_head_timeout: Option<Duration>,
    /// How long a response body may stop coming before it is cut.
    pub response_idle_timeout: Option<Duration>,
    /// Largest request body that is kept for another attempt, in bytes. A larger one is let go while it is
    /// sent, and moves on only if no connection could be made.
    pub max_retained_bytes: usize,
    /// Requests at once over all connections, from their head to the end of their response; further ones
    /// are answered 503.
    pub max_requests: usize,
    /// Keys that clients must show; none means that everyone is served.
    pub api_keys: Option<Arc<ApiKeys>>,
    /// `authorization` for the model servers in place of what the client sent.
    pub upstream_authorization: Option<HeaderValue>,
    /// Write a line per request, at level info.
    pub access_log: bool,
    pub discard: DiscardOptions,
    pub models: ModelsOptions,
}

/// How much of the body of a refused request is read and thrown away. A client that sends its body before
/// it reads would otherwise see a broken connection in place of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscardOptions {
    pub max_bytes: u64,
    pub timeout: Duration,
}

/// How `GET /v1/models` is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelsOptions {
    /// How long an endpoint may take to list its models.
    pub timeout: Duration,
    /// How long an answer is used again.
    pub ttl: Duration,
    /// Largest list of one endpoint, in bytes.
    pub max_page_bytes: usize,
    /// Endpoints that are asked at a time.
    pub max_concurrent: usize,
}

impl Default for ProxyOptions {
    fn default() -> Self {
        Self {
            body_idle_timeout: Duration::from_secs(30),
            response_head_timeout: Some(Duration::from_hours(1)),
            response_idle_timeout: Some(Duration::from_hours(1)),
            max_retained_bytes: 8 << 20,
            max_requests: 65_536,
            api_keys: None,
            upstream_authorization: None,
            access_log: true,
            discard: DiscardOptions::default(),
            models: ModelsOptions::default(),
        }
    }
}

impl Default for DiscardOptions {
    fn default() -> Self {
        Self { max_bytes: 128 << 20, timeout: Duration::from_secs(10) }
    }
}

impl Default for ModelsOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(2),
            ttl: Duration::from_secs(3),
            max_page_bytes: 1 << 20,
            max_concurrent: 64,
        }
    }
}
