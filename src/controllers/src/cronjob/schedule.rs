//! Cron schedules: five fields, names, steps, and the `@` shorthands, read as
//! the library that upstream uses reads them.

use std::time::Duration;

use jiff::civil::{Date, DateTime, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

const MONTHS: &[&str] = &[
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// Schedules that never come true are given up after this many years.
const YEARS: i16 = 5;

/// Which values of a field match, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    bits: u64,
    any: bool,
}

impl Field {
    fn has(self, value: i8) -> bool {
        self.bits & (1 << value) != 0
    }
}

/// When to act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At these minutes.
    Calendar(Calendar),
    /// So often.
    Every(Duration),
}

/// The five fields of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calendar {
    minute: Field,
    hour: Field,
    day: Field,
    month: Field,
    weekday: Field,
}

fn number(text: &str, names: &[&str], first: i8) -> Result<i8, String> {
    let lower = text.to_ascii_lowercase();
    if let Some(index) = names.iter().position(|name| *name == lower) {
        return Ok(index as i8 + first);
    }
    text.parse()
        .map_err(|_| format!("failed to parse number: {text:?}"))
}

fn field(text: &str, low: i8, high: i8, names: &[&str]) -> Result<Field, String> {
    let first = if names.len() == 12 { 1 } else { 0 };
    let (mut bits, mut any) = (0u64, false);
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                let step: u8 = step
                    .parse()
                    .map_err(|_| format!("failed to parse step: {part:?}"))?;
                (range, Some(step))
            }
            None => (part, None),
        };
        let (start, end) = if range == "*" || range == "?" {
            any |= step.is_none_or(|step| step <= 1);
            (low, high)
        } else if let Some((start, end)) = range.split_once('-') {
            (number(start, names, first)?, number(end, names, first)?)
        } else {
            let start = number(range, names, first)?;
            (start, if step.is_some() { high } else { start })
        };
        if start < low {
            return Err(format!(
                "beginning of range ({start}) below minimum ({low}): {part}"
            ));
        }
        if end > high {
            return Err(format!(
                "end of range ({end}) above maximum ({high}): {part}"
            ));
        }
        if start > end {
            return Err(format!(
                "beginning of range ({start}) beyond end of range ({end}): {part}"
            ));
        }
        if step == Some(0) {
            return Err(format!("step of range should be a positive number: {part}"));
        }
        for value in (start..=end).step_by(step.unwrap_or(1).into()) {
            bits |= 1 << value;
        }
    }
    Ok(Field { bits, any })
}

/// Reads a duration as Go writes it: `1h30m`, `90s`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(amount * seconds).ok()?;
        rest = &rest[unit..];
    }
    Some(total)
}

impl Schedule {
    /// Reads a schedule.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(every) = text.strip_prefix("@every ") {
            let every =
                duration(every.trim()).ok_or_else(|| format!("failed to parse duration {text}"))?;
            // Whole seconds, and one at least.
            return Ok(Schedule::Every(Duration::from_secs(every.as_secs().max(1))));
        }
        let text = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other if other.starts_with('@') => {
                return Err(format!("unrecognized descriptor: {other}"));
            }
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(format!(
                "expected exactly 5 fields, found {}: [{}]",
                fields.len(),
                fields.join(" ")
            ));
        };
        Ok(Schedule::Calendar(Calendar {
            minute: field(minute, 0, 59, &[])?,
            hour: field(hour, 0, 23, &[])?,
            day: field(day, 1, 31, &[])?,
            month: field(month, 1, 12, MONTHS)?,
            weekday: field(weekday, 0, 6, DAYS)?,
        }))
    }

    /// The first time after `after`, if there is one within five years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(every) => {
                let next = after + SignedDuration::try_from(*every).ok()?;
                Timestamp::from_second(next.as_second()).ok()
            }
            Schedule::Calendar(calendar) => calendar.next(after, zone),
        }
    }
}

