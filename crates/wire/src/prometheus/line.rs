//! One line of a page: labels, value, time.

use std::borrow::Cow;

use memchr::memchr2;

use super::Sample;

/// One label of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label<'p> {
    /// Its name.
    pub name: &'p str,
    raw_value: &'p [u8],
}

/// The labels of a series.
#[derive(Debug, Clone)]
pub struct Labels<'p> {
    rest: &'p [u8],
}

impl<'p> Label<'p> {
    /// The value with its escapes undone. What is not UTF-8 becomes U+FFFD.
    pub fn value(&self) -> Cow<'p, str> {
        if memchr::memchr(b'\\', self.raw_value).is_none() {
            return String::from_utf8_lossy(self.raw_value);
        }
        let mut value = Vec::with_capacity(self.raw_value.len());
        let mut bytes = self.raw_value.iter();
        while let Some(&byte) = bytes.next() {
            match byte {
                b'\\' => match bytes.next() {
                    Some(b'n') => value.push(b'\n'),
                    Some(&other) => value.push(other),
                    None => {}
                },
                _ => value.push(byte),
            }
        }
        Cow::Owned(String::from_utf8_lossy(&value).into_owned())
    }
}

impl<'p> Labels<'p> {
    /// The labels in a label set without its opening brace, but with its closing one.
    pub(super) fn new(rest: &'p [u8]) -> Self {
        Self { rest }
    }
}

impl<'p> Iterator for Labels<'p> {
    type Item = Label<'p>;

    fn next(&mut self) -> Option<Label<'p>> {
        let (label, rest) = label(self.rest)?;
        self.rest = rest;
        Some(label)
    }
}

/// Reads what follows the name of a series. `None` if it is malformed.
pub(super) fn read(after_name: &[u8]) -> Option<Sample<'_>> {
    let rest = after_name.trim_ascii_start();
    let (labels, rest) = match rest.strip_prefix(b"{") {
        Some(inside) => label_set(inside)?,
        None => (&[][..], rest),
    };
    // OpenMetrics may have an exemplar behind a `#`.
    let mut words = rest
        .split(|byte| matches!(byte, b' ' | b'\t' | b'\r'))
        .filter(|word| !word.is_empty())
        .take_while(|word| !word.starts_with(b"#"));
    let value = number(words.next()?)?;
    let timestamp = match words.next() {
        Some(word) => Some(number(word)?),
        None => None,
    };
    words.next().is_none().then_some(Sample { labels, value, timestamp })
}

fn number(word: &[u8]) -> Option<f64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// Reads up to the closing brace; gives the labels with that brace, and what comes after.
fn label_set(inside: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = inside;
    while let Some((_, tail)) = label(rest) {
        rest = tail;
    }
    let after = rest.trim_ascii_start().strip_prefix(b"}")?;
    Some((inside.get(..inside.len() - after.len())?, after))
}

/// Reads `name="value"` and the comma after it, if there is one; a label set may end with a comma.
fn label(inside: &[u8]) -> Option<(Label<'_>, &[u8])> {
    let text = inside.trim_ascii_start();
    let name_len = text.iter().position(|byte| !is_name_byte(*byte))?;
    let (name, rest) = text.split_at_checked(name_len)?;
    let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
    let rest = rest.trim_ascii_start().strip_prefix(b"=")?;
    let value = rest.trim_ascii_start().strip_prefix(b"\"")?;
    let value_len = quoted_len(value)?;
    let (raw_value, rest) = value.split_at_checked(value_len)?;
    let rest = rest.get(1..)?.trim_ascii_start();
    match rest.first()? {
        b',' => Some((Label { name, raw_value }, rest.get(1..)?)),
        b'}' => Some((Label { name, raw_value }, rest)),
        _ => None,
    }
}

pub(super) fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':'
}

/// How many bytes come before the closing quote.
fn quoted_len(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let rest = text.get(at..)?;
        at += memchr2(b'"', b'\\', rest)?;
        if text.get(at) == Some(&b'"') {
            return Some(at);
        }
        at += 2;
    }
}
