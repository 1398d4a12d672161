//! Replica sets and replication controllers: keep a number of pods of one template running.
//!
//! Both kinds share one generic controller over the trait [`Replicator`], as they differ only in
//! the type of the selector.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    Pod, PodTemplateSpec, ReplicationController, ReplicationControllerCondition,
    ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};

use crate::common::{claim, owners, pod_control, pods};
use crate::context::{Context, Error, Result};
use crate::controller::{Controller, Watches};
use crate::informers::{Key, Object, Store};
use crate::queue::Queue;
use rkube_component_helpers::label_selector;

/// Maximum number of pods created or deleted per set and sync.
const BURST: usize = 500;

/// The properties that replica sets and replication controllers share.
pub trait Replicator: Object {
    /// The controller's name in events.
    const COMPONENT: &'static str;

    /// Returns the desired number of pods.
    fn replicas(&self) -> i32;
    /// Returns the selector of its pods.
    fn selector(&self) -> LabelSelector;
    /// Returns the pod template.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// Returns how many seconds a pod must be ready before it is available.
    fn min_ready_seconds(&self) -> i32;
    /// Returns the status.
    fn status(&self) -> ReplicaSetStatus;
    /// Sets the status.
    fn set_status(&mut self, status: ReplicaSetStatus);
    /// Returns the store of this kind.
    fn store(ctx: &Context) -> &Store<Self>;
}

impl Replicator for ReplicaSet {
    const COMPONENT: &'static str = "replicaset-controller";

    fn replicas(&self) -> i32 {
        self.spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1)
    }

    fn selector(&self) -> LabelSelector {
        self.spec
            .as_ref()
            .map(|spec| spec.selector.clone())
            .unwrap_or_default()
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec
            .as_ref()
            .and_then(|spec| spec.min_ready_seconds)
            .unwrap_or(0)
    }

    fn status(&self) -> ReplicaSetStatus {
        self.status.clone().unwrap_or_default()
    }

    fn set_status(&mut self, status: ReplicaSetStatus) {
        self.status = Some(status);
    }

    fn store(ctx: &Context) -> &Store<Self> {
        &ctx.informers.replica_sets
    }
}

impl Replicator for ReplicationController {
    const COMPONENT: &'static str = "replication-controller";

    fn replicas(&self) -> i32 {
        self.spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1)
    }

    fn selector(&self) -> LabelSelector {
        LabelSelector {
            match_labels: self.spec.as_ref().and_then(|spec| spec.selector.clone()),
            match_expressions: None,
        }
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec
            .as_ref()
            .and_then(|spec| spec.min_ready_seconds)
            .unwrap_or(0)
    }

    fn status(&self) -> ReplicaSetStatus {
        let status = self.status.clone().unwrap_or_default();
        let condition = |c: ReplicationControllerCondition| ReplicaSetCondition {
            last_transition_time: c.last_transition_time,
            message: c.message,
            reason: c.reason,
            status: c.status,
            type_: c.type_,
        };
        ReplicaSetStatus {
            available_replicas: status.available_replicas,
            conditions: status
                .conditions
                .map(|all| all.into_iter().map(condition).collect()),
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
            terminating_replicas: None,
        }
    }

    fn set_status(&mut self, status: ReplicaSetStatus) {
        let condition = |c: ReplicaSetCondition| ReplicationControllerCondition {
            last_transition_time: c.last_transition_time,
            message: c.message,
            reason: c.reason,
            status: c.status,
            type_: c.type_,
        };
        self.status = Some(ReplicationControllerStatus {
            available_replicas: status.available_replicas,
            conditions: status
                .conditions
                .map(|all| all.into_iter().map(condition).collect()),
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
        });
    }

    fn store(ctx: &Context) -> &Store<Self> {
        &ctx.informers.replication_controllers
    }
}

/// Chooses the `surplus` pods to delete, least useful first.
///
/// `related` are the active pods of all sets with the same controller.
pub fn choose_to_delete(
    active: &[Arc<Pod>],
    related: &[Arc<Pod>],
    surplus: usize,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    if surplus >= active.len() {
        return active.to_vec();
    }
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in related {
        *on_node.entry(pods::node_name(pod)).or_default() += 1;
    }
    let rank = |pod: &Pod| on_node.get(pods::node_name(pod)).copied().unwrap_or(0);
    let mut ordered = active.to_vec();
    ordered.sort_by(|a, b| pods::deletion_order((a, rank(a)), (b, rank(b)), now));
    ordered.truncate(surplus);
    ordered
}

