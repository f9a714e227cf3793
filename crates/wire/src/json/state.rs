//! The state of the grammar between two bytes.

use smallvec::SmallVec;

use super::{Escapes, MAX_DEPTH, MAX_RAW_BYTES, Token};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Value,
    FirstElement,
    FirstKey,
    Key,
    Colon,
    AfterValue,
    Text,
    Escape,
    /// So many digits are still to come after those that make `code`.
    Hex {
        left: u8,
        code: u16,
    },
    Number(Num),
    Literal {
        word: Word,
        matched: u8,
    },
}

/// How far a number has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Num {
    Minus,
    Zero,
    Int,
    Dot,
    Fraction,
    Exp,
    ExpSign,
    ExpDigits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    True,
    False,
    Null,
}

/// The open containers: one bit for each, set if it is an object.
#[derive(Debug, Default)]
pub(super) struct Containers {
    pub(super) bits: [u64; MAX_DEPTH / 64],
    pub(super) depth: usize,
    pub(super) innermost: Option<Container>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    Object,
    Array,
}

/// How much shorter the escapes make the string under way.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct EscapeCount {
    n_less: usize,
    /// Where an escape of the first half of a surrogate pair ended; 0 if that was not the last escape.
    half_end: usize,
}

/// The beginning of a token that crosses pieces.
#[derive(Debug, Default)]
pub(super) struct Split {
    pub(super) bytes: SmallVec<[u8; MAX_RAW_BYTES]>,
    pub(super) active: bool,
    pub(super) too_long: bool,
}

// === impl State ===

impl State {
    #[inline]
    pub(super) fn is_in_token(self) -> bool {
        match self {
            State::Text
            | State::Escape
            | State::Hex { .. }
            | State::Number(_)
            | State::Literal { .. } => true,
            State::Value
            | State::FirstElement
            | State::FirstKey
            | State::Key
            | State::Colon
            | State::AfterValue => false,
        }
    }
}

// === impl Num ===

impl Num {
    #[inline]
    pub(super) fn after(self, byte: u8) -> Option<Num> {
        Some(match (self, byte) {
            (Num::Int, b'0'..=b'9') | (Num::Minus, b'1'..=b'9') => Num::Int,
            (Num::Minus, b'0') => Num::Zero,
            (Num::Int | Num::Zero, b'.') => Num::Dot,
            (Num::Dot | Num::Fraction, b'0'..=b'9') => Num::Fraction,
            (Num::Int | Num::Zero | Num::Fraction, b'e' | b'E') => Num::Exp,
            (Num::Exp, b'+' | b'-') => Num::ExpSign,
            (Num::Exp | Num::ExpSign | Num::ExpDigits, b'0'..=b'9') => Num::ExpDigits,
            _ => return None,
        })
    }

    pub(super) fn is_whole(self) -> bool {
        matches!(self, Num::Zero | Num::Int | Num::Fraction | Num::ExpDigits)
    }
}

// === impl Word ===

impl Word {
    pub(super) fn letters(self) -> &'static [u8] {
        match self {
            Word::True => b"true",
            Word::False => b"false",
            Word::Null => b"null",
        }
    }

    pub(super) fn token(self) -> Token<'static> {
        match self {
            Word::True => Token::Bool(true),
            Word::False => Token::Bool(false),
            Word::Null => Token::Null,
        }
    }
}

// === impl Containers ===

impl Containers {
    pub(super) fn push(&mut self, container: Container) {
        if let Some(word) = self.bits.get_mut(self.depth / 64) {
            let bit = 1 << (self.depth % 64);
            match container {
                Container::Object => *word |= bit,
                Container::Array => *word &= !bit,
            }
        }
        self.depth += 1;
        self.innermost = Some(container);
    }

    pub(super) fn pop(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.innermost = self.depth.checked_sub(1).map(|top| {
            let is_object = self.bits.get(top / 64).is_some_and(|word| word >> (top % 64) & 1 == 1);
            if is_object { Container::Object } else { Container::Array }
        });
    }
}

// === impl EscapeCount ===

impl EscapeCount {
    /// An escape of two bytes, such as `\n`: it stands for one.
    #[inline]
    pub(super) fn short(&mut self) {
        self.n_less += 1;
    }

    /// An escape of six bytes, `\u` and the digits of `code`, that ends at `end` of the whole input.
    #[inline]
    pub(super) fn by_number(&mut self, code: u16, end: usize) {
        let completes_pair = self.half_end + 6 == end;
        self.half_end = 0;
        self.n_less += match code {
            0..0x80 => 5,
            0x80..0x800 => 4,
            0xd800..0xdc00 => {
                // Alone it becomes U+FFFD, of three bytes.
                self.half_end = end;
                3
            }
            // A pair is a character of four bytes, three of which the first half has counted.
            0xdc00..0xe000 if completes_pair => 5,
            _ => 3,
        };
    }

    pub(super) fn total(self) -> Escapes {
        if self.n_less == 0 { Escapes::None } else { Escapes::Shorten(self.n_less) }
    }
}

// === impl Split ===

impl Split {
    pub(super) fn clear(&mut self) {
        if self.active {
            self.bytes.clear();
            self.active = false;
            self.too_long = false;
        }
    }

    pub(super) fn keep(&mut self, part: &[u8]) {
        self.active = true;
        if self.too_long || self.bytes.len() + part.len() > MAX_RAW_BYTES {
            self.too_long = true;
            self.bytes.clear();
        } else {
            self.bytes.extend_from_slice(part);
        }
    }

    /// The whole token, whose last part is `last`.
    pub(super) fn whole<'a>(&'a mut self, last: &'a [u8]) -> Option<&'a [u8]> {
        if !self.active {
            return (last.len() <= MAX_RAW_BYTES).then_some(last);
        }
        self.keep(last);
        (!self.too_long).then_some(self.bytes.as_slice())
    }
}
