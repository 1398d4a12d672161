//! Cron jobs: create jobs on a schedule.

mod plan;

use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::Resource;
use kube::api::PropagationPolicy;
use rkube_component_helpers::cron;

use crate::common::owners;
use crate::context::{Context, Deletion, Error, Result, optional};
use crate::controller::{Controller, Watches};
use crate::events::Severity::{Normal, Warning};
use crate::informers::Key;
use crate::queue::Queue;

use plan::Decision;

const NAME: &str = "cronjob-controller";

/// The controller of cron jobs.
pub struct CronJobController {
    ctx: Context,
    queue: Queue<Key>,
}

impl CronJobController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
        }
    }
}

impl Controller for CronJobController {
    type Item = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        let informers = &self.ctx.informers;
        watches
            .objects(&informers.cron_jobs)
            .owns::<Job, CronJob>(&informers.jobs);
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        self.sync(key).await
    }
}

/// Returns the schedule's time zone: `spec.timeZone`, or UTC by default.
fn zone(cron: &CronJob) -> std::result::Result<TimeZone, String> {
    match cron.spec.time_zone.as_deref() {
        Some(name) => TimeZone::get(name)
            .map_err(|_| format!("invalid timeZone: {name:?}: unknown time zone {name}")),
        None => Ok(TimeZone::UTC),
    }
}

impl CronJobController {
    fn record_event(&self, cron: &CronJob, warning: bool, reason: &str, message: String) {
        let severity = if warning { Warning } else { Normal };
        self.ctx
            .recorder
            .event(NAME, cron, severity, reason, message);
    }

    async fn sync(&self, key: Key) -> Result<()> {
        let store = &self.ctx.informers.cron_jobs;
        let Some(observed) = store.by_key(&key) else {
            return Ok(());
        };
        let jobs = self
            .ctx
            .informers
            .jobs
            .owned_by(observed.metadata.uid.as_deref().unwrap_or_default());
        let mut cron = CronJob::clone(&observed);
        for job in plan::surplus(&cron, &jobs) {
            // The event tells what went wrong; the next sync tries again.
            if self.delete(&cron, &job).await.is_ok() {
                plan::forget(&mut cron, &job);
            }
        }
        for (warning, reason, message) in plan::account(&mut cron, &jobs) {
            self.record_event(&cron, warning, reason, message);
        }
        let outcome = if cron.metadata.deletion_timestamp.is_some() {
            Ok(())
        } else {
            self.run(&key, &mut cron, &jobs).await
        };
        if cron.status != observed.status {
            optional(self.ctx.update_status(store, &cron).await)?;
        }
        outcome
    }

    async fn run(&self, key: &Key, cron: &mut CronJob, jobs: &[Arc<Job>]) -> Result<()> {
        let spec = cron.spec.clone();
        let zone = match zone(cron) {
            Ok(zone) => zone,
            Err(message) => {
                self.record_event(cron, true, "UnknownTimeZone", message);
                return Ok(()); // retrying helps only after the object changed
            }
        };
        if spec.suspend == Some(true) {
            return Ok(());
        }
        let schedule = match cron::parse(&spec.schedule) {
            Ok(schedule) => schedule,
            Err(error) => {
                let message = format!("unparseable schedule: {:?} : {error}", spec.schedule);
                self.record_event(cron, true, "UnparseableSchedule", message);
                return Ok(());
            }
        };
        let now = self.ctx.now();
        let (decision, missed) = plan::decide(cron, &schedule, &zone, now);
        if missed > plan::MAX_MISSED_RUNS {
            let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.record_event(cron, true, "TooManyMissedTimes", text.into());
        }
        match decision {
            Decision::Wait => {}
            Decision::Never => {
                let message = format!(
                    "invalid schedule: {} : time difference between two schedules is less than 1 second",
                    spec.schedule
                );
                self.record_event(cron, true, "InvalidSchedule", message);
                return Ok(());
            }
            Decision::TooLate(time) => {
                let time = time.to_zoned(TimeZone::UTC);
                let time = time.strftime("%a, %d %b %Y %H:%M:%S %z");
                let message = format!("Missed scheduled time to start a job: {time}");
                self.record_event(cron, true, "MissSchedule", message);
            }
            Decision::Busy => {
                let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.record_event(cron, false, "JobAlreadyActive", text.into());
            }
            Decision::Start { time, replace } => {
                if replace {
                    let active = cron
                        .status
                        .as_ref()
                        .and_then(|status| status.active.clone())
                        .unwrap_or_default();
                    for job in jobs
                        .iter()
                        .filter(|job| active.iter().any(|known| known.uid == job.metadata.uid))
                    {
                        self.delete(cron, job).await?;
                        plan::forget(cron, job);
                    }
                }
                self.create(cron, time, &zone).await?;
            }
        }
        if let Some(next) = schedule.next(now, &zone) {
            let wait = rkube_component_helpers::time::until_time(next, now);
            // Wake up slightly late, never early.
            self.queue
                .add_after(key.clone(), wait + std::time::Duration::from_millis(100));
        }
        Ok(())
    }

    async fn create(&self, cron: &mut CronJob, time: Timestamp, zone: &TimeZone) -> Result<()> {
        let wanted = plan::job_for(cron, time, zone);
        let store = &self.ctx.informers.jobs;
        let job = match self.ctx.create(store, &wanted).await {
            Ok(job) => {
                let name = job.metadata.name.as_deref().unwrap_or_default();
                self.record_event(
                    cron,
                    false,
                    "SuccessfulCreate",
                    format!("Created job {name}"),
                );
                job
            }
            Err(error) if error.is_namespace_terminating() => return Ok(()),
            Err(error) if error.is_already_exists() => {
                let key = Key::of(&wanted.metadata);
                let present: Job = self.ctx.get(&key.namespace, &key.name).await?;
                if !owners::is_controlled_by(
                    &present.metadata,
                    cron.metadata.uid.as_deref().unwrap_or_default(),
                ) {
                    return Err(error);
                }
                store.observe(present)
            }
            Err(error) => {
                self.record_event(
                    cron,
                    true,
                    "FailedCreate",
                    format!("Error creating job: {error}"),
                );
                return Err(error);
            }
        };
        let reference = job.object_ref(&());
        let status = cron.status.get_or_insert_default();
        if !crate::job::is_finished(&job.status.clone().unwrap_or_default()) {
            let active = status.active.get_or_insert_default();
            if !active.iter().any(|known| known.uid == reference.uid) {
                active.push(reference);
            }
        }
        status.last_schedule_time =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time));
        Ok(())
    }

    async fn delete(&self, cron: &CronJob, job: &Job) -> Result<()> {
        let how = Deletion {
            propagation: Some(PropagationPolicy::Background),
            ..Default::default()
        };
        let name = job.metadata.name.as_deref().unwrap_or_default();
        match self
            .ctx
            .delete(&self.ctx.informers.jobs, &job.metadata, &how)
            .await
        {
            Ok(()) => {
                self.record_event(
                    cron,
                    false,
                    "SuccessfulDelete",
                    format!("Deleted job {name}"),
                );
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => {
                self.record_event(cron, true, "FailedDelete", format!("Deleted job: {error}"));
                Err(Error::other(format!("cannot delete job {name}: {error}")))
            }
        }
    }
}
