//! Makes hostile inputs out of good ones, the same for the same seed.

use fastrand::Rng;

/// The longest input made, in bytes: longer than any buffer a parser fills in one go.
pub const MAX_INPUT_LEN: usize = 64 * 1024;

/// Changes per input: one finds the easy faults, several get behind the first check.
const MAX_CHANGES: usize = 6;

/// Pieces that mean something to one of the parsers.
const WORDS: &[&[u8]] = &[
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"null",
    b"true",
    b"-0",
    b"1e999",
    b"NaN",
    b"+Inf",
    b"18446744073709551616",
    b"0.1",
    b"\"model\":",
    b"\"usage\":{",
    b"data: ",
    b"data: [DONE]\n\n",
    b"event: ",
    b"\n",
    b"\r\n",
    b"\n\n",
    b"# TYPE ",
    b"{le=\"",
    b"\xff",
    b"\xc3\x28",
    b"\xef\xbb\xbf",
    b"\0",
    b"- ",
    b"&a ",
    b"*a",
    b"<<: ",
    b"? ",
    b"|\n",
    b"!!int ",
    b"'",
];

/// An endless source of inputs.
#[derive(Debug)]
pub struct Mutator {
    rng: Rng,
    seeds: Vec<Vec<u8>>,
}

impl Mutator {
    /// Starts from `seeds`; without any it starts from the empty input.
    pub fn new(seed: u64, mut seeds: Vec<Vec<u8>>) -> Self {
        if seeds.is_empty() {
            seeds.push(Vec::new());
        }
        Self { rng: Rng::with_seed(seed), seeds }
    }

    /// The next input, at most [`MAX_INPUT_LEN`] bytes long.
    pub fn next_input(&mut self) -> Vec<u8> {
        let mut input = self.any_seed();
        for _ in 0..self.rng.usize(1..=MAX_CHANGES) {
            self.change(&mut input);
        }
        input.truncate(MAX_INPUT_LEN);
        input
    }

    fn any_seed(&mut self) -> Vec<u8> {
        let idx = self.rng.usize(..self.seeds.len());
        self.seeds.get(idx).cloned().unwrap_or_default()
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.rng.usize(..=input.len());
        let end = (at + self.rng.usize(..=32)).min(input.len());
        match self.rng.u8(..8) {
            0 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << self.rng.u8(..8);
                }
            }
            1 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = self.rng.u8(..);
                }
            }
            2 => drop(input.drain(at..end)),
            3 => input.truncate(at),
            4 => {
                let word = self.rng.choice(WORDS).copied().unwrap_or_default();
                drop(input.splice(at..at, word.iter().copied()));
            }
            5 => {
                let word = self.rng.choice(WORDS).copied().unwrap_or_default();
                drop(input.splice(at..end, word.iter().copied()));
            }
            // Deep nesting and long runs.
            6 => {
                let piece = input[at..end].to_vec();
                let n_copies = 1 << self.rng.u32(..12);
                let room = MAX_INPUT_LEN.saturating_sub(input.len());
                let copies = piece.repeat(n_copies.min(room / piece.len().max(1)));
                drop(input.splice(at..at, copies));
            }
            // The head of one input and the tail of another.
            _ => {
                let other = self.any_seed();
                let from = self.rng.usize(..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_bounded_varied_and_repeatable() {
        let seeds = vec![b"{\"model\":\"tiny\"}".to_vec(), vec![b'x'; MAX_INPUT_LEN + 5]];
        let mut one = Mutator::new(7, seeds.clone());
        let mut same = Mutator::new(7, seeds.clone());
        let mut other = Mutator::new(8, seeds);
        let mut n_different = 0;
        for _ in 0..500 {
            let input = one.next_input();
            assert!(input.len() <= MAX_INPUT_LEN);
            assert_eq!(input, same.next_input());
            n_different += usize::from(input != other.next_input());
        }
        assert!(n_different > 400, "{n_different}");
    }

    #[test]
    fn nothing_to_start_from_is_enough() {
        let mut mutator = Mutator::new(1, Vec::new());
        let longest = (0..200).map(|_| mutator.next_input().len()).max();
        assert!(longest > Some(0));
    }
}
