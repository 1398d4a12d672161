//! Durations in Go's notation (`1h30m0s`), and ages as kubectl prints them.
//!
//! [`parse_nanos`] and [`format_nanos`] are Go's `time.ParseDuration` and
//! `Duration.String`, to the last nanosecond. [`parse`] and [`format`] are the same
//! for durations that cannot be negative.

use std::time::Duration;

/// Formats an age in seconds as kubectl prints it, with two or three significant
/// figures: `5m30s`, `3d4h`, `2y`.
///
/// A negative age down to one second is taken for clock skew and printed as `0s`;
/// anything below is `<invalid>`. This is upstream's `duration.HumanDuration`.
pub fn human(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".into();
    }
    if seconds < 0 {
        return "0s".into();
    }
    if seconds < 120 {
        return format!("{seconds}s");
    }
    let pair = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{big}{unit}")
        } else {
            format!("{big}{unit}{small}{small_unit}")
        }
    };
    let minutes = seconds / 60;
    if minutes < 10 {
        return pair(minutes, "m", seconds % 60, "s");
    }
    if minutes < 180 {
        return format!("{minutes}m");
    }
    let hours = seconds / 3600;
    if hours < 8 {
        return pair(hours, "h", minutes % 60, "m");
    }
    if hours < 48 {
        return format!("{hours}h");
    }
    if hours < 24 * 8 {
        return pair(hours / 24, "d", hours % 24, "h");
    }
    if hours < 24 * 365 * 2 {
        return format!("{}d", hours / 24);
    }
    if hours < 24 * 365 * 8 {
        return pair(hours / 24 / 365, "y", hours / 24 % 365, "d");
    }
    format!("{}y", hours / 24 / 365)
}

/// The largest magnitude that Go can represent, that of the smallest `int64`.
const MAX_MAGNITUDE: u64 = 1 << 63;

/// Why a text is not a duration. The messages are those of Go's package `time`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseDurationError {
    /// The text is empty, a number is malformed, or the duration is out of range.
    #[error("time: invalid duration {}", go_quote(.0))]
    Invalid(String),
    /// A number has no unit.
    #[error("time: missing unit in duration {}", go_quote(.0))]
    MissingUnit(String),
    /// A unit is not known.
    #[error("time: unknown unit {} in duration {}", go_quote(unit), go_quote(text))]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole text.
        text: String,
    },
}

/// Quotes a text as Go's package `time` does: bytes outside of printable ASCII
/// become `\xNN`.
fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(byte)]),
            0..b' ' | 0x80.. => out.push_str(&format!("\\x{byte:02x}")),
            _ => out.push(char::from(byte)),
        }
    }
    out.push('"');
    out
}

/// Parses a duration in Go's notation into nanoseconds, as `time.ParseDuration`.
///
/// A duration is an optional sign and either `0` or a sequence of decimal numbers
/// with units: `300ms`, `-1.5h`, `2h45m`. Units are `ns`, `us` (or `µs`, with U+00B5
/// or U+03BC), `ms`, `s`, `m` and `h`. Digits below a nanosecond are cut off.
///
/// # Errors
/// When the text is not in this notation or exceeds the range of `i64`.
pub fn parse_nanos(text: &str) -> Result<i64, ParseDurationError> {
    let invalid = || ParseDurationError::Invalid(text.to_owned());
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned == "0" {
        return Ok(0);
    }
    if unsigned.is_empty() {
        return Err(invalid());
    }
    let mut rest = unsigned;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole, tail) = split_digits(rest);
        let (fraction, tail) = match tail.strip_prefix('.') {
            Some(tail) => split_digits(tail),
            None => ("", tail),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = tail
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        if unit.is_empty() {
            // Go reads the number first, and reports its overflow first.
            leading_int(whole).ok_or_else(invalid)?;
            return Err(ParseDurationError::MissingUnit(text.to_owned()));
        }
        let nanos = leading_int(whole).ok_or_else(invalid)?;
        let unit = unit_nanos(unit).ok_or_else(|| ParseDurationError::UnknownUnit {
            unit: unit.to_owned(),
            text: text.to_owned(),
        })?;
        total = nanos
            .checked_mul(unit)
            .filter(|nanos| *nanos <= MAX_MAGNITUDE)
            .and_then(|nanos| nanos.checked_add(fraction_nanos(fraction, unit)))
            .filter(|nanos| *nanos <= MAX_MAGNITUDE)
            .and_then(|nanos| nanos.checked_add(total))
            .filter(|nanos| *nanos <= MAX_MAGNITUDE)
            .ok_or_else(invalid)?;
        rest = tail;
    }
    if text.starts_with('-') {
        return Ok(0i64.wrapping_sub_unsigned(total));
    }
    i64::try_from(total).map_err(|_| invalid())
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Returns the number before the decimal point, which may be absent; `None` when it
/// is out of range.
fn leading_int(digits: &str) -> Option<u64> {
    if digits.is_empty() {
        return Some(0);
    }
    digits.parse().ok().filter(|n| *n <= MAX_MAGNITUDE)
}

