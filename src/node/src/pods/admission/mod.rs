//! Admission of pods that were bound to the node, like the kubelet's admission handlers.

use std::collections::BTreeMap;
use std::sync::Arc;

use rkube_component_helpers::host_ports::host_ports;
use rkube_component_helpers::node_affinity::pod_matches_node;
use rkube_component_helpers::tolerations::any_tolerates;
use rkube_resource_managers::preemption::{self, Class, Missing, Victim};

use super::qos::{self, Qos};
use super::reason::{Eviction, Reason};
use super::sysctls::Sysctls;
use super::unsupported;
use k8s_openapi::api::core::v1::Taint;

use crate::allocatable::Allocatable;
use crate::kinds::*;
use crate::pressure::Pressure;

mod resources;

use resources::{InsufficientResource, extended, shortages};
pub(crate) use resources::{check_resources, needs};

/// Resources and properties that a node offers to the pods that it admits.
pub(crate) struct NodeOffer<'a> {
    pub name: &'a str,
    pub allocatable: Allocatable,
    /// The node's labels; empty before the node is registered.
    pub labels: BTreeMap<String, String>,
    pub sysctls: &'a Sysctls,
    /// The node's taints; empty before the node is registered.
    pub taints: Vec<Taint>,
    /// Resources that the node is short of.
    pub pressure: Pressure,
    /// Extended resources that no device plugin counts.
    pub extended: BTreeMap<String, i64>,
    /// Gives the pod what it has alone: CPUs, memory of NUMA nodes.
    pub allocate: &'a dyn Fn(&Pod) -> Result<(), Reason>,
}

/// Returns the failure of a rejected pod, as in its event.
pub(super) fn refuse(reason: &str, message: impl std::fmt::Display) -> Reason {
    Reason::new(reason, message.to_string())
}

/// Checks that the node can run a pod.
///
/// Repeats the scheduler's checks: a pod may have been bound manually, or the node may have changed
/// since. Also refuses what the node cannot enforce.
///
/// # Errors
///
/// Returns the UIDs of the pods that have to go first, for a critical pod.
///
/// # Errors
///
/// Returns the reason and message of the pod's event; [`failure`] returns those of its status.
pub(crate) fn admit(
    pod: &Pod,
    others: &[Arc<Pod>],
    node: &NodeOffer<'_>,
) -> Result<Vec<String>, Reason> {
    pressure(pod, node.pressure)?;
    let others: Vec<&Pod> = others
        .iter()
        .map(AsRef::as_ref)
        .filter(|p| !matches!(p.api_phase(), "Succeeded" | "Failed") && p.uid() != pod.uid())
        .collect();
    node.sysctls
        .check(pod)
        .map_err(|e| refuse("SysctlForbidden", format!("forbidden sysctl: {e}")))?;
    (node.allocate)(pod)?;
    operating_system(pod)?;
    let mut short = shortages(pod, &others, &node.allocatable);
    short.extend(extended(pod, &others, &node.extended));
    let failed = predicates(pod, &others, node).err();
    if let (Some(reason), true) = (&failed, short.is_empty() || qos::is_critical(pod)) {
        return Err(reason.clone());
    }
    let victims = match short.first() {
        Some(first) if !qos::is_critical(pod) => return Err(first.reason()),
        _ => preempt(pod, &others, &short)?,
    };
    unsupported::app_armor(pod)?;
    Ok(victims)
}

/// Checks what does not depend on free resources.
fn predicates(pod: &Pod, others: &[&Pod], node: &NodeOffer<'_>) -> Result<(), Reason> {
    // Before registration the node's labels are not known, so affinity cannot be checked.
    if !node.labels.is_empty() && !pod_matches_node(pod.spec(), node.name, &node.labels) {
        return Err(refuse(
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        ));
    }
    ports(pod, others)?;
    let tolerations = pod.spec().tolerations.as_deref().unwrap_or_default();
    let is_static = pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get("kubernetes.io/config.source"))
        .is_some_and(|source| source != "api");
    let mut taints = node.taints.iter().filter(|t| t.effect == "NoExecute");
    if !is_static && taints.any(|t| !any_tolerates(tolerations, t)) {
        return Err(refuse(
            "TaintToleration",
            "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
        ));
    }
    Ok(())
}

