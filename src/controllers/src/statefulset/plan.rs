//! Decides which pods of a stateful set are created or deleted next.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};

use super::identity::{self, ordinal, revision_of};
use crate::common::pods;

/// Maximum number of pods that one plan creates.
const BURST: usize = 500;

/// One step of a plan.
#[derive(Clone, Debug)]
pub enum Action {
    /// Create these pods concurrently.
    Create(Vec<Pod>),
    /// Delete these pods concurrently.
    Delete(Vec<Arc<Pod>>),
    /// Delete a terminated pod, which is then created again.
    Recreate(Arc<Pod>),
    /// Update a pod that lacks identity labels.
    Repair(Box<Pod>),
    /// Create the missing claims of a pod.
    Claims(Arc<Pod>),
    /// Update the owner references of a pod's claims. The flag tells whether scaling down removes
    /// the pod.
    Retain(Arc<Pod>, bool),
}

/// The steps to take now.
#[derive(Debug, Default)]
pub struct Plan {
    /// The steps, in order.
    pub actions: Vec<Action>,
}

/// The two templates that pods can have, with the names of their revisions.
pub struct Templates {
    /// The revision of the last completed rollout.
    pub current: (String, PodTemplateSpec),
    /// The revision of the current template.
    pub update: (String, PodTemplateSpec),
}

fn name(set: &StatefulSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

fn first_ordinal(set: &StatefulSet) -> i32 {
    let ordinals = set.spec.as_ref().and_then(|spec| spec.ordinals.as_ref());
    ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0)
}

/// Returns the ordinals that the set's pods should have. There can be two thousand million.
fn wanted_ordinals(set: &StatefulSet) -> Range<i32> {
    first_ordinal(set)..first_ordinal(set).saturating_add(replicas(set).max(0))
}

