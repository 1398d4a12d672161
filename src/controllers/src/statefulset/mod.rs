//! Stateful sets: pods with stable names and volumes, created and deleted in order.

mod identity;
mod plan;

use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::Patch;
use serde_json::json;

use crate::common::{claim, pods, revisions};
use crate::context::{Context, Deletion, Error, Result, optional};
use crate::controller::{Controller, Watches};
use crate::events::Severity::{Normal, Warning};
use crate::informers::Key;
use crate::queue::Queue;
use rkube_component_helpers::label_selector;

use plan::Action;

const NAME: &str = "statefulset-controller";

/// The controller of stateful sets.
pub struct StatefulSetController {
    ctx: Context,
    queue: Queue<Key>,
}

impl StatefulSetController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
        }
    }
}

impl Controller for StatefulSetController {
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
            .objects(&informers.stateful_sets)
            .claims(
                &informers.pods,
                &informers.stateful_sets,
                |set: &StatefulSet, labels| {
                    let wanted = set.spec.as_ref().map(|spec| &spec.selector);
                    wanted.is_some_and(|wanted| label_selector::matches(wanted, labels))
                },
            )
            .reads(&informers.claims)
            .reads(&informers.revisions);
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        self.sync(key).await
    }
}

fn revision_name(revision: &ControllerRevision) -> String {
    revision.metadata.name.clone().unwrap_or_default()
}

impl StatefulSetController {
    async fn sync(&self, key: Key) -> Result<()> {
        let Some(set) = self.ctx.informers.stateful_sets.by_key(&key) else {
            return Ok(());
        };
        let Some(spec) = set.spec.clone() else {
            return Ok(());
        };
        if claim::selects_all(&self.ctx, NAME, &*set, "stateful set", &spec.selector) {
            return Ok(());
        }
        let store = &self.ctx.informers.pods;
        let member = |pod: &Pod| identity::ordinal(&key.name, pod).is_some();
        let owned = claim::claim(
            &self.ctx,
            &*set,
            &spec.selector,
            store,
            None,
            |_| true,
            member,
        )
        .await?;
        let style = revisions::Style {
            labels: spec.selector.match_labels.as_ref(),
            hash_label: revisions::HASH_LABEL,
            collisions: set
                .status
                .as_ref()
                .and_then(|status| status.collision_count),
        };
        let Ok(update) = revisions::current(&self.ctx, &*set, &spec.template, &style).await? else {
            let mut counted = StatefulSet::clone(&set);
            let status = counted.status.get_or_insert_default();
            status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
            self.ctx
                .update_status(&self.ctx.informers.stateful_sets, &counted)
                .await?;
            return Err(revisions::collision(&key.name));
        };
        let all = revisions::list_of(&self.ctx, &*set);
        let named = set
            .status
            .as_ref()
            .and_then(|status| status.current_revision.clone());
        let current = all
            .iter()
            .find(|revision| revision.metadata.name == named && named.is_some())
            .unwrap_or(&update)
            .clone();
        let template = |revision: &ControllerRevision| {
            revisions::template(revision).ok_or_else(|| {
                Error::other(format!("{} holds no template", revision_name(revision)))
            })
        };
        let now = self.ctx.now();
        let templates = plan::Templates {
            current: (revision_name(&current), template(&current)?),
            update: (revision_name(&update), template(&update)?),
        };
        let plan = plan::plan(&set, &templates, &owned, now);
        let mut outcome = Ok(());
        for action in &plan.actions {
            outcome = self.carry_out(&set, action).await;
            if outcome.is_err() {
                break;
            }
        }
        // Own writes are already in the store.
        let mut after = store.owned_by(set.metadata.uid.as_deref().unwrap_or_default());
        after.retain(|pod| member(pod));
        let status = plan::status(&set, &templates, &after, self.ctx.now());
        let waits = status.ready_replicas != status.available_replicas;
        self.report(&key, status).await?;
        outcome?;
        self.clean_up(&set, &all, &after, &[&current, &update])
            .await?;
        if waits
            && let Some(wait) =
                pods::next_availability(&after, spec.min_ready_seconds.unwrap_or(0), now)
        {
            self.queue.add_after(key, wait);
        }
        Ok(())
    }

    async fn carry_out(&self, set: &Arc<StatefulSet>, action: &Action) -> Result<()> {
        match action {
            Action::Create(batch) => {
                let outcomes = join_all(batch.iter().map(|pod| self.create(set, pod))).await;
                outcomes.into_iter().collect()
            }
            Action::Delete(batch) => {
                let outcomes = join_all(batch.iter().map(|pod| self.delete(set, pod))).await;
                outcomes.into_iter().collect()
            }
            Action::Recreate(pod) => {
                let key = Key::of(&pod.metadata);
                let (reason, state) = match pods::phase(pod) {
                    "Failed" => ("RecreatingFailedPod", "failed"),
                    _ => ("RecreatingTerminatedPod", "terminated"),
                };
                let owner = Key::of(&set.metadata);
                let message = format!("StatefulSet {owner} is recreating {state} Pod {}", key.name);
                self.ctx
                    .recorder
                    .event(NAME, &**set, Warning, reason, message);
                self.delete(set, pod).await
            }
            Action::Repair(pod) => {
                self.make_claims(set, pod).await?;
                let patch =
                    json!({"metadata": {"uid": pod.metadata.uid, "labels": pod.metadata.labels}});
                let store = &self.ctx.informers.pods;
                optional(
                    self.ctx
                        .patch(store, &pod.metadata, None, &Patch::Merge(patch))
                        .await,
                )
                .map(drop)
            }
            Action::Claims(pod) => self.make_claims(set, pod).await,
            Action::Retain(pod, condemned) => self.retain(set, pod, *condemned).await,
        }
    }

