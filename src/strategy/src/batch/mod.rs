//! The batch group.

mod cron_job;
mod job;

use crate::Strategy;

pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "Job" => &job::Job,
        "CronJob" => &cron_job::CronJob,
        _ => return None,
    })
}
