//! Parameters that name other plugins: they must exist, and must not name each other in a circle,
//! since a plugin is built after those that it names.

use super::{Checker, Node, Path, PluginRef, quote};
use crate::document::tree::Value;

pub(super) fn check(checker: &mut Checker<'_>) {
    let document = checker.document;
    let mut edges: Vec<Vec<Edge>> = Vec::new();
    for plugin in &document.plugins {
        let info = checker.catalog.lookup(&plugin.plugin_type);
        let mut references = Vec::new();
        let base = format!("{}.parameters", plugin.path);
        if let (Some(info), Some(node)) = (info, &plugin.parameters) {
            for path in info.references {
                let keys: Vec<_> = path.split('.').collect();
                collect(node, &keys, &Path::Base(&base), &mut references);
            }
        }
        let mut out = Vec::new();
        for reference in references {
            checker.resolve(&reference);
            let named = |other: &super::Plugin| other.name == reference.name;
            if let Some(target) = document.plugins.iter().position(named) {
                out.push(Edge { target, reference });
            }
        }
        edges.push(out);
    }
    for cycle in cycles(&edges) {
        report(checker, &cycle);
    }
}

/// One plugin names another.
struct Edge {
    target: usize,
    reference: PluginRef,
}

/// All texts at a parameter path; `[]` after a key means every entry of its list.
fn collect(node: &Node, keys: &[&str], path: &Path<'_>, out: &mut Vec<PluginRef>) {
    if let Value::List(list) = &node.value {
        for (index, item) in list.iter().enumerate() {
            collect(item, keys, &path.index(index), out);
        }
        return;
    }
    match keys {
        [] => {
            if let Some(name) = node.as_str().filter(|name| !name.is_empty()) {
                let (name, path) = (name.to_owned(), path.to_string());
                out.push(PluginRef { name, span: node.span, path });
            }
        }
        [key, rest @ ..] => {
            let key = key.trim_end_matches("[]");
            if let Some(value) = node.get(key) {
                collect(value, rest, &path.key(key), out);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Visit {
    New,
    Open,
    Done,
}

/// Circles, each as the edges along it; depth first without recursion, so that a long chain
/// cannot exhaust the stack.
fn cycles(edges: &[Vec<Edge>]) -> Vec<Vec<&Edge>> {
    let mut visits = vec![Visit::New; edges.len()];
    let mut found = Vec::new();
    for start in 0..edges.len() {
        if visits.get(start) != Some(&Visit::New) {
            continue;
        }
        // The plugins on the way here, each with the edges not yet followed and the last one
        // followed.
        let mut way: Vec<(usize, std::slice::Iter<'_, Edge>, Option<&Edge>)> = Vec::new();
        let mut next = Some(start);
        loop {
            if let Some(node) = next.take() {
                set(&mut visits, node, Visit::Open);
                way.push((node, edges.get(node).map(|out| out.iter()).unwrap_or_default(), None));
            }
            let Some((node, out, last)) = way.last_mut() else { break };
            let Some(edge) = out.next() else {
                set(&mut visits, *node, Visit::Done);
                way.pop();
                continue;
            };
            *last = Some(edge);
            match visits.get(edge.target) {
                Some(Visit::New) => next = Some(edge.target),
                Some(Visit::Open) => {
                    let round = way.iter().skip_while(|(node, ..)| *node != edge.target);
                    found.push(round.filter_map(|(_, _, last)| *last).collect());
                }
                Some(Visit::Done) | None => {}
            }
        }
    }
    found
}

fn set(visits: &mut [Visit], node: usize, visit: Visit) {
    if let Some(slot) = visits.get_mut(node) {
        *slot = visit;
    }
}

fn report(checker: &mut Checker<'_>, cycle: &[&Edge]) {
    let [first, ..] = cycle else { return };
    let name_of = |index: usize| checker.document.plugins.get(index).map(|plugin| &plugin.name);
    let start = cycle.last().and_then(|edge| name_of(edge.target));
    let names: Vec<_> = start
        .into_iter()
        .chain(cycle.iter().map(|edge| &edge.reference.name))
        .map(|name| quote(name))
        .collect();
    let message = format!("plugins that need each other: {}", names.join(" → "));
    let reference = &first.reference;
    checker.diagnostics.error(reference.span, Path::Base(&reference.path), message, || None);
}
