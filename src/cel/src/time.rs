//! Parsing and formatting of timestamps and durations.

use std::cmp::Ordering;
use std::fmt;

use jiff::SignedDuration;
use jiff::civil::{DateTime, date};
use rkube_api::go_time;

/// The second from which timestamps count, in UTC.
const EPOCH: DateTime = date(1970, 1, 1).at(0, 0, 0, 0);

/// A point in time, with the offset from UTC that it was written with. Points are equal and ordered
/// by the time; the offset shows in the text and in parts without a time zone, as with Go's
/// `time.Time`.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Time in UTC.
    pub(crate) utc: DateTime,
    /// Offset from UTC in seconds.
    offset: i32,
}

impl Moment {
    /// Returns a time without offset.
    pub(crate) const fn utc(utc: DateTime) -> Self {
        Self { utc, offset: 0 }
    }

    /// Parses a time in Go's layout `time.RFC3339`.
    ///
    /// # Errors
    ///
    /// The message of Go's parser.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let utc = go_time::parse_rfc3339(text)?;
        let zone = text.len().checked_sub(6).and_then(|at| text.get(at..));
        let offset = zone.and_then(|zone| {
            let sign = match zone.as_bytes()[0] {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            let (hours, minutes) = zone[1..].split_once(':')?;
            let minutes = hours.parse::<i32>().ok()? * 60 + minutes.parse::<i32>().ok()?;
            Some(sign * minutes * 60)
        });
        Ok(Self {
            utc,
            offset: offset.unwrap_or(0),
        })
    }

    /// Returns another time with the same offset.
    pub(crate) const fn at(self, utc: DateTime) -> Self {
        Self { utc, ..self }
    }

    /// Returns the time at the offset.
    pub(crate) fn local(self) -> DateTime {
        self.utc
            .saturating_add(SignedDuration::from_secs(i64::from(self.offset)))
    }
}

impl PartialEq for Moment {
    fn eq(&self, other: &Self) -> bool {
        self.utc == other.utc
    }
}

impl Eq for Moment {}

impl PartialOrd for Moment {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Moment {
    fn cmp(&self, other: &Self) -> Ordering {
        self.utc.cmp(&other.utc)
    }
}

/// Writes the time (RFC 3339) with as many fractional digits as necessary.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.local())?;
        let minutes = self.offset / 60;
        if minutes == 0 {
            return f.write_str("Z");
        }
        let sign = if minutes < 0 { '-' } else { '+' };
        let minutes = minutes.unsigned_abs();
        write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

/// Returns whether a time, in UTC, is within the range of `google.protobuf.Timestamp`: years
/// 1 to 9999.
pub(crate) fn is_in_range(time: DateTime) -> bool {
    (1..=9999).contains(&time.year())
}

/// Returns the time a number of seconds after 1970, `None` if it is out of range.
pub(crate) fn from_seconds(seconds: i64) -> Option<DateTime> {
    EPOCH
        .checked_add(SignedDuration::from_secs(seconds))
        .ok()
        .filter(|time| is_in_range(*time))
}

/// Returns the seconds from 1970 to a time, rounded down.
pub(crate) fn to_seconds(time: DateTime) -> i64 {
    let since = time.duration_since(EPOCH);
    since.as_secs() - i64::from(since.subsec_nanos() < 0)
}

/// Parses a date (RFC 3339 `full-date`) as midnight UTC.
pub(crate) fn parse_date(text: &str) -> Result<DateTime, String> {
    go_time::parse_date(text).map(|date| date.at(0, 0, 0, 0))
}

/// Returns whether a string conforms to the schema format `date-time`. As upstream's check it
/// takes small letters, any character before the fraction, any offset, and more text after
/// another `t`.
pub(crate) fn is_date_time(text: &str) -> bool {
    let lower = text.to_lowercase();
    let mut parts = lower.split('t');
    let (Some(date), Some(time)) = (parts.next(), parts.next()) else {
        return false;
    };
    let two = |text: &str, most: &str| {
        text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit()) && text <= most
    };
    let Some((clock, rest)) = time.split_at_checked(8) else {
        return false;
    };
    let mut clock = clock.splitn(3, ':');
    let mut part = |most: &str| clock.next().is_some_and(|text| two(text, most));
    go_time::parse_date(date).is_ok()
        && part("23")
        && part("59")
        && part("59")
        && (is_zone(rest) || is_fraction_and_zone(rest))
}

fn is_zone(text: &str) -> bool {
    let digit = u8::is_ascii_digit;
    match text.as_bytes() {
        b"z" => true,
        [b'+' | b'-', h1, h2, b':', m1, m2] => [h1, h2, m1, m2].into_iter().all(digit),
        _ => false,
    }
}

fn is_fraction_and_zone(text: &str) -> bool {
    let mut chars = text.chars();
    // A line break is no character of a pattern's dot.
    if matches!(chars.next(), None | Some('\n')) {
        return false;
    }
    let digits = chars.as_str();
    let zone = digits.trim_start_matches(|c: char| c.is_ascii_digit());
    zone.len() < digits.len() && is_zone(zone)
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