impl Calendar {
    fn has_day(&self, date: Date) -> bool {
        let day = self.day.has(date.day());
        let weekday = self.weekday.has(date.weekday().since(Weekday::Sunday));
        // Restricting both means either; a star restricts nothing.
        if self.day.any || self.weekday.any {
            day && weekday
        } else {
            day || weekday
        }
    }

    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = after.to_zoned(zone.clone()).datetime();
        let last_year = start.year() + YEARS;
        let mut at = start
            .date()
            .at(start.hour(), start.minute(), 0, 0)
            .checked_add(1.minute())
            .ok()?;
        // In the hour that comes twice, the wall clock may run behind.
        loop {
            if at.year() > last_year {
                return None;
            }
            if !self.month.has(at.month()) {
                at = at
                    .date()
                    .first_of_month()
                    .checked_add(1.month())
                    .ok()?
                    .at(0, 0, 0, 0);
            } else if !self.has_day(at.date()) {
                at = at.date().tomorrow().ok()?.at(0, 0, 0, 0);
            } else if !self.hour.has(at.hour()) {
                at = at
                    .date()
                    .at(at.hour(), 0, 0, 0)
                    .checked_add(1.hour())
                    .ok()?;
            } else if !self.minute.has(at.minute()) {
                at = at.checked_add(1.minute()).ok()?;
            } else if let Some(time) = instant(at, zone, after) {
                return Some(time);
            } else {
                at = at.checked_add(1.minute()).ok()?;
            }
        }
    }
}

/// The moment of a wall-clock time after `after`; none in the hour that the
/// clock skips.
fn instant(at: DateTime, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(at);
    if matches!(ambiguous.offset(), jiff::tz::AmbiguousOffset::Gap { .. }) {
        return None;
    }
    let earlier = ambiguous.earlier().ok()?;
    if earlier > after {
        return Some(earlier);
    }
    ambiguous.later().ok().filter(|later| *later > after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn next(schedule: &str, after: &str, zone: &str) -> String {
        let zone = TimeZone::get(zone).unwrap();
        let schedule = Schedule::parse(schedule).unwrap();
        let next = schedule.next(after.parse().unwrap(), &zone).unwrap();
        next.to_string()
    }

    #[test]
    fn fields() {
        let utc = |schedule, after| next(schedule, after, "UTC");
        assert_eq!(
            utc("*/5 * * * *", "2026-01-01T00:01:30Z"),
            "2026-01-01T00:05:00Z"
        );
        assert_eq!(
            utc("0 0 1 jan *", "2026-01-01T00:00:00Z"),
            "2027-01-01T00:00:00Z"
        );
        assert_eq!(
            utc("30 9 * * mon-fri", "2026-01-02T10:00:00Z"),
            "2026-01-05T09:30:00Z"
        );
        assert_eq!(
            utc("0 12 13 * 5", "2026-02-10T00:00:00Z"),
            "2026-02-13T12:00:00Z"
        );
        assert_eq!(
            utc("0 0 29 2 *", "2026-01-01T00:00:00Z"),
            "2028-02-29T00:00:00Z"
        );
        assert_eq!(
            utc("@hourly", "2026-01-01T00:00:00Z"),
            "2026-01-01T01:00:00Z"
        );
        assert_eq!(
            utc("@every 1h30m", "2026-01-01T00:00:00Z"),
            "2026-01-01T01:30:00Z"
        );
        assert_eq!(
            utc("10/20 * * * *", "2026-01-01T00:31:00Z"),
            "2026-01-01T00:50:00Z"
        );
    }

    #[test]
    fn zones_and_their_changes() {
        let berlin = |schedule, after| next(schedule, after, "Europe/Berlin");
        assert_eq!(
            berlin("0 6 * * *", "2026-01-01T00:00:00Z"),
            "2026-01-01T05:00:00Z"
        );
        // 02:30 does not exist on 2026-03-29.
        assert_eq!(
            berlin("30 2 * * *", "2026-03-28T12:00:00Z"),
            "2026-03-30T00:30:00Z"
        );
    }

    #[test]
    fn what_never_comes_ends() {
        let schedule = Schedule::parse("0 0 31 2 *").unwrap();
        assert_eq!(schedule.next(Timestamp::UNIX_EPOCH, &TimeZone::UTC), None);
    }

    #[test]
    fn mistakes_are_named() {
        for wrong in [
            "",
            "* * * *",
            "60 * * * *",
            "* * 0 * *",
            "5-1 * * * *",
            "*/0 * * * *",
            "@often",
            "a * * * *",
        ] {
            assert!(Schedule::parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn anything_can_be_read(text in "[-0-9*,/@? a-z]{0,24}") {
            if let Ok(schedule) = Schedule::parse(&text) {
                let start = Timestamp::from_second(1_700_000_000).unwrap();
                if let Some(next) = schedule.next(start, &TimeZone::UTC) {
                    prop_assert!(next > start);
                }
            }
        }
    }
}
