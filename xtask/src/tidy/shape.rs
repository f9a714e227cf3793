//! Lengths of files and functions.

use super::Finding;
use super::lexer;
use super::source::Source;

/// A file is one responsibility; beyond this it has become two. Test lines do not count.
const MAX_FILE_LINES: usize = 700;
const SOFT_FILE_LINES: usize = 400;
/// A function fits a screen.
const MAX_FUNCTION_LINES: usize = 80;

pub(super) fn check(source: &Source, findings: &mut Vec<Finding>, notes: &mut Vec<Finding>) {
    if source.is_generated() {
        return;
    }
    let n_lines = source.n_product_lines();
    if n_lines > MAX_FILE_LINES {
        let message = format!("{n_lines} lines without tests, at most {MAX_FILE_LINES}: split it");
        findings.push(source.finding(0, "file-length", message));
    } else if n_lines > SOFT_FILE_LINES {
        let message = format!("{n_lines} lines without tests, over {SOFT_FILE_LINES}");
        notes.push(source.finding(0, "file-length", message));
    }
    for (name, first, last) in functions(&source.blanked.code) {
        let n_lines = last - first + 1;
        if n_lines > MAX_FUNCTION_LINES && !source.is_test_line(first) {
            let message = format!("`{name}` has {n_lines} lines, at most {MAX_FUNCTION_LINES}");
            findings.push(source.finding(first, "function-length", message));
        }
    }
}

/// Name, first and last line of each function with a body.
fn functions(code: &str) -> Vec<(&str, usize, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let starts_word = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let rest = code[at + 3..].trim_start();
        let name_len = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        // A function pointer type (`fn (…)`) has no name.
        if !starts_word || name_len == 0 {
            continue;
        }
        let end = lexer::item_end(code, at);
        if code.as_bytes().get(end) == Some(&b'}') {
            found.push((&rest[..name_len], lexer::line_of(code, at), lexer::line_of(code, end)));
        }
    }
    found
}
