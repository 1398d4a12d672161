//! Jobs: run pods until the desired number has succeeded.
//!
//! [`plan`] decides; this file carries out its plans. A finalizer keeps each pod until its result
//! is recorded in the job's status, so that it is counted exactly once.

mod failure;
mod indexes;
mod plan;
mod pods;
pub mod ttl;

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Patch;
use parking_lot::Mutex;
use serde_json::json;

use crate::common::{claim, owners, pod_control, pods as common_pods};
use crate::context::{Context, Result, optional};
use crate::controller::{Controller, Watches};
use crate::events::Severity::{Normal, Warning};
use crate::informers::{Change, Key, Store};
use crate::queue::Queue;
use rkube_component_helpers::label_selector;

use plan::{Backoff, Plan};
pub use plan::{has_condition, is_finished};

const NAME: &str = "job-controller";
/// Maximum number of rounds per sync: pods released in one round are counted in the next one.
const MAX_ROUNDS: usize = 4;

/// An item that the controller of jobs processes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Item {
    /// A job.
    Job(Key),
    /// A pod with the tracking finalizer whose job is deleted or finished.
    Orphan(Key),
}

/// The controller of jobs.
pub struct JobController {
    ctx: Context,
    queue: Queue<Item>,
    backoffs: Mutex<HashMap<String, Backoff>>,
}

impl JobController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
            backoffs: Mutex::default(),
        }
    }
}

impl Controller for JobController {
    type Item = Item;

    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &Queue<Item> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Item>) {
        let informers = &self.ctx.informers;
        let (pods, jobs) = (informers.pods.clone(), informers.jobs.clone());
        watches
            .watches(&informers.jobs, move |change, queue| {
                let job = change.object();
                queue.add(Item::Job(Key::of(&job.metadata)));
                if change.is_deletion() {
                    for pod in pods.owned_by(job.metadata.uid.as_deref().unwrap_or_default()) {
                        queue.add(Item::Orphan(Key::of(&pod.metadata)));
                    }
                }
            })
            .watches(&informers.pods, move |change, queue| {
                enqueue(queue, &jobs, change);
            });
    }

    async fn reconcile(&self, item: Item) -> Result<()> {
        match item {
            Item::Job(key) => self.sync(key).await,
            Item::Orphan(key) => self.release_orphan(key).await,
        }
    }
}

fn enqueue(queue: &Queue<Item>, jobs: &Store<Job>, change: &Change<Pod>) {
    let pod = change.object();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    for state in change.states() {
        if let Some(name) = owners::controller_name::<Job>(&state.metadata) {
            queue.add(Item::Job(Key::new(namespace, name)));
        }
    }
    if change.is_deletion() {
        return;
    }
    if owners::controller_of(&pod.metadata).is_none() {
        let labels = label_selector::labels_or_empty(pod.metadata.labels.as_ref());
        for job in jobs.in_namespace(namespace) {
            let wanted = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            if wanted.is_some_and(|wanted| label_selector::matches(wanted, labels)) {
                queue.add(Item::Job(Key::of(&job.metadata)));
            }
        }
    }
    if pods::is_tracked(pod) && (common_pods::is_deleting(pod) || common_pods::is_terminal(pod)) {
        queue.add(Item::Orphan(Key::of(&pod.metadata)));
    }
}

fn is_ours(job: &Job) -> bool {
    let manager = job
        .spec
        .as_ref()
        .and_then(|spec| spec.managed_by.as_deref());
    manager.is_none_or(|manager| manager == "kubernetes.io/job-controller")
}

impl JobController {
    async fn sync(&self, key: Key) -> Result<()> {
        for _ in 0..MAX_ROUNDS {
            let Some(job) = self.ctx.informers.jobs.by_key(&key) else {
                return Ok(());
            };
            if !is_ours(&job) {
                return Ok(());
            }
            let uid = job.metadata.uid.clone().unwrap_or_default();
            let Some(wanted) = job.spec.as_ref().and_then(|spec| spec.selector.clone()) else {
                return Ok(());
            };
            let store = &self.ctx.informers.pods;
            let finalizer = Some(pods::TRACKING);
            let owned = claim::claim(
                &self.ctx,
                &*job,
                &wanted,
                store,
                finalizer,
                |_| true,
                |_| true,
            )
            .await?;
            let mut backoff = self.backoffs.lock().get(&uid).copied().unwrap_or_default();
            let plan = plan::plan(&job, &owned, &mut backoff, self.ctx.now());
            if let Some(after) = plan.requeue {
                self.queue.add_after(Item::Job(key.clone()), after);
            }
            let more = !plan.release.is_empty();
            self.carry_out(&key, &job, plan).await?;
            // Update the back-off only after the counted failures were written to the status.
            let mut backoffs = self.backoffs.lock();
            if is_finished(&job.status.clone().unwrap_or_default()) {
                backoffs.remove(&uid);
            } else {
                backoffs.insert(uid, backoff);
            }
            if !more {
                return Ok(());
            }
        }
        self.queue.add(Item::Job(key));
        Ok(())
    }