fn unit_nanos(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// Returns the value of the digits after a decimal point. The arithmetic is Go's:
/// digits beyond the precision of 63 bits are ignored, and the product is taken in
/// floating point.
fn fraction_nanos(digits: &str, unit: u64) -> u64 {
    let mut value: u64 = 0;
    let mut scale = 1.0;
    for digit in digits.bytes() {
        if value > i64::MAX as u64 / 10 {
            break;
        }
        let next = value * 10 + u64::from(digit - b'0');
        if next > MAX_MAGNITUDE {
            break;
        }
        value = next;
        scale *= 10.0;
    }
    (value as f64 * (unit as f64 / scale)) as u64
}

/// Parses a duration in Go's notation that is not negative; see [`parse_nanos`].
///
/// Returns `None` if the text is not such a duration.
pub fn parse(text: &str) -> Option<Duration> {
    let nanos = parse_nanos(text).ok()?;
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

/// Formats nanoseconds in Go's notation, as `Duration.String`: `1h30m0s`, `-1.5s`,
/// `250ms`, `0s`.
pub fn format_nanos(nanos: i64) -> String {
    let text = format_magnitude(nanos.unsigned_abs().into());
    if nanos < 0 { format!("-{text}") } else { text }
}

/// Formats a duration in Go's notation; see [`format_nanos`].
pub fn format(duration: Duration) -> String {
    format_magnitude(duration.as_nanos())
}

fn format_magnitude(nanos: u128) -> String {
    match nanos {
        0 => "0s".into(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", format_decimal(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", format_decimal(nanos, 1_000_000)),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = format_decimal(nanos % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// Formats `value / unit` without trailing zeros; `unit` is a power of ten.
fn format_decimal(value: u128, unit: u128) -> String {
    let (whole, rest) = (value / unit, value % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    let digits = format!("{rest:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NANOSECOND: i64 = 1;
    const MICROSECOND: i64 = 1_000;
    const MILLISECOND: i64 = 1_000_000;
    const SECOND: i64 = 1_000_000_000;
    const MINUTE: i64 = 60 * SECOND;
    const HOUR: i64 = 60 * MINUTE;

    #[test]
    fn ages_as_kubectl_prints_them() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (330, "5m30s"),
            (601, "10m"),
            (3 * 3600, "3h"),
            (7 * 3600 + 60, "7h1m"),
            (47 * 3600, "47h"),
            (50 * 3600, "2d2h"),
            (10 * 86400, "10d"),
            (800 * 86400, "2y70d"),
            (3000 * 86400, "8y"),
        ] {
            assert_eq!(human(seconds), text);
        }
    }

    #[test]
    fn parses_as_go() {
        for (text, nanos) in [
            // Simple ones, with signs and decimals.
            ("0", 0),
            ("5s", 5 * SECOND),
            ("30s", 30 * SECOND),
            ("1478s", 1478 * SECOND),
            ("-5s", -5 * SECOND),
            ("+5s", 5 * SECOND),
            ("-0", 0),
            ("+0", 0),
            ("5.0s", 5 * SECOND),
            ("5.6s", 5 * SECOND + 600 * MILLISECOND),
            ("5.s", 5 * SECOND),
            (".5s", 500 * MILLISECOND),
            ("1.0s", SECOND),
            ("1.00s", SECOND),
            ("1.004s", SECOND + 4 * MILLISECOND),
            ("1.0040s", SECOND + 4 * MILLISECOND),
            ("100.00100s", 100 * SECOND + MILLISECOND),
            // Units.
            ("10ns", 10 * NANOSECOND),
            ("11us", 11 * MICROSECOND),
            ("12\u{b5}s", 12 * MICROSECOND),
            ("12\u{3bc}s", 12 * MICROSECOND),
            ("5\u{b5}s", 5 * MICROSECOND),
            ("5\u{3bc}s", 5 * MICROSECOND),
            ("13ms", 13 * MILLISECOND),
            ("14s", 14 * SECOND),
            ("15m", 15 * MINUTE),
            ("16h", 16 * HOUR),
            // Sequences.
            ("3h30m", 3 * HOUR + 30 * MINUTE),
            ("10.5s4m", 4 * MINUTE + 10 * SECOND + 500 * MILLISECOND),
            ("-2m3.4s", -(2 * MINUTE + 3 * SECOND + 400 * MILLISECOND)),
            (
                "1h2m3s4ms5us6ns",
                HOUR + 2 * MINUTE + 3 * SECOND + 4 * MILLISECOND + 5 * MICROSECOND + 6,
            ),
            (
                "39h9m14.425s",
                39 * HOUR + 9 * MINUTE + 14 * SECOND + 425 * MILLISECOND,
            ),
            ("1h.5m", HOUR + 30 * SECOND),
            // Precision and range.
            ("52763797000ns", 52_763_797_000),
            ("0.3333333333333333333h", 20 * MINUTE),
            ("9007199254740993ns", (1 << 53) + 1),
            ("9223372036854775807ns", i64::MAX),
            ("9223372036854775.807us", i64::MAX),
            ("9223372036s854ms775us807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
            ("-9223372036854775.808us", i64::MIN),
            ("-9223372036s854ms775us808ns", i64::MIN),
            ("-2562047h47m16.854775808s", i64::MIN),
            ("0.100000000000000000000h", 6 * MINUTE),
            (
                "0.830103483285477580700h",
                49 * MINUTE + 48 * SECOND + 372_539_827,
            ),
            ("0.9ns", 0),
        ] {
            assert_eq!(parse_nanos(text), Ok(nanos), "{text}");
            let unsigned = u64::try_from(nanos).ok().map(Duration::from_nanos);
            assert_eq!(parse(text), unsigned, "{text}");
        }
    }

    #[test]
    fn refuses_as_go() {
        for (text, message) in [
            ("", r#"time: invalid duration """#),
            ("3", r#"time: missing unit in duration "3""#),
            ("-", r#"time: invalid duration "-""#),
            ("s", r#"time: invalid duration "s""#),
            (".", r#"time: invalid duration ".""#),
            ("-.", r#"time: invalid duration "-.""#),
            (".s", r#"time: invalid duration ".s""#),
            ("+.s", r#"time: invalid duration "+.s""#),
            ("1d", r#"time: unknown unit "d" in duration "1d""#),
            ("1..2s", r#"time: missing unit in duration "1..2s""#),
            ("1h 2m", r#"time: unknown unit "h " in duration "1h 2m""#),
            ("--1s", r#"time: invalid duration "--1s""#),
            (
                "\u{85}\u{85}",
                r#"time: invalid duration "\xc2\x85\xc2\x85""#,
            ),
            ("\u{ffff}", r#"time: invalid duration "\xef\xbf\xbf""#),
            (
                "hello \u{ffff} world",
                r#"time: invalid duration "hello \xef\xbf\xbf world""#,
            ),
            (
                "9223372036854775810ns",
                r#"time: invalid duration "9223372036854775810ns""#,
            ),
            (
                "9223372036854775808ns",
                r#"time: invalid duration "9223372036854775808ns""#,
            ),
            (
                "-9223372036854775809ns",
                r#"time: invalid duration "-9223372036854775809ns""#,
            ),
            (
                "9223372036854776us",
                r#"time: invalid duration "9223372036854776us""#,
            ),
            ("3000000h", r#"time: invalid duration "3000000h""#),
            (
                "9223372036854775.808us",
                r#"time: invalid duration "9223372036854775.808us""#,
            ),
            (
                "9223372036854ms775us808ns",
                r#"time: invalid duration "9223372036854ms775us808ns""#,
            ),
            (
                "99999999999999999999h",
                r#"time: invalid duration "99999999999999999999h""#,
            ),
        ] {
            let error = parse_nanos(text).expect_err(text);
            assert_eq!(error.to_string(), message, "{text}");
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn formats_as_go() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (4 * MINUTE + 5 * SECOND, "4m5s"),
            (4 * MINUTE + 5_001 * MILLISECOND, "4m5.001s"),
            (5 * HOUR + 6 * MINUTE + 7_001 * MILLISECOND, "5h6m7.001s"),
            (8 * MINUTE + NANOSECOND, "8m0.000000001s"),
            (90 * MINUTE, "1h30m0s"),
            (250 * MILLISECOND, "250ms"),
            (-1_500 * MILLISECOND, "-1.5s"),
            (i64::MAX, "2562047h47m16.854775807s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(format_nanos(nanos), text);
            if let Ok(unsigned) = u64::try_from(nanos) {
                assert_eq!(format(Duration::from_nanos(unsigned)), text);
            }
        }
    }

    proptest! {
        #![proptest_config(crate::testing::config())]

        #[test]
        fn round_trips(nanos in any::<i64>()) {
            prop_assert_eq!(parse_nanos(&format_nanos(nanos)), Ok(nanos));
        }

        #[test]
        fn parsing_never_panics(text in "[-+0-9.nuµmsh ]{0,30}") {
            let _ = parse_nanos(&text);
        }
    }
}