fn replicas(set: &StatefulSet) -> i32 {
    set.spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

fn is_parallel(set: &StatefulSet) -> bool {
    let policy = set
        .spec
        .as_ref()
        .and_then(|spec| spec.pod_management_policy.as_deref());
    policy == Some("Parallel")
}

fn min_ready(set: &StatefulSet) -> i32 {
    set.spec
        .as_ref()
        .and_then(|spec| spec.min_ready_seconds)
        .unwrap_or(0)
}

fn rolls(set: &StatefulSet) -> bool {
    let strategy = set
        .spec
        .as_ref()
        .and_then(|spec| spec.update_strategy.as_ref());
    strategy
        .and_then(|strategy| strategy.type_.as_deref())
        .unwrap_or("RollingUpdate")
        == "RollingUpdate"
}

/// Returns the partition: pods with a lower ordinal, relative to the first one, keep the current
/// revision.
fn partition(set: &StatefulSet) -> Option<i32> {
    let strategy = set.spec.as_ref()?.update_strategy.as_ref()?;
    Some(strategy.rolling_update.as_ref()?.partition.unwrap_or(0))
}

fn is_running_and_ready(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

/// Returns the pod with this ordinal, with the revision that it has if created now.
fn versioned(set: &StatefulSet, templates: &Templates, ordinal: i32) -> Pod {
    let current = set
        .status
        .as_ref()
        .and_then(|status| status.current_replicas)
        .unwrap_or(0);
    let stays = match partition(set) {
        _ if !rolls(set) => false,
        Some(partition) => ordinal < first_ordinal(set).saturating_add(partition),
        None => ordinal < first_ordinal(set).saturating_add(current),
    };
    let (revision, template) = if stays {
        &templates.current
    } else {
        &templates.update
    };
    identity::pod(set, template, revision, ordinal)
}

/// The pods of a set by ordinal.
type Members<'a> = BTreeMap<i32, &'a Arc<Pod>>;

/// Decides the next steps for `set`, which owns these pods.
pub fn plan(set: &StatefulSet, templates: &Templates, owned: &[Arc<Pod>], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let wanted = wanted_ordinals(set);
    let members: Members<'_> = owned
        .iter()
        .filter_map(|pod| Some((ordinal(name(set), pod)?, pod)))
        .collect();
    let condemned: Vec<(i32, &Arc<Pod>)> = members
        .iter()
        .rev()
        .map(|(ordinal, pod)| (*ordinal, *pod))
        .filter(|(ordinal, _)| !wanted.contains(ordinal))
        .collect();
    let in_order = !is_parallel(set);
    let is_available =
        |pod: &Pod| is_running_and_ready(pod) && pods::is_available(pod, min_ready(set), now);
    let has_claims = set.spec.as_ref().is_some_and(|spec| {
        spec.volume_claim_templates
            .as_ref()
            .is_some_and(|claims| !claims.is_empty())
    });
    if has_claims {
        let kept = members.range(wanted.clone()).map(|(_, pod)| *pod);
        plan.actions
            .extend(kept.map(|pod| Action::Retain(pod.clone(), false)));
        let going = condemned
            .iter()
            .map(|(_, pod)| Action::Retain((*pod).clone(), true));
        plan.actions.extend(going);
    }
    let mut create = Vec::new();
    for ordinal in wanted.clone() {
        if create.len() == BURST {
            break; // the next sync continues
        }
        let Some(&pod) = members.get(&ordinal) else {
            let pod = versioned(set, templates, ordinal);
            if in_order {
                plan.actions.push(Action::Create(vec![pod]));
                return plan;
            }
            create.push(pod);
            continue;
        };
        if pods::is_terminal(pod) {
            if !pods::is_deleting(pod) {
                plan.actions.push(Action::Recreate(pod.clone()));
            }
            if in_order {
                return plan;
            }
            continue;
        }
        if pods::phase(pod) == "Pending" && has_claims && !pods::is_deleting(pod) {
            plan.actions.push(Action::Claims(pod.clone()));
        }
        if in_order && (pods::is_deleting(pod) || !is_available(pod)) {
            return plan;
        }
        if let Some(repaired) = identity::repaired(pod, ordinal) {
            plan.actions.push(Action::Repair(Box::new(repaired)));
        }
    }
    if !create.is_empty() {
        plan.actions.push(Action::Create(create));
    }
    // Delete the highest ordinal first. In order, an unavailable pod blocks this, unless it is the
    // lowest unavailable one. The pods to keep are all available at this point.
    let first_unwell = condemned.iter().rev().find(|(_, pod)| !is_available(pod));
    let mut delete = Vec::new();
    for (ordinal, pod) in &condemned {
        if pods::is_deleting(pod) {
            if in_order {
                return plan;
            }
            continue;
        }
        if in_order && !is_available(pod) && first_unwell.is_none_or(|(first, _)| first != ordinal)
        {
            return plan;
        }
        delete.push((*pod).clone());
        if in_order {
            break;
        }
    }
    if !delete.is_empty() {
        plan.actions.push(Action::Delete(delete));
        if in_order {
            return plan;
        }
    }
    if rolls(set) {
        roll(set, templates, &members, &is_available, &mut plan);
    }
    plan
}

/// Maximum number of unavailable pods during an update. The feature `MaxUnavailableStatefulSet` is
/// off by default in 1.36, and the field of earlier objects has no effect, as upstream.
const MAX_UNAVAILABLE: i64 = 1;

/// Plans the replacement of outdated pods from the highest ordinal down to the partition.
fn roll(
    set: &StatefulSet,
    templates: &Templates,
    members: &Members<'_>,
    is_available: &dyn Fn(&Pod) -> bool,
    plan: &mut Plan,
) {
    let end = wanted_ordinals(set).end;
    let lowest = first_ordinal(set).saturating_add(partition(set).unwrap_or(0).max(0));
    let mut unavailable = 0;
    let mut delete = Vec::new();
    let mut above = end;
    for (&ordinal, pod) in members.range(lowest.min(end)..end).rev() {
        // Missing pods are unavailable, too.
        unavailable += i64::from(above) - i64::from(ordinal) - 1;
        above = ordinal;
        if unavailable >= MAX_UNAVAILABLE {
            break;
        }
        if !pods::is_deleting(pod) && revision_of(pod) != Some(&templates.update.0) {
            delete.push((*pod).clone());
            unavailable += 1;
        } else if pods::is_deleting(pod) || !is_available(pod) {
            unavailable += 1;
        }
    }
    if !delete.is_empty() {
        plan.actions.push(Action::Delete(delete));
    }
}

/// Returns the status of a set that owns these pods.
pub fn status(
    set: &StatefulSet,
    templates: &Templates,
    owned: &[Arc<Pod>],
    now: Timestamp,
) -> StatefulSetStatus {
    let old = set.status.clone().unwrap_or_default();
    let mut status = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        current_revision: Some(templates.current.0.clone()),
        update_revision: Some(templates.update.0.clone()),
        collision_count: Some(old.collision_count.unwrap_or(0)),
        conditions: old.conditions,
        ..Default::default()
    };
    let (mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0);
    for pod in owned.iter().filter(|pod| ordinal(name(set), pod).is_some()) {
        status.replicas += 1;
        if is_running_and_ready(pod) {
            ready += 1;
            available += i32::from(pods::is_available(pod, min_ready(set), now));
        }
        if !pods::is_deleting(pod) {
            current += i32::from(revision_of(pod) == Some(&templates.current.0));
            updated += i32::from(revision_of(pod) == Some(&templates.update.0));
        }
    }
    // The rollout is complete: the update revision becomes the current one.
    if rolls(set)
        && updated == replicas(set)
        && updated == status.replicas
        && ready == status.replicas
    {
        status.current_revision.clone_from(&status.update_revision);
        current = updated;
    }
    status.ready_replicas = Some(ready);
    status.available_replicas = Some(available);
    status.current_replicas = Some(current);
    status.updated_replicas = Some(updated);
    status
}

/// Returns whether two statuses are equal, with absent numbers as zero.
pub fn is_same_status(a: &StatefulSetStatus, b: &StatefulSetStatus) -> bool {
    let numbers = |s: &StatefulSetStatus| {
        [
            s.available_replicas,
            s.ready_replicas,
            s.current_replicas,
            s.updated_replicas,
            s.collision_count,
        ]
        .map(|number| number.unwrap_or(0))
    };
    a.replicas == b.replicas
        && numbers(a) == numbers(b)
        && a.observed_generation == b.observed_generation
        && a.current_revision == b.current_revision
        && a.update_revision == b.update_revision
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::pods::testing::{at, pod};
    use k8s_openapi::api::apps::v1::{
        RollingUpdateStatefulSetStrategy, StatefulSetSpec, StatefulSetUpdateStrategy,
    };
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

    fn set(replicas: i32, policy: &str, partition: i32) -> StatefulSet {
        StatefulSet {
            metadata: ObjectMeta {
                name: Some("web".into()),
                namespace: Some("ns".into()),
                uid: Some("s".into()),
                ..Default::default()
            },
            spec: Some(StatefulSetSpec {
                replicas: Some(replicas),
                pod_management_policy: Some(policy.into()),
                update_strategy: Some(StatefulSetUpdateStrategy {
                    type_: Some("RollingUpdate".into()),
                    rolling_update: Some(RollingUpdateStatefulSetStrategy {
                        partition: Some(partition),
                        max_unavailable: None,
                    }),
                }),
                ..Default::default()
            }),
            status: None,
        }
    }

    fn templates() -> Templates {
        Templates {
            current: ("web-1".into(), PodTemplateSpec::default()),
            update: ("web-2".into(), PodTemplateSpec::default()),
        }
    }

    fn member(set: &StatefulSet, ordinal: i32, revision: &str, ready: bool) -> Arc<Pod> {
        let mut made = identity::pod(set, &PodTemplateSpec::default(), revision, ordinal);
        let state = pod("x", "n", "Running", ready.then_some(1));
        made.status = state.status;
        made.metadata.uid = made.metadata.name.clone();
        Arc::new(made)
    }

    fn summary(plan: &Plan) -> Vec<String> {
        let names = |pods: Vec<&Pod>| -> String {
            let names: Vec<_> = pods
                .iter()
                .map(|pod| pod.metadata.name.clone().unwrap())
                .collect();
            names.join(",")
        };
        plan.actions
            .iter()
            .map(|action| match action {
                Action::Create(pods) => format!("+{}", names(pods.iter().collect())),
                Action::Delete(pods) => {
                    format!("-{}", names(pods.iter().map(|pod| &**pod).collect()))
                }
                Action::Recreate(pod) => format!("~{}", names(vec![pod])),
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn pods_come_and_go_in_order() {
        let set3 = set(3, "OrderedReady", 0);
        let go =
            |set: &StatefulSet, owned: &[Arc<Pod>]| summary(&plan(set, &templates(), owned, at(9)));
        assert_eq!(go(&set3, &[]), ["+web-0"]);
        assert!(go(&set3, &[member(&set3, 0, "web-2", false)]).is_empty());
        assert_eq!(go(&set3, &[member(&set3, 0, "web-2", true)]), ["+web-1"]);
        let set1 = set(1, "OrderedReady", 0);
        let all: Vec<_> = (0..3).map(|i| member(&set1, i, "web-2", true)).collect();
        assert_eq!(go(&set1, &all), ["-web-2"]);
        // Of unavailable pods, only the lowest may be deleted.
        let set0 = set(0, "OrderedReady", 0);
        let mut all: Vec<_> = (0..3).map(|i| member(&set0, i, "web-2", false)).collect();
        assert!(go(&set0, &all).is_empty());
        all[1] = member(&set0, 1, "web-2", true);
        all[2] = member(&set0, 2, "web-2", true);
        assert_eq!(go(&set0, &all), ["-web-2"]);
        assert_eq!(go(&set0, &all[..1]), ["-web-0"]);
    }

    #[test]
    fn parallel_pods_come_at_once() {
        let set = set(3, "Parallel", 0);
        let plan = plan(&set, &templates(), &[], at(9));
        assert_eq!(summary(&plan), ["+web-0,web-1,web-2"]);
    }

    #[test]
    fn updates_go_down_to_the_partition() {
        let set = set(3, "OrderedReady", 1);
        let mut owned: Vec<_> = (0..3).map(|i| member(&set, i, "web-1", true)).collect();
        assert_eq!(
            summary(&plan(&set, &templates(), &owned, at(9))),
            ["-web-2"]
        );
        owned[2] = member(&set, 2, "web-2", true);
        assert_eq!(
            summary(&plan(&set, &templates(), &owned, at(9))),
            ["-web-1"]
        );
        owned[1] = member(&set, 1, "web-2", true);
        assert!(plan(&set, &templates(), &owned, at(9)).actions.is_empty());
        let status = status(&set, &templates(), &owned, at(9));
        assert_eq!(
            (status.current_replicas, status.updated_replicas),
            (Some(1), Some(2))
        );
        assert_eq!(status.current_revision.as_deref(), Some("web-1"));
        // A pod below the partition is created again with its current revision.
        let lost = [owned[1].clone(), owned[2].clone()];
        match &plan(&set, &templates(), &lost, at(9)).actions[0] {
            Action::Create(pods) => assert_eq!(revision_of(&pods[0]), Some("web-1")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_finished_rollout_is_the_current_revision() {
        let set = set(2, "OrderedReady", 0);
        let owned: Vec<_> = (0..2).map(|i| member(&set, i, "web-2", true)).collect();
        let status = status(&set, &templates(), &owned, at(9));
        assert_eq!(status.current_revision.as_deref(), Some("web-2"));
        assert_eq!(status.current_replicas, Some(2));
    }

    #[test]
    fn a_failed_pod_is_made_anew() {
        let set = set(2, "OrderedReady", 0);
        let mut failed = Pod::clone(&member(&set, 0, "web-2", false));
        failed.status.as_mut().unwrap().phase = Some("Failed".into());
        assert_eq!(
            summary(&plan(&set, &templates(), &[Arc::new(failed)], at(9))),
            ["~web-0"]
        );
    }

    #[test]
    fn pods_are_replaced_one_by_one() {
        let mut set = set(3, "OrderedReady", 0);
        let owned = [0, 1, 2].map(|ordinal| member(&set, ordinal, "web-1", true));
        let strategy = set.spec.as_mut().unwrap().update_strategy.as_mut();
        let rolling = strategy.unwrap().rolling_update.as_mut();
        rolling.unwrap().max_unavailable = Some(IntOrString::Int(2));
        assert_eq!(
            summary(&plan(&set, &templates(), &owned, at(9))),
            ["-web-2"]
        );
    }

    #[test]
    fn any_numbers_can_be_planned_with() {
        for policy in ["OrderedReady", "Parallel"] {
            let object = serde_json::json!({
                "metadata": {"name": "web", "namespace": "ns", "uid": "s", "generation": 1},
                "spec": {
                    "replicas": 3, "minReadySeconds": 1, "revisionHistoryLimit": 1,
                    "podManagementPolicy": policy, "ordinals": {"start": 1}, "selector": {},
                    "serviceName": "web", "template": {},
                    "updateStrategy": {"type": "RollingUpdate",
                        "rollingUpdate": {"partition": 1, "maxUnavailable": 1}},
                },
                "status": {"replicas": 1, "currentReplicas": 1, "readyReplicas": 1,
                    "updatedReplicas": 1, "availableReplicas": 1, "collisionCount": 1},
            });
            let base = set(3, policy, 0);
            let owned: Vec<_> = [0, 1, 2, i32::MAX - 1, i32::MAX]
                .map(|ordinal| member(&base, ordinal, "web-1", true))
                .into();
            crate::common::extremes::each(&object, |set: &StatefulSet| {
                plan(set, &templates(), &owned, at(9));
                status(set, &templates(), &owned, at(9));
            });
        }
    }

    #[test]
    fn a_huge_set_grows_in_bursts() {
        let set = set(i32::MAX, "Parallel", 0);
        let plan = plan(&set, &templates(), &[], at(9));
        match &plan.actions[..] {
            [Action::Create(pods)] => assert_eq!(pods.len(), BURST),
            other => panic!("{other:?}"),
        }
    }
}
