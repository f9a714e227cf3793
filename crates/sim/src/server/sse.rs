//! Server-sent events.

use bytes::Bytes;
use serde_json::Value;

/// The events that one step of an answer gives, in order.
pub(crate) type Events = Vec<Bytes>;

/// `data: …`.
pub(crate) fn data(value: &Value) -> Bytes {
    Bytes::from(format!("data: {value}\n\n"))
}

/// `event: …` and `data: …`; the name is the value's `type`.
pub(crate) fn named(value: &Value) -> Bytes {
    let name = value.get("type").and_then(Value::as_str).unwrap_or("message");
    Bytes::from(format!("event: {name}\ndata: {value}\n\n"))
}

/// What ends OpenAI's streams.
pub(crate) const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");
