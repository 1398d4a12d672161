//! QoS classes and the kernel settings derived from them: CPU shares and quota, OOM score, cgroups.

use rkube_component_helpers::qos::compute;
use rkube_component_helpers::resource::{ResourceList, aggregate_containers, pod_limits};

pub(crate) use rkube_component_helpers::qos::QosClass as Qos;

use crate::kinds::*;
use crate::static_pods;

/// CPU in milli-CPUs and memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    pub cpu: Option<i64>,
    pub memory: Option<i64>,
}

type Quantities = std::collections::BTreeMap<String, Quantity>;

fn amounts(list: Option<&Quantities>) -> Amounts {
    let find = |name: &str| list.and_then(|l| l.get(name));
    Amounts {
        cpu: find("cpu").map(quantity_milli),
        memory: find("memory").map(quantity_value),
    }
}

/// Returns a container's requests; a missing request defaults to the limit.
pub(crate) fn requests(r: Option<&ResourceRequirements>) -> Amounts {
    let requests = amounts(r.and_then(|r| r.requests.as_ref()));
    let limits = limits(r);
    Amounts {
        cpu: requests.cpu.or(limits.cpu),
        memory: requests.memory.or(limits.memory),
    }
}

/// Returns a container's limits.
pub(crate) fn limits(r: Option<&ResourceRequirements>) -> Amounts {
    amounts(r.and_then(|r| r.limits.as_ref()))
}

/// Returns a container's requests; a missing request defaults to the limit.
pub(crate) fn requests_or_limits(r: Option<&ResourceRequirements>) -> ResourceList {
    let mut all = ResourceList::from_typed(r.and_then(|r| r.limits.as_ref()));
    let requests = ResourceList::from_typed(r.and_then(|r| r.requests.as_ref()));
    all.0.extend(requests.0);
    all
}

/// Returns the pod's QoS class from its status, or computes it if the status has none.
pub(crate) fn class(pod: &Pod) -> Qos {
    let reported = pod.status.as_ref().and_then(|s| s.qos_class.as_deref());
    if let Some(class) = reported.and_then(Qos::parse) {
        return class;
    }
    let of = |r: Option<&ResourceRequirements>| {
        let limits = ResourceList::from_typed(r.and_then(|r| r.limits.as_ref()));
        (requests_or_limits(r), limits)
    };
    match &pod.spec().resources {
        Some(r) if r.requests.is_some() || r.limits.is_some() => compute([of(Some(r))]),
        _ => {
            let containers = pod.init_containers().iter().chain(&pod.spec().containers);
            compute(containers.map(|c| of(c.resources.as_ref())))
        }
    }
}

/// Returns the path of the pod's cgroup, named as by the kubelet's cgroupfs driver.
pub(crate) fn cgroup_parent(pod: &Pod) -> String {
    let uid = pod.uid();
    match class(pod) {
        Qos::Guaranteed => format!("/kubepods/pod{uid}"),
        Qos::Burstable => format!("/kubepods/burstable/pod{uid}"),
        Qos::BestEffort => format!("/kubepods/besteffort/pod{uid}"),
    }
}

/// Returns the `oom_score_adj` of a container's processes, from −997 to 1000.
///
/// Upstream's formula: guaranteed pods are killed last and best-effort pods first. Burstable
/// containers have a higher score the smaller the share of the node's memory that they request.
pub(crate) fn oom_score_adj(pod: &Pod, container: &Container, node_memory: i64) -> i32 {
    if is_node_critical(pod) {
        return -997;
    }
    match class(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let of = |c: &Container| requests(c.resources.as_ref()).memory.unwrap_or(0);
            let mut request = of(container);
            if pod
                .init_containers()
                .iter()
                .any(|c| c.name == container.name && is_sidecar(c))
                && let Some(least) = pod.spec().containers.iter().map(of).min()
            {
                // A sidecar must not be killed before the main containers.
                request = request.max(least);
            }
            let request = i128::from(request) + i128::from(unclaimed_memory(pod));
            let score = 1000 - 1000 * request / i128::from(node_memory.max(1));
            match score {
                s if s < 3 => 3,
                1000.. => 999,
                s => i32::try_from(s).unwrap_or(999),
            }
        }
    }
}

