//! Resources of containers and pods: scores, shares, quotas, limits.

use super::super::{admission, env, qos};
use super::{pod_of, requirements};
use crate::allocatable::Allocatable;
use crate::kinds::*;

/// `TestGetContainerOOMScoreAdjust`, and the formula of KEP-2837 for requests of the pod.
#[test]
fn oom_scores() {
    const GIG: i64 = 1_000_000_000;
    for (parts, memory, container, score) in [
        // No request of memory: as low as a burstable container can get.
        (&["/ cpu=10"][..], 4 * GIG, "c0", 999),
        (&["cpu=0 / memory=10G"], 8 * GIG, "c0", 3),
        (&["/ memory=0"], 7_230_457_451, "c0", 1000),
        (&["/"], 4 * GIG, "c0", 1000),
        (
            &["cpu=5m memory=10G / cpu=5m memory=10G"],
            123_456_789,
            "c0",
            -997,
        ),
        (&["cpu=5m memory=4G / memory=10G"], 8 * GIG, "c0", 500),
        (&["cpu=5m memory=7999999999 /"], 8 * GIG, "c0", 3),
        (&["memory=8M /"], 8 * GIG, "c0", 999),
        (&["memory=80M /"], 8 * GIG, "c0", 990),
        // Sidecars count at least as the smallest main container.
        (
            &["memory=1G /", "memory=2G /", "sidecar: cpu=1 /"],
            8 * GIG,
            "c2",
            875,
        ),
        (&["memory=1G /", "sidecar: memory=4G /"], 8 * GIG, "c1", 500),
        (
            &["memory=1G /", "cpu=1 /", "sidecar: cpu=1 /"],
            8 * GIG,
            "c2",
            999,
        ),
        (&["memory=1G /", "init: cpu=1 /"], 8 * GIG, "c1", 999),
        // The pod's request beyond its containers' is shared among all of them.
        (&["pod: memory=4G /", "/", "/"], 8 * GIG, "c1", 750),
        (
            &["pod: memory=4G /", "memory=1G /", "memory=1G /"],
            8 * GIG,
            "c1",
            750,
        ),
        (
            &["pod: memory=4G /", "memory=1G /", "/"],
            8 * GIG,
            "c2",
            813,
        ),
        (
            &["pod: memory=4G /", "memory=1G /", "sidecar: cpu=1 /"],
            8 * GIG,
            "c2",
            688,
        ),
        (&["pod: cpu=1 /", "memory=1G /"], 8 * GIG, "c1", 875),
        (
            &["pod: memory=1G cpu=1 / memory=1G cpu=1", "/"],
            8 * GIG,
            "c1",
            -997,
        ),
    ] {
        let pod = pod_of(parts);
        let container = pod.container(container).expect("a container");
        assert_eq!(
            qos::oom_score_adj(&pod, &container, memory),
            score,
            "{parts:?}"
        );
    }
}

/// Only pods of the class `system-node-critical` are killed last, whatever their annotations say.
#[test]
fn oom_scores_of_critical_pods() {
    for (priority, class, annotation, score) in [
        (2_000_001_000, "system-node-critical", None, -997),
        (2_000_000_000, "system-node-critical", None, -997),
        (2_000_000_000, "system-cluster-critical", None, 1000),
        (2_000_000_000, "", None, 1000),
        (1_999_999_999, "system-node-critical", None, 1000),
        (0, "", Some("file"), 1000),
    ] {
        let mut pod = pod_of(&["/"]);
        let spec = pod.spec.as_mut().expect("a specification");
        spec.priority = Some(priority);
        spec.priority_class_name = Some(class.to_owned()).filter(|c| !c.is_empty());
        pod.metadata.annotations = annotation
            .map(|source| [("kubernetes.io/config.source".to_owned(), source.to_owned())].into());
        let container = pod.spec().containers[0].clone();
        assert_eq!(
            qos::oom_score_adj(&pod, &container, 4 << 30),
            score,
            "{priority} {class}"
        );
    }
}

/// `TestCalculateLinuxResources`: shares, quota and memory limit; 0 stands for none.
#[test]
fn settings_of_containers() {
    for (resources, shares, quota, memory) in [
        ("cpu=1 / cpu=2 memory=128Mi", 1024, 200_000, 128 << 20),
        ("cpu=2 / cpu=8 memory=0", 2048, 800_000, 0),
        // No request: the limit; a request of zero: the minimum.
        ("/ cpu=2 memory=0", 2048, 200_000, 0),
        ("cpu=0 / cpu=2 memory=128Mi", 2, 200_000, 128 << 20),
        ("cpu=100m memory=64Mi /", 102, 0, 0),
        ("cpu=1m / cpu=1m", 2, 1000, 0),
        ("cpu=1500m / cpu=1500m", 1536, 150_000, 0),
        ("cpu=1000 / cpu=1000", 262_144, 100_000_000, 0),
        ("/", 2, 0, 0),
    ] {
        let container = Container {
            resources: Some(requirements(resources)),
            ..Default::default()
        };
        let r = qos::runtime_resources(&container);
        assert_eq!(
            (
                r.cpu_shares,
                r.cpu_quota.unwrap_or(0),
                r.memory_limit.unwrap_or(0)
            ),
            (Some(shares), quota, memory),
            "{resources}"
        );
        assert_eq!(r.cpu_period.is_some(), quota != 0, "{resources}");
        // Nodes have no swap that containers could use.
        assert_eq!(r.memory_swap_limit, r.memory_limit, "{resources}");
    }
}

