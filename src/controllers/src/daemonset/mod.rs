//! Daemon sets: run one pod on each eligible node.

mod plan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use crate::common::{claim, pod_control, pods, revisions};
use crate::context::{Context, Result, optional};
use crate::controller::{Controller, Watches};
use crate::events::Severity::{Normal, Warning};
use crate::informers::{Change, Key};
use crate::queue::Queue;
use rkube_component_helpers::label_selector;

const NAME: &str = "daemonset-controller";
/// Number of daemon sets processed concurrently.
const CONCURRENCY: usize = 2;
/// Maximum number of pods created or deleted per set and sync.
const BURST: usize = 250;

/// The controller of daemon sets.
pub struct DaemonSetController {
    ctx: Context,
    queue: Queue<Key>,
    /// Consecutive pod failures and the last failure's time, by set and node.
    failures: Mutex<HashMap<(String, String), (u32, Timestamp)>>,
}

impl DaemonSetController {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
            failures: Mutex::default(),
        }
    }
}

impl Controller for DaemonSetController {
    type Item = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    fn workers(&self) -> usize {
        CONCURRENCY
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        let informers = &self.ctx.informers;
        let sets = informers.daemon_sets.clone();
        watches
            .objects(&informers.daemon_sets)
            .claims(
                &informers.pods,
                &informers.daemon_sets,
                |set: &DaemonSet, labels| {
                    let wanted = set.spec.as_ref().map(|spec| &spec.selector);
                    wanted.is_some_and(|wanted| label_selector::matches(wanted, labels))
                },
            )
            .watches(&informers.nodes, move |change, queue| {
                if let Change::Updated(old, new) = change
                    && !plan::node_matters(old, new)
                {
                    return;
                }
                for set in sets.list() {
                    queue.add(Key::of(&set.metadata));
                }
            })
            .reads(&informers.revisions);
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        self.sync(key).await
    }
}

impl DaemonSetController {
    async fn sync(&self, key: Key) -> Result<()> {
        let Some(set) = self.ctx.informers.daemon_sets.by_key(&key) else {
            self.failures
                .lock()
                .retain(|(owner, _), _| *owner != key.to_string());
            return Ok(());
        };
        let Some(spec) = set.spec.clone() else {
            return Ok(());
        };
        if claim::selects_all(&self.ctx, NAME, &*set, "daemon set", &spec.selector) {
            return Ok(());
        }
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let template_labels = spec
            .template
            .metadata
            .as_ref()
            .and_then(|meta| meta.labels.as_ref());
        let style = revisions::Style {
            labels: template_labels,
            hash_label: revisions::POD_LABEL,
            collisions: set
                .status
                .as_ref()
                .and_then(|status| status.collision_count),
        };
        let Ok(revision) = revisions::current(&self.ctx, &*set, &spec.template, &style).await?
        else {
            let mut counted = DaemonSet::clone(&set);
            let status = counted.status.get_or_insert_default();
            status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
            self.ctx
                .update_status(&self.ctx.informers.daemon_sets, &counted)
                .await?;
            return Err(revisions::collision(&key.name));
        };
        let labels = label_selector::labels_or_empty(revision.metadata.labels.as_ref());
        let hash = labels
            .get(revisions::POD_LABEL)
            .cloned()
            .unwrap_or_default();
        let store = &self.ctx.informers.pods;
        let owned = claim::claim(
            &self.ctx,
            &*set,
            &spec.selector,
            store,
            None,
            |_| true,
            |_| true,
        )
        .await?;
        let nodes = self.ctx.informers.nodes.list();
        let now = self.ctx.now();
        let mut plan = plan::manage(&set, &hash, &nodes, &owned, now);
        let again = self.hold_back_failures(&key, &set, &mut plan, now);
        let outcome = self.carry_out(&set, &hash, &plan).await;
        if outcome.is_ok() && plan.is_empty() && plan::rolls(&set) {
            let roll = plan::roll(&set, &hash, &nodes, &owned, now);
            self.carry_out(&set, &hash, &roll).await?;
        }
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let mut owned = store.owned_by(uid);
        owned.retain(|pod| {
            label_selector::matches(
                &spec.selector,
                label_selector::labels_or_empty(pod.metadata.labels.as_ref()),
            )
        });
        let status = plan::status(&set, &hash, &nodes, &owned, self.ctx.now());
        self.report(&key, status).await?;
        outcome?;
        self.clean_up(&set, &hash, &owned).await?;
        let available = pods::next_availability(&owned, spec.min_ready_seconds.unwrap_or(0), now);
        if let Some(after) = [again, available].into_iter().flatten().min() {
            self.queue.add_after(key, after);
        }
        Ok(())
    }

