//! Rules about any text file: what must not be committed, and how Markdown is written.

use super::Finding;
use super::source::Source;

/// Folders of one machine; written in two parts so that this file passes its own rule.
const MACHINE_PATHS: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];

/// Where packages come from is the machine's business.
const REGISTRY_HOSTS: &[&str] = &[
    concat!("py", "pi.org"),
    concat!("python", "hosted.org"),
    concat!("index.", "crates.io"),
    concat!("static.", "crates.io"),
    concat!("registry.", "npmjs.org"),
    concat!("proxy.", "golang.org"),
];

/// Two words for one idea, wherever prose or names use them (ARCHITECTURE.md has the glossary).
const WORDS: &[(&str, &str)] = &[
    ("model server pod", "endpoint"),
    ("endpoint pod", "endpoint"),
    ("backend pod", "endpoint"),
    ("worker pod", "endpoint"),
    ("backend server", "model server"),
    ("candidate pod", "candidate"),
    ("inference server", "model server"),
];

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    if source.path == "Cargo.lock" {
        check_lock(source, &mut findings);
        return findings;
    }
    let is_recorded = source.is_recorded();
    for (line_idx, line) in source.text.lines().enumerate() {
        for path in MACHINE_PATHS {
            if has_absolute(line, path) {
                let message = format!("`{path}` is a folder of one machine");
                findings.push(source.finding(line_idx, "machine-path", message));
            }
        }
        for host in REGISTRY_HOSTS {
            if line.contains(host) {
                let message = format!("`{host}`: name the package, not the host");
                findings.push(source.finding(line_idx, "registry-host", message));
            }
        }
        if !is_recorded && source.path != THIS_FILE {
            check_words(source, line_idx, line, &mut findings);
        }
    }
    // Generated pages take their sentences from doc comments, which are filled like prose.
    if source.is_markdown() && !is_recorded && !source.path.starts_with("docs/reference/") {
        check_sentences(source, &mut findings);
    }
    findings
}

const THIS_FILE: &str = "xtask/src/tidy/text.rs";

fn check_lock(source: &Source, findings: &mut Vec<Finding>) {
    let usual = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    for (line_idx, line) in source.text.lines().enumerate() {
        if line.starts_with("source = ") && line != usual {
            let message = format!("every crate comes from the usual registry, not {line}");
            findings.push(source.finding(line_idx, "lock-source", message));
        }
    }
}

fn check_words(source: &Source, line_idx: usize, line: &str, findings: &mut Vec<Finding>) {
    let line = line.to_lowercase();
    for (word, instead) in WORDS {
        if line.contains(word) {
            let message = format!("`{word}`: this project says `{instead}`");
            findings.push(source.finding(line_idx, "one-word-per-idea", message));
        }
    }
}

/// True if `path` begins here, rather than being the middle of a URL or of a longer path.
fn has_absolute(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let after = &line[at + path.len()..];
        !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_.-$}*".contains(c))
            && after.starts_with(|c: char| c.is_alphanumeric() || "_.".contains(c))
    })
}

fn check_sentences(source: &Source, findings: &mut Vec<Finding>) {
    let mut in_code = false;
    for (line_idx, line) in source.text.lines().enumerate() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("```") {
            in_code = !in_code;
            continue;
        }
        if in_code || trimmed.starts_with(['|', '#', '<']) {
            continue;
        }
        if has_two_sentences(trimmed) {
            let message = "one sentence per line, so that diffs show what changed".to_owned();
            findings.push(source.finding(line_idx, "one-sentence-per-line", message));
        }
    }
}

/// Finds a small letter, a full stop and a capital: rather misses some than cries at abbreviations.
fn has_two_sentences(line: &str) -> bool {
    let prose = without_inline_code(line);
    prose.match_indices(". ").any(|(at, _)| {
        let before = &prose[..at];
        let after = prose[at + 2..].trim_start();
        let word = before.rsplit([' ', '(']).next().unwrap_or(before);
        let ends_sentence = word.ends_with(|c: char| c.is_lowercase() || ")`".contains(c))
            && !word.contains('.')
            && !["etc", "vs", "cf", "approx", "no"].contains(&word);
        ends_sentence && after.starts_with(|c: char| c.is_uppercase())
    })
}

fn without_inline_code(line: &str) -> String {
    let mut prose = String::with_capacity(line.len());
    for (idx, part) in line.split('`').enumerate() {
        prose.push_str(if idx % 2 == 0 { part } else { "code" });
    }
    prose
}