    async fn carry_out(&self, key: &Key, job: &Arc<Job>, plan: Plan) -> Result<()> {
        let Plan {
            create,
            discard,
            delete,
            mut status,
            release,
            events,
            ..
        } = plan;
        // Remove the finalizer of discarded pods before deleting them, so that they do not count as
        // failed.
        let discards = discard.iter().map(|pod| async {
            self.release(pod).await?;
            pod_control::delete(&self.ctx, NAME, &**job, pod).await
        });
        let mut outcome: Result<()> = join_all(discards).await.into_iter().collect();
        let deletions = delete
            .iter()
            .map(|pod| pod_control::delete(&self.ctx, NAME, &**job, pod));
        let deleted: Result<()> = join_all(deletions).await.into_iter().collect();
        outcome = outcome.and(deleted);
        let create = &create;
        let (_, created) = pod_control::slow_start(create.len(), |i| async move {
            pod_control::create(&self.ctx, NAME, &**job, &create[i])
                .await
                .map(drop)
        })
        .await;
        outcome = outcome.and(match created {
            Err(error) if error.is_namespace_terminating() => Ok(()),
            other => other,
        });
        if !create.is_empty() || !discard.is_empty() || !delete.is_empty() {
            let uid = job.metadata.uid.as_deref().unwrap_or_default();
            let owned = self.ctx.informers.pods.owned_by(uid);
            let count = |counts: &dyn Fn(&Pod) -> bool| {
                Some(owned.iter().filter(|pod| counts(pod)).count() as i32)
            };
            status.active = count(&common_pods::is_active);
            status.terminating = count(&common_pods::is_terminating);
        }
        if !self.report(key, status).await? {
            return Ok(());
        }
        for (warning, reason, message) in events {
            let severity = if warning { Warning } else { Normal };
            self.ctx
                .recorder
                .event(NAME, &**job, severity, &reason, message);
        }
        let released: Result<()> = join_all(release.iter().map(|pod| self.release(pod)))
            .await
            .into_iter()
            .collect();
        outcome.and(released)
    }

    /// Writes the status. Returns false if the job no longer exists.
    async fn report(&self, key: &Key, status: JobStatus) -> Result<bool> {
        let store = &self.ctx.informers.jobs;
        let Some(job) = store.by_key(key) else {
            return Ok(false);
        };
        if plan::is_same_status(&job.status.clone().unwrap_or_default(), &status) {
            return Ok(true);
        }
        let mut updated = Job::clone(&job);
        updated.status = Some(status);
        Ok(optional(self.ctx.update_status(store, &updated).await)?.is_some())
    }

    async fn release(&self, pod: &Pod) -> Result<()> {
        if !pods::is_tracked(pod) {
            return Ok(());
        }
        let patch = json!({
            "metadata": {"uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [pods::TRACKING]},
        });
        let store = &self.ctx.informers.pods;
        let patched = self
            .ctx
            .patch(store, &pod.metadata, None, &Patch::Strategic(patch))
            .await;
        match patched {
            Ok(patched) => {
                // Removing the last finalizer of a deleted pod removes the pod immediately.
                let finalizers = patched
                    .metadata
                    .finalizers
                    .as_ref()
                    .is_none_or(Vec::is_empty);
                let graceless = patched
                    .metadata
                    .deletion_grace_period_seconds
                    .is_none_or(|grace| grace == 0);
                if common_pods::is_deleting(&patched) && finalizers && graceless {
                    store.observe_deletion(&patched.metadata, true, self.ctx.now());
                }
                Ok(())
            }
            Err(error) if error.is_not_found() || error.is_invalid() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn release_orphan(&self, key: Key) -> Result<()> {
        let Some(pod) = self.ctx.informers.pods.by_key(&key) else {
            return Ok(());
        };
        let owner = owners::controller_of(&pod.metadata);
        let job = owners::controller_name::<Job>(&pod.metadata)
            .and_then(|name| self.ctx.informers.jobs.get(&key.namespace, name))
            .filter(|job| job.metadata.uid.as_ref() == owner.map(|owner| &owner.uid));
        match job {
            // An unfinished job counts and releases its pods itself.
            Some(job) if !is_finished(&job.status.clone().unwrap_or_default()) => Ok(()),
            _ => self.release(&pod).await,
        }
    }
}
