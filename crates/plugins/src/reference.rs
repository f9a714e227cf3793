//! Generates `docs/reference/plugins` from module docs and parameter schemas, and checks that it is current.
//!
//! `UPDATE_REFERENCE=1 cargo test -p router-plugins reference` rewrites the pages.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use router_framework::{
    Instance, PluginDef, Role, Workbench,
    document::{Stability, tree},
};
use router_testkit::router::RouterBuilder;

use crate::PLUGINS;

mod parameters;

use parameters::Parameter;

const INDEX: &str = "README.md";
const UPDATE: &str = "UPDATE_REFERENCE=1 cargo test -p router-plugins reference";

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn folder() -> PathBuf {
    workspace().join("docs/reference/plugins")
}

/// The leading `//!` lines of a plugin's file, without the marker.
fn module_doc(def: &PluginDef) -> String {
    let path = workspace().join(def.source);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
    lines
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .fold(String::new(), |doc, line| doc + line + "\n")
}

/// The first paragraph of a module doc, as one line.
fn summary(doc: &str) -> String {
    doc.split("\n\n").next().unwrap_or_default().trim().replace('\n', " ")
}

/// What an example begins with. All of them are whole documents.
const EXAMPLE: &str = "```yaml";

/// The first block of YAML in a module doc or a page.
fn example(doc: &str) -> Option<&str> {
    let (_, rest) = doc.split_once(EXAMPLE)?;
    Some(rest.trim_start().split_once("```")?.0)
}

fn stability(def: &PluginDef) -> &'static str {
    match def.stability {
        Stability::Alpha => "Alpha: needs `--allow-experimental-plugins`",
        Stability::Beta => "Beta",
        Stability::Stable => "Stable",
    }
}

/// What examples in module docs leave out of their documents: it is the same in all of them.
const DOCUMENT_HEAD: &str = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n";

/// A role without its article.
fn role(role: Role) -> &'static str {
    let name = role.name();
    name.split_once(' ').map_or(name, |(_, name)| name)
}

fn roles(def: &PluginDef) -> String {
    def.roles.iter().map(|r| role(*r)).collect::<Vec<_>>().join(", ")
}

fn generated_from(what: &str) -> String {
    format!("<!-- Generated from {what}; rewrite with `{UPDATE}`. -->\n\n")
}

/// The reference page of one plugin type.
fn page(def: &PluginDef) -> String {
    let mut page = format!("# {}\n\n", def.plugin_type) + &generated_from(def.source);
    writeln!(page, "- Roles: {}", roles(def)).unwrap();
    writeln!(page, "- Stability: {}", stability(def)).unwrap();
    if let Some(deprecation) = def.deprecation {
        let (since, removal, instead) =
            (deprecation.since, deprecation.removal, deprecation.replacement);
        writeln!(
            page,
            "- Deprecated since {since}, goes away in {removal}; use [`{instead}`]({instead}.md)"
        )
        .unwrap();
    }
    page.push('\n');
    // The page's own title is the only heading of the first level.
    let mut in_example = false;
    for line in module_doc(def).trim().lines() {
        let is_heading = line.starts_with('#') && line.trim_start_matches('#').starts_with(' ');
        page.push_str(if is_heading && !in_example { "#" } else { "" });
        page.push_str(line);
        page.push('\n');
        in_example = if in_example { line != "```" } else { line.starts_with("```") };
        if line == EXAMPLE {
            page.push_str(DOCUMENT_HEAD);
        }
    }
    page + "\n## Parameters\n\n" + &parameter_table(&parameters::of(def))
}

fn parameter_table(parameters: &[Parameter]) -> String {
    if parameters.is_empty() {
        return "None.\n".to_owned();
    }
    let mut table = "| parameter | type | default | meaning |\n".to_owned();
    table.push_str("| --- | --- | --- | --- |\n");
    for Parameter { path, kind, default, meaning } in parameters {
        writeln!(table, "| `{path}` | {kind} | {default} | {meaning} |").unwrap();
    }
    table
}

/// The page that lists all plugin types by their first role.
fn index() -> String {
    let mut index = "# Plugins\n\n".to_owned() + &generated_from("the list of plugins");
    index.push_str("Every plugin type of this build, by what it is used as.\n");
    let mut titles: Vec<&str> = Vec::new();
    for def in PLUGINS {
        let title = role(def.roles[0]);
        if !titles.contains(&title) {
            titles.push(title);
        }
    }
    for title in titles {
        let (first, rest) = title.split_at(1);
        write!(index, "\n## {}{rest}\n\n", first.to_uppercase()).unwrap();
        index.push_str("| type | roles | stability | what it does |\n| --- | --- | --- | --- |\n");
        for def in PLUGINS.iter().filter(|def| role(def.roles[0]) == title) {
            let name = def.plugin_type;
            let stability = match (def.deprecation, def.stability) {
                (Some(_), _) => "deprecated",
                (None, Stability::Alpha) => "Alpha",
                (None, Stability::Beta) => "Beta",
                (None, Stability::Stable) => "Stable",
            };
            let summary = summary(&module_doc(def));
            writeln!(index, "| [`{name}`]({name}.md) | {} | {stability} | {summary} |", roles(def))
                .unwrap();
        }
    }
    index
}

fn pages() -> BTreeMap<String, String> {
    let mut pages: BTreeMap<String, String> =
        PLUGINS.iter().map(|def| (format!("{}.md", def.plugin_type), page(def))).collect();
    pages.insert(INDEX.to_owned(), index());
    pages
}