/// Checks that the pod is for Linux.
fn operating_system(pod: &Pod) -> Result<(), Reason> {
    let label = pod.metadata.labels.as_ref();
    if label
        .and_then(|l| l.get("kubernetes.io/os"))
        .is_some_and(|os| os != "linux")
    {
        return Err(refuse(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        ));
    }
    if pod.spec().os.as_ref().is_some_and(|os| os.name != "linux") {
        return Err(refuse(
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS",
        ));
    }
    Ok(())
}

/// Returns the UIDs of the pods that go so that a critical pod fits.
fn preempt(
    pod: &Pod,
    others: &[&Pod],
    short: &[InsufficientResource],
) -> Result<Vec<String>, Reason> {
    if short.is_empty() {
        return Ok(Vec::new());
    }
    let missing: Missing = short
        .iter()
        .map(|s| (s.resource.clone(), s.missing))
        .collect();
    // Static pods without a priority are not compared, and stay.
    let is_higher = |other: &Pod| {
        let priorities = pod.spec().priority.zip(other.spec().priority);
        priorities.is_some_and(|(own, other)| own > other)
    };
    let can_go = |other: &&&Pod| !qos::is_critical(other) || is_higher(other);
    let candidates: Vec<Victim> = others
        .iter()
        .filter(can_go)
        .map(|other| Victim {
            uid: other.uid().to_owned(),
            class: match qos::class(other) {
                Qos::BestEffort => Class::BestEffort,
                Qos::Burstable => Class::Burstable,
                Qos::Guaranteed => Class::Guaranteed,
            },
            requests: needs(other).by_name(),
        })
        .collect();
    preemption::victims(&candidates, &missing).map_err(|e| {
        refuse(
            "UnexpectedAdmissionError",
            format!("Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: {e}"),
        )
    })
}

/// Returns the reason and message in the status of a pod that was rejected.
pub(crate) fn failure(rejection: &Reason) -> Reason {
    let message = format!("Pod was rejected: {}", rejection.message);
    Reason::new(rejection.reason.clone(), message)
}

/// Refuses pods while the node is short of something, as the kubelet's eviction manager.
///
/// Critical pods are admitted. Under memory pressure alone, so are pods with requests and those
/// that tolerate it.
fn pressure(pod: &Pod, pressure: Pressure) -> Result<(), Reason> {
    let conditions = pressure.conditions();
    if conditions.is_empty() || qos::is_critical(pod) {
        return Ok(());
    }
    let taint = Taint {
        key: "node.kubernetes.io/memory-pressure".into(),
        effect: "NoSchedule".into(),
        ..Default::default()
    };
    let tolerations = pod.spec().tolerations.as_deref().unwrap_or_default();
    if conditions == ["MemoryPressure"]
        && (qos::class(pod) != Qos::BestEffort || any_tolerates(tolerations, &taint))
    {
        return Ok(());
    }
    Err(refuse(
        Eviction::REASON,
        format!("The node had condition: [{}]. ", conditions.join(" ")),
    ))
}

