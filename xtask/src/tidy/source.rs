//! The files of the repository, as the rules see them.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::process::Command;

use super::Finding;
use super::lexer::{self, Blanked};
use crate::{command, paths};

/// One text file of the repository.
pub(super) struct Source {
    /// Relative to the repository's root, with `/`.
    pub(super) path: String,
    pub(super) text: String,
    /// The Rust code and the comments apart; empty for other files.
    pub(super) blanked: Blanked,
    /// True for each line that is only compiled into tests.
    test_lines: Vec<bool>,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        let is_rust = has_extension(path, "rs");
        let blanked = if is_rust { lexer::blank(text) } else { Blanked::default() };
        let n_lines = text.lines().count();
        let test_lines = if !is_rust {
            vec![false; n_lines]
        } else if is_test_path(path) {
            vec![true; n_lines]
        } else {
            lexer::test_lines(&blanked.code)
        };
        Self { path: path.to_owned(), text: text.to_owned(), blanked, test_lines }
    }

    pub(super) fn is_rust(&self) -> bool {
        has_extension(&self.path, "rs")
    }

    pub(super) fn is_markdown(&self) -> bool {
        has_extension(&self.path, "md")
    }

    /// True for code that a generator wrote: nobody reads it, so its length does not matter.
    pub(super) fn is_generated(&self) -> bool {
        self.text.lines().take(5).any(|line| line.contains("@generated"))
    }

    /// True for recorded truth, which keeps the words of those who wrote it.
    pub(super) fn is_recorded(&self) -> bool {
        self.path.split('/').any(|part| ["testdata", "corpus", "definitions"].contains(&part))
    }

    /// `line_idx` counts from 0.
    pub(super) fn is_test_line(&self, line_idx: usize) -> bool {
        self.test_lines.get(line_idx).copied().unwrap_or(false)
    }

    pub(super) fn n_product_lines(&self) -> usize {
        self.test_lines.iter().filter(|is_test| !**is_test).count()
    }

    /// The folder name in `crates/`, or the first folder elsewhere.
    pub(super) fn crate_dir(&self) -> &str {
        let inner = self.path.strip_prefix("crates/").unwrap_or(&self.path);
        inner.split('/').next().unwrap_or(inner)
    }

    /// `line_idx` counts from 0.
    pub(super) fn finding(&self, line_idx: usize, rule: &'static str, message: String) -> Finding {
        Finding { path: self.path.clone(), line: line_idx + 1, rule, message }
    }
}

/// Every text file that git tracks or would track.
pub(super) fn load_all() -> anyhow::Result<Vec<Source>> {
    let listed = command::output(Command::new("git").args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let paths: BTreeSet<&str> = listed.split('\0').filter(|path| !path.is_empty()).collect();
    let mut texts = Vec::with_capacity(paths.len());
    for path in paths {
        match std::fs::read(paths::root().join(path)) {
            // Recordings and corpora may be any bytes; the rules are about text.
            Ok(bytes) => {
                if let Ok(text) = String::from_utf8(bytes) {
                    texts.push((path, text));
                }
            }
            // Deleted and not yet committed, or a link to a folder.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => {
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mut sources: Vec<Source> =
        texts.iter().map(|(path, text)| Source::new(path, text)).collect();
    mark_test_modules(&mut sources);
    Ok(sources)
}

/// A file that is declared by `#[cfg(test)] mod name;` is test code as a whole.
fn mark_test_modules(sources: &mut [Source]) {
    let mut test_paths = BTreeSet::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let Some((stem, _)) = source.path.rsplit_once(".rs") else { continue };
        let folder = match stem.rsplit_once('/') {
            Some((folder, "lib" | "main")) => folder,
            _ => stem,
        };
        for (line_idx, line) in source.blanked.code.lines().enumerate() {
            let declared = line.trim().strip_suffix(';').and_then(|l| l.rsplit_once("mod "));
            if let Some((_, name)) = declared
                && source.is_test_line(line_idx)
            {
                test_paths.insert(format!("{folder}/{name}.rs"));
            }
        }
    }
    for source in sources.iter_mut().filter(|source| test_paths.contains(&source.path)) {
        source.test_lines.fill(true);
    }
}

fn has_extension(path: &str, extension: &str) -> bool {
    path.rsplit_once('.').is_some_and(|(_, found)| found == extension)
}

fn is_test_path(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.split('/').any(|part| part == "tests" || part == "benches")
}
