//! Deletes finished jobs after their time to live.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::api::PropagationPolicy;

use crate::common::pods::until;
use crate::context::{Context, Deletion, Result, optional};
use crate::controller::{Controller, Watches};
use crate::informers::Key;
use crate::queue::Queue;

const NAME: &str = "ttl-after-finished-controller";

/// Returns the time until the job is to be deleted, or `None` if it is unfinished or has no time to
/// live.
pub fn time_to_deletion(job: &Job, now: Timestamp) -> Option<Duration> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let finished = job
        .status
        .as_ref()?
        .conditions
        .iter()
        .flatten()
        .find(|condition| {
            matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True"
        })?;
    let at = finished.last_transition_time.as_ref()?.0;
    Some(until(at, ttl.into(), now))
}

/// The controller that deletes finished jobs.
pub struct TtlController {
    ctx: Context,
    queue: Queue<Key>,
}

impl TtlController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
        }
    }
}

impl Controller for TtlController {
    type Item = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        watches.watches(&self.ctx.informers.jobs, |change, queue| {
            if !change.is_deletion()
                && time_to_deletion(change.object(), Timestamp::now()).is_some()
            {
                queue.add(Key::of(&change.object().metadata));
            }
        });
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        sync(&self.ctx, &self.queue, key).await
    }
}

async fn sync(ctx: &Context, queue: &Queue<Key>, key: Key) -> Result<()> {
    let store = &ctx.informers.jobs;
    let Some(job) = store.by_key(&key) else {
        return Ok(());
    };
    match time_to_deletion(&job, ctx.now()) {
        None => Ok(()),
        Some(wait) if !wait.is_zero() => {
            queue.add_after(key, wait);
            Ok(())
        }
        Some(_) => {
            // The time to live may have changed in the meantime.
            let Some(fresh) = optional(ctx.get::<Job>(&key.namespace, &key.name).await)? else {
                return Ok(());
            };
            if time_to_deletion(&fresh, ctx.now()) != Some(Duration::ZERO) {
                return Ok(());
            }
            let how = Deletion {
                propagation: Some(PropagationPolicy::Foreground),
                resource_version: fresh.metadata.resource_version.clone(),
                ..Default::default()
            };
            optional(ctx.delete(store, &fresh.metadata, &how).await).map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::pods::testing::at;
    use k8s_openapi::api::batch::v1::{JobCondition, JobSpec, JobStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn only_finished_jobs_with_a_time_to_live_go() {
        let mut job = Job {
            spec: Some(JobSpec {
                ttl_seconds_after_finished: Some(10),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(time_to_deletion(&job, at(5)), None);
        job.status = Some(JobStatus {
            conditions: Some(vec![JobCondition {
                type_: "Complete".into(),
                status: "True".into(),
                last_transition_time: Some(Time(at(100))),
                ..Default::default()
            }]),
            ..Default::default()
        });
        assert_eq!(
            time_to_deletion(&job, at(104)),
            Some(Duration::from_secs(6))
        );
        assert_eq!(time_to_deletion(&job, at(111)), Some(Duration::ZERO));
        job.spec.as_mut().unwrap().ttl_seconds_after_finished = None;
        assert_eq!(time_to_deletion(&job, at(111)), None);
    }
}
