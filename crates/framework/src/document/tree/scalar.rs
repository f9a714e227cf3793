//! What an unquoted YAML scalar means: the YAML 1.1 rules of go-yaml v2, which reads the
//! documents of the Go implementation.

use serde_json::Number;

/// The meaning of an unquoted scalar.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Plain {
    Null,
    Bool(bool),
    Number(Number),
    /// An infinity, not-a-number, or a number beyond what a float holds.
    NotFinite,
    String,
    /// The merge key `<<`.
    Merge,
}

/// Decides what `text` means when it is written without quotes.
pub(crate) fn resolve(text: &str) -> Plain {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Plain::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Plain::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Plain::Bool(false)
        }
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF"
        | "-.inf" | "-.Inf" | "-.INF" => Plain::NotFinite,
        "<<" => Plain::Merge,
        _ if text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) => {
            number(text)
        }
        _ => Plain::String,
    }
}

fn number(text: &str) -> Plain {
    let digits = text.replace('_', "");
    if let Some(number) = integer(&digits) {
        return Plain::Number(number);
    }
    if !is_float(&digits) {
        return Plain::String;
    }
    let float = digits.parse::<f64>().ok().and_then(Number::from_f64);
    float.map_or(Plain::NotFinite, Plain::Number)
}

/// Go's `strconv.ParseInt(text, 0, 64)` and, where that is too narrow, `ParseUint`.
fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let prefixed = |lower: &str, upper: &str| {
        digits.strip_prefix(lower).or_else(|| digits.strip_prefix(upper))
    };
    let (radix, digits) = if let Some(digits) = prefixed("0x", "0X") {
        (16, digits)
    } else if let Some(digits) = prefixed("0o", "0O") {
        (8, digits)
    } else if let Some(digits) = prefixed("0b", "0B") {
        (2, digits)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (8, digits)
    } else {
        (10, digits)
    };
    // `from_str_radix` would take a second sign.
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    if !negative {
        return Some(magnitude.into());
    }
    i64::try_from(-i128::from(magnitude)).ok().map(Number::from)
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (text.get(..at).unwrap_or_default(), text.get(at + 1..)),
        None => (text, None),
    };
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let mantissa_ok = match mantissa.split_once('.') {
        Some((whole, fraction)) => all_digits(whole) && all_digits(fraction) && mantissa.len() > 1,
        None => all_digits(mantissa) && !mantissa.is_empty(),
    };
    let exponent_ok = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        all_digits(digits) && !digits.is_empty()
    });
    mantissa_ok && exponent_ok
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_go_yaml_takes_them_for() {
        let int = |n: i64| Plain::Number(n.into());
        let float = |n: f64| Plain::Number(Number::from_f64(n).unwrap());
        for (text, expected) in [
            ("", Plain::Null),
            ("~", Plain::Null),
            ("null", Plain::Null),
            ("nUll", Plain::String),
            ("yes", Plain::Bool(true)),
            ("On", Plain::Bool(true)),
            ("off", Plain::Bool(false)),
            ("oN", Plain::String),
            ("0", int(0)),
            ("-7", int(-7)),
            ("+7", int(7)),
            ("1_000", int(1000)),
            ("0x1F", int(31)),
            ("-0x1F", int(-31)),
            ("0755", int(493)),
            ("0o755", int(493)),
            ("0b101", int(5)),
            ("089", float(89.0)),
            ("18446744073709551615", Plain::Number(u64::MAX.into())),
            ("18446744073709551616", float(18446744073709551616.0)),
            ("-9223372036854775808", int(i64::MIN)),
            ("1.5", float(1.5)),
            (".5", float(0.5)),
            ("5.", float(5.0)),
            ("1e3", float(1000.0)),
            ("-1.5E-3", float(-0.0015)),
            ("1e400", Plain::NotFinite),
            (".inf", Plain::NotFinite),
            ("-.INF", Plain::NotFinite),
            (".nan", Plain::NotFinite),
            (".", Plain::String),
            ("-", Plain::String),
            ("--5", Plain::String),
            ("0x", Plain::String),
            ("0x+5", Plain::String),
            ("1e", Plain::String),
            ("1.2.3", Plain::String),
            ("10.0.0.1", Plain::String),
            ("50ms", Plain::String),
            ("1Gi", Plain::String),
            ("2001-01-01", Plain::String),
            ("<<", Plain::Merge),
            ("${MODEL_NAME}", Plain::String),
        ] {
            assert_eq!(resolve(text), expected, "{text:?}");
        }
    }
}
