//! Deletes finished jobs after their time to live.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::api::PropagationPolicy;

use crate::common::pods::until;
use crate::context::{Context, Deletion, Result, optional};
use crate::informers::Key;
use crate::queue::Queue;

const NAME: &str = "ttl-after-finished-controller";

/// Returns the time until the job is to be deleted, or `None` if it is unfinished or has no time to
/// live.
pub fn left(job: &Job, now: Timestamp) -> Option<Duration> {
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

/// Registers event handlers and returns the controller's run loop. Call before the informers start.
pub fn start(ctx: &Context) -> impl Future<Output = ()> + Send + use<> {
    let queue: Queue<Key> = Queue::new();
    {
        let queue = queue.clone();
        ctx.informers.jobs.on_change(move |change| {
            if !change.is_deletion() && left(change.object(), Timestamp::now()).is_some() {
                queue.add(Key::of(&change.object().metadata));
            }
        });
    }
    let ctx = ctx.clone();
    async move {
        ctx.informers.jobs.synced().await;
        let ctx = &ctx;
        let again = queue.clone();
        let again = &again;
        queue.work(NAME, 5, |key| sync(ctx, again, key)).await;
    }
}

async fn sync(ctx: &Context, queue: &Queue<Key>, key: Key) -> Result<()> {
    let store = &ctx.informers.jobs;
    let Some(job) = store.by_key(&key) else {
        return Ok(());
    };
    match left(&job, ctx.now()) {
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
            if left(&fresh, ctx.now()) != Some(Duration::ZERO) {
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
        assert_eq!(left(&job, at(5)), None);
        job.status = Some(JobStatus {
            conditions: Some(vec![JobCondition {
                type_: "Complete".into(),
                status: "True".into(),
                last_transition_time: Some(Time(at(100))),
                ..Default::default()
            }]),
            ..Default::default()
        });
        assert_eq!(left(&job, at(104)), Some(Duration::from_secs(6)));
        assert_eq!(left(&job, at(111)), Some(Duration::ZERO));
        job.spec.as_mut().unwrap().ttl_seconds_after_finished = None;
        assert_eq!(left(&job, at(111)), None);
    }
}
