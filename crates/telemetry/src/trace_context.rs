//! W3C trace context: read from requests and handed on, with or without an exporter.

use std::fmt;

use http::{HeaderMap, HeaderValue};

/// The trace that a request belongs to, and the span that caused it.
#[derive(Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    flags: u8,
    /// Handed on as it came.
    state: Option<HeaderValue>,
}

pub const TRACEPARENT: &str = "traceparent";
pub const TRACESTATE: &str = "tracestate";

/// The specification asks to hand on at least 512 characters; longer lists are dropped whole.
const MAX_STATE_BYTES: usize = 1024;

const SAMPLED: u8 = 1;

impl TraceContext {
    /// Starts a trace. Zero ids are invalid and replaced by ones.
    pub fn new_root(trace_id: u128, span_id: u64, sampled: bool) -> Self {
        let flags = if sampled { SAMPLED } else { 0 };
        Self { trace_id: trace_id.max(1), span_id: span_id.max(1), flags, state: None }
    }

    /// The context of a request, if it has a valid one. A repeated or malformed `traceparent`
    /// counts as none, as the specification says.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all(TRACEPARENT).iter();
        let parent = parents.next()?;
        if parents.next().is_some() {
            return None;
        }
        let mut context = Self::parse(parent.to_str().ok()?)?;
        context.state = joined_state(headers);
        Some(context)
    }

    /// Parses the value of a `traceparent` header.
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.trim().split('-');
        let version = hex(fields.next()?, 2)?;
        let trace_id = hex(fields.next()?, 32)?;
        let span_id = hex(fields.next()?, 16)? as u64;
        let flags = hex(fields.next()?, 2)? as u8;
        // Version 0 ends here; later ones may go on; ff is no version.
        let ends_well = fields.next().is_none() || version > 0;
        if !ends_well || version == 0xff || trace_id == 0 || span_id == 0 {
            return None;
        }
        Some(Self { trace_id, span_id, flags, state: None })
    }

    /// The same trace, with `span_id` as the span that causes what follows.
    pub fn with_span(&self, span_id: u64) -> Self {
        Self { span_id: span_id.max(1), ..self.clone() }
    }

    pub fn trace_id(&self) -> u128 {
        self.trace_id
    }

    pub fn span_id(&self) -> u64 {
        self.span_id
    }

    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The vendor list that came with it.
    pub fn state(&self) -> Option<&HeaderValue> {
        self.state.as_ref()
    }

    /// The value of a `traceparent` header; always of version 0.
    pub fn traceparent(&self) -> HeaderValue {
        // Hexadecimal digits and dashes are always a valid value.
        HeaderValue::try_from(self.to_string()).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// Writes the context into headers, in place of what is there.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(TRACEPARENT, self.traceparent());
        match &self.state {
            Some(state) => {
                headers.insert(TRACESTATE, state.clone());
            }
            None => {
                headers.remove(TRACESTATE);
            }
        }
    }

    pub(crate) fn from_parts(trace_id: u128, span_id: u64, flags: u8, state: &str) -> Self {
        let state = HeaderValue::try_from(state).ok().filter(|state| !state.is_empty());
        Self { trace_id, span_id, flags, state }
    }

    pub(crate) fn flags(&self) -> u8 {
        self.flags
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags & SAMPLED)
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceContext({self})")
    }
}

/// Exactly `n_digits` lower-case hexadecimal digits.
fn hex(text: &str, n_digits: usize) -> Option<u128> {
    let fits = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != n_digits || !text.bytes().all(fits) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

fn joined_state(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut all = headers.get_all(TRACESTATE).iter();
    let first = all.next()?;
    let Some(second) = all.next() else {
        return (first.len() <= MAX_STATE_BYTES && !first.is_empty()).then(|| first.clone());
    };
    let mut joined = first.as_bytes().to_vec();
    for value in [second].into_iter().chain(all) {
        joined.push(b',');
        joined.extend_from_slice(value.as_bytes());
        if joined.len() > MAX_STATE_BYTES {
            return None;
        }
    }
    HeaderValue::from_bytes(&joined).ok()
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert_eq, proptest};

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn reads_and_writes_the_example_of_the_specification() {
        let context = TraceContext::parse(GOOD).unwrap();
        assert_eq!(context.trace_id(), 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(context.span_id(), 0x00f0_67aa_0ba9_02b7);
        assert!(context.is_sampled());
        assert_eq!(context.traceparent(), GOOD);
    }

    #[test]
    fn malformed_parents_count_as_none() {
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes";
        assert_eq!(TraceContext::parse(later).unwrap().traceparent(), GOOD);
    }

    #[test]
    fn headers_go_through_with_their_state() {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(GOOD));
        headers.append(TRACESTATE, HeaderValue::from_static("a=1"));
        headers.append(TRACESTATE, HeaderValue::from_static("b=2"));
        let context = TraceContext::from_headers(&headers).unwrap();
        let mut sent = HeaderMap::new();
        context.with_span(7).write(&mut sent);
        assert_eq!(sent[TRACEPARENT], "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000007-01");
        assert_eq!(sent[TRACESTATE], "a=1,b=2");
    }

    #[test]
    fn two_parents_are_none_and_a_huge_state_is_dropped() {
        let mut headers = HeaderMap::new();
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        let huge = "a=".to_owned() + &"x".repeat(MAX_STATE_BYTES);
        headers.append(TRACESTATE, HeaderValue::try_from(huge).unwrap());
        assert_eq!(TraceContext::from_headers(&headers).unwrap().state(), None);
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert_eq!(TraceContext::from_headers(&headers), None);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(trace_id: u128, span_id: u64, sampled: bool) {
            let context = TraceContext::new_root(trace_id, span_id, sampled);
            prop_assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
        }

        #[test]
        fn foreign_text_never_panics(text: String) {
            let _ = TraceContext::parse(&text);
        }
    }
}
