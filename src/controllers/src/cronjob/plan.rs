//! Decides what a cron job needs: whether to start a job, and which old jobs to delete.

use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use rkube_component_helpers::cron::Schedule;
use rkube_component_helpers::time::{add_seconds, sub_seconds};

use crate::common::owners;
use crate::job::{has_condition, is_finished};

/// Annotation with the scheduled time of a job.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Number of missed start times from which users are warned.
pub const MAX_MISSED_RUNS: usize = 100;

/// The decision about the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing is due, or the job was already started.
    Wait,
    /// The schedule is well-formed, but no time fits it, as with the 31st of February.
    Never,
    /// This start time is past its deadline.
    TooLate(Timestamp),
    /// A job is due, but the concurrency policy forbids it while another one is active.
    Busy,
    /// Start the job for this time.
    Start {
        /// The scheduled time.
        time: Timestamp,
        /// Whether to delete active jobs first.
        replace: bool,
    },
}

/// Returns the latest start time that is due and the number of due times, which is an estimate
/// above 1. Times up to `earliest` are ignored.
fn latest_due(
    schedule: &Schedule,
    zone: &TimeZone,
    earliest: Timestamp,
    now: Timestamp,
) -> (Option<Timestamp>, usize) {
    let Some(first) = schedule.next(earliest, zone).filter(|first| *first <= now) else {
        return (None, 0);
    };
    let Some(second) = schedule.next(first, zone).filter(|second| *second <= now) else {
        return (Some(first), 1);
    };
    // After a long absence, do not iterate over every missed time. As upstream, start one interval
    // before the last time of a regular schedule. An irregular one may have no time since then, and
    // then waits for the next.
    let gap = second.duration_since(first).as_secs().max(1);
    let passed = now.duration_since(first).as_secs() / gap;
    let missed = usize::try_from(passed).unwrap_or(usize::MAX - 1) + 1;
    let mut latest = None;
    let mut at = add_seconds(first, passed.saturating_sub(1).saturating_mul(gap));
    while let Some(next) = schedule.next(at, zone).filter(|next| *next <= now) {
        latest = Some(next);
        at = next;
    }
    (latest, missed)
}

/// Decides about the schedule. Returns the decision and the number of missed start times.
pub fn decide(
    cron: &CronJob,
    schedule: &Schedule,
    zone: &TimeZone,
    now: Timestamp,
) -> (Decision, usize) {
    let spec = &cron.spec;
    let status = cron.status.clone().unwrap_or_default();
    let since = status
        .last_schedule_time
        .as_ref()
        .or(cron.metadata.creation_timestamp.as_ref());
    let mut earliest = since.map_or(now, |time| time.0);
    let deadline = spec.starting_deadline_seconds;
    if let Some(deadline) = deadline {
        earliest = earliest.max(sub_seconds(now, deadline));
    }
    let (time, missed) = latest_due(schedule, zone, earliest, now);
    let Some(time) = time else {
        if schedule.next(earliest, zone).is_none() {
            return (Decision::Never, 0);
        }
        return (Decision::Wait, 0);
    };
    if deadline.is_some_and(|deadline| add_seconds(time, deadline) < now) {
        return (Decision::TooLate(time), missed);
    }
    let active = status.active.unwrap_or_default();
    let name = job_name(cron, time);
    let started = active.iter().any(|job| job.name.as_ref() == Some(&name));
    if started || status.last_schedule_time == Some(Time(time)) {
        return (Decision::Wait, missed);
    }
    let policy = spec.concurrency_policy.as_deref().unwrap_or("Allow");
    if policy == "Forbid" && !active.is_empty() {
        return (Decision::Busy, missed);
    }
    (
        Decision::Start {
            time,
            replace: policy == "Replace",
        },
        missed,
    )
}