/// Returns the status of a set that owns these pods.
///
/// `failure` is the error of creating (true) or deleting (false) pods.
pub fn status<R: Replicator>(
    set: &R,
    active: &[Arc<Pod>],
    terminating: usize,
    failure: Option<(bool, String)>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let old = set.status();
    let template = set
        .template()
        .and_then(|template| template.metadata.as_ref());
    let wanted = label_selector::labels_or_empty(template.and_then(|meta| meta.labels.as_ref()));
    let count = |counts: &dyn Fn(&Pod) -> bool| {
        Some(active.iter().filter(|pod| counts(pod)).count() as i32)
    };
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let present = conditions
        .iter()
        .position(|condition| condition.type_ == "ReplicaFailure");
    match (failure, present) {
        (Some((creating, message)), None) => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some(
                if creating {
                    "FailedCreate"
                } else {
                    "FailedDelete"
                }
                .into(),
            ),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        }),
        (None, Some(index)) => {
            conditions.remove(index);
        }
        _ => {}
    }
    ReplicaSetStatus {
        replicas: active.len() as i32,
        fully_labeled_replicas: count(&|pod| {
            label_selector::contains(
                label_selector::labels_or_empty(pod.metadata.labels.as_ref()),
                wanted,
            )
        }),
        ready_replicas: count(&pods::is_ready),
        available_replicas: count(&|pod| pods::is_available(pod, set.min_ready_seconds(), now)),
        terminating_replicas: Some(terminating as i32),
        observed_generation: set.metadata().generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}

/// Returns whether two statuses are equal, with absent numbers as zero.
fn is_same_status(a: &ReplicaSetStatus, b: &ReplicaSetStatus, with_terminating: bool) -> bool {
    let number = |n: Option<i32>| n.unwrap_or(0);
    a.replicas == b.replicas
        && number(a.fully_labeled_replicas) == number(b.fully_labeled_replicas)
        && number(a.ready_replicas) == number(b.ready_replicas)
        && number(a.available_replicas) == number(b.available_replicas)
        && (!with_terminating || a.terminating_replicas == b.terminating_replicas)
        && a.observed_generation == b.observed_generation
        && a.conditions.as_deref().unwrap_or_default()
            == b.conditions.as_deref().unwrap_or_default()
}

/// The controller of replica sets or replication controllers.
pub struct ReplicatorController<R> {
    ctx: Context,
    queue: Queue<Key>,
    store: Store<R>,
}

impl<R: Replicator> ReplicatorController<R> {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
            store: R::store(ctx).clone(),
        }
    }
}

impl<R: Replicator> Controller for ReplicatorController<R> {
    type Item = Key;

    fn name(&self) -> &'static str {
        R::COMPONENT
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        watches.objects(&self.store).claims(
            &self.ctx.informers.pods,
            &self.store,
            |set: &R, labels| {
                let wanted = set.selector();
                !label_selector::is_empty(&wanted) && label_selector::matches(&wanted, labels)
            },
        );
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        self.sync(key).await
    }
}

impl<R: Replicator> ReplicatorController<R> {
    async fn sync(&self, key: Key) -> Result<()> {
        let Some(set) = self.store.by_key(&key) else {
            return Ok(());
        };
        let wanted = set.selector();
        if label_selector::is_empty(&wanted) {
            return Ok(()); // rejected by the API server's validation
        }
        let running = |pod: &Pod| !pods::is_terminal(pod);
        let owned = claim::claim(
            &self.ctx,
            &*set,
            &wanted,
            &self.ctx.informers.pods,
            None,
            running,
            |_| true,
        )
        .await?;
        let (terminating, mut active): (Vec<_>, Vec<_>) =
            owned.into_iter().partition(|pod| pods::is_deleting(pod));
        let mut failure = None;
        let mut outcome = Ok(());
        if set.metadata().deletion_timestamp.is_none() {
            let difference = i64::from(set.replicas()) - active.len() as i64;
            outcome = self.manage(&set, &active, difference).await;
            if let Err(error) = &outcome {
                failure = Some((difference > 0, error.to_string()));
            }
            // Own writes are already in the store, so the status can include them.
            if difference != 0 {
                let uid = set.metadata().uid.as_deref().unwrap_or_default();
                active = self.ctx.informers.pods.owned_by(uid);
                active.retain(|pod| pods::is_active(pod));
            }
        }
        let now = self.ctx.now();
        let status = status(&*set, &active, terminating.len(), failure, now);
        self.report(&key, status).await?;
        outcome?;
        if let Some(after) = pods::next_availability(&active, set.min_ready_seconds(), now) {
            self.queue.add_after(key, after);
        }
        Ok(())
    }

