//! Holds the tables of `docs/simulator.md` to the simulator's configuration.

use std::collections::BTreeMap;

use router_sim::server::SimConfig;
use serde_json::Value;

/// Keys of the page's tables, with the defaults that it shows; a row may have several.
fn shown(page: &str) -> BTreeMap<&str, &str> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut shown = BTreeMap::new();
    for row in rows {
        let mut cells = row.split('|').map(str::trim);
        let (Some(keys), Some(defaults)) = (cells.next(), cells.next()) else { continue };
        let keys: Vec<&str> = keys.trim_end_matches('`').split("`, `").collect();
        let defaults: Vec<&str> = match keys.as_slice() {
            [_] => vec![defaults],
            _ => defaults.split(", ").collect(),
        };
        shown.extend(keys.into_iter().zip(defaults));
    }
    shown
}

/// Whether a cell says what the value is. What has no value may be described.
fn says(cell: &str, value: &Value) -> bool {
    let cell = cell.trim_matches('`');
    match value {
        Value::Null => true,
        Value::Array(list) if list.is_empty() => true,
        Value::Object(map) if map.is_empty() => true,
        Value::String(text) => text.is_empty() || cell == text,
        Value::Number(number) => cell.parse().ok() == number.as_f64(),
        Value::Bool(is_on) => cell.parse() == Ok(*is_on),
        Value::Array(_) | Value::Object(_) => cell == format!("{value}"),
    }
}

#[test]
fn the_simulators_page_has_every_key_with_its_default() {
    let page = include_str!("../../../../docs/simulator.md");
    let shown = shown(page);
    let Value::Object(keys) = serde_json::to_value(SimConfig::default()).unwrap() else {
        panic!("a configuration is a map")
    };
    for (key, value) in keys {
        let cell = shown.get(key.as_str()).unwrap_or_else(|| panic!("{key} is not on the page"));
        assert!(says(cell, &value), "{key} is {value}, the page says {cell:?}");
    }
}
