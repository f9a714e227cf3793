//! The kinds that are read, and what the definitions of Kubernetes say of each.
//!
//! The definitions are those that a cluster has, byte for byte. Their patterns and their rules in CEL are the two
//! things in them that are not read but written again, here and in `read`; a test finds those that are new.

use std::sync::LazyLock;

use router_framework::document::tree;
use serde_json::{Value, json};

/// A kind of object that means something to a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Objective,
    Rewrite,
    Pool,
}

/// The group that objectives and rewrites had before. Where a kind stands in both, only `llm-d.ai` counts.
pub(super) const LEGACY_GROUP: &str = "inference.networking.x-k8s.io";

static SCHEMAS: LazyLock<[Value; 3]> = LazyLock::new(|| {
    [
        schema(include_str!("definitions/llm-d.ai_inferenceobjectives.yaml")),
        schema(include_str!("definitions/llm-d.ai_inferencemodelrewrites.yaml")),
        schema(include_str!("definitions/inference.networking.k8s.io_inferencepools.yaml")),
    ]
});

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Objective, Self::Rewrite, Self::Pool];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Objective => "InferenceObjective",
            Self::Rewrite => "InferenceModelRewrite",
            Self::Pool => "InferencePool",
        }
    }

    /// Groups and versions under which it may stand.
    pub(super) fn api_versions(self) -> &'static [&'static str] {
        match self {
            Self::Objective | Self::Rewrite => {
                &["llm-d.ai/v1alpha2", "inference.networking.x-k8s.io/v1alpha2"]
            }
            Self::Pool => &["inference.networking.k8s.io/v1"],
        }
    }

    /// What an object is compared with.
    pub(super) fn schema(self) -> &'static Value {
        let [objective, rewrite, pool] = &*SCHEMAS;
        match self {
            Self::Objective => objective,
            Self::Rewrite => rewrite,
            Self::Pool => pool,
        }
    }
}

/// The schema of a definition. An object's status means nothing in a file, and its metadata, which a definition
/// leaves to the API server, are spelled out.
fn schema(definition: &str) -> Value {
    let (root, _) = tree::parse("definition", definition.as_bytes());
    let versions = root.as_ref().and_then(|root| root.get("spec")?.get("versions")?.as_list());
    let schema =
        versions.and_then(|versions| versions.first()?.get("schema")?.get("openAPIV3Schema"));
    let mut schema = schema.map(tree::Node::to_json).unwrap_or_default();
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("status".to_owned(), json!({}));
        properties.insert("metadata".to_owned(), metadata());
    }
    if let Some(object) = schema.as_object_mut() {
        object.insert("required".to_owned(), json!(["metadata", "spec"]));
    }
    schema
}

/// What an API server accepts as metadata, as far as a router reads them.
fn metadata() -> Value {
    let name = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
    let namespace = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
    let mut metadata = json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": { "type": "string", "minLength": 1, "maxLength": 253, "pattern": name },
            "namespace": { "type": "string", "minLength": 1, "maxLength": 63, "pattern": namespace },
            "creationTimestamp": { "type": "string" },
            "deletionTimestamp": { "type": "string" },
            "labels": { "type": "object", "additionalProperties": { "type": "string" } },
            "annotations": { "type": "object", "additionalProperties": { "type": "string" } },
        },
    });
    let others = [
        "generateName",
        "selfLink",
        "uid",
        "resourceVersion",
        "generation",
        "deletionGracePeriodSeconds",
        "ownerReferences",
        "finalizers",
        "managedFields",
    ];
    if let Some(properties) = metadata.get_mut("properties").and_then(Value::as_object_mut) {
        properties.extend(others.map(|name| (name.to_owned(), json!({}))));
    }
    metadata
}

#[cfg(test)]
mod tests {
    use router_framework::document::knows_pattern;

    use super::*;

    /// All values of `key` in a schema.
    fn values<'s>(schema: &'s Value, key: &str, found: &mut Vec<&'s Value>) {
        match schema {
            Value::Object(object) => {
                found.extend(object.get(key));
                object.values().for_each(|value| values(value, key, found));
            }
            Value::Array(list) => list.iter().for_each(|value| values(value, key, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_rule_of_the_definitions_is_known() {
        let mut rules = Vec::new();
        for kind in Kind::ALL {
            let schema = kind.schema();
            assert!(schema["properties"]["spec"]["properties"].is_object(), "{kind:?}");
            let mut patterns = Vec::new();
            values(schema, "pattern", &mut patterns);
            assert!(!patterns.is_empty());
            for pattern in patterns.into_iter().filter_map(Value::as_str) {
                assert!(knows_pattern(pattern), "{kind:?}: {pattern}");
            }
            let mut found = Vec::new();
            values(schema, "x-kubernetes-validations", &mut found);
            rules.extend(
                found
                    .into_iter()
                    .flat_map(|all| all.as_array().unwrap())
                    .map(|rule| rule["rule"].as_str().unwrap()),
            );
        }
        // What `read` checks.
        let expected = [
            "self.kind != 'Service' || has(self.port)",
            "self.all(p1, self.exists_one(p2, p1.number==p2.number))",
        ];
        assert_eq!(rules, expected);
    }
}
