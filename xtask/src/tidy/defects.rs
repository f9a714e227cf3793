//! Tests that docs/differences.md names must exist.

use std::collections::BTreeSet;

use super::Finding;
use super::source::Source;

const PAGE: &str = "docs/differences.md";
/// Head of the last column of the tables that name tests.
const COLUMN: &str = "test";

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let Some(page) = sources.iter().find(|source| source.path == PAGE) else { return Vec::new() };
    let functions: BTreeSet<&str> =
        sources.iter().flat_map(|source| functions(&source.blanked.code)).collect();
    let mut findings = Vec::new();
    let mut names_tests = false;
    for (line_idx, line) in page.text.lines().enumerate() {
        let Some(cell) = last_cell(line) else {
            names_tests = false;
            continue;
        };
        names_tests |= cell == COLUMN;
        // Names stand between every other pair of backticks.
        for name in cell.split('`').skip(1).step_by(2).filter(|_| names_tests) {
            if !functions.contains(name) {
                findings.push(page.finding(
                    line_idx,
                    "lost-test",
                    format!("no test is called `{name}`"),
                ));
            }
        }
    }
    findings
}

fn last_cell(line: &str) -> Option<&str> {
    let row = line.strip_prefix('|')?.trim_end().strip_suffix('|')?;
    Some(row.rsplit_once(" | ").map_or(row, |(_, last)| last).trim())
}

fn functions(code: &str) -> impl Iterator<Item = &str> {
    code.match_indices("fn ").filter_map(|(at, _)| {
        let rest = &code[at + 3..];
        Some(rest.split_once('(')?.0.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_a_test_are_found() {
        let page = "| what | `not_a_test` |\n| --- | --- |\n\n\
                    | defect | Go | test |\n| --- | --- | --- |\n\
                    | R-1 | a `b` | `a01_it_works`, `a01_it_is_gone` |\n\nText `c`.\n";
        let code = "#[test]\nasync fn a01_it_works() {}\n// fn a01_it_is_gone()\n";
        let sources = [Source::new(PAGE, page), Source::new("crates/a/src/a.rs", code)];
        let found: Vec<_> = check(&sources).into_iter().map(|f| (f.line, f.message)).collect();
        assert_eq!(found, [(6, "no test is called `a01_it_is_gone`".to_owned())]);
    }
}
