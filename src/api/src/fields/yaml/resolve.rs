//! The types of YAML's scalars, by the rules of version 1.1 as go-yaml has them.

use base64::Engine as _;
use serde_json::{Number, Value};

const PREFIX: &str = "tag:yaml.org,2002:";

/// A scalar's type.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tag {
    Str,
    Bool,
    Int,
    Float,
    Null,
    Time,
}

impl Tag {
    fn short(self) -> &'static str {
        match self {
            Self::Str => "!!str",
            Self::Bool => "!!bool",
            Self::Int => "!!int",
            Self::Float => "!!float",
            Self::Null => "!!null",
            Self::Time => "!!timestamp",
        }
    }
}

/// Returns the JSON value of a scalar with an optional tag.
///
/// # Errors
/// go-yaml's message: the value is not of the tag's type, or JSON has no such value.
pub(super) fn resolve(tag: Option<&str>, text: &str) -> Result<Value, String> {
    let wanted = match tag.map(|t| t.strip_prefix(PREFIX).unwrap_or(t)) {
        None | Some("") => None,
        Some("bool") => Some(Tag::Bool),
        Some("int") => Some(Tag::Int),
        Some("float") => Some(Tag::Float),
        Some("null") => Some(Tag::Null),
        Some("timestamp") => Some(Tag::Time),
        Some("binary") => return binary(text),
        Some(_) => return Ok(text.into()),
    };
    let (found, value) = implicit(text);
    match wanted {
        None => {}
        Some(wanted) if wanted == found => {}
        Some(Tag::Float) if found == Tag::Int => {}
        // A date is read as text.
        Some(Tag::Time) if found == Tag::Str && is_date(text) => {}
        Some(wanted) => {
            let (found, wanted) = (found.short(), wanted.short());
            return Err(format!("cannot decode {found} `{text}` as a {wanted}"));
        }
    }
    value
}

fn binary(text: &str) -> Result<Value, String> {
    let kept: Vec<u8> = text.bytes().filter(|b| !b"\r\n".contains(b)).collect();
    let bytes = base64::engine::general_purpose::STANDARD.decode(kept);
    let bytes = bytes.map_err(|_| "!!binary value contains invalid base64 data".to_owned())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned().into())
}

/// Returns the type and the value of a plain scalar without a tag.
fn implicit(text: &str) -> (Tag, Result<Value, String>) {
    let no_number = |name: &str| Err(format!("json: unsupported value: {name}"));
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return (Tag::Bool, Ok(true.into()));
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return (Tag::Bool, Ok(false.into()));
        }
        "" | "~" | "null" | "Null" | "NULL" => return (Tag::Null, Ok(Value::Null)),
        ".nan" | ".NaN" | ".NAN" => return (Tag::Float, no_number("NaN")),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return (Tag::Float, no_number("+Inf"));
        }
        "-.inf" | "-.Inf" | "-.INF" => return (Tag::Float, no_number("-Inf")),
        _ => {}
    }
    let found = match text.as_bytes().first() {
        Some(b'.') => decimal(&without_separators(text)),
        Some(b'+' | b'-' | b'0'..=b'9') if !is_date(text) => number(&text.replace('_', "")),
        _ => None,
    };
    match found {
        Some((tag, value)) => (tag, Ok(value)),
        None => (Tag::Str, Ok(text.into())),
    }
}

/// Removes the underscores of a number, if each of them is between digits.
fn without_separators(text: &str) -> String {
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| {
        at.and_then(|at| bytes.get(at))
            .is_some_and(u8::is_ascii_digit)
    };
    let mut places = text.match_indices('_').map(|(at, _)| at);
    match places.all(|at| digit(at.checked_sub(1)) && digit(Some(at + 1))) {
        true => text.replace('_', ""),
        false => text.to_owned(),
    }
}

/// Reads a number without underscores.
fn number(text: &str) -> Option<(Tag, Value)> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, rest) = match digits.get(..2) {
        Some("0x" | "0X") => (16, &digits[2..]),
        Some("0o" | "0O") => (8, &digits[2..]),
        Some("0b" | "0B") => (2, &digits[2..]),
        Some(_) if digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    let plain = !rest.is_empty() && rest.chars().all(|c| c.is_digit(radix));
    if plain && let Ok(magnitude) = u64::from_str_radix(rest, radix) {
        let signed = i128::from(magnitude) * if negative { -1 } else { 1 };
        if let Ok(value) = i64::try_from(signed) {
            return Some((Tag::Int, value.into()));
        }
        if !negative {
            return Some((Tag::Int, from_float(magnitude as f64)));
        }
    }
    decimal(text)
}

/// Reads a decimal number with a fraction or an exponent.
fn decimal(text: &str) -> Option<(Tag, Value)> {
    let is_decimal = text
        .chars()
        .all(|c| c.is_ascii_digit() || "+-.eE".contains(c))
        && text.contains(|c: char| c.is_ascii_digit())
        && !text.ends_with(['e', 'E', '+', '-']);
    let value: f64 = text.parse().ok().filter(|_| is_decimal)?;
    value.is_finite().then(|| (Tag::Float, from_float(value)))
}

