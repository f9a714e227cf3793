//! `1m30s`, `1.5h`, `200ms`: Go's `time.Duration` as text.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{DURATION_FORMAT, UnitError};
use crate::document::diagnostics::quote;

/// A span of time written as a Go duration string: a list of decimal numbers with a unit each,
/// `ns`, `us`, `ms`, `s`, `m` or `h`. May be negative, as in Go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GoDuration {
    nanos: i64,
}

/// Units with their nanoseconds. Both letters that look like a micro sign are in use.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl GoDuration {
    /// From nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self { nanos }
    }

    /// From whole milliseconds; the longest duration where there are too many.
    pub const fn from_millis(millis: i64) -> Self {
        Self { nanos: millis.saturating_mul(1_000_000) }
    }

    /// In nanoseconds.
    pub const fn nanos(self) -> i64 {
        self.nanos
    }

    /// As a duration that cannot be negative; `None` where this one is.
    pub fn to_std(self) -> Option<Duration> {
        u64::try_from(self.nanos).ok().map(Duration::from_nanos)
    }
}

/// The longest Go duration, 292 years, where `duration` is longer.
impl From<Duration> for GoDuration {
    fn from(duration: Duration) -> Self {
        Self { nanos: i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX) }
    }
}

/// As Go's `time.ParseDuration`.
impl FromStr for GoDuration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = |why: &str| UnitError::new(format!("{} is not a duration: {why}", quote(text)));
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Ok(Self::default());
        }
        if rest.is_empty() {
            return Err(bad("it is empty"));
        }
        let mut sum: u64 = 0;
        while !rest.is_empty() {
            let (number, after) = split(rest, |c| c.is_ascii_digit() || c == '.');
            let (unit, after) = split(after, |c| !c.is_ascii_digit() && c != '.');
            rest = after;
            if number.is_empty() {
                return Err(bad("a number is missing"));
            }
            if unit.is_empty() {
                return Err(bad("a unit is missing"));
            }
            let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
                return Err(bad(&format!("unknown unit {}", quote(unit))));
            };
            let part = scaled(number, *scale).ok_or_else(|| bad("it is no number or too long"))?;
            sum = sum.checked_add(part).ok_or_else(|| bad("it is too long"))?;
        }
        let signed = if negative { -i128::from(sum) } else { i128::from(sum) };
        i64::try_from(signed).map(Self::from_nanos).map_err(|_| bad("it is too long"))
    }
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

/// `number` × `scale`, rounded down to whole nanoseconds.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // 15 digits of a fraction of an hour are below a nanosecond.
    let kept = fraction.get(..fraction.len().min(15)).unwrap_or_default();
    let numerator: u128 = if kept.is_empty() { 0 } else { kept.parse().ok()? };
    let part = numerator * u128::from(scale) / 10_u128.pow(kept.len() as u32);
    whole.checked_mul(scale)?.checked_add(u64::try_from(part).ok()?)
}

/// As Go's `Duration.String`: `1m30s`, `1.5s`, `200ms`, `0s`.
impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SECOND: u64 = 1_000_000_000;
        let sign = if self.nanos < 0 { "-" } else { "" };
        let nanos = self.nanos.unsigned_abs();
        let (unit, scale) = match nanos {
            0 => return f.write_str("0s"),
            1..1_000 => ("ns", 1),
            1_000..1_000_000 => ("µs", 1_000),
            1_000_000..SECOND => ("ms", 1_000_000),
            _ => ("s", SECOND),
        };
        if scale < SECOND {
            return write!(f, "{sign}{}{unit}", decimal(nanos, scale));
        }
        let (hours, minutes) = (nanos / (3600 * SECOND), nanos / (60 * SECOND) % 60);
        f.write_str(sign)?;
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        write!(f, "{}s", decimal(nanos % (60 * SECOND), SECOND))
    }
}

/// `nanos` ÷ `scale` without trailing zeros.
fn decimal(nanos: u64, scale: u64) -> String {
    let fraction = nanos % scale;
    if fraction == 0 {
        return (nanos / scale).to_string();
    }
    let width = scale.ilog10() as usize;
    format!("{}.{}", nanos / scale, format!("{fraction:0width$}").trim_end_matches('0'))
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for GoDuration {
    fn schema_name() -> Cow<'static, str> {
        "GoDuration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": DURATION_FORMAT,
            "examples": ["200ms", "1m30s", "1.5h"],
        })
    }
}

/// A span of time written as a number of seconds, such as `0.5`; never negative.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct FloatSeconds(pub Duration);

impl<'de> Deserialize<'de> for FloatSeconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        let message = || D::Error::custom(format!("{seconds} is not a number of seconds"));
        Duration::try_from_secs_f64(seconds).map(Self).map_err(|_| message())
    }
}

impl Serialize for FloatSeconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0.as_secs_f64())
    }
}

impl JsonSchema for FloatSeconds {
    fn schema_name() -> Cow<'static, str> {
        "FloatSeconds".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": 0 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_read_and_print_as_in_go() {
        for (text, nanos, printed) in [
            ("0", 0, "0s"),
            ("-0", 0, "0s"),
            ("5ns", 5, "5ns"),
            ("1.5us", 1_500, "1.5µs"),
            ("3µs", 3_000, "3µs"),
            ("3μs", 3_000, "3µs"),
            ("200ms", 200_000_000, "200ms"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("1m30s", 90_000_000_000, "1m30s"),
            ("90s", 90_000_000_000, "1m30s"),
            ("1.5h", 5_400_000_000_000, "1h30m0s"),
            ("1h", 3_600_000_000_000, "1h0m0s"),
            (".5s", 500_000_000, "500ms"),
            ("1.s", 1_000_000_000, "1s"),
            ("-1m", -60_000_000_000, "-1m0s"),
            ("+2s", 2_000_000_000, "2s"),
            ("0.3333333333333333333h", 1_200_000_000_000 - 1, "19m59.999999999s"),
            ("2562047h47m16.854775807s", i64::MAX, "2562047h47m16.854775807s"),
            ("-2562047h47m16.854775808s", i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            let duration: GoDuration = text.parse().expect(text);
            assert_eq!(duration.nanos(), nanos, "{text}");
            assert_eq!(duration.to_string(), printed, "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_says_why() {
        for (text, why) in [
            ("", "`` is not a duration: it is empty"),
            ("5", "`5` is not a duration: a unit is missing"),
            ("1m30", "`1m30` is not a duration: a unit is missing"),
            ("ms", "`ms` is not a duration: a number is missing"),
            ("1d", "`1d` is not a duration: unknown unit `d`"),
            ("1 s", "`1 s` is not a duration: unknown unit ` s`"),
            (".s", "`.s` is not a duration: it is no number or too long"),
            ("1.2.3s", "`1.2.3s` is not a duration: it is no number or too long"),
            ("99999999999h", "`99999999999h` is not a duration: it is no number or too long"),
            ("2562048h", "`2562048h` is not a duration: it is too long"),
        ] {
            let error = text.parse::<GoDuration>().expect_err(text);
            assert_eq!(error.to_string(), why);
        }
    }

    proptest! {
        #[test]
        fn printed_durations_read_back(nanos: i64) {
            let duration = GoDuration::from_nanos(nanos);
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }
    }
}
