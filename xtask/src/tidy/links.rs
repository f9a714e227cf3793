//! Links between pages must lead somewhere, and so must the paths that the code map names.

use std::collections::BTreeSet;

use super::Finding;
use super::source::Source;

/// The code map, whose paths in backticks are checked too.
const MAP: &str = "ARCHITECTURE.md";

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let mut known = BTreeSet::new();
    for source in sources {
        let mut path = source.path.as_str();
        known.insert(path);
        while let Some((folder, _)) = path.rsplit_once('/') {
            known.insert(folder);
            path = folder;
        }
    }
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_markdown() && !source.is_recorded()) {
        for (line_idx, line) in source.text.lines().enumerate() {
            for link in links(line) {
                let target = resolve(&source.path, link);
                if target.is_none_or(|target| !known.contains(target.as_str())) {
                    let message = format!("`{link}` leads nowhere");
                    findings.push(source.finding(line_idx, "dead-link", message));
                }
            }
            for path in paths(line).filter(|_| source.path == MAP) {
                if !known.contains(path) {
                    let message = format!("there is no `{path}`");
                    findings.push(source.finding(line_idx, "dead-path", message));
                }
            }
        }
    }
    findings
}

/// Relative link targets of a line, without their anchors.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("](").filter_map(|(at, _)| {
        let (target, _) = line[at + 2..].split_once(')')?;
        let target = target.split('#').next().unwrap_or(target);
        (!target.is_empty() && !target.contains(':')).then_some(target)
    })
}

/// Whole paths of crates in backticks; one with a placeholder is none.
fn paths(line: &str) -> impl Iterator<Item = &str> {
    let quoted = line.split('`').skip(1).step_by(2);
    let whole = quoted.filter(|path| path.starts_with("crates/") && !path.contains(['<', ' ']));
    whole.map(|path| path.trim_end_matches('/'))
}

/// The path in the repository that `link` means on the page `from`; none if it leads out of it.
fn resolve(from: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_links_are_found() {
        let page = "[a](b.md) [c](../README.md#top)\n[d](https://example.com) [e](#here)\n\
                    [f](gone.md) [g](decisions/) [h](../../outside)\n";
        let sources = [
            Source::new("docs/a.md", page),
            Source::new("docs/b.md", ""),
            Source::new("docs/decisions/1.md", ""),
            Source::new("README.md", ""),
        ];
        let found: Vec<_> = check(&sources).into_iter().map(|f| (f.line, f.message)).collect();
        let gone = |link: &str| (3, format!("`{link}` leads nowhere"));
        assert_eq!(found, [gone("gone.md"), gone("../../outside")]);
    }

    #[test]
    fn dead_paths_of_the_code_map_are_found() {
        let map = "| `crates/a/src/b.rs` | `crates/a/` and `crates/a/src/<name>.rs` |\n`crates/gone.rs`\n";
        let sources = [
            Source::new("ARCHITECTURE.md", map),
            Source::new("docs/a.md", map),
            Source::new("crates/a/src/b.rs", ""),
        ];
        let found: Vec<_> = check(&sources).into_iter().map(|f| (f.line, f.message)).collect();
        assert_eq!(found, [(2, "there is no `crates/gone.rs`".to_owned())]);
    }
}
