//! Parsing and formatting of timestamps and durations.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// First second of the range of timestamps, 0001-01-01T00:00:00Z.
const MIN_SECOND: i64 = -62_135_596_800;
/// Last second of the range of timestamps, 9999-12-31T23:59:59Z.
const MAX_SECOND: i64 = 253_402_300_799;

/// Returns whether a moment is within the range of `google.protobuf.Timestamp`.
pub(crate) fn is_in_range(moment: Timestamp) -> bool {
    let second = moment.as_nanosecond().div_euclid(1_000_000_000);
    (i128::from(MIN_SECOND)..=i128::from(MAX_SECOND)).contains(&second)
}

/// Parses a date (RFC 3339 `full-date`) as midnight UTC.
pub(crate) fn parse_date(text: &str) -> Result<Timestamp, String> {
    let date: Date = text.parse().map_err(|e| format!("{e}"))?;
    date.to_zoned(TimeZone::UTC)
        .map(|z| z.timestamp())
        .map_err(|e| format!("{e}"))
}

/// Parses an RFC 3339 timestamp.
pub(crate) fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    // jiff accepts more formats than RFC 3339.
    if bytes.len() < 20 || bytes[10] != b'T' || bytes[4] != b'-' || bytes[13] != b':' {
        return None;
    }
    let zone = text.rfind(['Z', '+', '-']).filter(|at| *at > 10)?;
    let rest = &text[zone..];
    let right = rest == "Z" || rest.len() == 6 && rest.as_bytes()[3] == b':';
    if !right || text.contains(',') || text[17..19].starts_with("60") {
        return None;
    }
    text.parse().ok()
}

/// Parses a string in the schema format `date-time`; case does not matter.
pub(crate) fn parse_date_time(text: &str) -> Result<Timestamp, String> {
    parse_rfc3339(&text.to_uppercase())
        .ok_or_else(|| format!("parsing time {}", crate::number::go_quote(text)))
}

/// Formats a timestamp (RFC 3339), with as many fractional digits as necessary.
pub(crate) fn format(moment: Timestamp) -> String {
    moment.to_string()
}

/// Parses a duration in Go's syntax, such as `1h2m3.5s`, to nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .filter(|end| *end > 0)?;
        let number = &rest[..end];
        rest = &rest[end..];
        let unit_end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit: i128 = match &rest[..unit_end] {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        rest = &rest[unit_end..];
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        if !whole.is_empty() {
            let whole: i128 = whole.parse().ok()?;
            total = total.checked_add(whole.checked_mul(unit)?)?;
        }
        let mut scale = unit;
        for digit in fraction.bytes().take(18) {
            scale /= 10;
            total += i128::from(digit - b'0') * scale;
        }
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// Parses a string in the schema format `duration` to nanoseconds: the syntax of
/// [`parse_duration`], or numbers with units as words, such as `3 days`.
pub(crate) fn loose_duration(text: &str) -> Result<i64, String> {
    if let Some(nanos) = parse_duration(text) {
        return Ok(nanos);
    }
    let bad = || format!("unable to parse {text} as duration");
    let mut total: i128 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .filter(|end| *end > 0)
            .ok_or_else(bad)?;
        let number: i128 = rest[..end].parse().map_err(|_| bad())?;
        rest = rest[end..].trim_start();
        let end = rest
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(rest.len());
        let word = rest[..end].to_lowercase();
        let unit: i128 = match word.trim_end_matches('s') {
            "" if word == "s" => 1_000_000_000,
            "n" | "nano" | "nanosecond" => 1,
            "u" | "\u{b5}" | "\u{3bc}" | "micro" | "microsecond" => 1_000,
            "m" if word == "ms" => 1_000_000,
            "milli" | "milisecond" | "millisecond" => 1_000_000,
            "sec" | "second" => 1_000_000_000,
            "m" | "min" | "minute" => 60_000_000_000,
            "h" | "hr" | "hour" => 3_600_000_000_000,
            "d" | "day" => 86_400_000_000_000,
            "w" | "wk" | "week" => 604_800_000_000_000,
            _ => return Err(bad()),
        };
        total = total
            .checked_add(number.checked_mul(unit).ok_or_else(bad)?)
            .ok_or_else(bad)?;
        rest = rest[end..].trim_start_matches([',', ' ']);
    }
    i64::try_from(total).map_err(|_| bad())
}

/// Formats a duration in seconds, such as `1.5s`.
pub(crate) fn format_duration(nanos: i64) -> String {
    let whole = nanos / 1_000_000_000;
    let rest = (nanos % 1_000_000_000).unsigned_abs();
    if rest == 0 {
        return format!("{whole}s");
    }
    let sign = if nanos < 0 && whole == 0 { "-" } else { "" };
    let digits = format!("{rest:09}");
    format!("{sign}{whole}.{}s", digits.trim_end_matches('0'))
}
