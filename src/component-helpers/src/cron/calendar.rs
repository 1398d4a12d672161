//! Computes the next time of a calendar schedule.
//!
//! Follows upstream step by step, since the results around clock changes depend on the steps:
//! fields are advanced in absolute time, from the month down to the minute, and the search restarts
//! when a field wraps.

use jiff::civil::{DateTime, Weekday};
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, ToSpan};

/// Flag of a field that was given as `*` or `?`.
pub(super) const STAR: u64 = 1 << 63;
/// The search ends after this many years.
const MAX_YEARS: i16 = 5;

/// Values of a field, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field(pub(super) u64);

impl Field {
    fn has(self, value: i8) -> bool {
        self.0 & (1 << value) != 0
    }

    fn is_star(self) -> bool {
        self.0 & STAR != 0
    }

    fn is_empty(self) -> bool {
        self.0 & !STAR == 0
    }
}

/// The five fields of a schedule and the time zone to which they refer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    pub(super) minute: Field,
    pub(super) hour: Field,
    pub(super) day: Field,
    pub(super) month: Field,
    pub(super) weekday: Field,
    /// The time zone named by the schedule, if any.
    pub(super) zone: Option<TimeZone>,
}

/// A point in time with its local time in a zone.
struct Cursor<'a> {
    zone: &'a TimeZone,
    time: Timestamp,
    local: DateTime,
}

impl<'a> Cursor<'a> {
    fn new(zone: &'a TimeZone, time: Timestamp) -> Self {
        Self {
            zone,
            time,
            local: zone.to_offset(time).to_datetime(time),
        }
    }

    fn add_seconds(&mut self, seconds: i64) -> Option<()> {
        let second = self.time.as_second().checked_add(seconds)?;
        *self = Self::new(self.zone, Timestamp::from_second(second).ok()?);
        Some(())
    }

    /// Moves to a local time. In a gap or fold of the clock, the result is that of Go's
    /// `time.Date`.
    fn set_local(&mut self, local: DateTime) -> Option<()> {
        let as_utc = Offset::UTC.to_timestamp(local).ok()?;
        let shift = |offset: Offset| {
            let second = as_utc.as_second() - i64::from(offset.seconds());
            Timestamp::from_second(second).ok()
        };
        let guess = self.zone.to_offset(as_utc);
        let time = if guess == Offset::UTC {
            as_utc
        } else {
            shift(self.zone.to_offset(shift(guess)?))?
        };
        *self = Self::new(self.zone, time);
        Some(())
    }
}

impl Calendar {
    fn has_day(&self, local: DateTime) -> bool {
        let day = self.day.has(local.day());
        let weekday = self.weekday.has(local.weekday().since(Weekday::Sunday));
        // If both fields are restricted, one match suffices.
        if self.day.is_star() || self.weekday.is_star() {
            day && weekday
        } else {
            day || weekday
        }
    }

    /// Returns the first time after `after`, or `None` if none follows within five years.
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let fields = [self.minute, self.hour, self.month];
        if fields.into_iter().any(Field::is_empty) {
            return None;
        }
        let zone = self.zone.as_ref().unwrap_or(zone);
        let second = i64::try_from(after.as_nanosecond().div_euclid(1_000_000_000)).ok()?;
        let mut cursor = Cursor::new(zone, Timestamp::from_second(second + 1).ok()?);
        let last_year = cursor.local.year().checked_add(MAX_YEARS)?;
        // Whether the smaller fields were reset, which happens only once.
        let mut reset = false;
        while cursor.local.year() <= last_year {
            if self.advance(&mut cursor, &mut reset)? {
                return Some(cursor.time);
            }
        }
        None
    }

    /// Advances field by field. Returns false when a field wrapped, after which the larger fields
    /// must be checked again.
    fn advance(&self, cursor: &mut Cursor<'_>, reset: &mut bool) -> Option<bool> {
        while !self.month.has(cursor.local.month()) {
            if !std::mem::replace(reset, true) {
                cursor.set_local(cursor.local.date().first_of_month().at(0, 0, 0, 0))?;
            }
            cursor.set_local(cursor.local.checked_add(1.month()).ok()?)?;
            if cursor.local.month() == 1 {
                return Some(false);
            }
        }
        while !self.has_day(cursor.local) {
            if !std::mem::replace(reset, true) {
                cursor.set_local(cursor.local.date().at(0, 0, 0, 0))?;
            }
            cursor.set_local(cursor.local.checked_add(1.day()).ok()?)?;
            // If the clock skips midnight, the day starts at another hour.
            match i64::from(cursor.local.hour()) {
                0 => {}
                hour @ 13.. => cursor.add_seconds((24 - hour) * 3600)?,
                hour => cursor.add_seconds(-hour * 3600)?,
            }
            if cursor.local.day() == 1 {
                return Some(false);
            }
        }
        while !self.hour.has(cursor.local.hour()) {
            if !std::mem::replace(reset, true) {
                cursor.set_local(cursor.local.date().at(cursor.local.hour(), 0, 0, 0))?;
            }
            cursor.add_seconds(3600)?;
            if cursor.local.hour() == 0 {
                return Some(false);
            }
        }
        while !self.minute.has(cursor.local.minute()) {
            if !std::mem::replace(reset, true) {
                cursor.add_seconds(-i64::from(cursor.local.second()))?;
            }
            cursor.add_seconds(60)?;
            if cursor.local.minute() == 0 {
                return Some(false);
            }
        }
        if cursor.local.second() != 0 {
            *reset = true;
            cursor.add_seconds(i64::from(60 - cursor.local.second()))?;
            return Some(false);
        }
        Some(true)
    }
}