/// `TestGetHugepageLimitsFromResources`: the kernel's names and bytes.
#[test]
fn huge_pages_have_the_kernels_names() {
    for (resources, limits) in [
        ("/", &[][..]),
        ("hugepages-2Mi=100Mi /", &[]),
        ("/ hugepages-2Mi=0", &[("2MB", 0)]),
        ("/ hugepages-2Mi=100Mi", &[("2MB", 100 << 20)]),
        ("/ hugepages-1Gi=2Gi", &[("1GB", 2 << 30)]),
        ("/ hugepages-64Ki=128Ki cpu=1", &[("64KB", 128 << 10)]),
        (
            "/ hugepages-2Mi=4Mi hugepages-1Gi=1Gi",
            &[("1GB", 1 << 30), ("2MB", 4 << 20)],
        ),
    ] {
        let container = Container {
            resources: Some(requirements(resources)),
            ..Default::default()
        };
        let mut found: Vec<(String, u64)> = qos::runtime_resources(&container)
            .hugepage_limits
            .into_iter()
            .collect();
        found.sort();
        let found: Vec<(&str, u64)> = found.iter().map(|(n, b)| (n.as_str(), *b)).collect();
        assert_eq!(found, limits, "{resources}");
    }
}

/// `TestResourceConfigForPod`: shares, quota and memory limit of a pod's cgroup; 0 stands for none.
#[test]
fn settings_of_pods() {
    const MIB: i64 = 1 << 20;
    let one = "cpu=100m memory=100Mi / cpu=200m memory=200Mi";
    for (parts, shares, quota, memory) in [
        (&["/"][..], 2, 0, 0),
        (&["cpu=100m memory=100Mi /"], 102, 0, 0),
        (&[one], 102, 20_000, 200 * MIB),
        // A container without limit leaves the pod without.
        (&[one, "cpu=100m memory=100Mi /"], 204, 0, 0),
        (&[one, "cpu=100m memory=100Mi / cpu=200m"], 204, 40_000, 0),
        (&[one, one], 204, 40_000, 400 * MIB),
        (
            &["cpu=100m memory=100Mi / cpu=100m memory=100Mi"],
            102,
            10_000,
            100 * MIB,
        ),
        // Init containers run before: only a larger one counts.
        (
            &[one, "init: cpu=50m memory=50Mi / cpu=100m memory=100Mi"],
            102,
            20_000,
            200 * MIB,
        ),
        (
            &[one, "init: cpu=1 memory=1Gi / cpu=1 memory=1Gi"],
            1024,
            100_000,
            1024 * MIB,
        ),
        // Sidecars run beside.
        (
            &[
                one,
                "sidecar: cpu=100m memory=100Mi / cpu=100m memory=100Mi",
            ],
            204,
            30_000,
            300 * MIB,
        ),
        (&["pod: cpu=300m / cpu=400m", "/", "/"], 307, 40_000, 0),
        (&["pod: / memory=1Gi", one, one], 204, 40_000, 1024 * MIB),
    ] {
        let r = qos::pod_resources(&pod_of(parts));
        assert_eq!(
            (
                r.cpu_shares,
                r.cpu_quota.unwrap_or(0),
                r.memory_limit.unwrap_or(0)
            ),
            (Some(shares), quota, memory),
            "{parts:?}"
        );
    }
}

/// `TestComputePodQOS`.
#[test]
fn classes() {
    let guaranteed = "cpu=100m memory=100Mi / cpu=100m memory=100Mi";
    for (parts, class) in [
        (&[guaranteed][..], "Guaranteed"),
        (&[guaranteed, guaranteed], "Guaranteed"),
        (&["/ cpu=100m memory=100Mi"], "Guaranteed"),
        (
            &[guaranteed, "init: cpu=1 memory=1Gi / cpu=1 memory=1Gi"],
            "Guaranteed",
        ),
        (&["/"], "BestEffort"),
        (&["/", "init: /"], "BestEffort"),
        // Extended resources and huge pages say nothing about a class.
        (&["cpu=0 memory=0 / cpu=0"], "BestEffort"),
        (&["example.com/gpu=1 / example.com/gpu=1"], "BestEffort"),
        (&["hugepages-2Mi=2Mi / hugepages-2Mi=2Mi"], "BestEffort"),
        (&[guaranteed, "/"], "Burstable"),
        (&[guaranteed, "init: /"], "Burstable"),
        (&["cpu=100m memory=100Mi /"], "Burstable"),
        (&["cpu=100m / cpu=100m"], "Burstable"),
        (
            &["cpu=50m memory=100Mi / cpu=100m memory=100Mi"],
            "Burstable",
        ),
        (&["cpu=100m memory=100Mi / cpu=100m"], "Burstable"),
        (&["/", "init: cpu=1 /"], "Burstable"),
        // The pod's own resources decide if it has any.
        (
            &["pod: cpu=1 memory=1Gi / cpu=1 memory=1Gi", "/"],
            "Guaranteed",
        ),
        (&["pod: cpu=1 /", guaranteed], "Burstable"),
        (&["pod: /", guaranteed], "Guaranteed"),
    ] {
        assert_eq!(qos::class(&pod_of(parts)).as_str(), class, "{parts:?}");
    }
}

