//! Numbers, texts and names against their schema, and how types are called in messages.

use super::{
    DURATION_FORMAT, Diagnostics, GoDuration, Json, JsonMap, Node, Path, QUANTITY_FORMAT, Quantity,
    Value, de, patterns, quote, suggest,
};

pub(super) fn check(
    node: &Node,
    schema: &JsonMap<String, Json>,
    path: &Path<'_>,
    out: &mut Diagnostics,
) {
    let names = match (schema.get("const"), schema.get("enum")) {
        (Some(Json::String(name)), _) => vec![name.as_str()],
        (None, Some(Json::Array(names))) => names.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    };
    if !names.is_empty() {
        one_of(node, &names, path, out);
    }
    let format = schema.get("format").and_then(Json::as_str).unwrap_or_default();
    match &node.value {
        Value::Number(number) => {
            bounds(node, schema, path, out);
            if format == QUANTITY_FORMAT {
                has_format::<Quantity>(node, &number.to_string(), path, out);
            }
        }
        Value::String(text) => {
            let least = schema.get("minLength").and_then(Json::as_u64);
            let most = schema.get("maxLength").and_then(Json::as_u64).unwrap_or(u64::MAX);
            let n_chars = text.chars().count() as u64;
            let pattern = schema.get("pattern").and_then(Json::as_str).and_then(patterns::find);
            if text.is_empty() && least > Some(0) {
                out.error(node.span, path, "must not be empty", || None);
            } else if n_chars > most {
                let message = format!("{n_chars} characters are more than the {most} allowed");
                out.error(node.span, path, message, || None);
            } else if let Some(pattern) = pattern.filter(|pattern| !(pattern.fits)(text)) {
                let message = format!("{} is not {}", quote(text), pattern.what);
                out.error(node.span, path, message, || None);
            } else if format == DURATION_FORMAT {
                has_format::<GoDuration>(node, text, path, out);
            } else if format == QUANTITY_FORMAT {
                has_format::<Quantity>(node, text, path, out);
            }
        }
        Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => {}
    }
}

/// Reports a node that is none of `names`.
pub(super) fn one_of(node: &Node, names: &[&str], path: &Path<'_>, out: &mut Diagnostics) {
    let Some(text) = node.as_str() else {
        let listed: Vec<_> = names.iter().map(|name| quote(name)).collect();
        let message = format!("expected one of {}, found {}", listed.join(", "), found(node));
        out.error(node.span, path, message, || None);
        return;
    };
    if !names.contains(&text) {
        out.error(node.span, path, de::not_one_of(text, names), || {
            suggest::did_you_mean(text, names.iter().copied())
        });
    }
}

fn bounds(node: &Node, schema: &JsonMap<String, Json>, path: &Path<'_>, out: &mut Diagnostics) {
    let Some(value) = node.as_f64() else { return };
    let limit = |key| schema.get(key).and_then(Json::as_f64);
    let mut wrong = |fits: Option<bool>, rule: &str, limit: Option<f64>| {
        if let (Some(false), Some(limit)) = (fits, limit) {
            out.error(node.span, path, format!("{value} is not {rule} {limit}"), || None);
        }
    };
    let (minimum, maximum) = (limit("minimum"), limit("maximum"));
    let (above, below) = (limit("exclusiveMinimum"), limit("exclusiveMaximum"));
    wrong(minimum.map(|limit| value >= limit), "at least", minimum);
    wrong(maximum.map(|limit| value <= limit), "at most", maximum);
    wrong(above.map(|limit| value > limit), "greater than", above);
    wrong(below.map(|limit| value < limit), "less than", below);
}

fn has_format<T: std::str::FromStr<Err: std::fmt::Display>>(
    node: &Node,
    text: &str,
    path: &Path<'_>,
    out: &mut Diagnostics,
) {
    if let Err(error) = text.parse::<T>() {
        out.error(node.span, path, error.to_string(), || None);
    }
}

/// What a schema wants, with its article.
pub(super) fn expected(types: &[&str], format: Option<&str>) -> String {
    match format {
        Some(DURATION_FORMAT) => return "a duration such as `200ms`".to_owned(),
        Some(QUANTITY_FORMAT) => return "a quantity such as `10` or `1Gi`".to_owned(),
        _ => {}
    }
    let names: Vec<_> = types
        .iter()
        .filter(|name| types.len() == 1 || **name != "null")
        .map(|name| match *name {
            "null" => "null",
            "boolean" => "a boolean",
            "integer" => "a whole number",
            "number" => "a number",
            "string" => "a string",
            "array" => "a list",
            "object" => "a map",
            other => other,
        })
        .collect();
    names.join(" or ")
}

/// What a node is, with its value where that is short.
pub(super) fn found(node: &Node) -> String {
    match &node.value {
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the string {}", quote(text)),
        Value::Null | Value::List(_) | Value::Map(_) => node.kind().to_owned(),
    }
}

/// What to do about a value of another type, where that can be guessed.
pub(super) fn type_help(node: &Node, types: &[&str], format: Option<&str>) -> Option<String> {
    let wants = |name| types.contains(&name);
    Some(match &node.value {
        Value::Number(number) if format == Some(DURATION_FORMAT) => {
            format!("write a unit: `{number}s` or `{number}ms`")
        }
        Value::Bool(_) | Value::Number(_) if wants("string") && format.is_none() => {
            de::QUOTE_IT.to_owned()
        }
        Value::String(text)
            if (wants("number") || wants("integer")) && text.parse::<f64>().is_ok() =>
        {
            "leave the quotes out to make it a number".to_owned()
        }
        Value::String(text) if wants("boolean") && ["true", "false"].contains(&text.as_str()) => {
            "leave the quotes out to make it a boolean".to_owned()
        }
        Value::Map(_) | Value::String(_) if wants("array") => {
            "start every entry of the list with `- `".to_owned()
        }
        _ => return None,
    })
}