fn ports(pod: &Pod, others: &[&Pod]) -> Result<(), Reason> {
    for wanted in host_ports(pod.spec()) {
        let taken = others
            .iter()
            .flat_map(|p| host_ports(p.spec()))
            .any(|used| used.conflicts(&wanted));
        if taken {
            return Err(refuse(
                "NodePorts",
                "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::resources::fits;
    use super::*;
    use k8s_openapi::api::core::v1::{
        Affinity, ContainerPort, NodeAffinity, NodeSelector, NodeSelectorRequirement,
        NodeSelectorTerm,
    };
    use std::collections::BTreeMap;

    fn pod(cpu: &str, port: i32) -> Pod {
        Pod {
            metadata: ObjectMeta {
                uid: Some(format!("{cpu}{port}")),
                ..Default::default()
            },
            spec: Some(PodSpec {
                containers: vec![Container {
                    resources: Some(ResourceRequirements {
                        requests: Some([("cpu".to_owned(), Quantity(cpu.into()))].into()),
                        ..Default::default()
                    }),
                    ports: Some(vec![ContainerPort {
                        container_port: 80,
                        host_port: Some(port),
                        ..Default::default()
                    }]),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn node() -> Allocatable {
        Allocatable {
            cpu_millis: 2000,
            memory: 1 << 30,
            storage: 1 << 30,
            pods: 3,
            hugepages: vec![],
        }
    }

    #[test]
    fn resources_run_out() {
        let (a, b) = (pod("1500m", 1), pod("600m", 2));
        assert!(fits(&a, &[], &node()).is_ok());
        let no = fits(&b, &[&a], &node()).unwrap_err();
        assert_eq!(no.reason, "OutOfcpu");
        assert_eq!(
            failure(&no).message,
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000"
        );
        let small = pod("1m", 3);
        assert_eq!(
            fits(&small, &[&small, &small, &small], &node())
                .unwrap_err()
                .reason,
            "OutOfpods"
        );
    }

    #[test]
    fn pod_level_requests_count_as_in_the_scheduler() {
        let mut pod = pod("500m", 1);
        pod.spec.as_mut().unwrap().resources = Some(ResourceRequirements {
            requests: Some([("cpu".to_owned(), Quantity("1500m".into()))].into()),
            ..Default::default()
        });
        assert_eq!(needs(&pod).cpu, 1500);
        let error = fits(&pod, &[&pod], &node()).unwrap_err();
        assert_eq!(error.reason, "OutOfcpu");
    }

    #[test]
    fn huge_requests_do_not_wrap_around() {
        let (huge, small) = (pod("9223372036854775", 1), pod("1", 2));
        assert!(fits(&huge, &[&huge, &small], &node()).is_err());
        assert!(fits(&small, &[&huge, &huge], &node()).is_err());
    }

    #[test]
    fn host_ports_are_taken_once() {
        assert!(ports(&pod("1", 80), &[&pod("1", 81)]).is_ok());
        assert_eq!(
            ports(&pod("1", 80), &[&pod("1", 80)]).unwrap_err().reason,
            "NodePorts"
        );
    }

    #[test]
    fn pods_are_refused_with_upstreams_reasons() {
        use k8s_openapi::api::core::v1::{AppArmorProfile, PodOS, PodSecurityContext, Sysctl};
        type Change = fn(&mut PodSpec);
        let sysctls = Sysctls::new(&[]);
        let offer = |labels: &[(&str, &str)]| NodeOffer {
            name: "n",
            allocatable: node(),
            labels: labels
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            sysctls: &sysctls,
            taints: vec![],
            pressure: Pressure::default(),
            extended: BTreeMap::new(),
            allocate: &|_| Ok(()),
        };
        let cases: [(Change, Option<(&str, &str)>); 7] = [
            (|_| {}, None),
            (
                |spec| {
                    spec.security_context = Some(PodSecurityContext {
                        sysctls: Some(vec![Sysctl {
                            name: "kernel.msgmax".into(),
                            value: "1".into(),
                        }]),
                        ..Default::default()
                    });
                },
                Some((
                    "SysctlForbidden",
                    "forbidden sysctl: \"kernel.msgmax\" not allowlisted",
                )),
            ),
            (
                |spec| {
                    spec.security_context = Some(PodSecurityContext {
                        app_armor_profile: Some(AppArmorProfile {
                            type_: "RuntimeDefault".into(),
                            localhost_profile: None,
                        }),
                        ..Default::default()
                    });
                },
                Some((
                    "AppArmor",
                    "Cannot enforce AppArmor: AppArmor is not enabled on the host",
                )),
            ),
            (
                |spec| {
                    spec.os = Some(PodOS {
                        name: "windows".into(),
                    });
                },
                Some((
                    "PodOSNotSupported",
                    "Failed to admit pod as the OS field doesn't match node OS",
                )),
            ),
            (
                |spec| spec.node_selector = Some([("zone".to_owned(), "b".to_owned())].into()),
                Some((
                    "NodeAffinity",
                    "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
                )),
            ),
            (
                |spec| {
                    let resources = spec.containers[0].resources.as_mut().unwrap();
                    resources.requests = Some([("cpu".to_owned(), Quantity("3".into()))].into());
                },
                Some((
                    "OutOfcpu",
                    "Node didn't have enough resource: cpu, requested: 3000, used: 0, capacity: 2000",
                )),
            ),
            // A user namespace is refused later, by the sandbox.
            (|spec| spec.host_users = Some(false), None),
        ];
        for (change, expected) in cases {
            let mut pod = pod("1", 80);
            change(pod.spec.as_mut().unwrap());
            let answer = admit(&pod, &[], &offer(&[("zone", "a")])).err();
            let answer = answer.as_ref();
            let answer = answer.map(|r| (r.reason.as_str(), r.message.as_str()));
            assert_eq!(answer, expected);
        }
        // The labels of an unregistered node are not known.
        let mut pod = pod("1", 80);
        pod.spec.as_mut().unwrap().node_selector = Some([("a".to_owned(), "b".to_owned())].into());
        assert!(admit(&pod, &[], &offer(&[])).is_ok());
    }

    #[test]
    fn pods_that_ended_hold_nothing() {
        let sysctls = Sysctls::new(&[]);
        let offer = NodeOffer {
            name: "n",
            allocatable: node(),
            labels: BTreeMap::new(),
            sysctls: &sysctls,
            pressure: Pressure::default(),
            extended: BTreeMap::new(),
            taints: vec![],
            allocate: &|_| Ok(()),
        };
        for (phase, refused) in [("Running", true), ("Succeeded", false), ("Failed", false)] {
            let mut other = pod("1500m", 80);
            other.status = Some(PodStatus {
                phase: Some(phase.into()),
                ..Default::default()
            });
            let answer = admit(&pod("1", 81), &[Arc::new(other)], &offer);
            assert_eq!(answer.is_err(), refused, "{phase}");
        }
    }

    /// Upstream's `TestAdmitUnderNodeConditions`.
    #[test]
    fn a_node_under_pressure_refuses_pods() {
        use k8s_openapi::api::core::v1::Toleration;
        let (memory, disk) = (
            Pressure {
                memory: true,
                ..Pressure::default()
            },
            Pressure {
                disk: true,
                ..Pressure::default()
            },
        );
        let best_effort = || Pod {
            spec: Some(PodSpec::default()),
            ..Default::default()
        };
        let with = |change: fn(&mut PodSpec)| {
            let mut pod = best_effort();
            change(pod.spec.as_mut().unwrap());
            pod
        };
        let tolerant = with(|spec| {
            spec.tolerations = Some(vec![Toleration {
                key: Some("node.kubernetes.io/memory-pressure".into()),
                effect: Some("NoSchedule".into()),
                operator: Some("Exists".into()),
                ..Default::default()
            }]);
        });
        let critical = with(|spec| spec.priority = Some(2_000_000_000));
        let burstable = pod("1", 80);
        let both = memory.or(disk);
        for (pod, pressure, admitted) in [
            (&best_effort(), Pressure::default(), true),
            (&best_effort(), memory, false),
            (&burstable, memory, true),
            (&tolerant, memory, true),
            (&critical, both, true),
            (&burstable, disk, false),
            (&tolerant, both, false),
        ] {
            assert_eq!(
                super::pressure(pod, pressure).is_ok(),
                admitted,
                "{pressure:?}"
            );
        }
        let refused = super::pressure(&burstable, both).unwrap_err();
        assert_eq!(refused.reason, "Evicted");
        assert_eq!(
            refused.message,
            "The node had condition: [MemoryPressure DiskPressure]. "
        );
    }

    #[test]
    fn affinity_and_selector() {
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let mut p = pod("1", 1);
        assert!(pod_matches_node(p.spec(), "n", &labels));
        p.spec.as_mut().unwrap().affinity = Some(Affinity {
            node_affinity: Some(NodeAffinity {
                required_during_scheduling_ignored_during_execution: Some(NodeSelector {
                    node_selector_terms: vec![NodeSelectorTerm {
                        match_expressions: Some(vec![NodeSelectorRequirement {
                            key: "zone".into(),
                            operator: "NotIn".into(),
                            values: Some(vec!["b".into()]),
                        }]),
                        match_fields: Some(vec![NodeSelectorRequirement {
                            key: "metadata.name".into(),
                            operator: "In".into(),
                            values: Some(vec!["n".into()]),
                        }]),
                    }],
                }),
                ..Default::default()
            }),
            ..Default::default()
        });
        assert!(pod_matches_node(p.spec(), "n", &labels));
        assert!(!pod_matches_node(p.spec(), "m", &labels));
        p.spec.as_mut().unwrap().node_selector = Some([("zone".to_owned(), "c".to_owned())].into());
        assert!(!pod_matches_node(p.spec(), "n", &labels));
    }
}
