//! Turns string contents as they are on the wire into the text they stand for.

use memchr::memchr;
use smallvec::SmallVec;

/// The longest escape: a surrogate pair, `\ud83d\ude00`.
const MAX_ESCAPE: usize = 12;

/// Unescapes contents that come in slices; an escape may cross them.
///
/// What it yields is right only for contents that a tokenizer has accepted. A surrogate without its other half
/// becomes U+FFFD, as in Go.
#[derive(Debug, Default)]
pub(crate) struct Unescaper {
    carry: SmallVec<[u8; MAX_ESCAPE]>,
}

enum Escape {
    /// The escape may go on.
    Incomplete,
    /// The escape took so many bytes and stands for this character.
    Char(usize, char),
}

impl Unescaper {
    /// Gives the text of one more slice to `out`, which says whether it wants more; so does the answer.
    pub(crate) fn feed(&mut self, slice: &[u8], out: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let mut rest = slice;
        while !self.carry.is_empty() {
            if !self.drain_carry(false, out) {
                return false;
            }
            if self.carry.is_empty() {
                break;
            }
            let Some((&byte, tail)) = rest.split_first() else { return true };
            self.carry.push(byte);
            rest = tail;
        }
        loop {
            let at = memchr(b'\\', rest).unwrap_or(rest.len());
            let (plain, special) = rest.split_at_checked(at).unwrap_or_default();
            if !plain.is_empty() && !out(plain) {
                return false;
            }
            if special.is_empty() {
                return true;
            }
            match escape(special, false) {
                Escape::Incomplete => {
                    self.carry.extend_from_slice(special);
                    return true;
                }
                Escape::Char(len, c) => {
                    if !out(c.encode_utf8(&mut [0; 4]).as_bytes()) {
                        return false;
                    }
                    rest = special.get(len..).unwrap_or_default();
                }
            }
        }
    }

    /// Gives what an escape that is cut off at the very end stands for.
    pub(crate) fn finish(&mut self, out: &mut dyn FnMut(&[u8]) -> bool) {
        self.drain_carry(true, out);
        self.carry.clear();
    }

    fn drain_carry(&mut self, last: bool, out: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        while let Some(&first) = self.carry.first() {
            let (len, wants_more) = if first == b'\\' {
                match escape(&self.carry, last) {
                    Escape::Incomplete => return true,
                    Escape::Char(len, c) => (len, out(c.encode_utf8(&mut [0; 4]).as_bytes())),
                }
            } else {
                (1, out(&[first]))
            };
            self.carry.drain(..len.min(self.carry.len()));
            if !wants_more {
                return false;
            }
        }
        true
    }
}

/// Reads the escape at the beginning of `bytes`; with `last`, no byte comes after them.
fn escape(bytes: &[u8], last: bool) -> Escape {
    let simple = match bytes.get(1) {
        None if last => return Escape::Char(1, char::REPLACEMENT_CHARACTER),
        None => return Escape::Incomplete,
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unicode(bytes, last),
        Some(&other) => char::from(other),
    };
    Escape::Char(2, simple)
}

fn unicode(bytes: &[u8], last: bool) -> Escape {
    let Some(high) = bytes.get(2..6).map(hex) else {
        let cut = Escape::Char(bytes.len(), char::REPLACEMENT_CHARACTER);
        return if last { cut } else { Escape::Incomplete };
    };
    if !(0xd800..0xdc00).contains(&high) {
        return Escape::Char(6, char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER));
    }
    let after = bytes.get(6..).unwrap_or_default();
    let begins_pair = matches!(after, [] | [b'\\'] | [b'\\', b'u', ..]);
    match after.get(2..6).map(hex) {
        Some(low) if begins_pair && (0xdc00..0xe000).contains(&low) => {
            let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
            Escape::Char(12, char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
        }
        None if begins_pair && !last => Escape::Incomplete,
        _ => Escape::Char(6, char::REPLACEMENT_CHARACTER),
    }
}

fn hex(digits: &[u8]) -> u32 {
    digits
        .iter()
        .fold(0, |code, &digit| code << 4 | char::from(digit).to_digit(16).unwrap_or_default())
}

/// Whether string contents as they are on the wire stand for `expected`.
pub(crate) fn equals_unescaped(raw: &[u8], expected: &[u8]) -> bool {
    let mut left = expected;
    let mut equal = true;
    let mut compare = |part: &[u8]| {
        match left.strip_prefix(part) {
            Some(rest) => left = rest,
            None => equal = false,
        }
        equal
    };
    let mut unescaper = Unescaper::default();
    if unescaper.feed(raw, &mut compare) {
        unescaper.finish(&mut compare);
    }
    equal && left.is_empty()
}
