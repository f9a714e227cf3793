//! Inputs of decisions from a recording, one after another, in bounded memory.

use std::io::BufRead;

use super::{
    AFTER_END, Fault, Lines, MAX_SECONDS, ReadError, SECOND_RECORDING, known_version, missing,
    within,
};
use crate::replay::recording::{
    EndLine, Header, InputLine, RecordEnd, Row, is_end, is_header, is_input,
};

/// The latest time of an input, in nanoseconds.
const MAX_NANOS: u64 = (MAX_SECONDS * 1e9) as u64;

/// The inputs of a recording that has them.
#[derive(Debug)]
pub struct Inputs<R> {
    name: String,
    lines: Lines<R>,
    version: u64,
    n_requests: u64,
    n_read: u64,
    end: Option<RecordEnd>,
    is_cut_off: bool,
}

impl<R: BufRead> Inputs<R> {
    /// Reads the first line of a recording called `name` in messages.
    pub fn open(name: &str, input: R) -> Result<Self, ReadError> {
        let lines = Lines { input, line: Vec::new(), at: 0 };
        let mut inputs = Self {
            name: name.to_owned(),
            lines,
            version: 0,
            n_requests: 0,
            n_read: 0,
            end: None,
            is_cut_off: false,
        };
        inputs.version = inputs.head().map_err(|fault| inputs.wrong(fault))?;
        Ok(inputs)
    }

    /// Gives the version.
    fn head(&mut self) -> Result<u64, Fault> {
        if !self.lines.next()? {
            return Err(Fault::Empty);
        }
        let header: Header = self.lines.json()?;
        known_version(header.version)?;
        let wrong = |message: &str| Err(Fault::Syntax(message.to_owned()));
        match header.recorded {
            Some(recorded) if recorded.inputs => Ok(header.version),
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
            if self.end.is_some() {
                return Err(Fault::Syntax(AFTER_END.to_owned()));
            }
            if is_input(text) {
                self.n_read += 1;
                let input: InputLine = self.lines.json()?;
                within("`t`", input.t, 0..=MAX_NANOS)?;
                return Ok(Some((self.lines.at, input)));
            }
            if is_header(text) {
                return Err(Fault::Syntax(SECOND_RECORDING.to_owned()));
            }
            if is_end(text) {
                let EndLine { end } = self.lines.json()?;
                self.end = Some(end);
                continue;
            }
            // Of no use here, and yet what is none has no place in a recording.
            let _request: Row = self.lines.json()?;
            self.n_requests += 1;
        }
        Ok(None)
    }

    /// Of the format.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The last line, where there is one and it has been read.
    pub fn end(&self) -> Option<&RecordEnd> {
        self.end.as_ref()
    }

    /// What the last line counts and was not there.
    pub fn missing(&self) -> Vec<String> {
        self.end.map(|end| missing(&end, self.n_requests, self.n_read)).unwrap_or_default()
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
