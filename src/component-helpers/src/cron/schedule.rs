//! A parsed schedule.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::calendar::Calendar;

/// Times at which to act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At the minutes that five fields select.
    Calendar(Calendar),
    /// After every period of whole seconds, at least one.
    Every(Duration),
}

impl Schedule {
    /// Returns the first time after `after`, or `None` if there is none within
    /// five years. `zone` applies unless the schedule names a zone.
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
