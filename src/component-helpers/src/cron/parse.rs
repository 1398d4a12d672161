//! The parser of schedules.

use std::time::Duration;

use jiff::tz::TimeZone;

use super::calendar::{Calendar, Field, STAR};
use super::schedule::Schedule;

/// Minimum and maximum of a field, and names of its values starting at the minimum.
struct Bounds {
    min: u64,
    max: u64,
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds {
    min: 0,
    max: 59,
    names: &[],
};
const HOURS: Bounds = Bounds {
    min: 0,
    max: 23,
    names: &[],
};
const DAYS: Bounds = Bounds {
    min: 1,
    max: 31,
    names: &[],
};
const MONTHS: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
};
const WEEKDAYS: Bounds = Bounds {
    min: 0,
    max: 6,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

/// Quotes a string like Go's `%q` does for printable ASCII.
fn quote(text: &str) -> String {
    format!("{text:?}")
}

/// Parses a schedule.
///
/// # Errors
///
/// Returns the error message of upstream's parser.
pub fn parse(text: &str) -> Result<Schedule, String> {
    if text.is_empty() {
        return Err("empty spec string".into());
    }
    let (zone, text) = match text.strip_prefix("CRON_TZ=").or(text.strip_prefix("TZ=")) {
        None => (None, text),
        Some(rest) => {
            // Upstream slices without a bounds check and returns the panic as an error.
            let (name, rest) = rest
                .split_once(' ')
                .ok_or("invalid schedule format: runtime error: slice bounds out of range [:-1]")?;
            let zone =
                zone(name).map_err(|error| format!("provided bad location {name}: {error}"))?;
            (zone, rest.trim())
        }
    };
    if text.starts_with('@') {
        return descriptor(text, zone);
    }
    fields(text, zone).map(Schedule::Calendar)
}

/// Looks up a zone like Go's `time.LoadLocation`. `None` is the local zone.
fn zone(name: &str) -> Result<Option<TimeZone>, String> {
    match name {
        "" | "UTC" => Ok(Some(TimeZone::UTC)),
        "Local" => Ok(None),
        _ => TimeZone::get(name)
            .map(Some)
            .map_err(|_| format!("unknown time zone {name}")),
    }
}

fn fields(text: &str, zone: Option<TimeZone>) -> Result<Calendar, String> {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = fields.as_slice() else {
        return Err(format!(
            "expected exactly 5 fields, found {}: [{}]",
            fields.len(),
            fields.join(" ")
        ));
    };
    Ok(Calendar {
        minute: field(minute, &MINUTES)?,
        hour: field(hour, &HOURS)?,
        day: field(day, &DAYS)?,
        month: field(month, &MONTHS)?,
        weekday: field(weekday, &WEEKDAYS)?,
        zone,
    })
}

fn descriptor(text: &str, zone: Option<TimeZone>) -> Result<Schedule, String> {
    let equivalent = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => {
            let Some(period) = text.strip_prefix("@every ") else {
                return Err(format!("unrecognized descriptor: {text}"));
            };
            let period = duration(period)
                .map_err(|error| format!("failed to parse duration {text}: {error}"))?;
            return Ok(Schedule::Every(Duration::from_secs(
                period.as_secs().max(1),
            )));
        }
    };
    fields(equivalent, zone).map(Schedule::Calendar)
}

/// Parses a Go duration. Negative durations become zero.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.strip_prefix('-') {
        Some(rest) if rest.starts_with('+') => None,
        Some(rest) => rkube_api::duration::parse(rest).map(|_| Duration::ZERO),
        None => rkube_api::duration::parse(text),
    };
    parsed.ok_or_else(|| duration_error(text))
}

/// Returns the error message of Go's `time.ParseDuration` for a malformed string.
fn duration_error(text: &str) -> String {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    while !rest.is_empty() {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let whole = digits(rest);
        rest = &rest[whole..];
        let mut fraction = 0;
        if let Some(after_point) = rest.strip_prefix('.') {
            fraction = digits(after_point);
            rest = &after_point[fraction..];
        }
        if whole + fraction == 0 {
            return invalid();
        }
        let unit_end = rest
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (unit, after_unit) = rest.split_at(unit_end);
        match unit {
            "" => return format!("time: missing unit in duration {}", quote(text)),
            "ns" | "us" | "µs" | "μs" | "ms" | "s" | "m" | "h" => rest = after_unit,
            _ => {
                return format!(
                    "time: unknown unit {} in duration {}",
                    quote(unit),
                    quote(text)
                );
            }
        }
    }
    invalid()
}

/// Parses a comma-separated list of ranges. Empty items are skipped.
fn field(text: &str, bounds: &Bounds) -> Result<Field, String> {
    let items = text.split(',').filter(|item| !item.is_empty());
    let mut bits = 0;
    for item in items {
        bits |= range(item, bounds)?;
    }
    Ok(Field(bits))
}

