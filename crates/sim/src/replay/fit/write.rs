//! A fit as a pool file.

use std::fmt::Write;

use serde_json::Value;

use super::{Fit, Judgement, Kind, Origin};
use crate::model::Profile;

/// Keys that the fit never says anything about; their defaults are left out of the file.
const UNTOLD: [&str; 4] = ["max-waiting-queue-length", "lora-load-us", "step-noise", "time-factor"];

/// Counts of tokens that differ by more than this are not the same.
const UNEQUAL_TOKENS: f64 = 0.02;

/// The pool file, with comments on where its values come from.
pub fn to_yaml(fit: &Fit) -> String {
    let mut text = String::new();
    let Judgement { ttft, e2e, .. } = fit.overall;
    line(
        &mut text,
        format_args!("# Servers fitted to a recorded trace by `llm-d-router replay fit`."),
    );
    line(
        &mut text,
        format_args!(
            "# On {} requests that it was not fitted to, the median error of first tokens is {:.1} %,\n\
             # of whole requests {:.1} %.",
            e2e.n,
            ttft.median * 100.0,
            e2e.median * 100.0
        ),
    );
    for fault in fit.faults() {
        // Names come from the record.
        let fault: String = fault.to_string().chars().filter(|c| !c.is_control()).collect();
        line(&mut text, format_args!("# Not good enough to compare policies: {fault}."));
    }
    if let Some(ratio) = fit.token_ratio.filter(|ratio| (ratio - 1.0).abs() > UNEQUAL_TOKENS) {
        line(
            &mut text,
            format_args!(
                "# Tokens of prompts, and so of the cache, are those of the trace: {ratio:.2} of them\n\
                 # are one of the servers'. Use it with traces that count as that one does."
            ),
        );
    }
    text += "servers:\n";
    for kind in &fit.kinds {
        write_kind(&mut text, kind);
    }
    text
}

fn write_kind(text: &mut String, kind: &Kind) {
    for endpoint in &kind.endpoints {
        let shown: String = endpoint.chars().filter(|c| !c.is_control()).collect();
        line(text, format_args!("# {shown}"));
    }
    line(text, format_args!("- name: {}", kind.name));
    line(text, format_args!("  count: {}", kind.endpoints.len().max(1)));
    line(text, format_args!("  profile:"));
    let (Ok(Value::Object(values)), Ok(Value::Object(defaults))) =
        (serde_json::to_value(&kind.profile), serde_json::to_value(Profile::default()))
    else {
        return;
    };
    for (key, origin) in &kind.origins {
        if let Some(value) = values.get(*key) {
            line(text, format_args!("    {key}: {value}  # {}", told(*origin)));
        }
    }
    for (key, value) in &values {
        let is_listed = kind.origins.iter().any(|(listed, _)| listed == key);
        if !is_listed && defaults.get(key) != Some(value) {
            line(text, format_args!("    {key}: {value}"));
        }
    }
    line(text, format_args!("    # Not told by any record, and so left at their defaults:"));
    line(text, format_args!("    # {}", UNTOLD.join(", ")));
}

fn told(origin: Origin) -> String {
    match origin {
        Origin::Record { error: Some(error) } => {
            format!("from the record, ±{}", shown(error))
        }
        Origin::Record { error: None } => "from the record".to_owned(),
        Origin::AtLeast => "at least this: the record never fills it".to_owned(),
        Origin::Default { slowness: 1.0 } => "default: the record does not tell".to_owned(),
        Origin::Default { slowness } => {
            format!("the record does not tell: near the default times {slowness:.2}")
        }
    }
}

/// Two digits.
fn shown(value: f64) -> String {
    let n_digits = if value > 0.0 { (1.0 - value.log10().floor()).clamp(0.0, 9.0) } else { 0.0 };
    format!("{value:.*}", n_digits as usize)
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    let _writing_to_a_string_cannot_fail = writeln!(text, "{line}");
}
