//! Why a body is refused, in words for the client.

use super::Api;
use crate::json::JsonError;

/// Why a body is not a request. All of them are the client's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// The body is not JSON.
    #[error("error unmarshaling request bodyMap: {0}")]
    Json(#[from] JsonError),
    /// The body is JSON, but not an object.
    #[error("error unmarshaling request bodyMap: the body is not a JSON object")]
    NotAnObject,
    /// The required member is absent or empty.
    #[error("invalid {} request: must have {}{} field", .api.name(), valid(*.api), .api.required_field())]
    Missing {
        /// The format.
        api: Api,
    },
    /// The required member has a type that the format does not have.
    #[error("invalid {} request: {field} must be {expected}", .api.name())]
    WrongType {
        /// The format.
        api: Api,
        /// The member.
        field: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// A token id is not an integer from 0 to 2³² − 1.
    #[error("invalid {} request: invalid token id at index {index} of {field}", .api.name())]
    BadTokenId {
        /// The format.
        api: Api,
        /// The member.
        field: &'static str,
        /// Where it is in its list.
        index: usize,
    },
    /// There is more of something than [`super::Limits`] allows.
    #[error("invalid {} request: more than {limit} {what}", .api.name())]
    TooMany {
        /// The format.
        api: Api,
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: usize,
    },
    /// A name is longer than [`super::Limits::max_name_bytes`].
    #[error("invalid {} request: {field} is longer than {limit} bytes", .api.name())]
    TooLong {
        /// The format.
        api: Api,
        /// The member.
        field: &'static str,
        /// How many bytes are allowed.
        limit: usize,
    },
}

/// The reference says "valid messages" where it says plain "prompt" or "input".
fn valid(api: Api) -> &'static str {
    if api.required_field() == "messages" { "valid " } else { "" }
}
