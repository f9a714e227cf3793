//! Why a request ended without an answer from a model server.
//!
//! [`ErrorCode`] is the only thing that maps to HTTP status, gRPC status and the `error_code` metric label
//! (`spec/request-path.md` §1.7); [`Rejection`] adds the message for the caller, the drop reason and what
//! the log should know. The two messages are apart on purpose: the inside one never leaves the process.

use std::{borrow::Cow, fmt, time::Duration};

/// Class of a failure. The mapping to statuses lives here and nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The request is malformed or lacks a field.
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    /// The client stopped sending.
    RequestTimeout,
    /// A precondition such as `prefer: if-available` does not hold.
    PreconditionFailed,
    /// The body is over its bound.
    PayloadTooLarge,
    /// A content coding that cannot be read.
    UnsupportedMediaType,
    /// The header is over its bound.
    HeadersTooLarge,
    /// Shed: the pool, a queue or a band is full.
    ResourceExhausted,
    /// A bug or an untyped failure of ours.
    Internal,
    NotImplemented,
    /// The model server failed before it sent a response.
    ModelServerError,
    /// No endpoint can take the request, or the router is going away.
    ServiceUnavailable,
    /// The model server did not answer in time.
    ModelServerTimeout,
}

/// Who has to act on a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Client,
    Router,
    ModelServer,
}

impl ErrorCode {
    /// Every code, for tables and documentation.
    pub const ALL: [Self; 15] = [
        Self::BadRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::RequestTimeout,
        Self::PreconditionFailed,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::HeadersTooLarge,
        Self::ResourceExhausted,
        Self::Internal,
        Self::NotImplemented,
        Self::ModelServerError,
        Self::ServiceUnavailable,
        Self::ModelServerTimeout,
    ];

    pub const fn http_status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::RequestTimeout => 408,
            Self::PreconditionFailed => 412,
            Self::PayloadTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::ResourceExhausted => 429,
            Self::HeadersTooLarge => 431,
            Self::Internal => 500,
            Self::NotImplemented => 501,
            Self::ModelServerError => 502,
            Self::ServiceUnavailable => 503,
            Self::ModelServerTimeout => 504,
        }
    }

    /// The value of the `error_code` metric label and of `inference error: <label> - …`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::BadRequest => "BadRequest",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::RequestTimeout => "RequestTimeout",
            Self::PreconditionFailed => "PreconditionFailed",
            Self::PayloadTooLarge => "PayloadTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::HeadersTooLarge => "HeadersTooLarge",
            Self::ResourceExhausted => "ResourceExhausted",
            Self::Internal => "Internal",
            Self::NotImplemented => "NotImplemented",
            Self::ModelServerError => "ModelServerError",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::ModelServerTimeout => "ModelServerTimeout",
        }
    }

    pub const fn fault(self) -> Fault {
        match self {
            Self::BadRequest
            | Self::Unauthorized
            | Self::Forbidden
            | Self::NotFound
            | Self::RequestTimeout
            | Self::PreconditionFailed
            | Self::PayloadTooLarge
            | Self::UnsupportedMediaType
            | Self::HeadersTooLarge => Fault::Client,
            Self::ResourceExhausted
            | Self::Internal
            | Self::NotImplemented
            | Self::ServiceUnavailable => Fault::Router,
            Self::ModelServerError | Self::ModelServerTimeout => Fault::ModelServer,
        }
    }

    /// Whether the same request may be sent again later without change.
    pub const fn retry_is_safe(self) -> bool {
        matches!(self, Self::ResourceExhausted | Self::ServiceUnavailable)
    }
}

/// Value of `x-llm-d-request-dropped-reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    Saturated,
    NoEndpoints,
    TtlExpired,
    ContextCancelled,
    ShuttingDown,
    Evicted,
}

impl DropReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Saturated => "rejected-saturated",
            Self::NoEndpoints => "rejected-no-endpoints",
            Self::TtlExpired => "rejected-ttl-expired",
            Self::ContextCancelled => "rejected-context-cancelled",
            Self::ShuttingDown => "rejected-shutting-down",
            Self::Evicted => "evicted",
        }
    }
}

/// The router's answer to a request that it does not route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub code: ErrorCode,
    /// What the caller can do about it; sent to the client.
    pub message: Cow<'static, str>,
    pub reason: Option<DropReason>,
    /// When a retry makes sense; sent as `retry-after`, in whole seconds.
    pub retry_after: Option<Duration>,
    /// What broke; logged, never sent.
    pub detail: Option<String>,
}

impl Rejection {
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), reason: None, retry_after: None, detail: None }
    }

    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, "internal error").with_detail(detail)
    }

    /// No endpoint can take the request: 503 `rejected-no-endpoints`.
    pub fn no_endpoints(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::ServiceUnavailable, message).with_reason(DropReason::NoEndpoints)
    }

    /// Every endpoint is at its limit: 429 `rejected-saturated`.
    pub fn saturated(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::ResourceExhausted, message).with_reason(DropReason::Saturated)
    }

    /// A request in flight had to make room for a more important one.
    pub fn evicted() -> Self {
        Self::new(ErrorCode::ResourceExhausted, "request evicted by flow control")
            .with_reason(DropReason::Evicted)
    }

    pub fn with_reason(mut self, reason: DropReason) -> Self {
        self.reason = Some(reason);
        self
    }

    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The body of the immediate response: `inference error: <Code> - <message>`.
    pub fn body(&self) -> String {
        format!("inference error: {} - {}", self.code.label(), self.message)
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} - {}", self.code.label(), self.message)?;
        match &self.detail {
            Some(detail) => write!(f, " ({detail})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Rejection {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_follow_the_spec_table() {
        let check = |code: ErrorCode, status| assert_eq!(code.http_status(), status, "{code:?}");
        check(ErrorCode::BadRequest, 400);
        check(ErrorCode::PreconditionFailed, 412);
        check(ErrorCode::ResourceExhausted, 429);
        check(ErrorCode::Internal, 500);
        check(ErrorCode::ServiceUnavailable, 503);
        for code in ErrorCode::ALL {
            assert_eq!(
                code.fault() == Fault::Client,
                code.http_status() < 500 && code.http_status() != 429
            );
        }
    }

    #[test]
    fn the_inside_message_is_not_in_the_body() {
        let rejection = Rejection::internal("index out of range in queue-scorer");
        assert_eq!(rejection.body(), "inference error: Internal - internal error");
        assert!(rejection.to_string().contains("queue-scorer"));
    }
}