/// Parses a number, name, range of these, `*` or `?`, with an optional `/step`.
fn range(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let ends: Vec<&str> = parts[0].split('-').collect();
    let mut star = 0;
    let (start, mut end);
    if matches!(ends[0], "*" | "?") {
        (start, end) = (bounds.min, bounds.max);
        star = STAR;
    } else {
        start = number_or_name(ends[0], bounds)?;
        end = match ends.as_slice() {
            [_] => start,
            [_, end] => number_or_name(end, bounds)?,
            _ => return Err(format!("too many hyphens: {text}")),
        };
    }
    let step = match parts.as_slice() {
        [_] => 1,
        [_, step] => {
            let step = number(step)?;
            if ends.len() == 1 {
                end = bounds.max;
            }
            if step > 1 {
                star = 0;
            }
            step
        }
        _ => return Err(format!("too many slashes: {text}")),
    };
    if start < bounds.min {
        return Err(format!(
            "beginning of range ({start}) below minimum ({}): {text}",
            bounds.min
        ));
    }
    if end > bounds.max {
        return Err(format!(
            "end of range ({end}) above maximum ({}): {text}",
            bounds.max
        ));
    }
    if start > end {
        return Err(format!(
            "beginning of range ({start}) beyond end of range ({end}): {text}"
        ));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    let values = std::iter::successors(Some(start), |value| value.checked_add(step));
    let bits = values
        .take_while(|value| *value <= end)
        .fold(0, |bits, value| bits | 1 << value);
    Ok(bits | star)
}

fn number_or_name(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let lower = text.to_lowercase();
    let names = bounds.names.iter();
    match names.zip(bounds.min..).find(|(name, _)| **name == lower) {
        Some((_, value)) => Ok(value),
        None => number(text),
    }
}

/// Parses a number like Go's `strconv.Atoi`.
fn number(text: &str) -> Result<u64, String> {
    use std::num::IntErrorKind;
    let value = text.parse::<i64>().map_err(|error| {
        let problem = match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        let quoted = quote(text);
        format!("failed to parse int from {text}: strconv.Atoi: parsing {quoted}: {problem}")
    })?;
    u64::try_from(value).map_err(|_| format!("negative number ({value}) not allowed: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cases of `TestRange` in robfig/cron v3.
    #[test]
    fn ranges() {
        for (text, min, max, expected) in [
            ("5", 0, 7, Ok(1 << 5)),
            ("0", 0, 7, Ok(1)),
            ("7", 0, 7, Ok(1 << 7)),
            ("5-5", 0, 7, Ok(1 << 5)),
            ("5-6", 0, 7, Ok(1 << 5 | 1 << 6)),
            ("5-7", 0, 7, Ok(1 << 5 | 1 << 6 | 1 << 7)),
            ("5-6/2", 0, 7, Ok(1 << 5)),
            ("5-7/2", 0, 7, Ok(1 << 5 | 1 << 7)),
            ("5-7/1", 0, 7, Ok(1 << 5 | 1 << 6 | 1 << 7)),
            ("*", 1, 3, Ok(1 << 1 | 1 << 2 | 1 << 3 | STAR)),
            ("*/2", 1, 3, Ok(1 << 1 | 1 << 3)),
            ("5--5", 0, 0, Err("too many hyphens")),
            ("jan-x", 0, 0, Err("failed to parse int from")),
            ("2-x", 1, 5, Err("failed to parse int from")),
            ("*/-12", 0, 0, Err("negative number")),
            ("*//2", 0, 0, Err("too many slashes")),
            ("1", 3, 5, Err("below minimum")),
            ("6", 3, 5, Err("above maximum")),
            ("5-3", 3, 5, Err("beyond end of range")),
            ("*/0", 0, 0, Err("should be a positive number")),
        ] {
            let names = &[];
            let actual = range(text, &Bounds { min, max, names });
            match expected {
                Ok(bits) => assert_eq!(actual, Ok(bits), "{text}"),
                Err(part) => {
                    let message = actual.unwrap_err();
                    assert!(message.contains(part), "{text}: {message}");
                }
            }
        }
    }

    /// Cases of `TestField` and `TestAll` in robfig/cron v3.
    #[test]
    fn lists() {
        let bounds = Bounds {
            min: 1,
            max: 7,
            names: &[],
        };
        for (text, bits) in [
            ("5", 1 << 5),
            ("5,6", 1 << 5 | 1 << 6),
            ("5,6,7", 1 << 5 | 1 << 6 | 1 << 7),
            ("1,5-7/2,3", 1 << 1 | 1 << 5 | 1 << 7 | 1 << 3),
            ("1,,2,", 1 << 1 | 1 << 2),
            (",", 0),
        ] {
            assert_eq!(field(text, &bounds), Ok(Field(bits)), "{text}");
        }
        for (bounds, bits) in [
            (MINUTES, 0xfff_ffff_ffff_ffff),
            (HOURS, 0xff_ffff),
            (DAYS, 0xffff_fffe),
            (MONTHS, 0x1ffe),
            (WEEKDAYS, 0x7f),
        ] {
            assert_eq!(field("*", &bounds), Ok(Field(bits | STAR)));
        }
    }

    #[test]
    fn durations_are_refused_with_the_messages_of_go() {
        for (text, message) in [
            ("Xm", "time: invalid duration \"Xm\""),
            ("", "time: invalid duration \"\""),
            ("5", "time: missing unit in duration \"5\""),
            ("5d", "time: unknown unit \"d\" in duration \"5d\""),
            ("-+5s", "time: invalid duration \"-+5s\""),
            ("1h.", "time: invalid duration \"1h.\""),
        ] {
            assert_eq!(duration(text), Err(message.to_owned()), "{text}");
        }
    }
}
