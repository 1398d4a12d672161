//! Disruption budgets: computes how many of a budget's pods may be disrupted now.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::common::{go, intstr, owners, pods};
use crate::context::{Context, Error, Result, optional};
use crate::controller::{Controller, Watches};
use crate::events::Severity::{Normal, Warning};
use crate::gc::Collector;
use crate::informers::{Key, Object, Store};
use crate::queue::Queue;
use rkube_component_helpers::conditions::set_condition;
use rkube_component_helpers::label_selector;

const NAME: &str = "controllermanager";
/// Seconds within which an evicted pod's deletion is expected to be observed.
const DELETION_TIMEOUT: i64 = 120;

/// Returns whether the budget selects the pod. A missing selector selects none, an empty one all.
fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let wanted = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    wanted.is_some_and(|wanted| {
        label_selector::matches(
            wanted,
            label_selector::labels_or_empty(pod.metadata.labels.as_ref()),
        )
    })
}

/// Returns the message about a pod that several budgets select.
fn several(pod: &Pod, budget: &str) -> String {
    let meta = &pod.metadata;
    format!(
        "Pod {:?}/{:?} matches multiple PodDisruptionBudgets.  Chose {budget:?} arbitrarily.",
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default()
    )
}

/// Returns the message about pods without a controller, whose expected number is not known.
fn unmanaged(budget: &PodDisruptionBudget) -> String {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    format!(
        "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. \
         As a result, the status of the PDB cannot be calculated correctly, which may result in \
         undefined behavior. To account for these pods please set \".spec.minAvailable\" field of \
         the PDB to an integer value.",
        go::label_selector(selector)
    )
}

/// Returns whether the expected pod count must be taken from the pods' controllers.
fn needs_scale(budget: &PodDisruptionBudget) -> bool {
    budget.spec.as_ref().is_some_and(|spec| {
        spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
    })
}

/// Computes the status of a budget.
///
/// `scale` is the expected number of pods according to their controllers. It is ignored if
/// `minAvailable` is a number: the expected pods are then the covered ones.
///
/// Also returns when to sync again because an evicted pod's deletion is overdue.
pub fn status(
    budget: &PodDisruptionBudget,
    covered: &[Arc<Pod>],
    scale: i32,
    now: Timestamp,
) -> (PodDisruptionBudgetStatus, Option<Duration>) {
    let spec = budget.spec.clone().unwrap_or_default();
    let old = budget.status.clone().unwrap_or_default();
    let expected = if needs_scale(budget) {
        scale
    } else {
        covered.len() as i32
    };
    let desired = match (&spec.max_unavailable, &spec.min_available) {
        (Some(unavailable), _) => expected
            .saturating_sub(intstr::scaled(unavailable, expected, true))
            .max(0),
        (None, Some(available)) => intstr::scaled(available, expected, true),
        (None, None) => 0,
    };
    let mut disrupted = BTreeMap::new();
    let mut recheck: Option<Duration> = None;
    for pod in covered.iter().filter(|pod| !pods::is_deleting(pod)) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let Some(since) = old.disrupted_pods.as_ref().and_then(|all| all.get(&name)) else {
            continue;
        };
        let left = pods::until(since.0, DELETION_TIMEOUT, now);
        if !left.is_zero() {
            disrupted.insert(name, since.clone());
            recheck = Some(recheck.map_or(left, |other| other.min(left)));
        }
    }
    let healthy = covered
        .iter()
        .filter(|pod| !pods::is_deleting(pod) && pods::is_ready(pod))
        .filter(|pod| !disrupted.contains_key(pod.metadata.name.as_deref().unwrap_or_default()))
        .count() as i32;
    let allowed = if expected > 0 {
        healthy.saturating_sub(desired).max(0)
    } else {
        0
    };
    let status = PodDisruptionBudgetStatus {
        conditions: Some(conditions(
            &old,
            allowed > 0,
            budget.metadata.generation,
            now,
        )),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: budget.metadata.generation,
    };
    (status, recheck)
}

