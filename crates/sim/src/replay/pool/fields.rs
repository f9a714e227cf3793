//! Strict reading of a map: known keys only, each of its kind, every fault with its place.

use std::time::Duration;

use router_framework::document::{
    Diagnostics, GoDuration, Span,
    suggest::nearest,
    tree::{Entry, Map, Node},
};

/// A map whose keys are known.
pub(super) struct Fields<'a> {
    map: &'a Map,
    span: Span,
    path: String,
}

impl<'a> Fields<'a> {
    /// `None`, with an error, when the node is no map. Keys that are not in `known` are errors.
    pub(super) fn of(
        node: &'a Node,
        path: &str,
        known: &[&str],
        diagnostics: &mut Diagnostics,
    ) -> Option<Self> {
        let Some(map) = node.as_map() else {
            let message = format!("expected a map, found {}", node.kind());
            diagnostics.error(node.span, path, message, || None);
            return None;
        };
        for entry in map.entries() {
            if !known.contains(&entry.key.as_str()) {
                unknown(entry, path, known, diagnostics);
            }
        }
        Some(Self { map, span: node.span, path: path.to_owned() })
    }

    pub(super) fn node(&self, key: &str) -> Option<&'a Node> {
        self.map.get(key)
    }

    pub(super) fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A key that must be there, as text.
    pub(super) fn wanted(&self, key: &str, diagnostics: &mut Diagnostics) -> Option<&'a str> {
        let Some(node) = self.node(key) else {
            let message = format!("`{key}` is missing");
            diagnostics.error(self.span, &self.path, message, || None);
            return None;
        };
        let text = node.as_str();
        if text.is_none() {
            let message = format!("expected a string, found {}", node.kind());
            diagnostics.error(node.span, self.path(key), message, || None);
        }
        text
    }

    /// A whole number within `range`.
    pub(super) fn whole(
        &self,
        key: &str,
        range: std::ops::RangeInclusive<i64>,
        diagnostics: &mut Diagnostics,
    ) -> Option<i64> {
        let node = self.node(key)?;
        let number = node.as_i64().filter(|number| range.contains(number));
        if number.is_none() {
            let message =
                format!("expected a whole number from {} to {}", range.start(), range.end());
            diagnostics.error(node.span, self.path(key), message, || None);
        }
        number
    }

    /// A length of time, `1m30s` or `0`.
    pub(super) fn duration(&self, key: &str, diagnostics: &mut Diagnostics) -> Option<Duration> {
        let node = self.node(key)?;
        let parsed = match node.as_str() {
            Some(text) => text.parse::<GoDuration>().ok().and_then(GoDuration::to_std),
            None => (node.as_i64() == Some(0)).then_some(Duration::ZERO),
        };
        if parsed.is_none() {
            let message = "expected a length of time such as `50ms`, `2s` or `1m30s`";
            diagnostics.error(node.span, self.path(key), message, || None);
        }
        parsed
    }
}

/// Reports a key that nothing reads.
pub(super) fn unknown(entry: &Entry, path: &str, known: &[&str], diagnostics: &mut Diagnostics) {
    let message = format!("unknown key `{}`", entry.key);
    let near = nearest(&entry.key, known.iter().copied());
    let help = || {
        Some(match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", known.join(", ")),
        })
    };
    diagnostics.error(entry.key_span, path, message, help);
}
