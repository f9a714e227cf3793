//! `InferenceObjective` manifests: which priority a request has that names one.
//!
//! A manifest file may hold several documents. Objects of other kinds are skipped, except those that a
//! later version of the router understands: these are refused rather than ignored.

use std::{collections::BTreeMap, sync::Arc};

use router_framework::document::{
    Diagnostics,
    tree::{self, Node},
};

/// Groups and versions under which an objective may stand (`spec/request-path.md` §4.2).
const API_VERSIONS: [&str; 2] = ["llm-d.ai/v1alpha2", "inference.networking.x-k8s.io/v1alpha2"];
const KIND: &str = "InferenceObjective";
/// Kinds of the same API that this version does not read from files.
const LATER_KINDS: [&str; 2] = ["InferenceModelRewrite", "InferencePool"];
/// Objectives over all files.
const MAX_OBJECTIVES: usize = 10_000;

/// The objectives by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objectives(BTreeMap<Arc<str>, i32>);

/// Why manifests cannot be used; every fault with its place, rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ObjectivesError(pub String);

impl Objectives {
    /// The priority of the objective with this name; 0 when there is none.
    pub fn priority(&self, name: &str) -> i32 {
        self.0.get(name).copied().unwrap_or_default()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads manifests: name of the file and its content. Of two objectives with one name the later counts.
    pub fn parse<'a>(
        files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, ObjectivesError> {
        let mut objectives = Self::default();
        let mut faults = Vec::new();
        for (name, content) in files {
            let Ok(text) = std::str::from_utf8(content) else {
                faults.push(format!("{name}: is not UTF-8"));
                continue;
            };
            for part in documents(text) {
                let (root, mut diagnostics) = tree::parse(name, part.as_bytes());
                if let Some(root) = root.filter(|root| !root.is_null()) {
                    objectives.read(&root, &mut diagnostics);
                }
                if diagnostics.has_errors() {
                    faults.push(diagnostics.to_string());
                }
            }
        }
        if faults.is_empty() { Ok(objectives) } else { Err(ObjectivesError(faults.join("\n"))) }
    }

    fn read(&mut self, root: &Node, diagnostics: &mut Diagnostics) {
        let text = |path: &[&str]| {
            path.iter().try_fold(root, |node, key| node.get(key)).and_then(Node::as_str)
        };
        let (Some(kind), Some(api_version)) = (text(&["kind"]), text(&["apiVersion"])) else {
            return diagnostics.error(
                root.span,
                "",
                "a manifest needs `apiVersion` and `kind`",
                || None,
            );
        };
        if LATER_KINDS.contains(&kind) {
            return diagnostics.error(
                root.span,
                "kind",
                format!("not available in this version: {kind} from a file"),
                || None,
            );
        }
        if kind != KIND {
            return;
        }
        if !API_VERSIONS.contains(&api_version) {
            let known = API_VERSIONS.join("` or `");
            return diagnostics.error(
                root.span,
                "apiVersion",
                format!("expected `{known}`, found `{api_version}`"),
                || None,
            );
        }
        let Some(name) = text(&["metadata", "name"]).filter(|name| !name.is_empty()) else {
            return diagnostics.error(
                root.span,
                "metadata.name",
                "an objective needs a name",
                || None,
            );
        };
        let priority = root.get("spec").and_then(|spec| spec.get("priority"));
        let priority = match priority
            .map(|node| (node, node.as_i64().and_then(|value| i32::try_from(value).ok())))
        {
            None => 0,
            Some((_, Some(priority))) => priority,
            Some((node, None)) => {
                return diagnostics.error(
                    node.span,
                    "spec.priority",
                    "expected a 32-bit whole number",
                    || None,
                );
            }
        };
        if self.0.len() >= MAX_OBJECTIVES && !self.0.contains_key(name) {
            return diagnostics.error(
                root.span,
                "",
                format!("more than {MAX_OBJECTIVES} objectives"),
                || None,
            );
        }
        self.0.insert(name.into(), priority);
    }
}

/// The documents of a YAML stream. Blank lines stand in for those before, so that places stay right.
fn documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for (n_before, line) in text.lines().enumerate() {
        if line.trim_end() == "---" {
            documents.push("\n".repeat(n_before + 1));
        } else if let Some(current) = documents.last_mut() {
            current.push_str(line);
            current.push('\n');
        }
    }
    documents.retain(|document| !document.trim().is_empty());
    documents
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Objectives, ObjectivesError> {
        Objectives::parse([("objectives.yaml", text.as_bytes())])
    }

    const TWO: &str = "\
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata: {name: critical}
spec: {priority: 100, poolRef: {name: pool}}
---
apiVersion: v1
kind: ConfigMap
---
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceObjective
metadata: {name: batch}
spec: {priority: -10}
";

    #[test]
    fn objectives_give_priorities_by_name() {
        let objectives = parse(TWO).unwrap();
        assert_eq!(objectives.len(), 2);
        assert_eq!(objectives.priority("critical"), 100);
        assert_eq!(objectives.priority("batch"), -10);
        assert_eq!(objectives.priority("unknown"), 0);
    }

    #[test]
    fn faults_have_their_place_in_the_file() {
        let check = |text: &str, part: &str| {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check(
            &format!(
                "{TWO}---\napiVersion: llm-d.ai/v1alpha2\nkind: InferenceObjective\nmetadata: {{name: x}}\nspec:\n  priority: high\n"
            ),
            ":18:13:",
        );
        check("kind: InferenceObjective", "needs `apiVersion`");
        check("apiVersion: llm-d.ai/v1\nkind: InferenceObjective", "expected `llm-d.ai/v1alpha2`");
        check(
            "apiVersion: llm-d.ai/v1alpha2\nkind: InferencePool",
            "not available in this version",
        );
    }
}