/// `TestResourceHelpers` and KEP-753: what the node sets aside for a pod, as
/// `cpu in milli-CPUs, memory, ephemeral storage`.
#[test]
fn needs_of_pods() {
    for (parts, needs) in [
        (
            &["cpu=100m memory=1Ki ephemeral-storage=2 /"][..],
            (100, 1024, 2),
        ),
        (&["/ cpu=100m"], (100, 0, 0)),
        (&["cpu=1 /", "cpu=2 /"], (3000, 0, 0)),
        (&["cpu=1 /", "init: cpu=3 /", "init: cpu=2 /"], (3000, 0, 0)),
        (&["cpu=2 /", "init: cpu=1 memory=5 /"], (2000, 5, 0)),
        (&["cpu=1 /", "sidecar: cpu=1 /"], (2000, 0, 0)),
        // An init container runs beside the sidecars that precede it.
        (
            &["cpu=1 /", "sidecar: cpu=1 /", "init: cpu=5 /"],
            (6000, 0, 0),
        ),
        (
            &["cpu=1 /", "init: cpu=5 /", "sidecar: cpu=1 /"],
            (5000, 0, 0),
        ),
        (&["pod: cpu=7 /", "cpu=1 memory=3 /"], (7000, 3, 0)),
    ] {
        let n = admission::needs(&pod_of(parts));
        assert_eq!((n.cpu, n.memory, n.storage), needs, "{parts:?}");
    }
    let mut pod = pod_of(&["cpu=1 memory=10 /", "init: cpu=3 /"]);
    let overhead = requirements("cpu=250m memory=5 /").requests;
    pod.spec.as_mut().expect("a specification").overhead = overhead;
    let n = admission::needs(&pod);
    assert_eq!((n.cpu, n.memory), (3250, 15));
}

/// `TestExtractContainerResourceValue`, and the defaults of limits.
#[test]
fn values_of_resource_fields() {
    let node = Allocatable {
        cpu_millis: 3920,
        memory: (8 << 30) - 1,
        storage: 100 << 30,
        ..Default::default()
    };
    for (resources, field, divisor, value) in [
        ("cpu=9 /", "requests.cpu", "", "9"),
        ("cpu=100m /", "requests.cpu", "", "1"),
        ("cpu=100m /", "requests.cpu", "1", "1"),
        ("cpu=100m /", "requests.cpu", "1m", "100"),
        ("cpu=1500m /", "requests.cpu", "100m", "15"),
        ("cpu=1501m /", "requests.cpu", "100m", "16"),
        ("/", "requests.cpu", "", "0"),
        ("/ cpu=9", "limits.cpu", "", "9"),
        ("/ cpu=100m", "limits.cpu", "1m", "100"),
        // Without limit, the node's allocatable amount, rounded up.
        ("/", "limits.cpu", "", "4"),
        ("/", "limits.cpu", "1m", "3920"),
        ("memory=100Mi /", "requests.memory", "", "104857600"),
        ("memory=100Mi /", "requests.memory", "1Mi", "100"),
        ("memory=100Mi /", "requests.memory", "1Gi", "1"),
        ("memory=1 /", "requests.memory", "1Mi", "1"),
        ("/ memory=100Mi", "limits.memory", "1Mi", "100"),
        ("/", "limits.memory", "1Gi", "8"),
        ("/", "requests.memory", "1Mi", "0"),
        (
            "ephemeral-storage=100Mi /",
            "requests.ephemeral-storage",
            "1Mi",
            "100",
        ),
        (
            "/ ephemeral-storage=100Mi",
            "limits.ephemeral-storage",
            "",
            "104857600",
        ),
        ("/", "limits.ephemeral-storage", "1Gi", "100"),
        ("hugepages-1Gi=2Gi /", "requests.hugepages-1Gi", "1Gi", "2"),
        ("/ hugepages-2Mi=4Mi", "limits.hugepages-2Mi", "", "4194304"),
        ("/", "limits.hugepages-2Mi", "", "0"),
    ] {
        let container = Container {
            resources: Some(requirements(resources)),
            ..Default::default()
        };
        let selector = k8s_openapi::api::core::v1::ResourceFieldSelector {
            resource: field.into(),
            divisor: (!divisor.is_empty()).then(|| Quantity(divisor.into())),
            ..Default::default()
        };
        assert_eq!(
            env::resource_field(&node, &Pod::default(), &container, &selector).as_deref(),
            Ok(value),
            "{resources} {field} {divisor}"
        );
    }
}
