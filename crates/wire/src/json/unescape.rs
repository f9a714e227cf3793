//! Turns string contents as they are on the wire into the text they stand for.

use memchr::memchr;
use smallvec::SmallVec;

/// The longest escape: a surrogate pair, `\ud83d\ude00`.
const MAX_ESCAPE: usize = 12;

/// The longest character in UTF-8.
const MAX_CHAR: usize = 4;

/// Runs between escapes are put together up to this size, since whoever takes the text pays for every part.
const PART_BYTES: usize = 2 * 1024;

/// Words at the beginning of a run that are looked at one by one: where escapes are many, the next one is mostly so
/// near that a search costs more.
const LOOKS: usize = 2;

/// What a byte after a backslash stands for, by that byte; 0 if it is no escape of two bytes.
const SHORT: [u8; 256] = {
    let mut short = [0; 256];
    let mut rest: &[(u8, u8)] = &[
        (b'"', b'"'),
        (b'\\', b'\\'),
        (b'/', b'/'),
        (b'b', 8),
        (b'f', 12),
        (b'n', b'\n'),
        (b'r', b'\r'),
        (b't', b'\t'),
    ];
    while let [(byte, stands_for), others @ ..] = rest {
        short[*byte as usize] = *stands_for;
        rest = others;
    }
    short
};

/// What a hexadecimal digit stands for, by that digit; above 15 if it is none.
const HEX: [u8; 256] = {
    let mut hex = [0x80; 256];
    let mut value = 0;
    while value < 16 {
        hex[b"0123456789abcdef"[value] as usize] = value as u8;
        hex[b"0123456789ABCDEF"[value] as usize] = value as u8;
        value += 1;
    }
    hex
};

/// Text put together.
struct Part {
    bytes: [u8; PART_BYTES],
    len: usize,
}

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
        let mut part = Part::new();
        loop {
            if part.is_nearly_full() && !part.hand_over(out) {
                return false;
            }
            let n_plain = part.take_plain(rest);
            let special = rest.get(n_plain..).unwrap_or_default();
            rest = match *special {
                [] => return part.hand_over(out),
                [b'\\', byte, ref tail @ ..] if SHORT[usize::from(byte)] != 0 => {
                    part.take(&[SHORT[usize::from(byte)]]);
                    tail
                }
                [b'\\', b'u', a, b, c, d, ref tail @ ..]
                    if let Some(c) = plain_char([a, b, c, d]) =>
                {
                    part.take(c.encode_utf8(&mut [0; MAX_CHAR]).as_bytes());
                    tail
                }
                [b'\\', ..] => match escape(special, false) {
                    Escape::Incomplete => {
                        self.carry.extend_from_slice(special);
                        return part.hand_over(out);
                    }
                    Escape::Char(len, c) => {
                        part.take(c.encode_utf8(&mut [0; MAX_CHAR]).as_bytes());
                        special.get(len..).unwrap_or_default()
                    }
                },
                // No room for more of the run.
                _ => special,
            };
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
    match bytes.get(1) {
        None if last => Escape::Char(1, char::REPLACEMENT_CHARACTER),
        None => Escape::Incomplete,
        Some(b'u') => unicode(bytes, last),
        Some(&byte) => match SHORT.get(usize::from(byte)) {
            None | Some(0) => Escape::Char(2, char::from(byte)),
            Some(&stands_for) => Escape::Char(2, char::from(stands_for)),
        },
    }
}

fn unicode(bytes: &[u8], last: bool) -> Escape {
    let Some(&high) = bytes.get(2..).and_then(|digits| digits.first_chunk::<4>()) else {
        let cut = Escape::Char(bytes.len(), char::REPLACEMENT_CHARACTER);
        return if last { cut } else { Escape::Incomplete };
    };
    let high = u32::from(hex(high).unwrap_or_default());
    if !(0xd800..0xdc00).contains(&high) {
        return Escape::Char(6, char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER));
    }
    let after = bytes.get(6..).unwrap_or_default();
    let begins_pair = matches!(after, [] | [b'\\'] | [b'\\', b'u', ..]);
    match after
        .get(2..)
        .and_then(|digits| digits.first_chunk::<4>())
        .map(|low| u32::from(hex(*low).unwrap_or_default()))
    {
        Some(low) if begins_pair && (0xdc00..0xe000).contains(&low) => {
            let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
            Escape::Char(12, char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
        }
        None if begins_pair && !last => Escape::Incomplete,
        _ => Escape::Char(6, char::REPLACEMENT_CHARACTER),
    }
}

/// The character with this number, unless it is half of a surrogate pair.
#[inline]
fn plain_char(digits: [u8; 4]) -> Option<char> {
    char::from_u32(u32::from(hex(digits)?))
}

/// What hexadecimal digits stand for, at most four of them; `None` if one of them is none.
#[inline]
pub(super) fn hex<const N: usize>(digits: [u8; N]) -> Option<u16> {
    let mut code = 0;
    let mut wrong = 0;
    for digit in digits {
        let value = HEX[usize::from(digit)];
        wrong |= value;
        code = code << 4 | u16::from(value);
    }
    (wrong <= 0xf).then_some(code)
}

impl Part {
    fn new() -> Self {
        Self { bytes: [0; PART_BYTES], len: 0 }
    }

    /// Whether there may be no room for [`LOOKS`] words, or for a character.
    fn is_nearly_full(&self) -> bool {
        PART_BYTES - self.len < LOOKS * 8
    }

    /// Takes text up to the first backslash, as far as there is room; gives how many bytes that were.
    #[inline]
    fn take_plain(&mut self, text: &[u8]) -> usize {
        let (words, _) = text.as_chunks::<8>();
        for (n_before, word) in words.iter().take(LOOKS).enumerate() {
            let n_plain = plain_in(*word);
            if let Some(room) = self.bytes.get_mut(self.len..).and_then(|r| r.first_chunk_mut()) {
                *room = *word;
            }
            self.len += n_plain;
            if n_plain < 8 {
                return n_before * 8 + n_plain;
            }
        }
        let n_seen = words.len().min(LOOKS) * 8;
        let rest = text.get(n_seen..).unwrap_or_default();
        let rest = rest.get(..PART_BYTES - self.len).unwrap_or(rest);
        let n_plain = memchr(b'\\', rest).unwrap_or(rest.len());
        self.take(rest.get(..n_plain).unwrap_or_default());
        n_seen + n_plain
    }

    /// Takes bytes for which there is room.
    #[inline]
    fn take(&mut self, bytes: &[u8]) {
        if let Some(room) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            room.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    /// Gives what was put together to `out`, which says whether it wants more; so does the answer.
    fn hand_over(&mut self, out: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let len = std::mem::take(&mut self.len);
        len == 0 || out(self.bytes.get(..len).unwrap_or_default())
    }
}

/// How many bytes of a word come before its first backslash; 8 if it has none.
#[inline]
fn plain_in(word: [u8; 8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    let zero_if_backslash = u64::from_le_bytes(word) ^ (ONES * u64::from(b'\\'));
    // Sets the high bit of each zero byte; above the lowest one it may set more.
    let found = zero_if_backslash.wrapping_sub(ONES) & !zero_if_backslash & (ONES << 7);
    found.trailing_zeros() as usize / 8
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
