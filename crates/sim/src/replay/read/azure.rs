//! Azure's LLM inference traces: arrivals and lengths. There is no text and nothing that stands for it, so every
//! prompt is unlike all others, and nothing of it is found cached.

use std::io::BufRead;

use router_core::Stamp;

use super::{CUT_OFF, Fault, Lines, Rows, nanos};
use crate::replay::trace::{Start, TraceRequest};

/// How such a file begins.
pub(super) const FIRST_COLUMN: &str = "TIMESTAMP";
const COLUMNS: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";
/// What engines have by default.
const BLOCK_TOKENS: u32 = 16;

pub(super) fn read<R: BufRead>(lines: &mut Lines<R>, rows: &mut Rows) -> Result<(), Fault> {
    rows.trace.block_tokens = BLOCK_TOKENS;
    let header = lines.text()?;
    if header != COLUMNS {
        return Err(Fault::Syntax(format!("expected the columns `{COLUMNS}`")));
    }
    let mut first = None;
    let mut next_id = 0;
    while !rows.is_full() && lines.next()? {
        let text = lines.text()?;
        if lines.is_open() && breaks_off(text) {
            rows.note(CUT_OFF.to_owned());
            break;
        }
        let (time, prompt_tokens, output_tokens) = row(text)?;
        let since_first = time - *first.get_or_insert(time);
        let at = u64::try_from(since_first).map_err(|_| {
            Fault::Syntax("the time is before that of the first request, or long after".to_owned())
        })?;
        nanos("the time after the first request", at as f64 / 1e9)?;
        let n_blocks = u64::from(prompt_tokens.saturating_add(output_tokens) / BLOCK_TOKENS);
        let ids = next_id..next_id + n_blocks.min(super::MAX_BLOCK_IDS as u64 + 1);
        next_id = ids.end;
        rows.push(TraceRequest {
            start: Start::At(Stamp::from_nanos(at)),
            chain: ids.collect(),
            prompt_tokens,
            output_tokens,
            tenant: None,
            priority: 0,
            lora: None,
            streams: true,
            max_output_tokens: None,
            n_sequences: 1,
            observed: None,
        })?;
    }
    rows.sort();
    Ok(())
}

/// Whether a line without end lacks fields. In the middle of its last number nobody can tell.
fn breaks_off(line: &str) -> bool {
    let n_fields = COLUMNS.split(',').count();
    line.split(',').count() < n_fields || line.ends_with(',')
}

/// Nanoseconds since 1970-01-01, prompt tokens, answer tokens.
fn row(line: &str) -> Result<(i128, u32, u32), Fault> {
    let mut fields = line.split(',').map(str::trim);
    let (Some(time), Some(prompt), Some(output), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(Fault::Syntax(format!("expected three fields, `{COLUMNS}`")));
    };
    let nanos = time_nanos(time).ok_or_else(|| {
        let shown: String = time.chars().take(40).collect();
        Fault::Syntax(format!("{shown:?} is no time such as `2023-11-16 18:15:46.6805900`"))
    })?;
    Ok((nanos, tokens("ContextTokens", prompt)?, tokens("GeneratedTokens", output)?))
}

fn tokens(what: &'static str, text: &str) -> Result<u32, Fault> {
    let parsed = text.parse().ok().filter(|tokens| *tokens <= super::MAX_TOKENS);
    parsed.ok_or_else(|| Fault::Range {
        what,
        value: format!("{:?}", text.chars().take(40).collect::<String>()),
        range: format!("a whole number up to {}", super::MAX_TOKENS),
    })
}

/// `YYYY-MM-DD HH:MM:SS[.fraction]`, an offset of `+00:00` or `Z` aside.
fn time_nanos(text: &str) -> Option<i128> {
    let text = text.strip_suffix("+00:00").or_else(|| text.strip_suffix('Z')).unwrap_or(text);
    let (date, time) = text.split_once([' ', 'T'])?;
    let [year, month, day] = numbers(date, '-')?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let [hours, minutes, seconds] = numbers(clock, ':')?;
    let is_month = (1..=9999).contains(&year) && (1..=12).contains(&month);
    let is_date = is_month && (1..=days_of_month(year, month)).contains(&day);
    if !is_date || hours > 23 || minutes > 59 || seconds > 60 {
        return None;
    }
    let seconds =
        days_since_1970(year, month, day) * 86_400 + hours * 3_600 + minutes * 60 + seconds;
    Some(i128::from(seconds) * 1_000_000_000 + i128::from(fraction_nanos(fraction)?))
}

fn numbers(text: &str, separator: char) -> Option<[i64; 3]> {
    let mut parts = text.split(separator).map(|part| {
        let is_number = (1..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        part.parse::<i64>().ok().filter(|_| is_number)
    });
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

fn fraction_nanos(digits: &str) -> Option<i64> {
    if digits.len() > 9 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    format!("{digits:0<9}").parse().ok()
}

fn days_of_month(year: i64, month: i64) -> i64 {
    let (next_year, next) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    days_since_1970(next_year, next, 1) - days_since_1970(year, month, 1)
}

/// Days from 1970-01-01 to a day of the Gregorian calendar (Howard Hinnant, "chrono-compatible low-level date
/// algorithms").
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_nanoseconds_since_1970() {
        let check = |text, expected: Option<i128>| assert_eq!(time_nanos(text), expected, "{text}");
        check("1970-01-01 00:00:00", Some(0));
        check("1970-01-01 00:00:00.5", Some(500_000_000));
        check("2023-11-16 18:15:46.6805900", Some(1_700_158_546_680_590_000));
        check("2024-05-10 00:00:00.009930+00:00", Some(1_715_299_200_009_930_000));
        check("2024-02-29T23:59:59Z", Some(1_709_251_199_000_000_000));
        for text in ["", "2023-11-16", "2023-13-01 00:00:00", "2023-11-16 25:00:00", "a-b-c d:e:f"]
        {
            check(text, None);
        }
        check("2023-11-16 18:15:46.12345678901", None);
    }

    #[test]
    fn months_have_their_days() {
        let check = |date: &str, is_one| {
            assert_eq!(time_nanos(&format!("{date} 00:00:00")).is_some(), is_one, "{date}");
        };
        for (last, beyond) in [("02-28", "02-29"), ("04-30", "04-31"), ("12-31", "12-32")] {
            check(&format!("2023-{last}"), true);
            check(&format!("2023-{beyond}"), false);
        }
        check("2023-02-31", false);
        check("2024-02-29", true);
        check("2024-02-30", false);
        check("2100-02-29", false);
        check("2000-02-29", true);
        check("2023-06-00", false);
    }
}
