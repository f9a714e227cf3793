//! Decisions of a recorded live run, made again.
//!
//! The real router is driven with what the recording holds: the pool, the signals, the requests, and what became of
//! them, each at its time, under a paused clock. No servers are simulated. Where the recording holds all that
//! decisions depend on, the same router makes the same decisions. Another configuration shows what it would have
//! decided at each of these moments, one step ahead: the request then goes where it went, whatever was decided.

mod course;
mod given;

use std::{collections::BTreeMap, io::BufRead};

use router_core::Stamp;
use router_framework::Registry;

use self::course::Course;
use super::{
    read::{ReadError, inputs::Inputs},
    run::{Configuration, RunError},
};

/// Differences that are kept; of more, the first.
pub const MAX_DIFFERENCES: usize = 10;
/// Scores that differ by no more are equal: they are sums of numbers of about 1, which another processor or
/// compiler may round otherwise in the last bits.
pub const SCORE_TOLERANCE: f64 = 1e-9;
/// Reasons of flow control that are told apart. It knows six.
const MAX_REASONS: usize = 16;
/// The first version that marks what flow control refused.
const MARKS_FLOW_CONTROL: u64 = 2;

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
    /// Decisions that are the same: all targets in their order and the best scores, or the same refusal. Of another
    /// configuration only the first target counts.
    pub n_equal: u64,
    /// Decisions that differ in their scores alone.
    pub n_same_targets: u64,
    /// Decisions with other targets, of which the first is the same.
    pub n_same_endpoint: u64,
    /// Decisions that differ and were made while what they depend on changed: by another thread, or while a plugin
    /// waited. No order of the recording is theirs.
    pub n_unsettled: u64,
    /// Requests that flow control refused, by reason. Nothing was decided about them, so there is nothing to compare.
    pub refused_by_flow_control: BTreeMap<String, u64>,
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
    /// The dropped reason that came with it; recordings of the first version do not tell it.
    pub reason: Option<String>,
    /// Totals of the best candidates of the primary profile, best first.
    pub scores: Vec<(String, f64)>,
}

impl Report {
    /// Whether all decisions are the same.
    pub fn is_equal(&self) -> bool {
        self.n_equal == self.n_decisions
    }

    fn note_flow_control(&mut self, reason: Option<String>) {
        let by_reason = &mut self.refused_by_flow_control;
        let reason = reason.unwrap_or_else(|| "no reason".to_owned());
        let is_room = by_reason.len() < MAX_REASONS || by_reason.contains_key(&reason);
        let reason = if is_room { reason } else { "other reasons".to_owned() };
        *by_reason.entry(reason).or_default() += 1;
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
        let notes = notes(&inputs, &report);
        report.notes.extend(notes);
        Ok(report)
    })
}

fn notes<R: BufRead>(inputs: &Inputs<R>, report: &Report) -> Vec<String> {
    let mut notes = inputs.missing();
    let is_refused = |difference: &Difference| difference.recorded.refused.is_some();
    if inputs.version() < MARKS_FLOW_CONTROL && report.differences.iter().any(is_refused) {
        notes.push(
            "an older router recorded this, which did not mark what flow control refused: \
             such requests count as differences"
                .to_owned(),
        );
    }
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
