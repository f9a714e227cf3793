//! Decisions of a recorded live run, made again.
//!
//! The real router is driven with what the recording holds: the pool, the signals, the requests, and what became of
//! them, each at its time, under a paused clock. No servers are simulated. Where the recording holds all that
//! decisions depend on, the same router makes the same decisions. Another configuration shows what it would have
//! decided at each of these moments, one step ahead: the request then goes where it went, whatever was decided.

mod course;
mod given;

use std::io::BufRead;

use router_core::Stamp;
use router_framework::Registry;

use self::course::Course;
use super::{
    read::{ReadError, inputs::Inputs},
    run::{Configuration, RunError},
};

/// Differences that are kept; of more, the first.
pub const MAX_DIFFERENCES: usize = 10;

/// How decisions are made again.
#[derive(Clone, Debug)]
pub struct Terms {
    /// In place of the configuration that was recorded.
    pub configuration: Option<Configuration>,
    /// The plugin types that it may name.
    pub registry: Registry,
    /// Plugin types that are experiments may be used.
    pub allow_experimental: bool,
}

/// Why decisions cannot be made again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReproduceError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Run(#[from] RunError),
}

/// How decisions compare with those that were recorded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub n_decisions: u64,
    /// Decisions that are the same: all targets in their order, or the same refusal. Of another configuration only
    /// the first target counts.
    pub n_equal: u64,
    /// Decisions that differ, but send the request to the same endpoint.
    pub n_same_endpoint: u64,
    /// Decisions that differ and were made while what they depend on changed: by another thread, or while a plugin
    /// waited. No order of the recording is theirs.
    pub n_unsettled: u64,
    /// Lines that the recording lacks.
    pub n_lines_missing: u64,
    /// The first decisions that differ.
    pub differences: Vec<Difference>,
    /// What is not whole.
    pub notes: Vec<String>,
}

/// A decision that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// In the recording.
    pub line: usize,
    pub request: u64,
    pub at: Stamp,
    /// What it depends on changed meanwhile.
    pub is_unsettled: bool,
    pub recorded: Side,
    pub again: Side,
}

/// One of two decisions about the same request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Side {
    /// Best first.
    pub targets: Vec<String>,
    /// Error code of one that goes nowhere.
    pub refused: Option<String>,
    /// Totals of the best candidates of the primary profile, best first.
    pub scores: Vec<(String, f64)>,
}

impl Report {
    /// Whether all decisions are the same.
    pub fn is_equal(&self) -> bool {
        self.n_equal == self.n_decisions
    }
}

/// Makes the decisions of a recording called `name` in messages again, on the calling thread.
pub fn reproduce(name: &str, input: impl BufRead, terms: &Terms) -> Result<Report, ReproduceError> {
    let mut inputs = Inputs::open(name, input)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(RunError::Runtime)?;
    runtime.block_on(async {
        let mut course = Course::new(terms);
        while let Some((line, input)) = inputs.read_next()? {
            if let Err(fault) = course.take(line, input).await? {
                return Err(inputs.wrong(fault).into());
            }
        }
        let mut report = course.into_report();
        report.notes.extend(notes(&inputs));
        Ok(report)
    })
}

fn notes<R: BufRead>(inputs: &Inputs<R>) -> Vec<String> {
    let mut notes = Vec::new();
    if inputs.is_cut_off() {
        notes.push("the last line is cut off and was left out".to_owned());
    }
    if inputs.end().is_none() {
        notes.push("the recording was not closed: its last lines may be missing".to_owned());
    }
    notes
}

#[cfg(test)]
mod tests;