fn committed() -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(folder()) else { return BTreeMap::new() };
    let entries = entries.map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())
        })
        .collect()
}

#[test]
fn reference_pages_are_current() {
    let pages = pages();
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        fs::create_dir_all(folder()).unwrap();
        for stale in committed().keys().filter(|name| !pages.contains_key(*name)) {
            fs::remove_file(folder().join(stale)).unwrap();
        }
        for (name, page) in &pages {
            fs::write(folder().join(name), page).unwrap();
        }
    }
    let committed = committed();
    let names: BTreeSet<_> = pages.keys().chain(committed.keys()).collect();
    let stale: Vec<_> =
        names.into_iter().filter(|name| pages.get(*name) != committed.get(*name)).collect();
    assert!(stale.is_empty(), "stale pages in {}: {stale:?}; run {UPDATE}", folder().display());
}

#[test]
fn types_are_unique() {
    let types: BTreeSet<_> = PLUGINS.iter().map(|def| def.plugin_type).collect();
    assert_eq!(types.len(), PLUGINS.len());
}

#[test]
fn every_parameter_says_what_it_means() {
    for def in PLUGINS {
        for parameter in parameters::of(def) {
            let Parameter { path, meaning, .. } = &parameter;
            assert!(!meaning.is_empty(), "{}: {path} has no doc", def.plugin_type);
        }
        assert_eq!(def.takes_params, !parameters::of(def).is_empty(), "{}", def.plugin_type);
    }
}

#[test]
fn defaults_are_what_an_empty_map_means() {
    for def in PLUGINS {
        let effective = (def.effective)(&serde_json::json!({}));
        assert_eq!(effective, (def.defaults)(), "{}", def.plugin_type);
    }
}

/// Every example shows its plugin with parameters that the plugin takes, and the instance plays the roles
/// that the definition promises.
#[test]
fn examples_build_and_roles_are_what_was_promised() {
    for def in PLUGINS {
        let doc = module_doc(def);
        let example = example(&doc).unwrap_or_else(|| panic!("{} has no example", def.plugin_type));
        let (root, diagnostics) = tree::parse(def.plugin_type, example.as_bytes());
        assert!(diagnostics.is_empty(), "{}", diagnostics.render(Default::default()));
        let root = root.unwrap();
        let plugins = root.get("plugins").and_then(|plugins| plugins.as_list()).unwrap();
        let is_it = |plugin: &&tree::Node| {
            plugin.get("type").and_then(tree::Node::as_str) == Some(def.plugin_type)
        };
        let plugin = plugins.iter().find(is_it);
        let plugin = plugin.unwrap_or_else(|| panic!("{} is not in its example", def.plugin_type));
        let parameters = plugin.get("parameters").map(|node| node.to_json().to_string());
        let parameters = parameters.unwrap_or_default();
        let built = Workbench::new().unwrap().plugin(def, def.plugin_type, &parameters);
        let instance = built.unwrap_or_else(|e| panic!("{}: {} {e}", def.plugin_type, e.path));
        let promised: BTreeSet<_> = def.roles.iter().map(|role| role.name()).collect();
        let plays: BTreeSet<_> = played(&instance).iter().map(|role| role.name()).collect();
        assert_eq!(plays, promised, "{}", def.plugin_type);
    }
}

/// A reader may copy an example from its page and run it.
#[tokio::test]
async fn examples_of_pages_are_documents_that_run() {
    let refusal = |def: &&PluginDef| {
        let page = page(def);
        assert_eq!(page.matches(EXAMPLE).count(), 1, "{}", def.plugin_type);
        let error = RouterBuilder::new(example(&page).unwrap()).try_build().err()?;
        Some(format!("{}: {error}", def.plugin_type))
    };
    let refused: Vec<String> = PLUGINS.iter().filter_map(refusal).collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

fn played(instance: &Instance) -> Vec<Role> {
    let roles = [
        (Role::ProfileHandler, instance.profile_handler.is_some()),
        (Role::Filter, instance.filter.is_some()),
        (Role::Scorer, instance.scorer.is_some()),
        (Role::Picker, instance.picker.is_some()),
        (Role::Parser, instance.parser.is_some()),
        (Role::DataProducer, instance.producer.is_some()),
        (Role::Admitter, instance.admitter.is_some()),
        (Role::Screener, instance.screener.is_some()),
        (Role::RequestHeader, instance.request_header.is_some()),
        (Role::PreRequest, instance.pre_request.is_some()),
        (Role::ResponseHeader, instance.response_header.is_some()),
        (Role::ResponseBody, instance.response_body.is_some()),
        (Role::DataSource, instance.source.is_some()),
        (Role::Extractor, instance.extractor.is_some()),
        (Role::Discovery, instance.discovery.is_some()),
        (Role::SaturationDetector, instance.detector.is_some()),
        (Role::OrderingPolicy, instance.ordering.is_some()),
        (Role::FairnessPolicy, instance.fairness.is_some()),
        (Role::UsageLimitPolicy, instance.usage_limit.is_some()),
        (Role::EvictionFilter, instance.eviction_filter.is_some()),
        (Role::EvictionOrder, instance.eviction_order.is_some()),
    ];
    roles.into_iter().filter(|(_, plays)| *plays).map(|(role, _)| role).collect()
}