/// Minimum priority of pods that are critical to the cluster.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// Returns whether the pod is critical to the cluster or to a node: such pods are not evicted. Static
/// pods are.
pub(crate) fn is_critical(pod: &Pod) -> bool {
    static_pods::is_static(pod) || pod.spec().priority.unwrap_or(0) >= CRITICAL_PRIORITY
}

/// Returns whether the pod is of the class `system-node-critical`. Its priority is checked too:
/// clients can set the class's name, but not a priority that is not the class's.
fn is_node_critical(pod: &Pod) -> bool {
    is_critical(pod) && pod.spec().priority_class_name.as_deref() == Some("system-node-critical")
}

/// Returns each container's share of the memory that the pod requests beyond its containers, in
/// bytes (KEP-2837).
fn unclaimed_memory(pod: &Pod) -> i64 {
    let spec = pod.spec();
    let pod_level = requests(spec.resources.as_ref()).memory.unwrap_or(0);
    if pod_level == 0 {
        return 0;
    }
    let claimed = aggregate_containers(spec, |c| requests_or_limits(c.resources.as_ref()))
        .get("memory")
        .map_or(0, |amount| amount.value());
    let count = spec.containers.len() + pod.init_containers().len();
    pod_level.saturating_sub(claimed) / i64::try_from(count.max(1)).unwrap_or(i64::MAX)
}

/// Returns the cgroup v1 CPU shares for a request in milli-CPUs.
pub(crate) fn cpu_shares(millis: i64) -> u64 {
    const MIN: i64 = 2;
    const MAX: i64 = 262_144;
    if millis == 0 {
        return MIN as u64;
    }
    (millis.saturating_mul(1024) / 1000)
        .clamp(MIN, MAX)
        .unsigned_abs()
}

/// The CFS period that quotas refer to, in microseconds.
pub(crate) const CPU_PERIOD: u64 = 100_000;

/// Returns the CFS quota per period in microseconds for a limit in milli-CPUs; `None` without a
/// limit.
pub(crate) fn cpu_quota(millis: i64) -> Option<i64> {
    if millis <= 0 {
        return None;
    }
    Some((millis.saturating_mul(CPU_PERIOD as i64) / 1000).max(1000))
}

/// Returns the cgroup settings of a container.
pub(crate) fn runtime_resources(container: &Container) -> rkube_runtime::Resources {
    let r = container.resources.as_ref();
    let (requests, limits) = (requests(r), limits(r));
    let quota = limits.cpu.and_then(cpu_quota);
    let hugepage_limits = r
        .and_then(|r| r.limits.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|(name, q)| {
            let size = name.strip_prefix("hugepages-")?;
            // The kernel names page sizes 2MB, Kubernetes 2Mi.
            let size = size
                .replace("Ki", "KB")
                .replace("Mi", "MB")
                .replace("Gi", "GB");
            Some((size, u64::try_from(quantity_value(q)).ok()?))
        })
        .collect();
    rkube_runtime::Resources {
        cpu_shares: Some(cpu_shares(requests.cpu.unwrap_or(0))),
        cpu_quota: quota,
        cpu_period: quota.map(|_| CPU_PERIOD),
        memory_limit: limits.memory.filter(|m| *m > 0),
        memory_swap_limit: limits.memory.filter(|m| *m > 0),
        hugepage_limits,
        // On OOM the kernel kills all processes of the container, not just one (cgroup v2).
        unified: [("memory.oom.group".to_owned(), "1".to_owned())].into(),
        ..Default::default()
    }
}

/// Returns the cgroup settings of the pod. A limit is set only if every container has one, or if
/// the pod's specification sets it.
pub(crate) fn pod_resources(pod: &Pod) -> rkube_runtime::Resources {
    let request = super::admission::needs(pod).cpu;
    let shares = Some(cpu_shares(request));
    if class(pod) == Qos::BestEffort {
        return rkube_runtime::Resources {
            cpu_shares: Some(cpu_shares(0)),
            ..Default::default()
        };
    }
    let quota = pod_limit(pod, "cpu").and_then(|limit| cpu_quota(limit.milli_value()));
    rkube_runtime::Resources {
        cpu_shares: shares,
        cpu_quota: quota,
        cpu_period: quota.map(|_| CPU_PERIOD),
        memory_limit: pod_limit(pod, "memory").map(|limit| limit.value()),
        ..Default::default()
    }
}

