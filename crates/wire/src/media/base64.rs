//! The first bytes of base64 data.

use crate::text::RawText;

/// Decodes base64, standard or URL-safe, from the byte `from` of the text on, and stops at `max` decoded bytes,
/// at padding and at the first byte that is not base64. White space is passed over.
pub fn decode_base64_prefix(text: &RawText, from: usize, max: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(max.min(text.wire_len()));
    let mut to_skip = from;
    let (mut bits, mut n_bits) = (0u32, 0u32);
    text.decode_while(&mut |part| {
        let skipped = to_skip.min(part.len());
        to_skip -= skipped;
        for &byte in part.get(skipped..).unwrap_or_default() {
            if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
                continue;
            }
            let Some(six) = sextet(byte) else { return false };
            if out.len() == max {
                return false;
            }
            bits = bits << 6 | six;
            n_bits += 6;
            if n_bits >= 8 {
                n_bits -= 8;
                out.push((bits >> n_bits) as u8);
            }
        }
        out.len() < max
    });
    out
}

fn sextet(byte: u8) -> Option<u32> {
    Some(u32::from(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn check(text: &RawText, from: usize, max: usize, decoded: &[u8]) {
        assert_eq!(decode_base64_prefix(text, from, max), decoded, "{text:?} {from} {max}");
    }

    #[test]
    fn a_prefix_of_any_length_is_decoded() {
        let text = RawText::from("aGVsbG8gd29ybGQ=");
        for max in 0..20 {
            check(&text, 0, max, &b"hello world"[..max.min(11)]);
        }
        check(&RawText::from("xx,aGVsbG8"), 3, 100, b"hello");
        check(&RawText::from("aGVs\r\nbG8="), 0, 100, b"hello");
        check(&RawText::from("-_+/"), 0, 100, &[0xfb, 0xff, 0xbf]);
        check(&RawText::from("aGVs*bG8="), 0, 100, b"hel");
        check(&RawText::from(""), 0, 100, b"");
        check(&RawText::from("aGVsbG8="), 100, 100, b"");
        // PHP and others escape every slash.
        let escaped = RawText::escaped([Bytes::from_static(br"-_+\"), Bytes::from_static(b"/")]);
        check(&escaped, 0, 100, &[0xfb, 0xff, 0xbf]);
    }
}
