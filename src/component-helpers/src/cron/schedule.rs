//! A parsed schedule.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::calendar::Calendar;

/// A schedule of points in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Every minute that matches five calendar fields.
    Calendar(Calendar),
    /// Periodically. The period consists of whole seconds and is at least one second.
    Every(Duration),
}

impl Schedule {
    /// Returns the first time after `after`, or `None` if none follows within five years.
    ///
    /// `zone` applies unless the schedule names a zone.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(period) => {
                let period = i64::try_from(period.as_secs()).ok()?;
                let second = after.as_nanosecond().div_euclid(1_000_000_000);
                let next = i64::try_from(second).ok()?.checked_add(period)?;
                Timestamp::from_second(next).ok()
            }
            Schedule::Calendar(calendar) => calendar.next(after, zone),
        }
    }
}
