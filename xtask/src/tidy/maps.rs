//! Hash maps have a random order per process; walking one makes two replays differ.
//!
//! The rule goes by names: a variable or field that the file declares as a `HashMap` or `HashSet`
//! may not be walked in that file, unless its declaration names a hasher or the line (or the one
//! above) says why order does not matter: `// tidy: order-free, <reason>`.

use super::Finding;
use super::rust::REPLAYED;
use super::source::Source;

const EXCUSE: &str = "tidy: order-free, ";

const WALKS: &[&str] = &[
    ".iter()",
    ".iter_mut()",
    ".keys()",
    ".values()",
    ".values_mut()",
    ".into_iter()",
    ".into_keys()",
    ".into_values()",
    ".drain()",
    ".extract_if(",
];

pub(super) fn check(source: &Source) -> Vec<Finding> {
    if !REPLAYED.contains(&source.crate_dir()) {
        return Vec::new();
    }
    let code: Vec<&str> = source.blanked.code.lines().collect();
    let comments: Vec<&str> = source.blanked.comments.lines().collect();
    let names: Vec<&str> = code.iter().filter_map(|line| declared_map(line)).collect();
    let mut findings = Vec::new();
    for (line_idx, line) in code.iter().enumerate() {
        if source.is_test_line(line_idx) {
            continue;
        }
        let excused = [Some(line_idx), line_idx.checked_sub(1)]
            .into_iter()
            .flatten()
            .any(|idx| comments.get(idx).is_some_and(|comment| comment.contains(EXCUSE)));
        if let Some(name) = names.iter().find(|name| walks(line, name))
            && !excused
        {
            let message = format!(
                "`{name}` has a random order: sort, use a BTreeMap, or say `// {EXCUSE}<reason>`"
            );
            findings.push(source.finding(line_idx, "map-order", message));
        }
    }
    findings
}

/// The name in `name: …HashMap<K, V>` or `let name = HashMap::new()`, unless a hasher is named.
fn declared_map(line: &str) -> Option<&str> {
    let at = line.find("HashMap").or_else(|| line.find("HashSet"))?;
    if line.contains("Hasher") || line.contains("BuildHash") {
        return None;
    }
    let before = &line[..at];
    if let Some((_, bound)) = before.rsplit_once("let ") {
        return first_word(bound.trim_start().trim_start_matches("mut "));
    }
    // The name ends at the last `:` that is not part of a path's `::`.
    let colon = before
        .rmatch_indices(':')
        .map(|(at, _)| at)
        .find(|&at| !before[..at].ends_with(':') && !before[at + 1..].starts_with(':'))?;
    last_word(before[..colon].trim_end())
}

fn walks(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = &line[..at];
        let after = &line[at + name.len()..];
        let is_word = !before.ends_with(is_name_char) && !after.starts_with(is_name_char);
        let in_loop = before.trim_end_matches("self.").trim_end_matches("mut ");
        let in_loop = in_loop.trim_end_matches('&').trim_end().ends_with(" in")
            && after.trim_start().starts_with('{');
        is_word && (in_loop || WALKS.iter().any(|walk| after.starts_with(walk)))
    })
}

fn first_word(text: &str) -> Option<&str> {
    let end = text.find(|c| !is_name_char(c)).unwrap_or(text.len());
    (end > 0).then(|| &text[..end])
}

fn last_word(text: &str) -> Option<&str> {
    let start = text.rfind(|c| !is_name_char(c)).map_or(0, |at| at + 1);
    (start < text.len()).then(|| &text[start..])
}

fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
