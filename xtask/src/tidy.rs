//! `cargo xtask tidy`: rules that neither the compiler nor clippy checks.
//!
//! Each rule is a function from a file (or the dependency graph) to findings.
//! The rules are the machine-checkable ones of docs/STYLE.md; a rule that turns out to be wrong is
//! changed here and there in the same commit.
//! The test at the end holds the whole repository to them in every `cargo test`.

mod arrows;
mod defects;
mod lexer;
mod links;
mod maps;
mod rust;
mod shape;
mod source;
mod text;

use anyhow::bail;

use source::Source;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also list what is over a soft limit; that never fails.
    #[arg(long)]
    notes: bool,
}

/// One place that breaks a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: String,
    /// Counted from 1.
    line: usize,
    rule: &'static str,
    message: String,
}

/// What a run over the repository found.
#[derive(Default)]
pub(crate) struct Report {
    findings: Vec<Finding>,
    /// Over a soft limit: worth a look, no failure.
    notes: Vec<Finding>,
    n_files: usize,
}

impl Report {
    pub(crate) fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    pub(crate) fn n_findings(&self) -> usize {
        self.findings.len()
    }

    pub(crate) fn print_findings(&self) {
        print_all(&self.findings);
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let report = check()?;
    if args.notes {
        print_all(&report.notes);
    }
    report.print_findings();
    if !report.is_clean() {
        bail!("{} problems in {} files", report.n_findings(), report.n_files);
    }
    println!("tidy: {} files, no problems, {} notes", report.n_files, report.notes.len());
    Ok(())
}

/// Checks every file that git tracks or would track, and the arrows between the crates.
pub(crate) fn check() -> anyhow::Result<Report> {
    let sources = source::load_all()?;
    let mut report = Report { n_files: sources.len(), ..Report::default() };
    report.findings.extend(arrows::check()?);
    report.findings.extend(links::check(&sources));
    report.findings.extend(defects::check(&sources));
    for source in &sources {
        check_source(source, &mut report);
    }
    report.findings.sort();
    report.notes.sort();
    Ok(report)
}

fn check_source(source: &Source, report: &mut Report) {
    report.findings.extend(text::check(source));
    if source.is_rust() {
        report.findings.extend(rust::check(source));
        report.findings.extend(maps::check(source));
        shape::check(source, &mut report.findings, &mut report.notes);
    }
}

fn print_all(findings: &[Finding]) {
    for Finding { path, line, rule, message } in findings {
        println!("{path}:{line}: {rule}: {message}");
    }
}

#[cfg(test)]
mod tests;
