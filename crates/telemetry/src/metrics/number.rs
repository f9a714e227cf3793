//! Floats as Go's `strconv.FormatFloat(f, 'g', -1, 64)` writes them, since dashboards and diffs
//! were made against Go's page.

use std::fmt::Write;

/// Appends `value` as the classic text format shows it.
pub(super) fn write_float(out: &mut String, value: f64) {
    if value.is_nan() {
        out.push_str("NaN");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    } else if value == 0.0 {
        out.push('0');
    } else {
        write_finite(out, value);
    }
}

/// Appends `value` as OpenMetrics shows it: always recognisable as a float.
pub(super) fn write_open_metrics_float(out: &mut String, value: f64) {
    let start = out.len();
    write_float(out, value);
    let written = out.get(start..).unwrap_or_default();
    if !written.bytes().any(|byte| matches!(byte, b'e' | b'.' | b'n' | b'N')) {
        out.push_str(".0");
    }
}

/// Go prints the shortest digits that read back as the same value, with an exponent when it is
/// below -4 or at least 6.
fn write_finite(out: &mut String, value: f64) {
    // Rust's `{:e}` gives the same shortest digits, as `d.ddde-x`.
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        // `Display` never uses an exponent, and infallibly writes to a string.
        let _infallible = write!(out, "{value}");
        return;
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    let _infallible = write!(out, "{mantissa}e{sign}{:02}", exponent.abs());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_go_writes() {
        let table: &[(f64, &str, &str)] = &[
            (0.0, "0", "0.0"),
            (1.0, "1", "1.0"),
            (-1.0, "-1", "-1.0"),
            (0.1, "0.1", "0.1"),
            (0.0001, "0.0001", "0.0001"),
            (0.00001, "1e-05", "1e-05"),
            (6.5207e-5, "6.5207e-05", "6.5207e-05"),
            (5.3731000000000004e-05, "5.3731000000000004e-05", "5.3731000000000004e-05"),
            (0.09334177400000028, "0.09334177400000028", "0.09334177400000028"),
            (6468.0, "6468", "6468.0"),
            (32778.0, "32778", "32778.0"),
            (131_072.0, "131072", "131072.0"),
            (1_048_576.0, "1.048576e+06", "1.048576e+06"),
            (1_000_000.0, "1e+06", "1e+06"),
            (999_999.0, "999999", "999999.0"),
            (123_456_789.0, "1.23456789e+08", "1.23456789e+08"),
            (1_073_741_824.0, "1.073741824e+09", "1.073741824e+09"),
            (1234567.5, "1.2345675e+06", "1.2345675e+06"),
            (1e21, "1e+21", "1e+21"),
            (1e100, "1e+100", "1e+100"),
            (f64::NAN, "NaN", "NaN"),
            (f64::INFINITY, "+Inf", "+Inf"),
            (f64::NEG_INFINITY, "-Inf", "-Inf"),
        ];
        for (value, classic, open_metrics) in table {
            let (mut a, mut b) = (String::new(), String::new());
            write_float(&mut a, *value);
            write_open_metrics_float(&mut b, *value);
            assert_eq!((a.as_str(), b.as_str()), (*classic, *open_metrics));
        }
    }
}