fn conditions(
    old: &PodDisruptionBudgetStatus,
    allowed: bool,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let (status, reason) = if allowed {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    set(old, status, reason, "", generation, now)
}

fn set(
    old: &PodDisruptionBudgetStatus,
    status: &str,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut all = old.conditions.clone().unwrap_or_default();
    let condition = Condition {
        type_: "DisruptionAllowed".into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: Time(now),
    };
    set_condition(&mut all, condition);
    all
}

/// The controller of disruption budgets.
pub struct DisruptionController {
    ctx: Context,
    collector: Collector,
    queue: Queue<Key>,
}

impl DisruptionController {
    /// Returns the controller.
    pub fn new(ctx: &Context, collector: &Collector) -> Self {
        Self {
            ctx: ctx.clone(),
            collector: collector.clone(),
            queue: Queue::new(),
        }
    }
}

impl Controller for DisruptionController {
    type Item = Key;

    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    fn workers(&self) -> usize {
        2
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        let informers = &self.ctx.informers;
        let budgets = informers.budgets.clone();
        let recorder = self.ctx.recorder.clone();
        watches
            .objects(&informers.budgets)
            .watches(&informers.pods, move |change, queue| {
                let pod = change.object();
                let namespace = pod.metadata.namespace.as_deref();
                let mut chosen = Vec::new();
                for budget in budgets.in_namespace(namespace.unwrap_or_default()) {
                    if change.states().any(|pod| covers(&budget, pod)) {
                        queue.add(Key::of(&budget.metadata));
                    }
                    if covers(&budget, pod) {
                        chosen.extend(budget.metadata.name.clone());
                    }
                }
                if let [first, _, ..] = &chosen[..] {
                    let message = several(pod, first);
                    let reason = "MultiplePodDisruptionBudgets";
                    recorder.event(NAME, &**pod, Warning, reason, message);
                }
            })
            .reads(&informers.replica_sets)
            .reads(&informers.deployments)
            .reads(&informers.stateful_sets)
            .reads(&informers.replication_controllers);
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        self.sync(key).await
    }
}

impl DisruptionController {
    async fn sync(&self, key: Key) -> Result<()> {
        let store = &self.ctx.informers.budgets;
        let Some(budget) = store.by_key(&key) else {
            return Ok(());
        };
        let mut covered = self.ctx.informers.pods.in_namespace(&key.namespace);
        covered.retain(|pod| covers(&budget, pod));
        if covered.is_empty() {
            self.ctx
                .recorder
                .event(NAME, &*budget, Normal, "NoPods", "No matching pods found");
        }
        let now = self.ctx.now();
        let scale = if needs_scale(&budget) {
            self.scale(&key.namespace, &covered).await
        } else {
            Ok(0)
        };
        if needs_scale(&budget)
            && scale.is_ok()
            && covered
                .iter()
                .any(|pod| owners::controller_of(&pod.metadata).is_none())
        {
            let message = unmanaged(&budget);
            self.ctx
                .recorder
                .event(NAME, &*budget, Warning, "UnmanagedPods", message);
        }
        let (status, recheck) = match &scale {
            Ok(scale) => status(&budget, &covered, *scale, now),
            Err(error) => {
                // Fail safe: allow no disruptions.
                let mut failed = budget.status.clone().unwrap_or_default();
                let text = error.to_string();
                self.ctx.recorder.event(
                    NAME,
                    &*budget,
                    Warning,
                    "CalculateExpectedPodCountFailed",
                    format!("Failed to calculate the number of expected pods: {text}"),
                );
                failed.conditions = Some(set(
                    &failed,
                    "False",
                    "SyncFailed",
                    &text,
                    budget.metadata.generation,
                    now,
                ));
                failed.disruptions_allowed = Some(0);
                failed.observed_generation = budget.metadata.generation;
                (failed, None)
            }
        };
        if budget.status.as_ref() != Some(&status) {
            let mut changed = PodDisruptionBudget::clone(&budget);
            changed.status = Some(status);
            optional(self.ctx.update_status(store, &changed).await)?;
        }
        if let Some(after) = recheck {
            self.queue.add_after(key, after);
        }
        scale.map(drop)
    }

    /// Returns the total number of pods that the controllers of these pods want.
    async fn scale(&self, namespace: &str, covered: &[Arc<Pod>]) -> Result<i32> {
        let mut seen = HashSet::new();
        let mut total = 0;
        for pod in covered {
            let Some(owner) = owners::controller_of(&pod.metadata) else {
                continue;
            };
            let (uid, replicas) = self.replicas(namespace, owner).await?;
            if seen.insert(uid) {
                total = i32::saturating_add(total, replicas);
            }
        }
        Ok(total)
    }

    async fn replicas(&self, namespace: &str, owner: &OwnerReference) -> Result<(String, i32)> {
        let informers = &self.ctx.informers;
        let group = owner
            .api_version
            .split_once('/')
            .map_or("", |(group, _)| group);
        match (group, owner.kind.as_str()) {
            ("apps", "ReplicaSet") => {
                let set = owner_in(&informers.replica_sets, namespace, owner)?;
                let deployment = owners::controller_name::<Deployment>(&set.metadata)
                    .and_then(|name| informers.deployments.get(namespace, name));
                if let Some(deployment) = deployment {
                    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
                    let uid = deployment.metadata.uid.clone().unwrap_or_default();
                    return Ok((uid, wanted.unwrap_or(1)));
                }
                let wanted = set.spec.as_ref().and_then(|spec| spec.replicas);
                Ok((owner.uid.clone(), wanted.unwrap_or(1)))
            }
            ("apps", "StatefulSet") => {
                let set = owner_in(&informers.stateful_sets, namespace, owner)?;
                let wanted = set.spec.as_ref().and_then(|spec| spec.replicas);
                Ok((owner.uid.clone(), wanted.unwrap_or(1)))
            }
            ("", "ReplicationController") => {
                let set = owner_in(&informers.replication_controllers, namespace, owner)?;
                let wanted = set.spec.as_ref().and_then(|spec| spec.replicas);
                Ok((owner.uid.clone(), wanted.unwrap_or(1)))
            }
            _ => {
                let served = self.collector.served();
                let resource = served
                    .iter()
                    .find(|served| served.group == group && served.kind == owner.kind);
                let resource = resource.ok_or_else(|| {
                    Error::other(format!(
                        "no kind {} is served in {}",
                        owner.kind, owner.api_version
                    ))
                })?;
                let path = format!("{}/{}/scale", resource.path(namespace), owner.name);
                let scale: Option<Scale> =
                    optional(self.ctx.raw(http::Method::GET, &path, Vec::new()).await)?;
                let scale = scale.ok_or_else(|| {
                    Error::other(format!(
                        "{} does not implement the scale subresource",
                        resource.plural
                    ))
                })?;
                Ok((
                    owner.uid.clone(),
                    scale.spec.and_then(|spec| spec.replicas).unwrap_or(0),
                ))
            }
        }
    }
}

/// Returns the object that an owner reference names.
///
/// # Errors
///
/// It does not exist, or another object has its name.
fn owner_in<K: Object>(
    store: &Store<K>,
    namespace: &str,
    owner: &OwnerReference,
) -> Result<Arc<K>> {
    store
        .get(namespace, &owner.name)
        .filter(|object| object.metadata().uid.as_ref() == Some(&owner.uid))
        .ok_or_else(|| Error::other(format!("the {} {} is not there", owner.kind, owner.name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::pods::testing::{at, pod};
    use k8s_openapi::api::policy::v1::PodDisruptionBudgetSpec;

    fn budget(min: Option<IntOrString>, max: Option<IntOrString>) -> PodDisruptionBudget {
        PodDisruptionBudget {
            spec: Some(PodDisruptionBudgetSpec {
                min_available: min,
                max_unavailable: max,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn wrong_budgets_are_reported() {
        let value = serde_json::json!({"metadata": {"name": "b"}, "spec": {
            "maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
        let budget: PodDisruptionBudget = serde_json::from_value(value).unwrap();
        assert!(unmanaged(&budget).starts_with(
            "Pods selected by this PodDisruptionBudget (selector: &LabelSelector{MatchLabels:map[string]string{app: web,},MatchExpressions:[]LabelSelectorRequirement{},}) were found to be unmanaged. As a result, the status"
        ));
        let pod = crate::common::pods::testing::pod("p", "n", "Running", None);
        assert_eq!(
            several(&pod, "b"),
            "Pod \"ns\"/\"p\" matches multiple PodDisruptionBudgets.  Chose \"b\" arbitrarily."
        );
    }

    #[test]
    fn what_may_go() {
        let pods: Vec<_> = (0..4)
            .map(|i| Arc::new(pod(&format!("p{i}"), "n", "Running", (i > 0).then_some(1))))
            .collect();
        let allowed = |min, max| {
            status(&budget(min, max), &pods, 4, at(9))
                .0
                .disruptions_allowed
        };
        assert_eq!(allowed(Some(IntOrString::Int(2)), None), Some(1));
        assert_eq!(
            allowed(Some(IntOrString::String("50%".into())), None),
            Some(1)
        );
        assert_eq!(allowed(None, Some(IntOrString::Int(1))), Some(0));
        assert_eq!(allowed(None, Some(IntOrString::Int(3))), Some(2));
    }

    #[test]
    fn an_evicted_pod_counts_as_gone_for_a_while() {
        let pods = [
            Arc::new(pod("a", "n", "Running", Some(1))),
            Arc::new(pod("b", "n", "Running", Some(1))),
        ];
        let mut budget = budget(Some(IntOrString::Int(1)), None);
        budget.status = Some(PodDisruptionBudgetStatus {
            disrupted_pods: Some([("a".to_owned(), Time(at(100)))].into()),
            ..Default::default()
        });
        let (first, recheck) = status(&budget, &pods, 0, at(110));
        assert_eq!(
            (first.disruptions_allowed, recheck),
            (Some(0), Some(Duration::from_secs(110)))
        );
        let (later, recheck) = status(&budget, &pods, 0, at(300));
        assert_eq!((later.disruptions_allowed, recheck), (Some(1), None));
        assert_eq!(later.disrupted_pods, None);
    }

    #[test]
    fn any_numbers_can_be_counted_with() {
        let pods = [Arc::new(pod("a", "n", "Running", Some(1)))];
        for field in ["minAvailable", "maxUnavailable"] {
            let object = serde_json::json!({
                "metadata": {"generation": 1},
                "spec": {field: 1},
                "status": {"currentHealthy": 1, "desiredHealthy": 1, "disruptionsAllowed": 1,
                    "expectedPods": 1, "observedGeneration": 1},
            });
            crate::common::extremes::each(&object, |budget: &PodDisruptionBudget| {
                for scale in [i32::MIN, 0, i32::MAX] {
                    status(budget, &pods, scale, at(9));
                }
            });
            for text in ["-9223372036854775808%", "9223372036854775807%", "1%"] {
                let value = Some(IntOrString::String(text.into()));
                let budget = match field {
                    "minAvailable" => budget(value, None),
                    _ => budget(None, value),
                };
                for scale in [i32::MIN, 0, i32::MAX] {
                    status(&budget, &pods, scale, at(9));
                }
            }
        }
    }
}
