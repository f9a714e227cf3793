//! Feature gates: `name`, `name=true`, `name=false`.

use super::{
    diagnostics::{Diagnostics, quote},
    source::{Path, Span},
    suggest,
    tree::Node,
};

/// The gates as they are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureGates {
    /// `flowControl`: requests wait in queues while the pool is saturated. Off by default.
    pub flow_control: Gate,
    /// `haPopulateNonLeaderDatastore`: replicas that do not lead know the endpoints too. On by
    /// default.
    pub ha_populate_non_leader_datastore: Gate,
}

/// One gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    /// Whether it is on.
    pub on: bool,
    /// What set it last; [`Span::NONE`] where it has its default.
    pub span: Span,
}

impl Default for FeatureGates {
    fn default() -> Self {
        let gate = |on| Gate { on, span: Span::NONE };
        Self { flow_control: gate(false), ha_populate_non_leader_datastore: gate(true) }
    }
}

impl FeatureGates {
    /// The gates by name, in a fixed order.
    pub fn all(&self) -> [(&'static str, Gate); 2] {
        [
            ("flowControl", self.flow_control),
            ("haPopulateNonLeaderDatastore", self.ha_populate_non_leader_datastore),
        ]
    }

    fn gate(&mut self, name: &str) -> Option<&mut Gate> {
        match name {
            "flowControl" => Some(&mut self.flow_control),
            "haPopulateNonLeaderDatastore" => Some(&mut self.ha_populate_non_leader_datastore),
            _ => None,
        }
    }

    /// Sets the gates that a document lists; the last of a name wins.
    pub(crate) fn read(list: &[Node], path: &Path<'_>, diagnostics: &mut Diagnostics) -> Self {
        let mut gates = Self::default();
        for (index, node) in list.iter().enumerate() {
            let Some(text) = node.as_str().filter(|text| !text.is_empty()) else { continue };
            let path = path.index(index);
            let (name, value) = text.split_once('=').unwrap_or((text, "true"));
            let name = name.trim();
            let names = gates.all().map(|(name, _)| name);
            let Some(gate) = gates.gate(name) else {
                let message = format!("unknown feature gate {}", quote(name));
                diagnostics.error(node.span, path, message, || {
                    let listed = || format!("known gates: `{}`", names.join("`, `"));
                    suggest::did_you_mean(name, names).or_else(|| Some(listed()))
                });
                continue;
            };
            match go_bool(value.trim()) {
                Some(on) => *gate = Gate { on, span: node.span },
                None => {
                    let message = format!("{} is neither `true` nor `false`", quote(value));
                    diagnostics.error(node.span, path, message, || None);
                }
            }
        }
        gates
    }
}

/// Go's `strconv.ParseBool`, in any case.
fn go_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" => Some(true),
        "0" | "f" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_that_go_takes() {
        for (text, expected) in [
            ("1", Some(true)),
            ("T", Some(true)),
            ("TRUE", Some(true)),
            ("0", Some(false)),
            ("f", Some(false)),
            ("False", Some(false)),
            ("yes", None),
            ("", None),
        ] {
            assert_eq!(go_bool(text), expected, "{text}");
        }
    }
}
