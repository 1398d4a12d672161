//! Facts about the state of pods that evictions depend on.

use crate::kinds::*;
use crate::pods::instance::Instance;
use crate::pods::table::Snapshot;

/// Returns whether a pod has ended.
fn is_over(snapshot: &Snapshot) -> bool {
    matches!(snapshot.pod.api_phase(), "Succeeded" | "Failed")
}

/// Returns whether a pod may be evicted. One that is being deleted may: its grace period may be
/// long, and others would have to go instead.
pub(super) fn may_be_evicted(snapshot: &Snapshot) -> bool {
    !snapshot.evicting && !is_over(snapshot)
}

/// Returns whether a pod has failed and its space is about to be freed. While a container runs, as a
/// sidecar with a long grace period, that may take any time.
pub(super) fn is_freeing_space(snapshot: &Snapshot) -> bool {
    let mut instances = snapshot.instances.values().flatten();
    snapshot.pod.api_phase() == "Failed" && !snapshot.cleaned && !instances.any(Instance::running)
}

/// Returns whether the space of the pods with these UIDs is free: the pods are cleaned up or gone.
pub(super) fn are_cleaned_up(all: &[Snapshot], uids: &[String]) -> bool {
    all.iter()
        .filter(|snapshot| uids.iter().any(|uid| uid == snapshot.pod.uid()))
        .all(|snapshot| snapshot.cleaned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::instance::testing::instance;
    use rkube_runtime::ContainerState;
    use serde_json::json;
    use std::sync::Arc;

    fn snapshot(uid: &str, phase: &str, cleaned: bool) -> Snapshot {
        let pod = json!({"metadata": {"uid": uid}, "status": {"phase": phase}});
        Snapshot {
            pod: Arc::new(serde_json::from_value(pod).unwrap()),
            instances: Arc::default(),
            sandbox: None,
            mirror: None,
            evicting: false,
            cleaned,
        }
    }

    #[test]
    fn terminating_pods_may_be_evicted_once() {
        let mut pod = snapshot("a", "Running", false);
        let metadata = &mut Arc::make_mut(&mut pod.pod).metadata;
        metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        assert!(may_be_evicted(&pod));
        pod.evicting = true;
        assert!(!may_be_evicted(&pod));
        for phase in ["Succeeded", "Failed"] {
            assert!(!may_be_evicted(&snapshot("a", phase, false)));
        }
    }

    #[test]
    fn a_failed_pod_holds_space_until_it_is_cleaned_up() {
        let uids = ["a".to_owned()];
        for (phase, cleaned, frees, free) in [
            ("Running", false, false, false),
            ("Failed", false, true, false),
            ("Failed", true, false, true),
        ] {
            let all = [
                snapshot("b", "Running", false),
                snapshot("a", phase, cleaned),
            ];
            assert_eq!(are_cleaned_up(&all, &uids), free, "{phase} {cleaned}");
            assert_eq!(all.iter().any(is_freeing_space), frees, "{phase} {cleaned}");
        }
        let mut stopping = snapshot("a", "Failed", false);
        let sidecar = instance("sidecar", "s", ContainerState::Running, 0);
        stopping.instances = Arc::new([("sidecar".to_owned(), vec![sidecar])].into());
        assert!(!is_freeing_space(&stopping), "nobody knows for how long");
        let others = [snapshot("b", "Running", false)];
        assert!(are_cleaned_up(&others, &uids), "gone");
    }
}
