//! Label selectors as Kubernetes defines them.

use std::collections::BTreeMap;

use router_core::{Endpoint, Position};
use router_framework::{BuildError, Filter, FilterKind, RequestCx};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest label name and value (Kubernetes' limits).
const MAX_NAME: usize = 63;
/// Longest prefix of a label key.
const MAX_PREFIX: usize = 253;

/// Parameters of the selector filters: a Kubernetes `LabelSelector`, inline. All parts must match; an empty
/// selector matches every endpoint.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct LabelSelector {
    /// Labels that the endpoint must have with exactly these values.
    pub(crate) match_labels: BTreeMap<String, String>,
    /// Conditions on labels.
    pub(crate) match_expressions: Vec<MatchExpression>,
}

/// A condition on one label.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct MatchExpression {
    /// The label's key.
    pub(crate) key: String,
    /// What must hold. `NotIn` holds for an endpoint without the label, too.
    pub(crate) operator: Operator,
    /// Values for `In` and `NotIn`, at least one; none for the others.
    #[serde(default)]
    pub(crate) values: Vec<String>,
}

/// What a [`MatchExpression`] asks of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// Keeps the endpoints whose labels match.
#[derive(Debug)]
pub(crate) struct SelectorFilter {
    selector: LabelSelector,
}

// === impl LabelSelector ===

impl LabelSelector {
    /// Checks keys, values and the values that each operator needs.
    fn check(&self) -> Result<(), BuildError> {
        for (key, value) in &self.match_labels {
            let path = || format!("matchLabels.{key}");
            check_key(key).map_err(|why| BuildError::at(path(), why))?;
            check_value(value).map_err(|why| BuildError::at(path(), why))?;
        }
        for (at, expression) in self.match_expressions.iter().enumerate() {
            let path = |field: &str| format!("matchExpressions[{at}].{field}");
            check_key(&expression.key).map_err(|why| BuildError::at(path("key"), why))?;
            let needs_values = matches!(expression.operator, Operator::In | Operator::NotIn);
            if needs_values && expression.values.is_empty() {
                return Err(BuildError::at(path("values"), "In and NotIn need at least one value"));
            }
            if !needs_values && !expression.values.is_empty() {
                return Err(BuildError::at(
                    path("values"),
                    "Exists and DoesNotExist take no values",
                ));
            }
            for (nth, value) in expression.values.iter().enumerate() {
                let path = format!("matchExpressions[{at}].values[{nth}]");
                check_value(value).map_err(|why| BuildError::at(path, why))?;
            }
        }
        Ok(())
    }

    fn matches(&self, endpoint: &Endpoint) -> bool {
        let labels = self
            .match_labels
            .iter()
            .all(|(key, value)| endpoint.label(key) == Some(value.as_str()));
        labels && self.match_expressions.iter().all(|expression| expression.holds(endpoint))
    }
}

impl MatchExpression {
    fn holds(&self, endpoint: &Endpoint) -> bool {
        let label = endpoint.label(&self.key);
        let listed = |value: &str| self.values.iter().any(|listed| listed == value);
        match self.operator {
            Operator::In => label.is_some_and(listed),
            Operator::NotIn => !label.is_some_and(listed),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
        }
    }
}

// === impl SelectorFilter ===

impl SelectorFilter {
    pub(crate) fn new(selector: LabelSelector) -> Result<Self, BuildError> {
        selector.check()?;
        Ok(Self { selector })
    }
}

impl Filter for SelectorFilter {
    fn kind(&self) -> FilterKind {
        FilterKind::Constraint
    }

    fn filter(&self, cx: &RequestCx<'_>, positions: &mut Vec<Position>) {
        positions
            .retain(|&at| cx.endpoint(at).is_some_and(|endpoint| self.selector.matches(endpoint)));
    }
}

/// `name` or `prefix/name`.
fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let domain = |prefix: &str| {
        prefix.len() <= MAX_PREFIX
            && prefix.split('.').all(|part| {
                is_enclosed(part, |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit(), b"-")
            })
    };
    if prefix.is_none_or(domain) && is_name(name) {
        return Ok(());
    }
    Err(format!(
        "{key:?} is not a label key: [DNS name/]letters, digits, '-', '_', '.', at most 63"
    ))
}

fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_name(value) {
        return Ok(());
    }
    Err(format!("{value:?} is not a label value: letters, digits, '-', '_', '.', at most 63"))
}

fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME && is_enclosed(text, |byte| byte.is_ascii_alphanumeric(), b"-_.")
}

/// Whether the text starts and ends with an `outer` byte and has only `outer` and `inner` ones between.
fn is_enclosed(text: &str, outer: impl Fn(u8) -> bool, inner: &[u8]) -> bool {
    let ends = text.bytes().next().is_some_and(&outer) && text.bytes().last().is_some_and(&outer);
    ends && text.bytes().all(|byte| outer(byte) || inner.contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_follow_kubernetes() {
        for key in ["role", "llm-d.ai/role", "a/b_c.d-e", "A1"] {
            assert_eq!(check_key(key), Ok(()), "{key}");
        }
        let long = "x".repeat(64);
        for key in ["", "/role", "llm-d.ai/", "UPPER.case/x", "-a", "a-", "a b", "a/b/c", &long] {
            assert!(check_key(key).is_err(), "{key}");
        }
        assert_eq!(check_value(""), Ok(()));
        assert!(check_value("a b").is_err() && check_value(&long).is_err());
    }
}
