//! Errors that clients see.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use router_net::{Body, body::full};
use serde_json::{Value, json};

use crate::model::Refusal;

/// An error answer in the making.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    pub(crate) param: Option<&'static str>,
}

/// Whose error shape it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorShape {
    OpenAi,
    Anthropic,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn about(self, param: &'static str) -> Self {
        Self { param: Some(param), ..self }
    }

    pub(crate) fn unknown_model(model: &str, aliases: &[String]) -> Self {
        let message =
            format!("The model `{model}` does not exist. Valid aliases: {}.", aliases.join(", "));
        Self::new(StatusCode::NOT_FOUND, message).about("model")
    }

    pub(crate) fn too_long(n_tokens: u32, limit: u32) -> Self {
        Self::bad_request(format!(
            "This model's maximum context length is {limit} tokens. However, your prompt contains \
             {n_tokens} input tokens, which exceeds this limit even without any output tokens. Please \
             reduce the length of the input prompt. (parameter=input_tokens, value={n_tokens})"
        ))
        .about("input_tokens")
    }

    /// The name that clients know errors of this status by.
    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            400 | 405 | 413 | 415 => "BadRequestError",
            401 => "AuthenticationError",
            403 => "PermissionDeniedError",
            404 => "NotFoundError",
            422 => "UnprocessableEntityError",
            429 => "RateLimitError",
            502..=504 => "APIConnectionError",
            _ => "InternalServerError",
        }
    }

    fn anthropic_kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            400..=499 => "invalid_request_error",
            _ => "api_error",
        }
    }

    pub(crate) fn body(&self, shape: ErrorShape) -> Value {
        match shape {
            ErrorShape::OpenAi => json!({"error": {
                "message": self.message,
                "type": self.kind(),
                "param": self.param,
                "code": self.status.as_u16(),
            }}),
            ErrorShape::Anthropic => json!({"type": "error", "error": {
                "type": self.anthropic_kind(),
                "message": self.message,
            }}),
        }
    }

    pub(crate) fn response(&self, shape: ErrorShape) -> Response<Body> {
        json_response(self.status, &self.body(shape))
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::QueueFull { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, refusal.to_string())
            }
            Refusal::TooLong { prompt_tokens, limit } => Self::too_long(prompt_tokens, limit),
            Refusal::DoesNotFit { .. } | Refusal::NoAdapterSlots => {
                Self::bad_request(refusal.to_string())
            }
        }
    }
}

/// A JSON answer.
pub(crate) fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    bytes_response(status, "application/json", value.to_string())
}

/// An answer of one piece.
pub(crate) fn bytes_response(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
