//! Generates the pages of `docs/reference` that only the executable can: flags, metrics, configuration,
//! errors. The plugins' pages are made where the plugins are. What of other pages the code knows is checked.
//!
//! `UPDATE_REFERENCE=1 cargo test -p llm-d-router reference` rewrites them; without it a stale page fails.

mod configuration;
mod errors;
mod flags;
mod flow_control;
mod metrics;
mod simulator;

use std::{fs, path::Path};

const UPDATE: &str = "UPDATE_REFERENCE=1 cargo test -p llm-d-router reference";

/// Compares a page with the committed one, or rewrites that.
fn check(name: &str, source: &str, text: &str) {
    let (title, rest) = text.split_once("\n\n").expect("a page begins with its title");
    let page = format!(
        "{title}\n\n<!-- Generated from {source}; rewrite with `{UPDATE}`. -->\n\n{}\n",
        rest.trim_end()
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(name);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == page, "docs/reference/{name} is stale; run {UPDATE}");
}

/// A table; columns that are empty in every row are left out.
fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let shown: Vec<usize> =
        (0..N).filter(|&column| rows.iter().any(|row| !row[column].is_empty())).collect();
    let line = |cells: &[&str]| format!("| {} |\n", cells.join(" | "));
    let mut table = line(&shown.iter().map(|&column| head[column]).collect::<Vec<_>>());
    table += &line(&vec!["---"; shown.len()]);
    for row in rows {
        table += &line(&shown.iter().map(|&column| row[column].as_str()).collect::<Vec<_>>());
    }
    table
}

/// A text as it can stand in a cell.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn code(text: &str) -> String {
    format!("`{}`", cell(text))
}
