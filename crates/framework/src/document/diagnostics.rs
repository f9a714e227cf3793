//! What is wrong with a document, collected and shown with its place.

use std::{fmt, sync::Arc};

use super::source::{Source, Span};

mod render;

use render::Shown;
pub use render::Style;

/// At most this many errors, and as many warnings, are kept; the rest is only counted.
pub const MAX_PER_SEVERITY: usize = 100;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The document cannot be used.
    Error,
    /// The document can be used, but someone should look at it.
    Warning,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Where in the text; [`Span::NONE`] where there is no such place.
    pub span: Span,
    /// Where in the structure: `plugins[2].parameters.threshold`; empty for the document itself.
    pub path: String,
    /// What is wrong: lowercase, no full stop.
    pub message: String,
    /// What to do about it: the nearest valid name, a flag, an example.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(span: Span, path: impl fmt::Display, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, span, path, message)
    }

    /// A warning at a place.
    pub fn warning(span: Span, path: impl fmt::Display, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, span, path, message)
    }

    fn new(
        severity: Severity,
        span: Span,
        path: impl fmt::Display,
        message: impl Into<String>,
    ) -> Self {
        Self { severity, span, path: path.to_string(), message: message.into(), help: None }
    }

    /// Says what to do about it.
    pub fn help(mut self, help: impl Into<Option<String>>) -> Self {
        self.help = help.into();
        self
    }
}

/// All findings about one document, with its text, so that they can be shown later.
#[derive(Debug, Clone)]
pub struct Diagnostics {
    source: Arc<Source>,
    items: Vec<Diagnostic>,
    n_errors: usize,
    n_warnings: usize,
}

impl Diagnostics {
    /// No findings yet about `source`.
    pub fn new(source: Arc<Source>) -> Self {
        Self { source, items: Vec::new(), n_errors: 0, n_warnings: 0 }
    }

    /// The document that this is about.
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// Adds a finding; one that is there already, or too many, is not kept.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        let n_of_kind = match diagnostic.severity {
            Severity::Error => &mut self.n_errors,
            Severity::Warning => &mut self.n_warnings,
        };
        if *n_of_kind < MAX_PER_SEVERITY && self.items.contains(&diagnostic) {
            return;
        }
        *n_of_kind += 1;
        if *n_of_kind <= MAX_PER_SEVERITY {
            self.items.push(diagnostic);
        }
    }

    /// Adds an error. `help` is only worked out when there is room for it, since looking for the
    /// nearest name in a hostile document costs time.
    pub fn error(
        &mut self,
        span: Span,
        path: impl fmt::Display,
        message: impl Into<String>,
        help: impl FnOnce() -> Option<String>,
    ) {
        let help = if self.n_errors < MAX_PER_SEVERITY { help() } else { None };
        self.push(Diagnostic::error(span, path, message).help(help));
    }

    /// Adds a warning.
    pub fn warning(
        &mut self,
        span: Span,
        path: impl fmt::Display,
        message: impl Into<String>,
        help: impl FnOnce() -> Option<String>,
    ) {
        let help = if self.n_warnings < MAX_PER_SEVERITY { help() } else { None };
        self.push(Diagnostic::warning(span, path, message).help(help));
    }

    /// Adds all findings of another collection about the same document.
    pub fn extend(&mut self, other: Self) {
        let n_lost_errors = other.n_errors.saturating_sub(MAX_PER_SEVERITY);
        let n_lost_warnings = other.n_warnings.saturating_sub(MAX_PER_SEVERITY);
        other.items.into_iter().for_each(|item| self.push(item));
        self.n_errors += n_lost_errors;
        self.n_warnings += n_lost_warnings;
    }

    /// Whether the document cannot be used.
    pub fn has_errors(&self) -> bool {
        self.n_errors > 0
    }

    /// How many errors there are, kept or not.
    pub fn n_errors(&self) -> usize {
        self.n_errors
    }

    /// How many warnings there are, kept or not.
    pub fn n_warnings(&self) -> usize {
        self.n_warnings
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The findings that are kept, by place; at one place errors come first.
    pub fn sorted(&self) -> Vec<&Diagnostic> {
        let mut items: Vec<_> = self.items.iter().collect();
        items.sort_by_key(|d| (d.span.line, d.span.col, d.severity));
        items
    }

    /// The findings as text, each with the line it is about.
    pub fn render(&self, style: Style) -> String {
        Shown { diagnostics: self, style }.to_string()
    }
}

/// Without colour.
impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Shown { diagnostics: self, style: Style::Plain }.fmt(f)
    }
}

impl std::error::Error for Diagnostics {}

/// `text` between backquotes for a message: cut where long, control characters escaped.
pub fn quote(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    let mut shown = String::with_capacity(MAX_CHARS + 2);
    shown.push('`');
    for (n, c) in text.chars().enumerate() {
        if n == MAX_CHARS {
            shown.push('…');
            break;
        }
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown.push('`');
    shown
}
