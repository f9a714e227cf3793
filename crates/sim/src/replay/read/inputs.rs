//! Inputs of decisions from a recording, one after another, in bounded memory.

use std::io::BufRead;

use super::{Fault, Lines, MAX_SECONDS, ReadError, within};
use crate::replay::recording::{EndLine, Header, InputLine, RecordEnd, is_end, is_input};

/// The latest time of an input, in nanoseconds.
const MAX_NANOS: u64 = (MAX_SECONDS * 1e9) as u64;

/// The inputs of a recording that has them.
#[derive(Debug)]
pub struct Inputs<R> {
    name: String,
    lines: Lines<R>,
    end: Option<RecordEnd>,
    is_cut_off: bool,
}

impl<R: BufRead> Inputs<R> {
    /// Reads the first line of a recording called `name` in messages.
    pub fn open(name: &str, input: R) -> Result<Self, ReadError> {
        let lines = Lines { input, line: Vec::new(), at: 0 };
        let mut inputs = Self { name: name.to_owned(), lines, end: None, is_cut_off: false };
        inputs.head().map_err(|fault| inputs.wrong(fault))?;
        Ok(inputs)
    }

    fn head(&mut self) -> Result<(), Fault> {
        if !self.lines.next()? {
            return Err(Fault::Empty);
        }
        let header: Header = self.lines.json()?;
        let wrong = |message: &str| Err(Fault::Syntax(message.to_owned()));
        match header.recorded {
            Some(recorded) if recorded.inputs => Ok(()),
            Some(_) => wrong(
                "this recording has no inputs of decisions: --record-inputs makes one that has",
            ),
            None => wrong("this is no recording of live traffic"),
        }
    }

    /// The next input, and the number of its line. `None` at the end.
    pub fn read_next(&mut self) -> Result<Option<(usize, InputLine)>, ReadError> {
        self.seek().map_err(|fault| self.wrong(fault))
    }

    fn seek(&mut self) -> Result<Option<(usize, InputLine)>, Fault> {
        while self.lines.next()? {
            if self.lines.is_cut_off() {
                self.is_cut_off = true;
                break;
            }
            let text = self.lines.text()?;
            if is_input(text) {
                let input: InputLine = self.lines.json()?;
                within("`t`", input.t, 0..=MAX_NANOS)?;
                return Ok(Some((self.lines.at, input)));
            }
            if is_end(text) {
                let EndLine { end } = self.lines.json()?;
                self.end = Some(end);
            }
        }
        Ok(None)
    }

    /// The last line, where there is one and it has been read.
    pub fn end(&self) -> Option<&RecordEnd> {
        self.end.as_ref()
    }

    /// The last line breaks off and has been left out.
    pub fn is_cut_off(&self) -> bool {
        self.is_cut_off
    }

    /// What is wrong with the line that was read last.
    pub fn wrong(&self, fault: Fault) -> ReadError {
        ReadError { name: self.name.clone(), line: self.lines.at, fault }
    }
}
