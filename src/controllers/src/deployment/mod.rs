//! Deployments: one replica set per revision, scaled in relation to each other.
//!
//! [`plan`] decides everything from the observed state; this file carries out its actions.

mod plan;
mod revision;
mod scale;
mod state;
mod status;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;

use crate::common::{claim, owners};
use crate::context::{Context, Deletion, Error, Result};
use crate::controller::{Controller, Watches};
use crate::events::Severity::{Normal, Warning};
use crate::informers::{Change, Key, Store};
use crate::queue::Queue;
use rkube_component_helpers::label_selector;

use plan::Plan;
use state::Action;

/// The controller's name in events.
const COMPONENT: &str = "deployment-controller";

/// The controller of deployments.
pub struct DeploymentController {
    ctx: Context,
    queue: Queue<Key>,
}

impl DeploymentController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
        }
    }
}

impl Controller for DeploymentController {
    type Item = Key;

    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        let informers = &self.ctx.informers;
        let (deployments, sets) = (
            informers.deployments.clone(),
            informers.replica_sets.clone(),
        );
        watches
            .objects(&informers.deployments)
            .claims(
                &informers.replica_sets,
                &informers.deployments,
                |deployment: &Deployment, labels| {
                    let wanted = deployment.spec.as_ref().map(|spec| &spec.selector);
                    wanted.is_some_and(|wanted| {
                        !label_selector::is_empty(wanted) && label_selector::matches(wanted, labels)
                    })
                },
            )
            // Only deployments with the strategy `Recreate` wait for pods to be deleted.
            .watches(&informers.pods, move |change, queue| {
                if let Change::Deleted(pod) = change {
                    enqueue_recreate(queue, &deployments, &sets, pod);
                }
            });
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        self.sync(key).await
    }
}

fn enqueue_recreate(
    queue: &Queue<Key>,
    deployments: &Store<Deployment>,
    sets: &Store<ReplicaSet>,
    pod: &Pod,
) {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let deployment = owners::controller_name::<ReplicaSet>(&pod.metadata)
        .and_then(|set| sets.get(namespace, set))
        .and_then(|set| owners::controller_name::<Deployment>(&set.metadata).map(str::to_owned))
        .and_then(|name| deployments.get(namespace, &name));
    if let Some(deployment) = deployment
        && state::is_recreate(&deployment)
    {
        queue.add(Key::of(&deployment.metadata));
    }
}

impl DeploymentController {
    async fn sync(&self, key: Key) -> Result<()> {
        let Some(deployment) = self.ctx.informers.deployments.by_key(&key) else {
            return Ok(());
        };
        let Some(wanted) = deployment.spec.as_ref().map(|spec| spec.selector.clone()) else {
            return Ok(());
        };
        if claim::selects_all(&self.ctx, COMPONENT, &*deployment, "deployment", &wanted) {
            return Ok(());
        }
        let sets = claim::claim(
            &self.ctx,
            &*deployment,
            &wanted,
            &self.ctx.informers.replica_sets,
            None,
            |_| true,
            |_| true,
        )
        .await?;
        let pods_of = |set: &ReplicaSet| {
            self.ctx
                .informers
                .pods
                .owned_by(set.metadata.uid.as_deref().unwrap_or_default())
        };
        let plan = plan::plan(&deployment, &sets, &pods_of, self.ctx.now());
        let requeue = plan.requeue;
        self.carry_out(plan).await?;
        if let Some(after) = requeue {
            self.queue.add_after(key, after);
        }
        Ok(())
    }

    async fn carry_out(&self, plan: Plan) -> Result<()> {
        let Plan {
            mut deployment,
            actions,
            ..
        } = plan;
        let sets = &self.ctx.informers.replica_sets;
        for action in actions {
            match action {
                Action::Create(set) => {
                    if !self.create(&mut deployment, *set).await? {
                        return Ok(());
                    }
                }
                Action::Update(set) => {
                    self.ctx.update(sets, &*set).await?;
                }
                Action::Delete(set) => {
                    match self
                        .ctx
                        .delete(sets, &set.metadata, &Deletion::default())
                        .await
                    {
                        Err(error) if !error.is_not_found() => return Err(error),
                        _ => {}
                    }
                }
                Action::Event(reason, message) => {
                    self.ctx
                        .recorder
                        .event(COMPONENT, &deployment, Normal, reason, message);
                }
                Action::Report => {
                    let updated = self
                        .ctx
                        .update_status(&self.ctx.informers.deployments, &deployment)
                        .await?;
                    deployment = Deployment::clone(&updated);
                }
            }
        }
        Ok(())
    }

    /// Creates the new replica set. Returns false if the namespace is being deleted.
    async fn create(&self, deployment: &mut Deployment, set: ReplicaSet) -> Result<bool> {
        let error = match self
            .ctx
            .create(&self.ctx.informers.replica_sets, &set)
            .await
        {
            Ok(_) => return Ok(true),
            Err(error) => error,
        };
        let deployments = &self.ctx.informers.deployments;
        if error.is_already_exists() {
            let (namespace, name) = (
                set.metadata.namespace.as_deref(),
                set.metadata.name.as_deref(),
            );
            let present: ReplicaSet = self
                .ctx
                .get(namespace.unwrap_or_default(), name.unwrap_or_default())
                .await?;
            let ours = owners::is_controlled_by(
                &present.metadata,
                deployment.metadata.uid.as_deref().unwrap_or_default(),
            );
            if ours && revision::same_template(deployment, &present) {
                // The cache was stale. The watch will deliver the replica set, which triggers the
                // next sync.
                return Err(Error::Retry(Duration::from_millis(10)));
            }
            // Another template has the same hash: increment the collision count to change it.
            let mut bumped = Arc::unwrap_or_clone(
                deployments
                    .by_key(&Key::of(&deployment.metadata))
                    .ok_or_else(|| Error::other("the deployment is gone"))?,
            );
            let status = bumped.status.get_or_insert_default();
            status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
            self.ctx.update_status(deployments, &bumped).await?;
            return Err(error);
        }
        if error.is_namespace_terminating() {
            return Ok(false);
        }
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let message = format!("Failed to create new replica set {name:?}: {error}");
        self.ctx.recorder.event(
            COMPONENT,
            deployment,
            Warning,
            "ReplicaSetCreateError",
            message.clone(),
        );
        if status::has_deadline(deployment) {
            let mut failed = Arc::unwrap_or_clone(
                deployments
                    .by_key(&Key::of(&deployment.metadata))
                    .ok_or_else(|| Error::other("the deployment is gone"))?,
            );
            let now = self.ctx.now();
            status::set_condition(
                failed.status.get_or_insert_default(),
                status::condition(
                    "Progressing",
                    "False",
                    "ReplicaSetCreateError",
                    message,
                    now,
                ),
            );
            self.ctx.update_status(deployments, &failed).await?;
        }
        Err(error)
    }
}