    /// Delays the replacement of failed pods with exponential back-off. Returns when to sync again.
    fn hold_back_failures(
        &self,
        key: &Key,
        set: &DaemonSet,
        plan: &mut plan::Plan,
        now: Timestamp,
    ) -> Option<Duration> {
        let mut again = None;
        let mut failures = self.failures.lock();
        plan.delete.retain(|pod| {
            if pods::phase(pod) != "Failed" {
                return true;
            }
            let node = plan::target_node(pod).unwrap_or_default().to_owned();
            let (count, last) = failures
                .entry((key.to_string(), node.clone()))
                .or_insert((0, Timestamp::UNIX_EPOCH));
            // Exponential from one second up to 15 minutes.
            let wait = Duration::from_secs(1 << (*count).min(10)).min(Duration::from_secs(900));
            let left = pods::until(*last, wait.as_secs().cast_signed(), now);
            if !left.is_zero() && *count > 0 {
                again = again.map_or(Some(left), |other: Duration| Some(other.min(left)));
                return false;
            }
            *count = count.saturating_add(1);
            *last = now;
            let name = Key::of(&pod.metadata);
            let message =
                format!("Found failed daemon pod {name} on node {node}, will try to kill it");
            self.ctx
                .recorder
                .event(NAME, set, Warning, "FailedDaemonPod", message);
            true
        });
        for pod in plan
            .delete
            .iter()
            .filter(|pod| pods::phase(pod) == "Succeeded")
        {
            let node = plan::target_node(pod).unwrap_or_default();
            let name = Key::of(&pod.metadata);
            let message =
                format!("Found succeeded daemon pod {name} on node {node}, will try to delete it");
            self.ctx
                .recorder
                .event(NAME, set, Normal, "SucceededDaemonPod", message);
        }
        again
    }

    async fn carry_out(&self, set: &Arc<DaemonSet>, hash: &str, plan: &plan::Plan) -> Result<()> {
        let deletions = plan.delete.iter().take(BURST);
        let outcomes =
            join_all(deletions.map(|pod| pod_control::delete(&self.ctx, NAME, &**set, pod))).await;
        let created = &plan.create[..plan.create.len().min(BURST)];
        let (_, outcome) = pod_control::slow_start(created.len(), |i| async move {
            let pod = plan::pod_for(set, hash, &created[i]);
            pod_control::create(&self.ctx, NAME, &**set, &pod)
                .await
                .map(drop)
        })
        .await;
        match outcome {
            Err(error) if !error.is_namespace_terminating() => return Err(error),
            _ => {}
        }
        outcomes.into_iter().collect()
    }

    async fn report(&self, key: &Key, status: DaemonSetStatus) -> Result<()> {
        let store = &self.ctx.informers.daemon_sets;
        let Some(set) = store.by_key(key) else {
            return Ok(());
        };
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut updated = DaemonSet::clone(&set);
        updated.status = Some(status);
        optional(self.ctx.update_status(store, &updated).await).map(drop)
    }

    async fn clean_up(&self, set: &DaemonSet, hash: &str, owned: &[Arc<Pod>]) -> Result<()> {
        let limit = set
            .spec
            .as_ref()
            .and_then(|spec| spec.revision_history_limit)
            .unwrap_or(10);
        let all = revisions::list_of(&self.ctx, set);
        let mut live: Vec<&str> = owned.iter().filter_map(|pod| plan::hash_of(pod)).collect();
        live.push(hash);
        let doomed = revisions::surplus(&all, limit, |revision| {
            let labels = label_selector::labels_or_empty(revision.metadata.labels.as_ref());
            labels
                .get(revisions::POD_LABEL)
                .is_some_and(|hash| live.contains(&hash.as_str()))
        });
        revisions::delete(&self.ctx, doomed).await
    }
}
