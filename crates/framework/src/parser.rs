//! Extension point: what a request body asks for, and what a response says it used.

use bytes::Bytes;
use router_core::Rejection;
use router_wire::response::Usage;

use crate::request::{ParsedRequest, RequestHead};

/// Reads the bodies of one family of APIs.
pub trait Parser: Send + Sync {
    /// Path suffixes that this parser claims; empty makes it the fallback.
    fn suffixes(&self) -> &'static [&'static str];

    /// Application protocols of an `InferencePool` that it speaks; empty for any.
    fn protocols(&self) -> &'static [&'static str];

    /// Starts on the body of a request whose path matched.
    fn begin(&self, head: &RequestHead) -> Result<Box<dyn BodyParser>, Rejection>;

    /// Starts on the response to `request`; `None` when there is nothing to learn from it.
    fn response(&self, head: &RequestHead, kind: ResponseKind) -> Option<Box<dyn ResponseParser>>;
}

/// How a response is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseKind {
    /// One JSON document.
    Json,
    /// Server-sent events.
    Events,
}

/// Takes a request body chunk by chunk; never sees the whole at once.
pub trait BodyParser: Send {
    fn push(&mut self, chunk: &Bytes) -> Result<(), Rejection>;
    /// Bytes that it holds besides the chunks, whose memory it may share. They count against the bound on
    /// request bytes in memory.
    fn held_bytes(&self) -> usize {
        0
    }
    fn finish(self: Box<Self>) -> Result<ParsedRequest, Rejection>;
}

/// Takes a response body chunk by chunk. It cannot fail: what it cannot read it ignores.
pub trait ResponseParser: Send {
    fn push(&mut self, chunk: &[u8]);
    /// The body is over: what it left open, such as a last line without a line end, counts too.
    fn end(&mut self) {}
    /// Token counts seen so far; the last that the model server sent counts.
    fn usage(&self) -> Option<Usage>;
    /// Data events seen so far; 0 for a JSON response.
    fn n_events(&self) -> u64;
}
