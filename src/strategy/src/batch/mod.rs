//! The batch group.

mod cron_job;
mod failure_policy;
mod job;
mod spec;
mod status;
mod success_policy;

use crate::Strategy;

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "Job" => &job::Job,
        "CronJob" => &cron_job::CronJob,
        _ => return None,
    })
}
