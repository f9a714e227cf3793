//! `docs/reference/errors.md`, from the one place that maps errors.

use router_core::error::{DropReason, ErrorCode, Fault};

use super::{code, table};

const REASONS: [DropReason; 6] = [
    DropReason::Saturated,
    DropReason::NoEndpoints,
    DropReason::TtlExpired,
    DropReason::ContextCancelled,
    DropReason::ShuttingDown,
    DropReason::Evicted,
];

/// When it happens, for the page.
fn when(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::BadRequest => {
            "the body is malformed, lacks its model or prompt, or broke off; a profile that the request names does not exist"
        }
        ErrorCode::Unauthorized => "`serve --api-keys`: no key, or one that is not known",
        ErrorCode::Forbidden => "not used by the built-in plugins",
        ErrorCode::NotFound => "no parser reads the request's path",
        ErrorCode::RequestTimeout => "the request body stopped coming for `--request-body-timeout`",
        ErrorCode::PreconditionFailed => {
            "the request wants a cached prefix (`prefer: if-available`) and the chosen endpoint has none"
        }
        ErrorCode::PayloadTooLarge => "the body is longer than `--max-body-bytes`",
        ErrorCode::UnsupportedMediaType => {
            "the body has a content coding that must be read and cannot be"
        }
        ErrorCode::HeadersTooLarge => "the head is over the server's bound",
        ErrorCode::ResourceExhausted => {
            "the pool is saturated and the request may be shed, an admitter refused it, or capacity filters left nobody"
        }
        ErrorCode::Internal => "a bug or a plugin's untyped failure; the log says which",
        ErrorCode::NotImplemented => {
            "`serve`: `CONNECT`, `TRACE`, protocol upgrades and transfer codings other than `chunked`"
        }
        ErrorCode::ModelServerError => {
            "`serve`: the endpoints that were tried broke off before their response, or sent something else; the message says what"
        }
        ErrorCode::ServiceUnavailable => {
            "no endpoint may serve the request, none could be reached, or bodies in memory exceed `--max-buffered-bytes`"
        }
        ErrorCode::ModelServerTimeout => {
            "`serve`: no response head within `--response-head-timeout`"
        }
    }
}

fn fault(code: ErrorCode) -> String {
    match code.fault() {
        Fault::Client => "client",
        Fault::Router => "router",
        Fault::ModelServer => "model server",
    }
    .to_owned()
}

/// Why a request was dropped, for the page.
fn why(reason: DropReason) -> &'static str {
    match reason {
        DropReason::Saturated => {
            "every endpoint that may serve it is at its limit; try again after `retry-after`"
        }
        DropReason::NoEndpoints => "no endpoint may serve it, or none could be reached",
        DropReason::TtlExpired => "it waited too long in a queue",
        DropReason::ContextCancelled => "its client went away while it waited in a queue",
        DropReason::ShuttingDown => "the router is going away",
        DropReason::Evicted => "it was evicted for a more important one",
    }
}

#[test]
fn reference_of_errors_is_current() {
    let mut page = "# Errors\n\n".to_owned();
    page += "Answers of the router's own, as opposed to a model server's, which pass through as they are.\n";
    page += "Behind Envoy the body is the text `inference error: <code> - <message>`; `serve` answers with OpenAI's error object, which has the same text as `message` and the code as `code`.\n";
    page += "The code is also the label `error_code` of `llm_d_epp_request_error_total`.\n\n";
    let rows: Vec<_> = ErrorCode::ALL
        .iter()
        .map(|&error| {
            let retry = if error.retry_is_safe() { "yes" } else { "" };
            [
                code(error.label()),
                error.http_status().to_string(),
                fault(error),
                retry.to_owned(),
                when(error).to_owned(),
            ]
        })
        .collect();
    page += &table(["code", "status", "fault", "safe to send again", "when"], &rows);
    page += "\nThe label has two values more, for requests that end while they are served: `ClientDisconnect` and `Evicted`.\n";
    page +=
        "`ModelServerError` also counts a model server's own responses with status 400 or above.\n";
    page += "\n## Drop reasons\n\nThe response header `x-llm-d-request-dropped-reason` of a request that was dropped.\n\n";
    let rows: Vec<_> =
        REASONS.iter().map(|&reason| [code(reason.as_str()), why(reason).to_owned()]).collect();
    page += &table(["reason", "why"], &rows);
    super::check("errors.md", "the mapping of errors", &page);
}
