//! Makes the plugin instances of a document, those that a parameter names before those that name them, and
//! creates the producers that nobody configured.

use std::collections::BTreeMap;

use crate::{
    build::{BuildCx, PluginEnv},
    document::{Availability, Catalog, Diagnostics, Document, Plugin, tree::Node},
    graph::DataFlow,
    plugin::Instance,
    registry::Registry,
};

/// Plugins that a document may need to have created; a bound on a chain of producers that need producers.
const MAX_CREATED: usize = 64;

/// All instances, with the data that they declared.
#[derive(Default)]
pub(super) struct Instances {
    pub(super) by_name: BTreeMap<String, Instance>,
    pub(super) flow: DataFlow,
}

/// Builds every plugin of the document, and adds to it what is missing.
pub(super) fn instantiate(
    document: &mut Document,
    registry: &Registry,
    env: &PluginEnv,
    diagnostics: &mut Diagnostics,
) -> Instances {
    let mut instances = Instances::default();
    for at in in_reference_order(document, registry) {
        if let Some(plugin) = document.plugins.get(at) {
            build_one(plugin, registry, env, &mut instances, diagnostics);
        }
    }
    for _created in 0..MAX_CREATED {
        let Some(missing) = instances
            .flow
            .missing_producers()
            .into_iter()
            .find(|t| can_create(document, registry, t))
        else {
            break;
        };
        document.add_plugin(missing, "its data is needed and nobody else writes it");
        if let Some(plugin) = document.plugins.last() {
            build_one(plugin, registry, env, &mut instances, diagnostics);
        }
    }
    instances
}

fn can_create(document: &Document, registry: &Registry, plugin_type: &str) -> bool {
    let available = registry
        .lookup(plugin_type)
        .is_some_and(|info| info.availability == Availability::Available);
    available && document.plugin(plugin_type).is_none()
}

fn build_one(
    plugin: &Plugin,
    registry: &Registry,
    env: &PluginEnv,
    instances: &mut Instances,
    diagnostics: &mut Diagnostics,
) {
    let Some(def) = registry.get(&plugin.plugin_type) else { return };
    let Instances { by_name, flow } = instances;
    let mut cx = BuildCx { plugin, env, flow, built: by_name, diagnostics };
    match (def.build)(&mut cx) {
        Ok(instance) => {
            instances.by_name.insert(plugin.name.clone(), instance);
        }
        // An empty message: the parameters' own errors have been reported at their places.
        Err(error) if error.message.is_empty() => {}
        Err(error) => {
            let node = plugin.parameters.as_ref().and_then(|node| locate(node, &error.path));
            let span = node.map_or(plugin.span, |node| node.span);
            let mut path = format!("{}.parameters", plugin.path);
            if !error.path.is_empty() {
                path = format!("{path}.{}", error.path);
            }
            diagnostics.error(span, path, error.message, || None);
        }
    }
}

/// The value at a path such as `engineConfigs[0].name`.
fn locate<'n>(root: &'n Node, path: &str) -> Option<&'n Node> {
    let parts = path.split(['.', '[', ']']).filter(|part| !part.is_empty());
    parts.into_iter().try_fold(root, |node, part| match node.as_list() {
        Some(list) => list.get(part.parse::<usize>().ok()?),
        None => node.get(part),
    })
}

/// Places of the plugins, each after those that its parameters name; otherwise in the order declared.
/// Cycles and unknown names have been reported by the document's own checks.
fn in_reference_order(document: &Document, registry: &Registry) -> Vec<usize> {
    let mut order = Vec::with_capacity(document.plugins.len());
    let mut state = vec![Visit::Not; document.plugins.len()];
    for at in 0..document.plugins.len() {
        visit(at, document, registry, &mut state, &mut order);
    }
    order
}

#[derive(Clone, Copy, PartialEq)]
enum Visit {
    Not,
    Entered,
}

fn visit(
    at: usize,
    document: &Document,
    registry: &Registry,
    state: &mut [Visit],
    order: &mut Vec<usize>,
) {
    if state.get(at) != Some(&Visit::Not) {
        return;
    }
    if let Some(state) = state.get_mut(at) {
        *state = Visit::Entered;
    }
    let Some(plugin) = document.plugins.get(at) else { return };
    let paths = registry.get(&plugin.plugin_type).map_or(&[][..], |def| def.references);
    for path in paths {
        let named = path
            .split('.')
            .try_fold(plugin.parameters.as_ref(), |node, part| node.map(|node| node.get(part)));
        let name = named.flatten().and_then(Node::as_str);
        if let Some(before) =
            name.and_then(|name| document.plugins.iter().position(|p| p.name == name))
        {
            visit(before, document, registry, state, order);
        }
    }
    order.push(at);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::tree;

    #[test]
    fn errors_are_found_in_lists_too() {
        let (root, _) = tree::parse("p", b"a:\n- b: 1\n- b: 2\n  c: {d: 3}\n");
        let root = root.unwrap();
        let line = |path: &str| locate(&root, path).map(|node| node.span.line);
        assert_eq!(line("a[1].b"), Some(3));
        assert_eq!(line("a[1].c.d"), Some(4));
        assert_eq!(line("a[2].b"), None);
        assert_eq!(line("a.b"), None);
        assert_eq!(line(""), Some(1));
    }
}
