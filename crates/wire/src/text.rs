//! Text of a request as shared slices of its body.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::json::{Escapes, Unescaper};

/// A piece of text as it is on the wire: the contents of a JSON string, or a whole JSON value.
///
/// It shares the memory of the body. A text that was split over chunks is several slices.
#[derive(Debug, Clone, Default)]
pub struct RawText {
    slices: SmallVec<[Bytes; 1]>,
    /// The JSON escapes that [`RawText::decode`] must undo.
    escapes: Escapes,
}

impl RawText {
    /// Slices of which none is empty.
    pub(crate) fn new(slices: SmallVec<[Bytes; 1]>, escapes: Escapes) -> Self {
        Self { slices, escapes }
    }

    /// Bytes that stand for themselves: a JSON value, or contents of a string without escapes.
    pub fn verbatim(slices: impl IntoIterator<Item = Bytes>) -> Self {
        let slices = slices.into_iter().filter(|s| !s.is_empty()).collect();
        Self { slices, escapes: Escapes::default() }
    }

    /// Contents of a JSON string that has escapes.
    pub fn escaped(slices: impl IntoIterator<Item = Bytes>) -> Self {
        Self { escapes: Escapes::Unknown, ..Self::verbatim(slices) }
    }

    /// The bytes as they are on the wire.
    pub fn slices(&self) -> &[Bytes] {
        &self.slices
    }

    /// How many bytes it has on the wire.
    pub fn wire_len(&self) -> usize {
        self.slices.iter().map(Bytes::len).sum()
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    /// Gives the text, unescaped, in UTF-8, in parts of any size. A part may end within a character.
    pub fn decode(&self, out: &mut dyn FnMut(&[u8])) {
        self.decode_while(&mut |part| {
            out(part);
            true
        });
    }

    /// As [`RawText::decode`], until `out` says that it has enough.
    pub fn decode_while(&self, out: &mut dyn FnMut(&[u8]) -> bool) {
        if !self.escapes.any() {
            self.slices.iter().all(|slice| out(slice));
            return;
        }
        let mut unescaper = Unescaper::default();
        if self.slices.iter().all(|slice| unescaper.feed(slice, out)) {
            unescaper.finish(out);
        }
    }

    /// How many bytes [`RawText::decode`] gives.
    pub fn decoded_len(&self) -> usize {
        match self.escapes {
            Escapes::None => self.wire_len(),
            Escapes::Shorten(n_less) => self.wire_len().saturating_sub(n_less),
            Escapes::Unknown => {
                let mut len = 0;
                self.decode(&mut |part| len += part.len());
                len
            }
        }
    }

    /// The first bytes of the text, at most `max`.
    pub fn prefix(&self, max: usize) -> Vec<u8> {
        let mut prefix = Vec::with_capacity(max.min(self.wire_len()));
        self.decode_while(&mut |part| {
            let room = max - prefix.len();
            prefix.extend_from_slice(part.get(..room).unwrap_or(part));
            prefix.len() < max
        });
        prefix
    }

    /// The whole text; a copy, for short texts and tests.
    pub fn to_text(&self) -> String {
        String::from_utf8_lossy(&self.prefix(usize::MAX)).into_owned()
    }
}

impl From<&str> for RawText {
    fn from(text: &str) -> Self {
        Self::verbatim([Bytes::copy_from_slice(text.as_bytes())])
    }
}

/// Two texts are equal if they stand for the same text.
impl PartialEq for RawText {
    fn eq(&self, other: &Self) -> bool {
        self.prefix(usize::MAX) == other.prefix(usize::MAX)
    }
}

impl Eq for RawText {}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wire: &str, text: &str) {
        for cut in 0..=wire.len() {
            let (a, b) = wire.as_bytes().split_at(cut);
            let raw = RawText::escaped([Bytes::copy_from_slice(a), Bytes::copy_from_slice(b)]);
            assert_eq!(raw.to_text(), text, "{wire} cut at {cut}");
            assert_eq!(raw.decoded_len(), text.len());
        }
        let bytes = wire.bytes().map(|b| Bytes::copy_from_slice(&[b]));
        assert_eq!(RawText::escaped(bytes).to_text(), text, "{wire} in single bytes");
    }

    #[test]
    fn escapes_are_undone_wherever_they_are_cut() {
        check("", "");
        check("plain", "plain");
        check(r#"\"\\\/\b\f\n\r\t"#, "\"\\/\u{8}\u{c}\n\r\t");
        check(r"a\u00e9b\u20acc", "aéb€c");
        check(r"\ud83d\ude00!", "😀!");
        check(r"\ud83d!", "\u{fffd}!");
        check(r"\ud83d\n\ude00", "\u{fffd}\n\u{fffd}");
        check(r"\ud83d\ud83d\ude00", "\u{fffd}😀");
        check(r"\ud83d\u0041", "\u{fffd}A");
        check(r"end \ud83d", "end \u{fffd}");
        check("näïve \\u0041 ünï", "näïve A ünï");
    }

    #[test]
    fn a_prefix_stops_early() {
        assert_eq!(RawText::escaped([Bytes::from_static(br"ab\ncd")]).prefix(4), b"ab\nc");
        assert_eq!(RawText::from("abc").prefix(2), b"ab");
        assert_eq!(RawText::from("abc").prefix(0), b"");
    }
}
