//! Numbers that count something.

/// The value of a JSON number that is integral and not negative, up to 2⁵³ if it is written with a fraction or an
/// exponent: `5.0` and `1e3` are counts.
pub fn count(raw: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(raw).ok()?;
    if let Ok(value) = text.parse() {
        return Some(value);
    }
    // Above 2⁵³ a float no longer tells integers apart.
    let value: f64 = text.parse().ok()?;
    let exact = value.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&value);
    exact.then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integral_numbers_count() {
        for (raw, value) in [
            ("0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("5.0", Some(5)),
            ("1e3", Some(1000)),
            ("1.5", None),
            ("-1", None),
            ("-0", Some(0)),
            ("1e400", None),
            ("nan", None),
            ("", None),
        ] {
            assert_eq!(count(raw.as_bytes()), value, "{raw}");
        }
    }
}