    fn tell_pod(&self, set: &StatefulSet, verb: &str, pod: &str, outcome: &Result<()>) {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let message = match outcome {
            Ok(()) => format!("{verb} Pod {pod} in StatefulSet {name} successful"),
            Err(error) => format!("{verb} Pod {pod} in StatefulSet {name} failed error: {error}"),
        };
        self.record_event(set, verb, outcome, message);
    }

    fn record_event(&self, set: &StatefulSet, verb: &str, outcome: &Result<()>, message: String) {
        let (severity, start) = match outcome {
            Ok(()) => (Normal, "Successful"),
            Err(_) => (Warning, "Failed"),
        };
        let recorder = &self.ctx.recorder;
        recorder.event(NAME, set, severity, &format!("{start}{verb}"), message);
    }

    async fn create(&self, set: &StatefulSet, pod: &Pod) -> Result<()> {
        self.make_claims(set, pod).await?;
        let name = pod.metadata.name.clone().unwrap_or_default();
        let outcome = match self.ctx.create(&self.ctx.informers.pods, pod).await {
            Ok(_) => Ok(()),
            // The watch will report the end of another pod of that name, or this controller's
            // earlier write.
            Err(error) if error.is_already_exists() => return Err(error),
            Err(error) if error.is_namespace_terminating() => return Ok(()),
            Err(error) => Err(error),
        };
        self.tell_pod(set, "Create", &name, &outcome);
        outcome
    }

    async fn delete(&self, set: &StatefulSet, pod: &Pod) -> Result<()> {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let store = &self.ctx.informers.pods;
        let outcome = self
            .ctx
            .delete(store, &pod.metadata, &Deletion::default())
            .await;
        let outcome = optional(outcome).map(drop);
        self.tell_pod(set, "Delete", &name, &outcome);
        outcome
    }

    async fn make_claims(&self, set: &StatefulSet, pod: &Pod) -> Result<()> {
        let store = &self.ctx.informers.claims;
        for wanted in identity::claims(set, pod) {
            let key = Key::of(&wanted.metadata);
            if let Some(present) = store.by_key(&key) {
                if present.metadata.deletion_timestamp.is_some() {
                    return Err(Error::other(format!("pvc {} is being deleted", key.name)));
                }
                continue;
            }
            let outcome = match self.ctx.create(store, &wanted).await {
                Err(error) if error.is_already_exists() => Ok(()),
                other => other.map(drop),
            };
            let pod = pod.metadata.name.as_deref().unwrap_or_default();
            let (claim, owner) = (&key.name, set.metadata.name.as_deref().unwrap_or_default());
            let message = match &outcome {
                Ok(()) => format!("Create Claim {claim} Pod {pod} in StatefulSet {owner} success"),
                Err(error) => format!(
                    "Create Claim {claim} for Pod {pod} in StatefulSet {owner} failed error: {error}"
                ),
            };
            self.record_event(set, "Create", &outcome, message);
            outcome?;
        }
        Ok(())
    }

    /// Updates the owner references of the pod's claims according to the retention policy.
    async fn retain(&self, set: &StatefulSet, pod: &Pod, condemned: bool) -> Result<()> {
        let store = &self.ctx.informers.claims;
        for wanted in identity::claims(set, pod) {
            let Some(present) = store.by_key(&Key::of(&wanted.metadata)) else {
                continue;
            };
            let Some(references) = identity::retention(set, pod, condemned, &present) else {
                continue;
            };
            let mut changed = PersistentVolumeClaim::clone(&present);
            changed.metadata.owner_references = Some(references);
            optional(self.ctx.update(store, &changed).await)?;
        }
        Ok(())
    }

    async fn report(&self, key: &Key, status: StatefulSetStatus) -> Result<()> {
        let store = &self.ctx.informers.stateful_sets;
        let Some(set) = store.by_key(key) else {
            return Ok(());
        };
        if set
            .status
            .as_ref()
            .is_some_and(|old| plan::is_same_status(old, &status))
        {
            return Ok(());
        }
        let mut updated = StatefulSet::clone(&set);
        updated.status = Some(status);
        optional(self.ctx.update_status(store, &updated).await).map(drop)
    }

    async fn clean_up(
        &self,
        set: &StatefulSet,
        all: &[Arc<ControllerRevision>],
        owned: &[Arc<Pod>],
        kept: &[&Arc<ControllerRevision>],
    ) -> Result<()> {
        let limit = set
            .spec
            .as_ref()
            .and_then(|spec| spec.revision_history_limit)
            .unwrap_or(10);
        let mut live: Vec<String> = owned
            .iter()
            .filter_map(|pod| identity::revision_of(pod).map(str::to_owned))
            .collect();
        live.extend(kept.iter().map(|revision| revision_name(revision)));
        let doomed = revisions::surplus(all, limit, |revision| {
            live.contains(&revision_name(revision))
        });
        revisions::delete(&self.ctx, doomed).await
    }
}
