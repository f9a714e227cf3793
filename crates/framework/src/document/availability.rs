//! Parts of the format that this version does not have yet. Building one means deleting its line
//! here; reading and checking know all of them.

use super::{
    diagnostics::Diagnostics,
    source::{Path, Span},
    tree::Node,
};

/// Keys that stand for something this version does not do, with what that is called.
const SECTIONS: [(&str, &str); 3] = [
    ("dataLayer.peerDiscovery", "discovery of other replicas"),
    ("dataLayer.crossReplicaSyncerPluginRef", "state shared between replicas"),
    ("dataLayer.crossReplicaSyncInterval", "state shared between replicas"),
];

/// Reports what the document asks for and this version does not have: nothing is ignored in
/// silence.
pub(crate) fn check(root: &Node, diagnostics: &mut Diagnostics) {
    for (section, feature) in SECTIONS {
        if let Some(span) = find(root, section) {
            report(span, Path::Base(section), &format!("`{section}` ({feature})"), diagnostics);
        }
    }
}

/// The same words for a section and a plugin type.
pub(crate) fn report(span: Span, path: Path<'_>, what: &str, diagnostics: &mut Diagnostics) {
    diagnostics.error(span, path, format!("not available in this version: {what}"), || None);
}

fn find(root: &Node, section: &str) -> Option<Span> {
    let (parent, key) = section.rsplit_once('.').unwrap_or(("", section));
    let map = parent.split('.').filter(|part| !part.is_empty()).try_fold(root, Node::get)?;
    let entry = map.as_map()?.entry(key)?;
    (!entry.value.is_null()).then_some(entry.key_span)
}
