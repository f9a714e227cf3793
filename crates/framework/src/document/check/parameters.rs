//! Parameters against the schema of their plugin's type.

use super::{Availability, Catalog, Diagnostics, Node, Path, Plugin};
use crate::document::shape::{self, KeyCase};

pub(super) fn check(plugin: &mut Plugin, catalog: &dyn Catalog, diagnostics: &mut Diagnostics) {
    let Some(info) = catalog.lookup(&plugin.plugin_type) else { return };
    if info.availability != Availability::Available {
        return;
    }
    let base = format!("{}.parameters", plugin.path);
    let path = Path::Base(&base);
    let Some(schema) = info.parameters else {
        let written = plugin.parameters.as_ref().and_then(Node::as_map);
        if let (Some(node), Some(false)) = (&plugin.parameters, written.map(|map| map.is_empty())) {
            let message =
                format!("`{}` takes no parameters; these are ignored", plugin.plugin_type);
            diagnostics.warning(node.span, path, message, || None);
        }
        return;
    };
    let schema = schema();
    match &mut plugin.parameters {
        Some(node) => shape::check(node, schema.as_value(), &path, KeyCase::Any, diagnostics),
        // What is required is missing at the type that requires it.
        None => {
            let mut nothing = Node::empty_map(plugin.type_span);
            shape::check(&mut nothing, schema.as_value(), &path, KeyCase::Any, diagnostics);
        }
    }
}
