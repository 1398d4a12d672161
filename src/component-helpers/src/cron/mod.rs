//! Cron schedules with the semantics of `robfig/cron` v3: its standard parser,
//! the descriptors and the prefixes `TZ=` and `CRON_TZ=`.

mod calendar;
mod parse;
mod schedule;
#[cfg(test)]
mod tests;

pub use calendar::Calendar;
pub use parse::parse;
pub use schedule::Schedule;
