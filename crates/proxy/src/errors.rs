//! Answers of the proxy's own, in the form of OpenAI's API.

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use router_core::{ErrorCode, Rejection, header::DROPPED_REASON};
use serde_json::json;

use crate::response::ProxyBody;

/// The answer to a request that is not served.
pub(crate) fn refusal(rejection: &Rejection) -> Response<ProxyBody> {
    let body = json!({
        "error": {
            "message": rejection.body(),
            "type": kind(rejection.code),
            "param": null,
            "code": rejection.code.label(),
        }
    });
    let mut response = json_response(body.to_string());
    if let Ok(status) = http::StatusCode::from_u16(rejection.code.http_status()) {
        *response.status_mut() = status;
    }
    let headers = response.headers_mut();
    if let Some(reason) = rejection.reason {
        headers.insert(DROPPED_REASON, HeaderValue::from_static(reason.as_str()));
    }
    if let Some(after) = rejection.retry_after {
        // Whole seconds, and never sooner than asked.
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if rejection.code == ErrorCode::Unauthorized {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// A JSON document with status 200.
pub(crate) fn json_response(text: impl Into<Bytes>) -> Response<ProxyBody> {
    with_type("application/json", text)
}

/// A page of plain text with status 200.
pub(crate) fn text_response(text: impl Into<Bytes>) -> Response<ProxyBody> {
    with_type("text/plain; charset=utf-8", text)
}

fn with_type(content_type: &'static str, text: impl Into<Bytes>) -> Response<ProxyBody> {
    let mut response = Response::new(ProxyBody::whole(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// OpenAI's and Anthropic's words for classes of errors, as far as they agree.
fn kind(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::BadRequest
        | ErrorCode::RequestTimeout
        | ErrorCode::PreconditionFailed
        | ErrorCode::PayloadTooLarge
        | ErrorCode::UnsupportedMediaType
        | ErrorCode::HeadersTooLarge
        | ErrorCode::NotImplemented => "invalid_request_error",
        ErrorCode::Unauthorized => "authentication_error",
        ErrorCode::Forbidden => "permission_error",
        ErrorCode::NotFound => "not_found_error",
        ErrorCode::ResourceExhausted => "rate_limit_error",
        ErrorCode::ModelServerTimeout => "timeout_error",
        ErrorCode::Internal | ErrorCode::ModelServerError | ErrorCode::ServiceUnavailable => {
            "server_error"
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_refusal_says_what_when_and_why() {
        let rejection = Rejection::saturated("system \"saturated\"")
            .with_retry_after(Duration::from_millis(1_500))
            .with_detail("secret");
        let response = refusal(&rejection);
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        assert_eq!(response.headers()[DROPPED_REASON], "rejected-saturated");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let message = "inference error: ResourceExhausted - system \"saturated\"";
        assert_eq!(
            body,
            json!({"error": {"message": message, "type": "rate_limit_error", "param": null,
                             "code": "ResourceExhausted"}})
        );
    }

    #[test]
    fn every_code_has_a_valid_status() {
        for code in ErrorCode::ALL {
            let response = refusal(&Rejection::new(code, "x"));
            assert_eq!(response.status().as_u16(), code.http_status(), "{code:?}");
        }
    }
}
