//! `replay --reproduce`: the decisions of a recording, made again and compared.

use std::{fmt::Write, io::BufReader, path::Path};

use router_framework::Registry;
use router_sim::replay::{
    reproduce::{Report, ReproduceError, Side, Terms, reproduce},
    run::{Configuration, RunError},
};

use super::count;
use crate::{app::No, cli::UsageError, configuration::Faulty, process};

/// Scores that are shown of one decision.
const SHOWN_SCORES: usize = 4;

/// Shows how the decisions of a recording compare with those of its own configuration, or of another one.
pub(super) fn run(
    path: &Path,
    configuration: Option<Configuration>,
    registry: Registry,
    allow_experimental: bool,
) -> anyhow::Result<()> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path)
        .map_err(|error| UsageError(format!("cannot read {name}: {error}")))?;
    let other = configuration.as_ref().map(|configuration| configuration.name.clone());
    let terms = Terms { configuration, registry, allow_experimental };
    let report = reproduce(&name, BufReader::new(file), &terms).map_err(|error| match error {
        ReproduceError::Read(error) => UsageError::of(error).into(),
        ReproduceError::Run(RunError::Configuration(text)) => {
            anyhow::Error::from(Faulty(format!("the configuration cannot be used\n{text}")))
        }
        error => error.into(),
    })?;
    for note in &report.notes {
        process::complain(&format!("{name}: {note}"));
    }
    if report.n_decisions == 0 {
        let why = refused(&report).map_or(String::new(), |refused| format!(": {refused}"));
        return Err(UsageError(format!("there is no decision in {name}{why}")).into());
    }
    process::say(text(&report, other.as_deref()).trim_end())?;
    if other.is_none() && !report.is_equal() {
        let n_differ = (report.n_decisions - report.n_equal) as usize;
        return Err(No(count(n_differ, "decision differs", "decisions differ")).into());
    }
    Ok(())
}

/// The report for people.
fn text(report: &Report, other: Option<&str>) -> String {
    let Report { n_decisions, n_equal, n_same_targets, n_same_endpoint, .. } = report;
    let Report { n_unsettled, n_lines_missing, .. } = report;
    let n_differ = n_decisions - n_equal;
    let mut text = String::new();
    let mut line = |line: String| text += &(line + "\n");
    match other {
        None => line(format!("{n_equal} of {n_decisions} decisions equal")),
        Some(name) => line(format!(
            "{n_equal} of {n_decisions} requests would have gone to the same endpoint under {name}"
        )),
    }
    refused(report).into_iter().for_each(&mut line);
    if *n_lines_missing > 0 {
        let missing = count(*n_lines_missing as usize, "line is missing", "lines are missing");
        line(format!("{missing} in the recording; what comes after may differ"));
    }
    if n_differ > 0 && other.is_none() {
        if *n_same_targets > 0 {
            line(format!("{n_same_targets} of the others: only scores differ"));
        }
        if *n_same_endpoint > 0 {
            line(format!("{n_same_endpoint} of the others: the same endpoint all the same"));
        }
        if *n_unsettled > 0 {
            line(format!(
                "{n_unsettled} of the others: made while what they depend on changed, by another thread or while a plugin waited"
            ));
        }
    }
    for difference in &report.differences {
        line(String::new());
        line(format!(
            "request {} at {:.6} s (line {}){}",
            difference.request,
            difference.at.as_nanos() as f64 / 1e9,
            difference.line,
            if difference.is_unsettled { ", unsettled" } else { "" }
        ));
        line(format!("  recorded  {}", side(&difference.recorded)));
        line(format!("  again     {}", side(&difference.again)));
    }
    if n_differ > report.differences.len() as u64 {
        line(format!("\n… and {} more", n_differ - report.differences.len() as u64));
    }
    text
}

/// What there is nothing to compare of.
fn refused(report: &Report) -> Option<String> {
    let by_reason = &report.refused_by_flow_control;
    let n_all: u64 = by_reason.values().sum();
    let reasons: Vec<_> = by_reason.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    let more = if report.n_decisions > 0 { "more " } else { "" };
    (n_all > 0).then(|| {
        let reasons = reasons.join(", ");
        format!("{n_all} {more}requests were refused by flow control and are left out: {reasons}")
    })
}

fn side(side: &Side) -> String {
    let mut text = match (&side.refused, side.targets.first()) {
        (Some(code), _) => {
            let reason = side.reason.iter().map(|reason| format!(" ({reason})"));
            format!("refused: {code}{}", reason.collect::<String>())
        }
        (None, Some(first)) => first.clone(),
        (None, None) => "nowhere".to_owned(),
    };
    let mut before = "  scores";
    for (endpoint, score) in side.scores.iter().take(SHOWN_SCORES) {
        let _writing_to_a_string_cannot_fail = write!(text, "{before} {endpoint} {score:.9}");
        before = ",";
    }
    text
}

#[cfg(test)]
mod tests {
    use router_core::Stamp;
    use router_sim::replay::reproduce::Difference;

    use super::*;

    fn report() -> Report {
        let of = |target: &str, scores: &[(&str, f64)]| Side {
            targets: vec![target.to_owned()],
            refused: None,
            reason: None,
            scores: scores.iter().map(|(name, score)| ((*name).to_owned(), *score)).collect(),
        };
        Report {
            n_decisions: 12,
            n_equal: 9,
            n_same_targets: 1,
            n_same_endpoint: 1,
            n_unsettled: 1,
            refused_by_flow_control: [("rejected-saturated".to_owned(), 5)].into(),
            n_lines_missing: 0,
            differences: vec![Difference {
                line: 7,
                request: 3,
                at: Stamp::from_nanos(1_500_000_000),
                is_unsettled: true,
                recorded: of("d/a", &[("d/a", 1.0), ("d/b", 0.5)]),
                again: Side {
                    refused: Some("ServiceUnavailable".to_owned()),
                    reason: Some("rejected-no-endpoints".to_owned()),
                    ..Side::default()
                },
            }],
            notes: Vec::new(),
        }
    }

    #[test]
    fn both_sides_of_a_difference_are_shown() {
        let shown = text(&report(), None);
        assert_eq!(
            shown,
            "9 of 12 decisions equal\n\
             5 more requests were refused by flow control and are left out: 5 rejected-saturated\n\
             1 of the others: only scores differ\n\
             1 of the others: the same endpoint all the same\n\
             1 of the others: made while what they depend on changed, by another thread or while a plugin waited\n\
             \n\
             request 3 at 1.500000 s (line 7), unsettled\n\
             \x20 recorded  d/a  scores d/a 1.000000000, d/b 0.500000000\n\
             \x20 again     refused: ServiceUnavailable (rejected-no-endpoints)\n\
             \n… and 2 more\n"
        );
        let other = text(&report(), Some("least-requests"));
        let first = "9 of 12 requests would have gone to the same endpoint under least-requests\n5 more requests were";
        assert!(other.starts_with(first), "{other}");
        let none = Report { n_decisions: 0, ..report() };
        let said = "5 requests were refused by flow control and are left out: 5 rejected-saturated";
        assert_eq!(refused(&none).as_deref(), Some(said));
    }
}
