//! Rules about what Rust code may call and how it may be named.

use super::Finding;
use super::lexer;
use super::source::Source;

/// Crates whose decisions must be equal for an equal seed under the paused clock of replay.
pub(super) const REPLAYED: &[&str] =
    &["core", "wire", "kvcache", "framework", "plugins", "engine", "sim"];

/// Crates that never open a socket: bytes are handed to them.
const SOCKETLESS: &[&str] = &["core", "wire", "kvcache", "framework", "plugins", "engine"];

/// Endings of type names that say nothing about what the type is.
const EMPTY_SUFFIXES: &[&str] = &["Manager", "Helper", "Helpers", "Util", "Utils", "Impl"];

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    check_file(source, &mut findings);
    for (line_idx, line) in source.blanked.code.lines().enumerate() {
        check_anywhere(source, line_idx, line, &mut findings);
        if !source.is_test_line(line_idx) {
            check_product_line(source, line_idx, line, &mut findings);
        }
    }
    if REPLAYED.contains(&source.crate_dir()) {
        check_select(source, &mut findings);
    }
    findings
}

fn check_file(source: &Source, findings: &mut Vec<Finding>) {
    if source.path.ends_with("/mod.rs") {
        let message = "name the file after its module: foo.rs beside foo/".to_owned();
        findings.push(source.finding(0, "mod-rs", message));
    }
    if source.path.ends_with("src/lib.rs") && !source.text.starts_with("//!") {
        let message = "a library begins with its doc: what it is and what it does not know";
        findings.push(source.finding(0, "crate-doc", message.to_owned()));
    }
}

fn check_anywhere(source: &Source, line_idx: usize, line: &str, findings: &mut Vec<Finding>) {
    for call in ["todo!", "unimplemented!"] {
        if has_word(line, call) {
            let message = format!("`{call}` is not a product");
            findings.push(source.finding(line_idx, "unfinished", message));
        }
    }
    for attribute in ["#[ignore", "#[should_panic"] {
        if line.contains(attribute) {
            let message = format!("`{attribute}]`: a test runs and asserts, or does not exist");
            findings.push(source.finding(line_idx, "switched-off-test", message));
        }
    }
}

fn check_product_line(source: &Source, line_idx: usize, line: &str, findings: &mut Vec<Finding>) {
    let crate_dir = source.crate_dir();
    let in_product = source.path.starts_with("crates/")
        && source.path.contains("/src/")
        && crate_dir != "testkit";
    if in_product && crate_dir != "rt" {
        for call in ["tokio::spawn(", "task::spawn(", "spawn_blocking", "thread::spawn("] {
            if line.contains(call) {
                let message = format!("`{call}`: use `Tasks::spawn` or `offload` of router-rt");
                findings.push(source.finding(line_idx, "spawn", message));
            }
        }
    }
    if SOCKETLESS.contains(&crate_dir) {
        let paths = ["tokio::net", "net::TcpStream", "net::TcpListener", "net::UdpSocket"];
        if let Some(path) = paths.iter().find(|path| line.contains(**path)) {
            let message = format!("`{path}`: {crate_dir} is handed bytes, it opens no socket");
            findings.push(source.finding(line_idx, "socket", message));
        }
    }
    if let Some(name) = declared_type(line)
        && let Some(suffix) = EMPTY_SUFFIXES.iter().find(|suffix| name.ends_with(**suffix))
    {
        let message = format!("`{name}`: say what it is; `{suffix}` says nothing");
        findings.push(source.finding(line_idx, "empty-name", message));
    }
}

/// `select!` without `biased;` polls in random order.
fn check_select(source: &Source, findings: &mut Vec<Finding>) {
    let code = &source.blanked.code;
    for (at, _) in code.match_indices("select!") {
        let line_idx = lexer::line_of(code, at);
        let body = code[at + "select!".len()..].trim_start();
        let is_biased =
            body.strip_prefix(['{', '(']).is_some_and(|b| b.trim_start().starts_with("biased;"));
        if !is_biased && !source.is_test_line(line_idx) {
            let message = "`select!` needs `biased;`: its random order breaks replay".to_owned();
            findings.push(source.finding(line_idx, "select-order", message));
        }
    }
}

/// The name in `struct Name`, `enum Name`, `trait Name` or `type Name`.
fn declared_type(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(')')?.1.trim_start(),
        Some(rest) => rest.trim_start(),
        None => line,
    };
    let name = ["struct ", "enum ", "trait "].iter().find_map(|word| line.strip_prefix(word))?;
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
    Some(&name[..end])
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}
