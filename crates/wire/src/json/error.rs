//! What can be wrong with a JSON document, and where.

use std::fmt;

/// Why a document is not JSON, and the offset of the byte that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonError {
    /// What is wrong.
    pub kind: JsonErrorKind,
    /// Bytes before the wrong one.
    pub offset: usize,
}

/// What is wrong with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum JsonErrorKind {
    /// A byte that cannot stand here.
    UnexpectedByte(u8),
    /// The document is over, yet there is more than white space.
    TrailingByte(u8),
    /// The document is not over, yet the input is.
    UnexpectedEnd,
    /// A control character inside a string, which must be escaped.
    ControlCharacter(u8),
    /// An escape that JSON does not know.
    BadEscape,
    /// A string that is not UTF-8.
    InvalidUtf8,
    /// A number with a leading zero, without digits, or the like.
    BadNumber,
    /// A word other than `true`, `false` and `null`.
    BadLiteral,
    /// More nested containers than accepted.
    TooDeep {
        /// How many are accepted.
        limit: usize,
    },
}

impl JsonErrorKind {
    pub(crate) fn at(self, offset: usize) -> JsonError {
        JsonError { kind: self, offset }
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            JsonErrorKind::UnexpectedByte(byte) => {
                write!(f, "unexpected '{}'", byte.escape_ascii())?;
            }
            JsonErrorKind::TrailingByte(byte) => {
                write!(f, "unexpected '{}' after the document", byte.escape_ascii())?;
            }
            JsonErrorKind::UnexpectedEnd => f.write_str("unexpected end")?,
            JsonErrorKind::ControlCharacter(byte) => {
                write!(f, "unescaped control character '{}' in a string", byte.escape_ascii())?;
            }
            JsonErrorKind::BadEscape => f.write_str("invalid escape in a string")?,
            JsonErrorKind::InvalidUtf8 => f.write_str("invalid UTF-8 in a string")?,
            JsonErrorKind::BadNumber => f.write_str("invalid number")?,
            JsonErrorKind::BadLiteral => f.write_str("invalid literal")?,
            JsonErrorKind::TooDeep { limit } => write!(f, "nested deeper than {limit}")?,
        }
        write!(f, " at byte {}", self.offset)
    }
}

impl std::error::Error for JsonError {}
