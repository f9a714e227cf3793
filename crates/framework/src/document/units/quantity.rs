//! `1Gi`, `500M`, `10`, `1e3`: Kubernetes' `resource.Quantity`.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, Visitor},
};

use super::{QUANTITY_FORMAT, UnitError};
use crate::document::diagnostics::quote;

/// An amount with an optional decimal (`k`, `M`, `G`, …) or binary (`Ki`, `Mi`, `Gi`, …) suffix.
/// Keeps its text; the amount is a whole number, rounded away from zero as Kubernetes does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantity {
    text: String,
    value: i64,
}

/// No sensible amount is written with more characters.
const MAX_CHARS: usize = 64;

/// What a suffix multiplies by: a power of ten or of two.
enum Scale {
    Ten(i32),
    Two(u32),
}

impl Quantity {
    /// The amount.
    pub fn value(&self) -> i64 {
        self.value
    }
}

impl From<i64> for Quantity {
    fn from(value: i64) -> Self {
        Self { text: value.to_string(), value }
    }
}

impl FromStr for Quantity {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = |why: &str| UnitError::new(format!("{} is not a quantity: {why}", quote(text)));
        if text.len() > MAX_CHARS {
            return Err(bad("it is too long"));
        }
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, suffix) = unsigned.split_at(end.unwrap_or(unsigned.len()));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = [whole, fraction].concat();
        if digits.is_empty() || fraction.contains('.') {
            return Err(bad("it does not start with a number"));
        }
        let scale =
            scale(suffix).ok_or_else(|| bad(&format!("unknown suffix {}", quote(suffix))))?;
        let magnitude = magnitude(&digits, fraction.len() as i32, &scale);
        let signed = magnitude.map(|value| if negative { -value } else { value });
        let value = signed.and_then(|value| i64::try_from(value).ok());
        let value = value.ok_or_else(|| bad("it is too large"))?;
        Ok(Self { text: text.to_owned(), value })
    }
}

fn scale(suffix: &str) -> Option<Scale> {
    Some(match suffix {
        "" => Scale::Ten(0),
        "n" => Scale::Ten(-9),
        "u" => Scale::Ten(-6),
        "m" => Scale::Ten(-3),
        "k" => Scale::Ten(3),
        "M" => Scale::Ten(6),
        "G" => Scale::Ten(9),
        "T" => Scale::Ten(12),
        "P" => Scale::Ten(15),
        "E" => Scale::Ten(18),
        "Ki" => Scale::Two(10),
        "Mi" => Scale::Two(20),
        "Gi" => Scale::Two(30),
        "Ti" => Scale::Two(40),
        "Pi" => Scale::Two(50),
        "Ei" => Scale::Two(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            Scale::Ten(exponent.parse().ok()?)
        }
    })
}

/// `digits` ÷ 10^`n_fraction` × `scale`, rounded up; `None` where it is beyond all bounds.
fn magnitude(digits: &str, n_fraction: i32, scale: &Scale) -> Option<i128> {
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    let mantissa: u128 = digits.parse().ok()?;
    let (mantissa, exponent) = match *scale {
        Scale::Two(bits) => (mantissa.checked_mul(1 << bits)?, -n_fraction),
        Scale::Ten(exponent) => (mantissa, exponent.checked_sub(n_fraction)?),
    };
    let value = match 10_u128.checked_pow(exponent.unsigned_abs()) {
        Some(power) if exponent >= 0 => mantissa.checked_mul(power)?,
        Some(power) => mantissa.div_ceil(power),
        None if exponent >= 0 => return None,
        None => 1,
    };
    i128::try_from(value).ok()
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// From text or from a bare number.
impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FromAny;

        impl Visitor<'_> for FromAny {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity such as `10` or `1Gi`")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Quantity, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Quantity, E> {
                Ok(value.into())
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Quantity, E> {
                self.visit_str(&value.to_string())
            }

            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Quantity, E> {
                self.visit_str(&value.to_string())
            }
        }

        deserializer.deserialize_any(FromAny).map_err(D::Error::custom)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "number"],
            "format": QUANTITY_FORMAT,
            "examples": ["10", "500M", "1Gi"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for (text, value) in [
            ("0", 0),
            ("10", 10),
            ("+10", 10),
            ("-10", -10),
            ("500M", 500_000_000),
            ("1k", 1_000),
            ("1Ki", 1_024),
            ("1Gi", 1 << 30),
            ("1.5Gi", 3 << 29),
            ("7Ei", 7 << 60),
            ("9E", 9_000_000_000_000_000_000),
            ("1e3", 1_000),
            ("1E3", 1_000),
            ("1e-3", 1),
            ("100m", 1),
            ("-100m", -1),
            ("1500m", 2),
            (".5", 1),
            ("5.", 5),
            ("0.000000000000000000000000000000000000000000001", 1),
            ("0e999999999", 0),
            ("9223372036854775807", i64::MAX),
        ] {
            let quantity: Quantity = text.parse().expect(text);
            assert_eq!(quantity.value(), value, "{text}");
            assert_eq!(quantity.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_quantity_says_why() {
        for (text, why) in [
            ("", "`` is not a quantity: it does not start with a number"),
            ("Gi", "`Gi` is not a quantity: it does not start with a number"),
            ("1.2.3", "`1.2.3` is not a quantity: it does not start with a number"),
            ("1GB", "`1GB` is not a quantity: unknown suffix `GB`"),
            ("1K", "`1K` is not a quantity: unknown suffix `K`"),
            ("1 Gi", "`1 Gi` is not a quantity: unknown suffix ` Gi`"),
            ("8Ei", "`8Ei` is not a quantity: it is too large"),
            ("1e30", "`1e30` is not a quantity: it is too large"),
            ("1e999999999", "`1e999999999` is not a quantity: it is too large"),
            ("1e9999999999", "`1e9999999999` is not a quantity: unknown suffix `e9999999999`"),
        ] {
            let error = text.parse::<Quantity>().expect_err(text);
            assert_eq!(error.to_string(), why);
        }
        let long = "1".repeat(1_000_000);
        assert!(long.parse::<Quantity>().expect_err("").to_string().ends_with("it is too long"));
    }

    #[test]
    fn bare_numbers_are_quantities_too() {
        for (json, text, value) in
            [("10", "10", 10), ("1e3", "1000", 1000), ("1.5", "1.5", 2), ("\"1Ki\"", "1Ki", 1024)]
        {
            let quantity: Quantity = serde_json::from_str(json).expect(json);
            assert_eq!((quantity.to_string().as_str(), quantity.value()), (text, value));
        }
    }
}
