//! Limits of local ephemeral storage: `sizeLimit` of `emptyDir` volumes, and `ephemeral-storage` of
//! containers and pods.

use std::collections::BTreeMap;

use rkube_api::quantity::Quantity;
use rkube_component_helpers::resource::{container_limits, pod_limits};

use super::types::signed;
use super::usage::PodUsage;
use crate::kinds::*;

/// The resource's name.
const STORAGE: &str = "ephemeral-storage";

/// The measurements that the check of a pod's limits needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limited {
    /// Only the `emptyDir` volumes for which [`volume_limit`] returns a limit.
    Volumes,
    /// Containers and all volumes.
    Everything,
}

/// Returns what has to be measured; `None` for a pod without limits, which needs no measurement.
pub(super) fn limited(pod: &Pod) -> Option<Limited> {
    if pod_limits(pod.spec()).get(STORAGE).is_some() {
        return Some(Limited::Everything);
    }
    let mut volumes = pod.spec().volumes.iter().flatten();
    volumes
        .any(|volume| volume_limit(volume).is_some())
        .then_some(Limited::Volumes)
}

/// Returns the size limit of an `emptyDir` volume on disk. The kernel enforces those in memory.
pub(super) fn volume_limit(volume: &Volume) -> Option<Quantity> {
    let source = volume.empty_dir.as_ref()?;
    if source.medium.as_deref().is_some_and(|m| !m.is_empty()) {
        return None;
    }
    let limit = Quantity::parse(&source.size_limit.as_ref()?.0).ok()?;
    (limit.sign() > 0).then_some(limit)
}

/// A limit that a pod exceeds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exceeded {
    /// The limit's name in the kubelet's metrics.
    pub signal: &'static str,
    /// Upstream's message.
    pub message: String,
}

/// Returns the first limit that a pod exceeds.
pub(super) fn exceeded(pod: &Pod, usage: &PodUsage) -> Option<Exceeded> {
    let as_exceeded = |signal| move |message| Exceeded { signal, message };
    let volume = || exceeded_volume_limit(pod, usage).map(as_exceeded("emptydirfs.limit"));
    let whole = || exceeded_pod_limit(pod, usage).map(as_exceeded("ephemeralpodfs.limit"));
    let container =
        || exceeded_container_limit(pod, usage).map(as_exceeded("ephemeralcontainerfs.limit"));
    volume().or_else(whole).or_else(container)
}

fn exceeds(used: u64, limit: Quantity) -> bool {
    signed(used) > limit.value()
}

fn exceeded_volume_limit(pod: &Pod, usage: &PodUsage) -> Option<String> {
    let used: BTreeMap<&str, u64> = usage
        .volumes
        .iter()
        .map(|(name, usage)| (name.as_str(), usage.used_bytes))
        .collect();
    pod.spec().volumes.iter().flatten().find_map(|volume| {
        let limit = volume_limit(volume)?;
        let name = volume.name.as_str();
        exceeds(*used.get(name)?, limit)
            .then(|| format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{limit}\". "))
    })
}

fn exceeded_pod_limit(pod: &Pod, usage: &PodUsage) -> Option<String> {
    let limit = pod_limits(pod.spec()).get(STORAGE)?;
    exceeds(usage.disk().used_bytes, limit).then(|| {
        format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ")
    })
}

fn exceeded_container_limit(pod: &Pod, usage: &PodUsage) -> Option<String> {
    usage.containers.iter().find_map(|used| {
        let mut containers = pod.spec().containers.iter();
        let container = containers.find(|c| c.name == used.name)?;
        let limit = container_limits(container).get(STORAGE)?;
        let over = limit.sign() != 0 && exceeds(used.disk.used_bytes, limit);
        over.then(|| {
            let name = &used.name;
            format!("Container {name} exceeded its local ephemeral storage limit \"{limit}\". ")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::usage::ContainerUsage;
    use rkube_runtime::FsUsage;
    use serde_json::json;

    const MIB: u64 = 1 << 20;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn disk(mib: u64) -> FsUsage {
        FsUsage {
            used_bytes: mib * MIB,
            used_inodes: 1,
        }
    }

    /// Returns a usage in MiB by container and by volume.
    fn using(containers: &[(&str, u64)], volumes: &[(&str, u64)]) -> PodUsage {
        PodUsage {
            containers: containers
                .iter()
                .map(|(name, mib)| ContainerUsage {
                    name: (*name).into(),
                    memory: None,
                    disk: disk(*mib),
                })
                .collect(),
            volumes: volumes
                .iter()
                .map(|(name, mib)| ((*name).into(), disk(*mib)))
                .collect(),
            ..PodUsage::default()
        }
    }

    fn limit(name: &str, limit: &str) -> serde_json::Value {
        json!({"name": name, "resources": {"limits": {"ephemeral-storage": limit}}})
    }

    #[test]
    fn volumes_have_a_size() {
        let pod = pod(json!({
            "containers": [{"name": "c"}],
            "volumes": [
                {"name": "free", "emptyDir": {}},
                {"name": "v", "emptyDir": {"sizeLimit": "10Mi"}},
                {"name": "memory", "emptyDir": {"sizeLimit": "1Mi", "medium": "Memory"}},
                {"name": "zero", "emptyDir": {"sizeLimit": "0"}},
            ],
        }));
        assert_eq!(limited(&pod), Some(Limited::Volumes));
        let all = |v| {
            using(
                &[("c", 500)],
                &[("free", 99), ("v", v), ("memory", 9), ("zero", 9)],
            )
        };
        assert_eq!(exceeded(&pod, &all(10)), None);
        assert_eq!(
            exceeded(&pod, &all(11)).unwrap().message,
            "Usage of EmptyDir volume \"v\" exceeds the limit \"10Mi\". "
        );
        assert_eq!(exceeded(&pod, &PodUsage::default()), None, "not measured");
    }

    #[test]
    fn containers_have_a_limit_together_and_alone() {
        let pod = pod(json!({
            "containers": [limit("a", "10Mi"), limit("b", "20Mi")],
            "volumes": [{"name": "v", "emptyDir": {}}],
        }));
        assert_eq!(limited(&pod), Some(Limited::Everything));
        assert_eq!(
            exceeded(&pod, &using(&[("a", 10), ("b", 15)], &[("v", 5)])),
            None
        );
        assert_eq!(
            exceeded(&pod, &using(&[("a", 1), ("b", 1)], &[("v", 29)]))
                .unwrap()
                .message,
            "Pod ephemeral local storage usage exceeds the total limit of containers 30Mi. "
        );
        assert_eq!(
            exceeded(&pod, &using(&[("b", 1), ("a", 11)], &[]))
                .unwrap()
                .message,
            "Container a exceeded its local ephemeral storage limit \"10Mi\". "
        );
    }

    #[test]
    fn a_container_without_a_limit_is_free_beside_others() {
        let pod = pod(json!({"containers": [limit("a", "1Gi"), {"name": "b"}]}));
        assert_eq!(exceeded(&pod, &using(&[("b", 1000)], &[])), None);
        // As upstream, the sum of the limits that there are counts for the whole pod.
        assert!(exceeded(&pod, &using(&[("b", 1025)], &[])).is_some());
    }

    #[test]
    fn pods_without_limits_are_not_measured() {
        let pod = pod(json!({
            "containers": [{"name": "c", "resources": {
                "requests": {"ephemeral-storage": "1Gi"}, "limits": {"memory": "1Gi"},
            }}],
            "volumes": [{"name": "v", "emptyDir": {}}],
        }));
        assert_eq!(limited(&pod), None);
    }
}
