//! Durations and quantities as the Go implementation writes them in documents.

mod duration;
mod quantity;

pub use duration::{FloatSeconds, GoDuration};
pub use quantity::Quantity;

/// A text that is no duration or quantity, with what is wrong about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UnitError {
    message: String,
}

impl UnitError {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

/// Names in the `format` keyword of a schema, so that a document's texts are checked before they
/// are read.
pub(crate) const DURATION_FORMAT: &str = "go-duration";
pub(crate) const QUANTITY_FORMAT: &str = "k8s-quantity";