fn job_name(cron: &CronJob, time: Timestamp) -> String {
    // Named by the minute, so that a second job for the same time is rejected as a duplicate.
    let name = cron.metadata.name.as_deref().unwrap_or_default();
    format!("{name}-{}", time.as_second() / 60)
}

/// Returns the job for a scheduled time.
pub fn job_for(cron: &CronJob, time: Timestamp, zone: &TimeZone) -> Job {
    let template = cron.spec.job_template.clone();
    let given = template.metadata.unwrap_or_default();
    let mut annotations = given.annotations.unwrap_or_default();
    let local = time.to_zoned(zone.clone());
    let stamp = if local.offset().is_zero() {
        local.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    } else {
        local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    };
    annotations.insert(SCHEDULED.into(), stamp);
    Job {
        metadata: ObjectMeta {
            name: Some(job_name(cron, time)),
            namespace: cron.metadata.namespace.clone(),
            labels: given.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owners::control_by(cron)]),
            ..Default::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// Removes a job from the active ones.
pub fn forget(cron: &mut CronJob, job: &Job) {
    if let Some(active) = cron
        .status
        .as_mut()
        .and_then(|status| status.active.as_mut())
    {
        active.retain(|known| known.uid != job.metadata.uid);
    }
    tidy(cron);
}

fn tidy(cron: &mut CronJob) {
    if let Some(status) = cron.status.as_mut()
        && status.active.as_ref().is_some_and(Vec::is_empty)
    {
        status.active = None;
    }
}

/// Updates the status from the jobs. Returns the events to report: whether it is a warning, reason
/// and message.
pub fn account(cron: &mut CronJob, jobs: &[Arc<Job>]) -> Vec<(bool, &'static str, String)> {
    let mut news = Vec::new();
    let mut status = cron.status.clone().unwrap_or_default();
    let mut active: Vec<ObjectReference> = status.active.take().unwrap_or_default();
    for job in jobs {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let position = active
            .iter()
            .position(|known| known.uid == job.metadata.uid);
        let job_status = job.status.clone().unwrap_or_default();
        match position {
            Some(index) if is_finished(&job_status) => {
                active.remove(index);
                let end = if has_condition(&job_status, "Complete") {
                    "Complete"
                } else {
                    "Failed"
                };
                let message = format!("Saw completed job: {name}, condition: {end}");
                news.push((false, "SawCompletedJob", message));
            }
            None if !is_finished(&job_status) => {
                news.push((
                    true,
                    "UnexpectedJob",
                    format!("Saw a job that the controller did not create or forgot: {name}"),
                ));
            }
            _ => {}
        }
        if has_condition(&job_status, "Complete")
            && let Some(completed) = job_status.completion_time
            && status
                .last_successful_time
                .as_ref()
                .is_none_or(|last| *last < completed)
        {
            status.last_successful_time = Some(completed);
        }
    }
    active.retain(|known| {
        let present = jobs.iter().any(|job| job.metadata.uid == known.uid);
        if !present {
            let name = known.name.as_deref().unwrap_or_default();
            news.push((
                false,
                "MissingJob",
                format!("Active job went missing: {name}"),
            ));
        }
        present
    });
    status.active = (!active.is_empty()).then_some(active);
    if cron.status.is_some() || status != Default::default() {
        cron.status = Some(status);
    }
    news
}

/// Returns the finished jobs to delete: the oldest beyond the history limits.
pub fn surplus(cron: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let spec = &cron.spec;
    let beyond = |kind: &str, limit: Option<i32>| {
        let mut ended: Vec<Arc<Job>> = jobs
            .iter()
            .filter(|job| {
                job.status
                    .as_ref()
                    .is_some_and(|status| has_condition(status, kind))
            })
            .filter(|job| job.metadata.deletion_timestamp.is_none())
            .cloned()
            .collect();
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else {
            return Vec::new();
        };
        ended.sort_by_key(|job| {
            let started = job
                .status
                .as_ref()
                .and_then(|status| status.start_time.as_ref().map(|time| time.0));
            (started, job.metadata.name.clone())
        });
        let count = ended.len().saturating_sub(limit);
        ended.truncate(count);
        ended
    };
    let mut surplus = beyond("Complete", spec.successful_jobs_history_limit.or(Some(3)));
    surplus.extend(beyond("Failed", spec.failed_jobs_history_limit.or(Some(1))));
    surplus
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::batch::v1::{CronJobSpec, CronJobStatus, JobCondition, JobStatus};

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn cron(schedule: &str, last: &str) -> CronJob {
        CronJob {
            metadata: ObjectMeta {
                name: Some("tick".into()),
                creation_timestamp: Some(Time(time(last))),
                ..Default::default()
            },
            spec: CronJobSpec {
                schedule: schedule.into(),
                ..Default::default()
            },
            status: None,
        }
    }

    fn decided(cron: &CronJob, now: &str) -> (Decision, usize) {
        let schedule = rkube_component_helpers::cron::parse(&cron.spec.schedule).unwrap();
        decide(cron, &schedule, &TimeZone::UTC, time(now))
    }

    fn starts(at: &str) -> Decision {
        Decision::Start {
            time: time(at),
            replace: false,
        }
    }

    #[test]
    fn a_job_is_due_once() {
        let mut cron = cron("*/10 * * * *", "2026-01-01T00:01:00Z");
        assert_eq!(decided(&cron, "2026-01-01T00:09:59Z").0, Decision::Wait);
        assert_eq!(
            decided(&cron, "2026-01-01T00:10:01Z"),
            (starts("2026-01-01T00:10:00Z"), 1)
        );
        cron.status = Some(CronJobStatus {
            last_schedule_time: Some(Time(time("2026-01-01T00:10:00Z"))),
            ..Default::default()
        });
        assert_eq!(decided(&cron, "2026-01-01T00:10:02Z").0, Decision::Wait);
    }

    #[test]
    fn after_an_absence_only_the_latest_is_made_up_for() {
        let cron = cron("* * * * *", "2026-01-01T00:00:00Z");
        let (decision, missed) = decided(&cron, "2026-03-01T12:00:30Z");
        assert_eq!(decision, starts("2026-03-01T12:00:00Z"));
        assert!(missed > MAX_MISSED_RUNS);
        let irregular = self::cron("0 9 1 1,2 *", "2025-01-01T00:00:00Z");
        assert_eq!(
            decided(&irregular, "2025-03-01T00:00:00Z").0,
            starts("2025-02-01T09:00:00Z")
        );
        // As upstream, the next time is waited for if the regular interval has none.
        assert_eq!(
            decided(&irregular, "2025-12-31T00:00:00Z").0,
            Decision::Wait
        );
    }

    #[test]
    fn some_times_never_come() {
        let cron = cron("0 0 31 2 *", "2026-01-01T00:00:00Z");
        assert_eq!(decided(&cron, "2026-03-01T00:00:00Z").0, Decision::Never);
    }

    #[test]
    fn a_deadline_forgets_old_times() {
        let mut cron = cron("0 * * * *", "2026-01-01T00:30:00Z");
        cron.spec.starting_deadline_seconds = Some(60);
        assert_eq!(decided(&cron, "2026-01-01T01:30:00Z").0, Decision::Wait);
        assert_eq!(
            decided(&cron, "2026-01-01T01:00:30Z").0,
            starts("2026-01-01T01:00:00Z")
        );
    }

    #[test]
    fn concurrency_policies() {
        let mut cron = cron("* * * * *", "2026-01-01T00:00:00Z");
        cron.status = Some(CronJobStatus {
            active: Some(vec![ObjectReference::default()]),
            ..Default::default()
        });
        cron.spec.concurrency_policy = Some("Forbid".into());
        assert_eq!(decided(&cron, "2026-01-01T00:01:30Z").0, Decision::Busy);
        cron.spec.concurrency_policy = Some("Replace".into());
        let (decision, _) = decided(&cron, "2026-01-01T00:01:30Z");
        assert!(matches!(decision, Decision::Start { replace: true, .. }));
    }

    #[test]
    fn history_and_active_jobs() {
        let mut cron = cron("* * * * *", "2026-01-01T00:00:00Z");
        cron.spec.successful_jobs_history_limit = Some(1);
        let job = |name: &str, started: &str, complete: bool| {
            Arc::new(Job {
                metadata: ObjectMeta {
                    name: Some(name.into()),
                    uid: Some(name.into()),
                    ..Default::default()
                },
                status: Some(JobStatus {
                    start_time: Some(Time(time(started))),
                    completion_time: complete.then(|| Time(time(started))),
                    conditions: complete.then(|| {
                        vec![JobCondition {
                            type_: "Complete".into(),
                            status: "True".into(),
                            ..Default::default()
                        }]
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            })
        };
        let jobs = [
            job("a", "2026-01-01T00:01:00Z", true),
            job("b", "2026-01-01T00:02:00Z", true),
            job("c", "2026-01-01T00:03:00Z", false),
        ];
        let names: Vec<_> = surplus(&cron, &jobs)
            .iter()
            .map(|job| job.metadata.name.clone().unwrap())
            .collect();
        assert_eq!(names, ["a"]);
        let reference = |name: &str| ObjectReference {
            uid: Some(name.into()),
            name: Some(name.into()),
            ..Default::default()
        };
        cron.status = Some(CronJobStatus {
            active: Some(vec![reference("b"), reference("c"), reference("gone")]),
            ..Default::default()
        });
        let news = account(&mut cron, &jobs);
        let reasons: Vec<_> = news.iter().map(|(_, reason, _)| *reason).collect();
        assert_eq!(reasons, ["SawCompletedJob", "MissingJob"]);
        let status = cron.status.clone().unwrap();
        assert_eq!(status.active.unwrap().len(), 1);
        assert_eq!(
            status.last_successful_time,
            Some(Time(time("2026-01-01T00:02:00Z")))
        );
    }

    #[test]
    fn names_and_stamps() {
        let job = job_for(
            &cron("* * * * *", "2026-01-01T00:00:00Z"),
            time("2026-01-01T00:01:00Z"),
            &TimeZone::UTC,
        );
        assert_eq!(job.metadata.name.as_deref(), Some("tick-29453761"));
        assert_eq!(
            job.metadata.annotations.unwrap()[SCHEDULED],
            "2026-01-01T00:01:00Z"
        );
    }

    #[test]
    fn any_numbers_can_be_decided_with() {
        let object = serde_json::json!({
            "metadata": {"name": "tick", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "schedule": "*/5 * * * *", "startingDeadlineSeconds": 1,
                "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1,
                "jobTemplate": {"spec": {"template": {}, "backoffLimit": 1}},
            },
        });
        let schedule = rkube_component_helpers::cron::parse("*/5 * * * *").unwrap();
        crate::common::extremes::each(&object, |cron: &CronJob| {
            let now = time("2026-01-01T01:00:00Z");
            decide(cron, &schedule, &TimeZone::UTC, now);
            surplus(cron, &[Arc::new(job_for(cron, now, &TimeZone::UTC))]);
        });
    }

    #[test]
    fn a_deadline_of_any_length_is_never_over() {
        let mut cron = cron("* * * * *", "2026-01-01T00:00:00Z");
        cron.spec.starting_deadline_seconds = Some(i64::MAX);
        let schedule = rkube_component_helpers::cron::parse("* * * * *").unwrap();
        let now = time("2026-01-01T00:01:30Z");
        let (decision, missed) = decide(&cron, &schedule, &TimeZone::UTC, now);
        assert!(matches!(decision, Decision::Start { .. }), "{decision:?}");
        assert_eq!(missed, 1);
    }
}
