//! Diagnostics as text: `file:line:col: error: path: message`, the line, a caret, the help.

use std::fmt;

use super::{Diagnostic, Diagnostics, MAX_PER_SEVERITY, Severity};
use crate::document::source::{Source, Span};

/// Whether the text is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// No escape sequences.
    #[default]
    Plain,
    /// ANSI colours, for a terminal.
    Colour,
}

/// A longer source line is shown in part.
const MAX_SHOWN_CHARS: usize = 120;
/// How much of a cut line stands before the place.
const CHARS_BEFORE: usize = 40;

struct Palette {
    error: &'static str,
    warning: &'static str,
    help: &'static str,
    dim: &'static str,
    bold: &'static str,
    reset: &'static str,
}

const PLAIN: Palette = Palette { error: "", warning: "", help: "", dim: "", bold: "", reset: "" };
const COLOUR: Palette = Palette {
    error: "\x1b[1;31m",
    warning: "\x1b[1;33m",
    help: "\x1b[36m",
    dim: "\x1b[2m",
    bold: "\x1b[1m",
    reset: "\x1b[0m",
};

/// All diagnostics, to be shown in a style.
pub(super) struct Shown<'a> {
    pub(super) diagnostics: &'a Diagnostics,
    pub(super) style: Style,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let palette = match self.style {
            Style::Plain => &PLAIN,
            Style::Colour => &COLOUR,
        };
        let Diagnostics { source, n_errors, n_warnings, .. } = self.diagnostics;
        for diagnostic in self.diagnostics.sorted() {
            one(f, source, diagnostic, palette)?;
        }
        for (n, what) in [(n_errors, "errors"), (n_warnings, "warnings")] {
            if let Some(n_more @ 1..) = n.checked_sub(MAX_PER_SEVERITY) {
                writeln!(f, "… and {n_more} more {what}")?;
            }
        }
        Ok(())
    }
}

fn one(
    f: &mut fmt::Formatter<'_>,
    source: &Source,
    diagnostic: &Diagnostic,
    palette: &Palette,
) -> fmt::Result {
    let Palette { bold, help, dim, reset, .. } = palette;
    let (colour, severity) = match diagnostic.severity {
        Severity::Error => (palette.error, "error"),
        Severity::Warning => (palette.warning, "warning"),
    };
    write!(f, "{bold}{}:{reset}", source.name())?;
    if !diagnostic.span.is_none() {
        write!(f, "{bold}{}:{reset}", diagnostic.span)?;
    }
    write!(f, " {colour}{severity}:{reset} ")?;
    if !diagnostic.path.is_empty() {
        write!(f, "{}: ", diagnostic.path)?;
    }
    writeln!(f, "{}", diagnostic.message)?;
    let line_number = diagnostic.span.line.to_string();
    let margin = " ".repeat(line_number.len());
    if let Some((line, before, n_carets)) = excerpt(source.text(), diagnostic.span) {
        let carets = "^".repeat(n_carets);
        writeln!(f, "  {dim}{line_number} |{reset} {line}")?;
        writeln!(f, "  {dim}{margin} |{reset} {before}{colour}{carets}{reset}")?;
    }
    if let Some(text) = &diagnostic.help {
        writeln!(f, "  {dim}{margin} ={reset} {help}help:{reset} {text}")?;
    }
    Ok(())
}

/// The line of `span` as shown, the blanks before the caret, and how many carets.
fn excerpt(text: &str, span: Span) -> Option<(String, String, usize)> {
    if span.is_none() {
        return None;
    }
    let (start, end) = (span.start as usize, span.end as usize);
    let line_start = text.get(..start)?.rfind('\n').map_or(0, |at| at + 1);
    let rest = text.get(start..)?;
    let line_end = start + rest.find('\n').unwrap_or(rest.len());
    let before = text.get(line_start..start)?;
    let marked = text.get(start..end.clamp(start, line_end))?;
    let after = text.get(start + marked.len()..line_end)?;

    let n_before = before.chars().count();
    let (before, lead) = if n_before > CHARS_BEFORE {
        let kept: String = before.chars().skip(n_before - CHARS_BEFORE).collect();
        (kept, "…")
    } else {
        (before.to_owned(), "")
    };
    let room = MAX_SHOWN_CHARS.saturating_sub(before.chars().count());
    let shown_marked: String = marked.chars().take(room).collect();
    let n_marked = shown_marked.chars().count();
    let shown_after: String = after.chars().take(room - n_marked).collect();
    let n_cut =
        marked.chars().count() - n_marked + after.chars().count() - shown_after.chars().count();
    let tail = if n_cut > 0 { "…" } else { "" };

    let line = [lead, &before, &shown_marked, &shown_after, tail].concat();
    let line = line.trim_end_matches('\r').replace(|c: char| c.is_control(), " ");
    let blanks = " ".repeat(lead.chars().count() + before.chars().count());
    Some((line, blanks, n_marked.max(1)))
}
