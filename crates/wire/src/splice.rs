//! Edits of a body that leave every other byte as it came.

use std::ops::Range;

use bytes::Bytes;

/// Replaces the bytes of `span` in a body given as chunks. The other bytes are shared, not copied.
/// What of `span` is past the end of the body is taken for its end.
pub fn splice(body: &[Bytes], span: Range<usize>, replacement: Bytes) -> Vec<Bytes> {
    let mut out = Vec::with_capacity(body.len() + 2);
    let mut replacement = Some(replacement);
    let mut base = 0;
    for chunk in body {
        let keep_before = span.start.saturating_sub(base).min(chunk.len());
        let keep_after = span.end.max(span.start).saturating_sub(base).min(chunk.len());
        push(&mut out, chunk.slice(..keep_before));
        base += chunk.len();
        if span.start < base
            && let Some(replacement) = replacement.take()
        {
            push(&mut out, replacement);
        }
        push(&mut out, chunk.slice(keep_after..));
    }
    if let Some(replacement) = replacement {
        push(&mut out, replacement);
    }
    out
}

fn push(out: &mut Vec<Bytes>, part: Bytes) {
    if !part.is_empty() {
        out.push(part);
    }
}

/// `text` as a JSON string, with its quotes.
pub fn quote(text: &str) -> Bytes {
    let mut out = Vec::with_capacity(text.len() + 2);
    out.push(b'"');
    for &byte in text.as_bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..0x20 => {
                let digits = b"0123456789abcdef";
                let digit = |value: u8| digits.get(usize::from(value)).copied().unwrap_or(b'0');
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(chunks: &[&str], span: Range<usize>, replacement: &str, expected: &[&str]) {
        let body: Vec<Bytes> =
            chunks.iter().map(|c| Bytes::copy_from_slice(c.as_bytes())).collect();
        let new = Bytes::copy_from_slice(replacement.as_bytes());
        assert_eq!(splice(&body, span.clone(), new), expected, "{chunks:?} {span:?}");
    }

    #[test]
    fn a_range_is_replaced_wherever_it_lies() {
        check(&["abcdef"], 2..4, "X", &["ab", "X", "ef"]);
        check(&["abc", "def"], 2..4, "X", &["ab", "X", "ef"]);
        check(&["abc", "def", "ghi"], 1..8, "X", &["a", "X", "i"]);
        check(&["abc", "def"], 3..3, "X", &["abc", "X", "def"]);
        check(&["abc", "def"], 0..3, "", &["def"]);
        check(&["abc", "def"], 0..6, "X", &["X"]);
        check(&["abc"], 3..3, "X", &["abc", "X"]);
        check(&["abc"], 2..9, "X", &["ab", "X"]);
        check(&["abc"], 7..9, "X", &["abc", "X"]);
        check(&[], 0..0, "X", &["X"]);
        check(&["", "a", ""], 0..1, "X", &["X"]);
    }

    #[test]
    fn the_rest_is_shared() {
        let body = [Bytes::from_static(b"abcdef")];
        let out = splice(&body, 2..4, Bytes::from_static(b"X"));
        assert_eq!(out[0].as_ptr(), body[0].as_ptr());
        assert_eq!(out[2].as_ptr(), body[0][4..].as_ptr());
    }

    #[test]
    fn quoting_is_json() {
        for text in ["", "m", "a\"b\\c", "org/model-7b", "tab\tnul\0 esc\u{1b}", "ünï 😀", "\u{7f}"]
        {
            let quoted = quote(text);
            let back: String = serde_json::from_slice(&quoted).unwrap();
            assert_eq!(back, text);
        }
    }
}
