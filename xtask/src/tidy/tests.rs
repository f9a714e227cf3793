use super::*;

/// Rules that a file with this path and text breaks, in order of line.
fn rules(path: &str, text: &str) -> Vec<(usize, &'static str)> {
    let mut report = Report::default();
    check_source(&Source::new(path, text), &mut report);
    report.findings.sort_by_key(|finding| (finding.line, finding.rule));
    report.findings.into_iter().map(|finding| (finding.line, finding.rule)).collect()
}

fn check_rules(path: &str, text: &str, expected: &[(usize, &str)]) {
    let text = format!("//! Doc.\n{text}");
    assert_eq!(rules(path, &text), expected, "{path}:\n{text}");
}

#[test]
fn the_repository_is_tidy() -> anyhow::Result<()> {
    let report = check()?;
    assert!(report.n_files > 20, "only {} files were found", report.n_files);
    let listed: Vec<String> = report
        .findings
        .iter()
        .map(|f| format!("{}:{}: {}: {}", f.path, f.line, f.rule, f.message))
        .collect();
    assert!(listed.is_empty(), "{} problems:\n{}", listed.len(), listed.join("\n"));
    Ok(())
}

#[test]
fn banned_calls_are_found_in_code_only() {
    let spawn = "fn f() { tokio::spawn(async {}); }";
    check_rules("crates/engine/src/a.rs", spawn, &[(2, "spawn")]);
    check_rules("crates/rt/src/a.rs", spawn, &[]);
    check_rules("crates/net/examples/a.rs", spawn, &[]);
    check_rules("crates/engine/src/a/tests.rs", spawn, &[]);
    check_rules("crates/engine/src/a.rs", "// tokio::spawn( is banned", &[]);
    check_rules("crates/engine/src/a.rs", "const S: &str = \"tokio::spawn(\";", &[]);
    let todo = ["fn f() { to", "do!() }"].concat();
    check_rules("bench/src/a.rs", &todo, &[(2, "unfinished")]);
    let ignored = ["#[ig", "nore]\n#[test]\nfn f() {}"].concat();
    check_rules("crates/core/src/a/tests.rs", &ignored, &[(2, "switched-off-test")]);
}

#[test]
fn select_needs_a_fixed_order_where_replay_runs() {
    check_rules(
        "crates/engine/src/a.rs",
        "fn f() {\n    tokio::select! {\n        a = b => {}\n    }\n}",
        &[(3, "select-order")],
    );
    check_rules(
        "crates/sim/src/a.rs",
        "fn f() {\n    tokio::select! {\n        // reason\n        biased;\n        a = b => {}\n    }\n}",
        &[],
    );
    check_rules("crates/proxy/src/a.rs", "fn f() { tokio::select! { a = b => {} } }", &[]);
}

#[test]
fn unordered_maps_must_not_be_walked_where_replay_runs() {
    let by_field = "struct A { seen: HashMap<u32, u32> }\nimpl A {\n    fn f(&self) { for x in self.seen.values() {} }\n}";
    check_rules("crates/engine/src/a.rs", by_field, &[(4, "map-order")]);
    check_rules("crates/net/src/a.rs", by_field, &[]);
    let excused = by_field.replace("for x", "// tidy: order-free, summed\n for x");
    check_rules("crates/engine/src/a.rs", &excused, &[]);
    check_rules(
        "crates/plugins/src/a.rs",
        "fn f() {\n let mut ids = HashSet::new();\n for id in &ids {}\n}",
        &[(4, "map-order")],
    );
    check_rules(
        "crates/plugins/src/a.rs",
        "fn f(m: &HashMap<u32, u32, FixedHasher>) {\n for id in m.keys() {}\n m.get(&1);\n}",
        &[],
    );
    check_rules(
        "crates/plugins/src/a.rs",
        "fn f(m: &HashMap<u32, u32>, v: &[u32]) {\n for id in v.iter() {}\n m.get(&1);\n}",
        &[],
    );
}

#[test]
fn sockets_stay_out_of_the_engine() {
    let import = "use tokio::net::TcpStream;";
    check_rules("crates/engine/src/a.rs", import, &[(2, "socket")]);
    check_rules("crates/net/src/a.rs", import, &[]);
}

#[test]
fn names_that_say_nothing_are_refused() {
    check_rules("crates/core/src/a.rs", "struct PoolManager;", &[(2, "empty-name")]);
    check_rules("crates/core/src/a.rs", "struct Pool;\nenum Manager2 {}", &[]);
    check_rules("crates/core/src/mod.rs", "struct Pool;", &[(1, "mod-rs")]);
}

#[test]
fn long_functions_and_files_are_found() {
    let body = |n: usize| format!("fn f() {{\n{}}}\n", "    g();\n".repeat(n));
    check_rules("crates/core/src/a.rs", &body(78), &[]);
    check_rules("crates/core/src/a.rs", &body(79), &[(2, "function-length")]);
    check_rules("crates/core/src/a/tests.rs", &body(79), &[]);
    let in_tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", body(79));
    check_rules("crates/core/src/a.rs", &in_tests, &[]);

    let constants = |n: usize| "const A: u8 = 1;\n".repeat(n);
    check_rules("crates/core/src/a.rs", &constants(699), &[]);
    check_rules("crates/core/src/a.rs", &constants(700), &[(1, "file-length")]);
    let mostly_tests =
        format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", constants(600), constants(300));
    check_rules("crates/core/src/a.rs", &mostly_tests, &[]);
}

#[test]
fn paths_of_machines_are_found_in_any_file() {
    let path = ["/ro", "ot/x"].concat();
    check_rules("docs/a.sh", &format!("cat {path}"), &[(2, "machine-path")]);
    check_rules("docs/a.sh", &format!("cat https://example.com{path}"), &[]);
    let host = ["py", "pi.org"].concat();
    check_rules("README.sh", &format!("curl https://{host}/simple"), &[(2, "registry-host")]);
}

#[test]
fn markdown_has_one_sentence_per_line() {
    let finding: &[_] = &[(2, "one-sentence-per-line")];
    check_rules("docs/a.md", "It works. It is fast.", finding);
    check_rules("docs/a.md", "It works (well). `a` is fast. So is b.", finding);
    check_rules("docs/a.md", "1. It works, e.g. Envoy does, i.e. The `A. B` too.", &[]);
    check_rules("docs/a.md", "| It works. It is fast. |", &[]);
    check_rules("docs/a.md", "```text\nIt works. It is fast.\n```", &[]);
}

#[test]
fn a_library_begins_with_its_doc() {
    assert_eq!(rules("crates/core/src/lib.rs", "mod a;\n"), [(1, "crate-doc")]);
    check_rules("crates/core/src/lib.rs", "mod a;", &[]);
}