/// Returns the pod's limit of a resource; `None` unless the pod or each of its containers has one.
fn pod_limit(pod: &Pod, name: &str) -> Option<rkube_api::quantity::Quantity> {
    let spec = pod.spec();
    let is_limited = |r: Option<&ResourceRequirements>| {
        let limits = ResourceList::from_typed(r.and_then(|r| r.limits.as_ref()));
        limits.get(name).is_some_and(|limit| limit.sign() > 0)
    };
    let mut containers = pod.init_containers().iter().chain(&spec.containers);
    if is_limited(spec.resources.as_ref()) || containers.all(|c| is_limited(c.resources.as_ref())) {
        return pod_limits(spec).get(name);
    }
    None
}

/// The cgroups of burstable and of best-effort pods.
const TIERS: [&str; 2] = ["/kubepods/burstable", "/kubepods/besteffort"];

/// Returns the cgroups of both QoS classes with their CPU weights: burstable pods share the sum of
/// their requests, best-effort pods get the minimum.
pub(crate) fn tiers(pods: &[std::sync::Arc<Pod>]) -> [(&'static str, rkube_runtime::Resources); 2] {
    let burstable: i64 = pods
        .iter()
        .filter(|p| class(p) == Qos::Burstable)
        .map(|p| super::admission::needs(p).cpu)
        .fold(0, i64::saturating_add);
    [(TIERS[0], burstable), (TIERS[1], 0)].map(|(tier, millis)| {
        let resources = rkube_runtime::Resources {
            cpu_shares: Some(cpu_shares(millis)),
            ..Default::default()
        };
        (tier, resources)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> Pod {
        let map = |l: &[(&str, &str)]| {
            (!l.is_empty()).then(|| {
                l.iter()
                    .map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned())))
                    .collect()
            })
        };
        Pod {
            spec: Some(PodSpec {
                containers: vec![Container {
                    name: "c".into(),
                    resources: Some(ResourceRequirements {
                        requests: map(requests),
                        limits: map(limits),
                        ..Default::default()
                    }),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn classes() {
        let both = [("cpu", "1"), ("memory", "1Gi")];
        assert_eq!(class(&pod(&[], &[])), Qos::BestEffort);
        assert_eq!(class(&pod(&[], &both)), Qos::Guaranteed);
        assert_eq!(class(&pod(&both, &both)), Qos::Guaranteed);
        assert_eq!(class(&pod(&both, &[])), Qos::Burstable);
        assert_eq!(class(&pod(&[], &both[..1])), Qos::Burstable);
    }

    #[test]
    fn pods_are_limited_when_all_their_containers_are() {
        let mut one = pod(&[("cpu", "250m")], &[("cpu", "500m"), ("memory", "64Mi")]);
        let resources = pod_resources(&one);
        assert_eq!(resources.cpu_shares, Some(256));
        assert_eq!(resources.cpu_quota, Some(50_000));
        assert_eq!(resources.memory_limit, Some(64 << 20));
        let mut free = one.spec().containers[0].clone();
        free.resources = None;
        one.spec.as_mut().unwrap().containers.push(free);
        let resources = pod_resources(&one);
        assert_eq!(
            (resources.cpu_shares, resources.cpu_quota),
            (Some(256), None)
        );
        assert_eq!(resources.memory_limit, None);
        assert_eq!(pod_resources(&pod(&[], &[])).cpu_shares, Some(2));
        let [burstable, best_effort] = tiers(&[one.into(), pod(&[], &[]).into()]);
        assert_eq!(burstable.1.cpu_shares, Some(256));
        assert_eq!(best_effort.1.cpu_shares, Some(2));
    }

    #[test]
    fn oom_scores() {
        const NODE: i64 = 4 << 30;
        let score = |p: &Pod| oom_score_adj(p, &p.spec().containers[0], NODE);
        assert_eq!(score(&pod(&[], &[])), 1000);
        assert_eq!(score(&pod(&[], &[("cpu", "1"), ("memory", "1Gi")])), -997);
        assert_eq!(score(&pod(&[("memory", "1Gi")], &[])), 750);
        assert_eq!(score(&pod(&[("cpu", "1")], &[])), 999);
        assert_eq!(score(&pod(&[("memory", "4Gi")], &[])), 3);
    }

    #[test]
    fn shares_and_quota() {
        assert_eq!(
            (cpu_shares(0), cpu_shares(1000), cpu_shares(1)),
            (2, 1024, 2)
        );
        assert_eq!(cpu_quota(0), None);
        assert_eq!(cpu_quota(500), Some(50_000));
        assert_eq!(cpu_quota(1), Some(1000));
    }

    /// Cases of upstream's `TestMilliCPUToShares` and `TestMilliCPUToQuota`.
    #[test]
    fn kernel_values_are_upstreams() {
        for (millis, shares) in [
            (0, 2),
            (1, 2),
            (2, 2),
            (3, 3),
            (4, 4),
            (32, 32),
            (1000, 1024),
            (32_000, 32_768),
            (256_000, 262_144),
            (512_000, 262_144),
        ] {
            assert_eq!(cpu_shares(millis), shares, "{millis}");
        }
        for (millis, quota) in [
            (0, None),
            (5, Some(1000)),
            (9, Some(1000)),
            (10, Some(1000)),
            (200, Some(20_000)),
            (500, Some(50_000)),
            (1000, Some(100_000)),
            (1500, Some(150_000)),
        ] {
            assert_eq!(cpu_quota(millis), quota, "{millis}");
        }
    }

    #[test]
    fn classes_name_cgroups() {
        let mut p = pod(&[], &[]);
        p.metadata.uid = Some("u".into());
        for (class, parent) in [
            ("Guaranteed", "/kubepods/podu"),
            ("Burstable", "/kubepods/burstable/podu"),
            ("BestEffort", "/kubepods/besteffort/podu"),
        ] {
            // The class in the status is never recomputed.
            p.status = Some(PodStatus {
                qos_class: Some(class.into()),
                ..Default::default()
            });
            assert_eq!(cgroup_parent(&p), parent);
        }
    }

    #[test]
    fn containers_get_their_limits() {
        let p = pod(
            &[("cpu", "250m"), ("memory", "32Mi")],
            &[
                ("cpu", "500m"),
                ("memory", "64Mi"),
                ("hugepages-2Mi", "4Mi"),
            ],
        );
        let r = runtime_resources(&p.spec().containers[0]);
        assert_eq!(r.cpu_shares, Some(256));
        assert_eq!(
            (r.cpu_quota, r.cpu_period),
            (Some(50_000), Some(CPU_PERIOD))
        );
        assert_eq!(r.memory_limit, Some(64 << 20));
        assert_eq!(r.hugepage_limits.iter().collect::<Vec<_>>().len(), 1);
        let r = runtime_resources(&Container::default());
        assert_eq!(
            (r.cpu_shares, r.cpu_quota, r.cpu_period),
            (Some(2), None, None)
        );
        assert_eq!(r.memory_limit, None);
    }

    #[test]
    fn a_sidecar_is_not_killed_before_its_containers() {
        const NODE: i64 = 4 << 30;
        let mut p = pod(&[("memory", "1Gi")], &[]);
        let sidecar = Container {
            name: "sidecar".into(),
            restart_policy: Some("Always".into()),
            ..Default::default()
        };
        p.spec.as_mut().unwrap().init_containers = Some(vec![sidecar.clone()]);
        assert_eq!(oom_score_adj(&p, &sidecar, NODE), 750);
        let init = Container {
            name: "init".into(),
            ..Default::default()
        };
        p.spec.as_mut().unwrap().init_containers = Some(vec![init.clone()]);
        assert_eq!(oom_score_adj(&p, &init, NODE), 999);
    }
}