    async fn manage(&self, set: &Arc<R>, active: &[Arc<Pod>], difference: i64) -> Result<()> {
        let count = (difference.unsigned_abs() as usize).min(BURST);
        if difference > 0 {
            let Some(template) = set.template() else {
                return Err(Error::other("the set has no pod template"));
            };
            let pod = pod_control::from_template(&**set, template);
            let (_, outcome) = pod_control::slow_start(count, |_| async {
                pod_control::create(&self.ctx, R::COMPONENT, &**set, &pod)
                    .await
                    .map(drop)
            })
            .await;
            match outcome {
                Err(error) if error.is_namespace_terminating() => Ok(()),
                other => other,
            }
        } else if difference < 0 {
            let doomed = choose_to_delete(active, &self.related(set), count, self.ctx.now());
            let outcomes = join_all(
                doomed
                    .iter()
                    .map(|pod| pod_control::delete(&self.ctx, R::COMPONENT, &**set, pod)),
            )
            .await;
            outcomes.into_iter().collect()
        } else {
            Ok(())
        }
    }

    /// Returns the active pods of all sets with the same controller as this one.
    fn related(&self, set: &R) -> Vec<Arc<Pod>> {
        let uid = |set: &R| set.metadata().uid.clone().unwrap_or_default();
        let siblings = match owners::controller_of(set.metadata()) {
            Some(owner) => self
                .store
                .owned_by(&owner.uid)
                .iter()
                .map(|set| uid(set))
                .collect(),
            None => vec![uid(set)],
        };
        siblings
            .iter()
            .flat_map(|uid| self.ctx.informers.pods.owned_by(uid))
            .filter(|pod| pods::is_active(pod))
            .collect()
    }

    async fn report(&self, key: &Key, status: ReplicaSetStatus) -> Result<()> {
        let Some(set) = self.store.by_key(key) else {
            return Ok(());
        };
        let has_terminating = R::COMPONENT == ReplicaSet::COMPONENT;
        if is_same_status(&set.status(), &status, has_terminating) {
            return Ok(());
        }
        let mut updated = R::clone(&set);
        updated.set_status(status);
        match self.ctx.update_status(&self.store, &updated).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::pods::testing::{at, pod};
    use k8s_openapi::api::apps::v1::ReplicaSetSpec;

    fn set(replicas: i32, min_ready: i32) -> ReplicaSet {
        ReplicaSet {
            spec: Some(ReplicaSetSpec {
                replicas: Some(replicas),
                min_ready_seconds: Some(min_ready),
                template: Some(PodTemplateSpec::default()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn counts() {
        let active = [
            Arc::new(pod("a", "n", "Running", Some(10))),
            Arc::new(pod("b", "n", "Running", Some(98))),
            Arc::new(pod("c", "n", "Pending", None)),
        ];
        let status = status(&set(3, 5), &active, 2, None, at(100));
        assert_eq!(status.replicas, 3);
        assert_eq!(status.ready_replicas, Some(2));
        assert_eq!(status.available_replicas, Some(1));
        assert_eq!(status.fully_labeled_replicas, Some(3));
        assert_eq!(status.terminating_replicas, Some(2));
        assert_eq!(status.conditions, None);
    }

    #[test]
    fn a_failure_is_a_condition_until_it_is_over() {
        let mut set = set(1, 0);
        let failed = status(&set, &[], 0, Some((true, "quota".into())), at(1));
        let condition = &failed.conditions.as_ref().unwrap()[0];
        assert_eq!(condition.reason.as_deref(), Some("FailedCreate"));
        set.set_status(failed);
        assert_eq!(status(&set, &[], 0, None, at(2)).conditions, None);
    }

    #[test]
    fn pods_on_crowded_nodes_go_first() {
        let active = [
            Arc::new(pod("a", "n1", "Running", Some(10))),
            Arc::new(pod("b", "n2", "Running", Some(10))),
            Arc::new(pod("c", "n2", "Running", Some(10))),
        ];
        let doomed = choose_to_delete(&active, &active, 1, at(100));
        assert_ne!(doomed[0].metadata.name.as_deref(), Some("a"));
        assert_eq!(choose_to_delete(&active, &active, 5, at(100)).len(), 3);
    }

    #[test]
    fn any_numbers_can_be_counted_with() {
        let set = serde_json::json!({
            "metadata": {"name": "web", "generation": 1},
            "spec": {"replicas": 1, "minReadySeconds": 1, "selector": {}},
            "status": {"replicas": 1, "availableReplicas": 1, "fullyLabeledReplicas": 1,
                "readyReplicas": 1, "terminatingReplicas": 1, "observedGeneration": 1},
        });
        let active = [Arc::new(pod("a", "n", "Running", Some(10)))];
        crate::common::extremes::each(&set, |set: &ReplicaSet| {
            let status = status(set, &active, 1, None, at(100));
            is_same_status(&set.status(), &status, true);
            pods::next_availability(&active, set.min_ready_seconds(), at(100));
        });
    }
}