/// Returns a float as upstream reads it back from JSON: without a fraction it is an integer.
fn from_float(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT {
        return Value::from(value as i64);
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// Returns whether a text is a date, which stays a text.
fn is_date(text: &str) -> bool {
    let mut parts = text.splitn(3, '-');
    let digits = |part: Option<&str>, most: usize| {
        part.is_some_and(|p| (1..=most).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()))
    };
    let year = parts.next();
    digits(year, 4)
        && year.is_some_and(|y| y.len() == 4)
        && digits(parts.next(), 2)
        && parts.next().is_some_and(|day| {
            let day = day.split(['T', 't', ' ']).next();
            digits(day, 2)
        })
}

/// Returns whether a text is a point in time: a date, which may have a time of day.
pub(super) fn is_timestamp(text: &str) -> bool {
    if !is_date(text) {
        return false;
    }
    let Some(at) = text.find(['T', 't', ' ']) else {
        return true;
    };
    let (zoned, rest) = (!text[at..].starts_with(' '), &text[at + 1..]);
    let time = match rest.strip_suffix('Z') {
        Some(time) => zoned.then_some(time),
        None if zoned => rest.rfind(['+', '-']).and_then(|at| {
            let zone = &rest.as_bytes()[at + 1..];
            let shaped = zone.len() == 5
                && zone.iter().enumerate().all(|(i, b)| match i {
                    2 => *b == b':',
                    _ => b.is_ascii_digit(),
                });
            shaped.then(|| &rest[..at])
        }),
        None => Some(rest),
    };
    time.is_some_and(is_time_of_day)
}

/// Returns whether a text has the form of `15:04:05`, with a fraction or without.
fn is_time_of_day(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let (time, fraction) = match text.split_once('.') {
        Some((time, fraction)) => (time, Some(fraction)),
        None => (text, None),
    };
    let parts: Vec<&str> = time.split(':').collect();
    parts.len() == 3
        && parts.iter().all(|part| part.len() <= 2 && digits(part))
        && fraction.is_none_or(digits)
}

/// Returns whether a text is a number to base 60, as `22:22`. Only other readers than upstream
/// take it for one.
pub(super) fn is_base60(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = whole.split(':');
    let first = parts.next().unwrap_or_default();
    let within = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let mut others = parts.peekable();
    first.starts_with(|c: char| c.is_ascii_digit())
        && within(first)
        && within(fraction)
        && others.peek().is_some()
        && others.all(|part| match part.as_bytes() {
            [b] => b.is_ascii_digit(),
            [tens, b] => (b'0'..=b'5').contains(tens) && b.is_ascii_digit(),
            _ => false,
        })
}

/// Returns how upstream writes a key that is an infinite number or none.
pub(super) fn infinite_key(text: &str) -> Option<&'static str> {
    match text {
        ".nan" | ".NaN" | ".NAN" => Some(".nan"),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Some(".inf"),
        "-.inf" | "-.Inf" | "-.INF" => Some("-.inf"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_and_numbers_have_the_types_of_1_1() {
        for (text, value) in [
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("n", json!(false)),
            ("tRUE", json!("tRUE")),
            ("~", json!(null)),
            ("", json!(null)),
            ("0644", json!(420)),
            ("0o644", json!(420)),
            ("0x1F", json!(31)),
            ("-0b101", json!(-5)),
            ("1_000", json!(1000)),
            ("+1", json!(1)),
            ("08", json!(8)),
            ("12:30:45", json!("12:30:45")),
            ("1e3", json!(1000)),
            (".5", json!(0.5)),
            (".5_0", json!(0.5)),
            ("._5", json!("._5")),
            (".5_", json!(".5_")),
            ("1.", json!(1)),
            ("1e", json!("1e")),
            ("0x", json!("0x")),
            ("-", json!("-")),
            ("2026-01-01", json!("2026-01-01")),
            ("2026-01-01T00:00:00Z", json!("2026-01-01T00:00:00Z")),
            ("9223372036854775808", json!(9_223_372_036_854_775_808.0)),
            ("b", json!("b")),
        ] {
            assert_eq!(resolve(None, text), Ok(value), "{text}");
        }
        assert!(resolve(None, ".nan").is_err());
    }

    #[test]
    fn tags_decide() {
        let tag = |name: &str| format!("{PREFIX}{name}");
        assert_eq!(resolve(Some(&tag("str")), "yes"), Ok(json!("yes")));
        assert_eq!(resolve(Some(&tag("int")), "5"), Ok(json!(5)));
        assert_eq!(resolve(Some(&tag("float")), "5"), Ok(json!(5)));
        assert_eq!(resolve(Some(&tag("binary")), "YQ=="), Ok(json!("a")));
        assert_eq!(resolve(Some("!local"), "5"), Ok(json!("5")));
        assert_eq!(
            resolve(Some(&tag("null")), "x"),
            Err("cannot decode !!str `x` as a !!null".into())
        );
    }
}
