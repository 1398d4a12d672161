//! Pod states and deletion order as controllers see them.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Annotation that users set to influence which pods are deleted first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Returns the pod's phase, or an empty string if not set.
pub fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

/// Returns whether the pod has succeeded or failed.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Returns whether the pod is being deleted.
pub fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Returns whether the pod counts as a replica: neither terminal nor being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_deleting(pod)
}

/// Returns whether the pod is being deleted but not yet terminal.
pub fn is_terminating(pod: &Pod) -> bool {
    !is_terminal(pod) && is_deleting(pod)
}

/// Returns the name of the pod's node, or an empty string before binding.
pub fn node_name(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default()
}

/// Returns the condition of this type.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Returns whether the pod's Ready condition is true.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Returns the time since which the pod has been ready, or `None` if it is not.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// Returns whether the pod has been ready for at least `min_ready` seconds.
pub fn is_available(pod: &Pod, min_ready: i32, now: Timestamp) -> bool {
    if !is_ready(pod) {
        return false;
    }
    min_ready <= 0
        || ready_since(pod).is_some_and(|since| seconds_between(since, now) >= i64::from(min_ready))
}

/// Returns the time until the next ready pod becomes available, or `None` if none is pending.
pub fn next_availability<'a>(
    pods: impl IntoIterator<Item = &'a Arc<Pod>>,
    min_ready: i32,
    now: Timestamp,
) -> Option<Duration> {
    if min_ready <= 0 {
        return None;
    }
    pods.into_iter()
        .filter(|pod| is_ready(pod) && !is_available(pod, min_ready, now))
        .filter_map(|pod| ready_since(pod))
        .map(|since| until(since, min_ready.into(), now))
        .min()
}

/// Returns whole seconds from `a` to `b`.
pub fn seconds_between(a: Timestamp, b: Timestamp) -> i64 {
    b.duration_since(a).as_secs()
}

pub use rkube_component_helpers::time::until;

/// Returns the highest restart count of the pod's regular containers and sidecars.
fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let regular = status.and_then(|status| status.container_statuses.as_ref());
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    let always: Vec<&str> = pod
        .spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten())
        .filter(|container| container.restart_policy.as_deref() == Some("Always"))
        .map(|container| container.name.as_str())
        .collect();
    let sidecars = init
        .into_iter()
        .flatten()
        .filter(|c| always.contains(&c.name.as_str()));
    regular
        .into_iter()
        .flatten()
        .chain(sidecars)
        .map(|container| container.restart_count)
        .max()
        .unwrap_or(0)
}

fn deletion_cost(pod: &Pod) -> i32 {
    pod.metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(DELETION_COST))
        .and_then(|cost| cost.parse().ok())
        .unwrap_or(0)
}

/// Returns the age on a logarithmic scale. Ages of the same order of magnitude compare equal, so
/// that scaling down does not always delete the newest pod.
fn magnitude(time: Timestamp, now: Timestamp) -> i64 {
    let age = now.duration_since(time).as_nanos();
    if age <= 0 {
        0
    } else {
        (age as f64).log2() as i64
    }
}

/// Orders the younger magnitude first, then by UID. Returns `None` for equal times.
fn by_magnitude(
    a: Option<Timestamp>,
    b: Option<Timestamp>,
    a_uid: &str,
    b_uid: &str,
    now: Timestamp,
) -> Option<Ordering> {
    if a == b {
        return None;
    }
    match (a, b) {
        (None, _) => Some(Ordering::Less),
        (_, None) => Some(Ordering::Greater),
        (Some(a), Some(b)) => match magnitude(a, now).cmp(&magnitude(b, now)) {
            Ordering::Equal => Some(a_uid.cmp(b_uid)),
            other => Some(other),
        },
    }
}

/// Orders the pod to delete first before the other (upstream's `ActivePodsWithRanks`). The rank is
/// the number of related pods on the pod's node.
pub fn deletion_order(a: (&Pod, usize), b: (&Pod, usize), now: Timestamp) -> Ordering {
    let ((a, a_rank), (b, b_rank)) = (a, b);
    let phase_rank = |pod: &Pod| match phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let time = |time: Option<&Time>| time.map(|time| time.0);
    let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
    let assigned = |pod: &Pod| !node_name(pod).is_empty();
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| b_rank.cmp(&a_rank))
        .then_with(|| {
            if is_ready(a) && is_ready(b) {
                by_magnitude(ready_since(a), ready_since(b), &uid(a), &uid(b), now)
                    .unwrap_or(Ordering::Equal)
            } else {
                Ordering::Equal
            }
        })
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| {
            let created = |pod: &Pod| time(pod.metadata.creation_timestamp.as_ref());
            by_magnitude(created(a), created(b), &uid(a), &uid(b), now).unwrap_or(Ordering::Equal)
        })
}

#[cfg(test)]
pub mod testing {
    //! Pods for tests.

    use super::*;
    use k8s_openapi::api::core::v1::{PodSpec, PodStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    /// Returns the time `second` seconds after the epoch.
    pub fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Returns a pod in namespace `ns` with this phase, ready since `ready` if given.
    pub fn pod(name: &str, node: &str, phase: &str, ready: Option<i64>) -> Pod {
        Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("ns".into()),
                uid: Some(name.into()),
                creation_timestamp: Some(Time(at(0))),
                ..Default::default()
            },
            spec: Some(PodSpec {
                node_name: (!node.is_empty()).then(|| node.into()),
                ..Default::default()
            }),
            status: Some(PodStatus {
                phase: Some(phase.into()),
                conditions: ready.map(|since| {
                    vec![PodCondition {
                        type_: "Ready".into(),
                        status: "True".into(),
                        last_transition_time: Some(Time(at(since))),
                        ..Default::default()
                    }]
                }),
                ..Default::default()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{at, pod};
    use super::*;

    #[test]
    fn the_least_useful_pod_goes_first() {
        let mut costly = pod("costly", "n1", "Running", Some(10));
        costly.metadata.annotations = Some([(DELETION_COST.to_owned(), "5".to_owned())].into());
        let mut pods = [
            (costly, 1),
            (pod("alone", "n2", "Running", Some(10)), 1),
            (pod("crowded", "n1", "Running", Some(10)), 2),
            (pod("unready", "n1", "Running", None), 1),
            (pod("pending", "n1", "Pending", None), 1),
            (pod("unbound", "", "Pending", None), 1),
        ];
        pods.sort_by(|a, b| deletion_order((&a.0, a.1), (&b.0, b.1), at(1000)));
        let order: Vec<_> = pods
            .iter()
            .map(|(pod, _)| pod.metadata.name.as_deref().unwrap())
            .collect();
        assert_eq!(
            order,
            [
                "unbound", "pending", "unready", "crowded", "alone", "costly"
            ]
        );
    }

    #[test]
    fn availability_takes_its_time() {
        let pod = Arc::new(pod("a", "n", "Running", Some(100)));
        assert!(is_available(&pod, 0, at(100)));
        assert!(!is_available(&pod, 10, at(105)));
        assert!(is_available(&pod, 10, at(110)));
        assert_eq!(
            next_availability([&pod], 10, at(104)),
            Some(Duration::from_secs(6))
        );
        assert_eq!(next_availability([&pod], 10, at(110)), None);
    }
}
