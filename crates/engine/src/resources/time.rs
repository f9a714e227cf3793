//! Times as Kubernetes writes them.

const SECONDS_PER_DAY: i64 = 86_400;

/// Seconds since 1970 of a time such as `2026-01-31T08:00:00Z` (RFC 3339). Fractions of a second are dropped:
/// an API server writes none.
pub(super) fn unix_seconds(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let [year, month, day] = numbers(date, '-')?;
    if !(1..=12).contains(&month) || !(1..=days_in_month(year, month)).contains(&day) {
        return None;
    }
    let at_offset = time.find(['Z', 'z', '+', '-'])?;
    let (clock, offset) = time.split_at_checked(at_offset)?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let [hour, minute, second] = numbers(clock, ':')?;
    // A leap second counts as the one after it.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = days_since_1970(year, month, day) * SECONDS_PER_DAY;
    Some(seconds + hour * 3600 + minute * 60 + second - offset_seconds(offset)?)
}

/// What a local time is ahead of UTC.
fn offset_seconds(offset: &str) -> Option<i64> {
    if offset.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let ahead = if offset.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let (hours, minutes) = (number(hours, 2)?, number(minutes, 2)?);
    (hours < 24 && minutes < 60).then_some(ahead * (hours * 3600 + minutes * 60))
}

/// Three numbers, the first of which is a year or an hour.
fn numbers(text: &str, separator: char) -> Option<[i64; 3]> {
    let mut parts = text.split(separator);
    let first_digits = if separator == '-' { 4 } else { 2 };
    let numbers = [
        number(parts.next()?, first_digits)?,
        number(parts.next()?, 2)?,
        number(parts.next()?, 2)?,
    ];
    parts.next().is_none().then_some(numbers)
}

fn number(text: &str, n_digits: usize) -> Option<i64> {
    let is_number = text.len() == n_digits && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Of the Gregorian calendar, which begins its years in March here so that a leap day is the last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    // 719,468 days from the first of March of the year 0.
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year
        - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_since_1970() {
        // Each as `date -u -d … +%s` says.
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-01-31T08:00:00Z", 1_769_846_400),
            ("2024-02-29T23:59:59Z", 1_709_251_199),
            ("2000-03-01T00:00:00Z", 951_868_800),
            ("1969-12-31T23:59:59Z", -1),
            ("2026-01-31T08:00:00.987654Z", 1_769_846_400),
            ("2026-01-31t10:30:00+02:30", 1_769_846_400),
            ("2026-01-31 06:00:00-02:00", 1_769_846_400),
            ("0000-03-01T00:00:00Z", -62_162_035_200),
        ] {
            assert_eq!(unix_seconds(text), Some(seconds), "{text}");
        }
        for text in [
            "",
            "2026-01-31",
            "2026-01-31T08:00:00",
            "2026-02-29T08:00:00Z",
            "2026-13-01T08:00:00Z",
            "2026-00-01T08:00:00Z",
            "2026-01-00T08:00:00Z",
            "2026-01-31T24:00:00Z",
            "2026-01-31T08:60:00Z",
            "2026-01-31T08:00Z",
            "2026-1-31T08:00:00Z",
            "2026-01-31T08:00:00.Z",
            "2026-01-31T08:00:00+2",
            "2026-01-31T08:00:00+24:00",
            "2026-01-31T08:00:00Zé",
            "yesterday",
            "+026-01-31T08:00:00Z",
        ] {
            assert_eq!(unix_seconds(text), None, "{text}");
        }
    }
}
