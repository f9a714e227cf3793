//! Token ids as they stand in a body.

use std::{fmt, slice};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::json::{MAX_RAW_BYTES, count};

/// Longest number that is plainly an id: nine digits are below 2³².
const MAX_PLAIN_DIGITS: usize = 9;

/// A list of token ids as it is on the wire: numbers with commas between them.
///
/// It shares the memory of the body, since a list of short ids takes twice its length as integers. Ids are read
/// when they are asked for.
#[derive(Clone, Default)]
pub struct TokenIds {
    slices: SmallVec<[Bytes; 1]>,
    n_ids: usize,
}

/// The ids of a list, one after the other.
#[derive(Clone, Debug)]
pub struct Ids<'a> {
    /// What is left of the slice at hand.
    rest: &'a [u8],
    slices: slice::Iter<'a, Bytes>,
    n_left: usize,
}

// === impl TokenIds ===

impl TokenIds {
    /// Slices that have `n_ids` numbers, each of which is [`token_id`]'s.
    pub(super) fn new(slices: SmallVec<[Bytes; 1]>, n_ids: usize) -> Self {
        Self { slices, n_ids }
    }

    /// How many ids there are.
    pub fn len(&self) -> usize {
        self.n_ids
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.n_ids == 0
    }

    /// The ids in their order.
    pub fn iter(&self) -> Ids<'_> {
        Ids { rest: &[], slices: self.slices.iter(), n_left: self.n_ids }
    }
}

impl FromIterator<u32> for TokenIds {
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> Self {
        let (mut wire, mut n_ids) = (String::new(), 0);
        for id in ids {
            if n_ids > 0 {
                wire.push(',');
            }
            wire.push_str(&id.to_string());
            n_ids += 1;
        }
        Self { slices: SmallVec::from_iter([Bytes::from(wire)]), n_ids }
    }
}

impl<'a> IntoIterator for &'a TokenIds {
    type Item = u32;
    type IntoIter = Ids<'a>;

    fn into_iter(self) -> Ids<'a> {
        self.iter()
    }
}

impl fmt::Debug for TokenIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

/// Two lists are equal if their ids are.
impl PartialEq for TokenIds {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other)
    }
}

impl Eq for TokenIds {}

// === impl Ids ===

impl Ids<'_> {
    /// Passes over what is between numbers, on to the slice in which the next one begins.
    fn find(&mut self) -> bool {
        // Nearly always the comma before it was all.
        if self.rest.first().is_some_and(u8::is_ascii_digit) {
            return true;
        }
        loop {
            match self.rest.iter().position(|byte| !is_between(*byte)) {
                Some(at) => {
                    self.rest = self.rest.get(at..).unwrap_or_default();
                    return true;
                }
                None => match self.slices.next() {
                    Some(slice) => self.rest = slice,
                    None => return false,
                },
            }
        }
    }

    /// The number that begins here with what ends it, if it is plain and the slice has both.
    fn plain(&mut self) -> Option<u32> {
        let mut id = 0;
        for (at, byte) in self.rest.iter().enumerate().take(MAX_PLAIN_DIGITS + 1) {
            if byte.is_ascii_digit() && at < MAX_PLAIN_DIGITS {
                id = id * 10 + u32::from(byte - b'0');
            } else if is_between(*byte) {
                self.rest = self.rest.get(at + 1..).unwrap_or_default();
                return Some(id);
            } else {
                return None;
            }
        }
        None
    }

    /// The number that begins here, in any form and over any number of slices.
    fn any(&mut self) -> Option<u32> {
        let mut raw = SmallVec::<[u8; MAX_RAW_BYTES]>::new();
        loop {
            let end = self.rest.iter().position(|byte| is_between(*byte));
            let (part, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
            raw.extend_from_slice(part);
            self.rest = rest;
            if end.is_some() {
                break;
            }
            match self.slices.next() {
                Some(slice) => self.rest = slice,
                None => break,
            }
        }
        token_id(&raw)
    }
}

impl Iterator for Ids<'_> {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        if self.n_left == 0 || !self.find() {
            return None;
        }
        self.n_left -= 1;
        self.plain().or_else(|| self.any())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.n_left))
    }
}

/// What JSON has between the numbers of a list.
fn is_between(byte: u8) -> bool {
    matches!(byte, b',' | b' ' | b'\t' | b'\n' | b'\r')
}

/// The id that a JSON number is.
pub(super) fn token_id(raw: &[u8]) -> Option<u32> {
    // Nearly all ids are short and plain; the rest goes through the general form.
    let mut id = 0;
    for &digit in raw {
        if !digit.is_ascii_digit() || raw.len() > MAX_PLAIN_DIGITS {
            return count(raw).and_then(|id| u32::try_from(id).ok());
        }
        id = id * 10 + u32::from(digit - b'0');
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_in_every_form_wherever_they_are_cut() {
        let check = |wire: &str, ids: &[u32]| {
            for cut in 0..=wire.len() {
                let (a, b) = wire.as_bytes().split_at(cut);
                let slices = [a, b].map(Bytes::copy_from_slice).into_iter().collect();
                let list = TokenIds::new(slices, ids.len());
                assert_eq!(list.iter().collect::<Vec<_>>(), ids, "{wire} cut at {cut}");
            }
            let slices = wire.bytes().map(|byte| Bytes::copy_from_slice(&[byte])).collect();
            assert_eq!(TokenIds::new(slices, ids.len()).iter().collect::<Vec<_>>(), ids, "{wire}");
            assert_eq!(ids.iter().copied().collect::<TokenIds>().iter().collect::<Vec<_>>(), ids);
        };
        check("", &[]);
        check("7", &[7]);
        check("1,2,3", &[1, 2, 3]);
        check("1 ,\n\t2 ,  3\r\n", &[1, 2, 3]);
        check("999999999,1000000000,4294967295", &[999_999_999, 1_000_000_000, u32::MAX]);
        check("5.0,1e3,-0,0", &[5, 1000, 0, 0]);
    }
}
