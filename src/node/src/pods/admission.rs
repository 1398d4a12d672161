//! Admission of pods that were bound to the node.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::NodeSelectorRequirement;

use super::qos;
use super::reason::Reason;
use crate::allocatable::Allocatable;
use crate::kinds::*;

fn refuse(reason: &str, message: impl std::fmt::Display) -> Reason {
    Reason::new(reason, format!("Pod was rejected: {message}"))
}

/// Checks that the node can run a pod.
///
/// Repeats the scheduler's checks: a pod may have been bound manually, or the node may
/// have changed since.
///
/// `labels` are the node's; they are empty before the node is registered.
///
/// # Errors
///
/// Fails with the reason of the pod's failure.
pub(crate) fn admit(
    pod: &Pod,
    others: &[Arc<Pod>],
    node: &Allocatable,
    labels: &BTreeMap<String, String>,
    name: &str,
) -> Result<(), Reason> {
    let others: Vec<&Pod> = others
        .iter()
        .map(AsRef::as_ref)
        .filter(|p| !matches!(p.api_phase(), "Succeeded" | "Failed") && p.uid() != pod.uid())
        .collect();
    fits(pod, &others, node)?;
    // Before its registration the node has no labels to compare with.
    if !labels.is_empty() && !selects(pod, labels, name) {
        return Err(refuse(
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        ));
    }
    ports(pod, &others)?;
    if let Some(os) = &pod.spec().os
        && os.name != "linux"
    {
        return Err(refuse(
            "PodOSNotSupported",
            format!(
                "Failed to admit pod as the OS field doesn't match node OS: {}",
                os.name
            ),
        ));
    }
    Ok(())
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Needs {
    pub cpu: i64,
    pub memory: i64,
    pub storage: i64,
}

/// The CPU that a pod asks for, in thousandths; its own request comes first.
pub(crate) fn cpu_request(pod: &Pod) -> i64 {
    let needs = needs(pod).cpu;
    match &pod.spec().resources {
        Some(own) => {
            let overhead = pod.spec().overhead.as_ref();
            let overhead = overhead
                .and_then(|o| o.get("cpu"))
                .map_or(0, quantity_milli);
            qos::requests(Some(own))
                .cpu
                .map_or(needs, |cpu| cpu + overhead)
        }
        None => needs,
    }
}

/// What a pod asks for: its containers together, or its hungriest init container.
pub(crate) fn needs(pod: &Pod) -> Needs {
    let of = |c: &Container| {
        let amounts = qos::requests(c.resources.as_ref());
        let storage = c
            .resources
            .as_ref()
            .and_then(|r| r.requests.as_ref())
            .and_then(|r| r.get("ephemeral-storage"))
            .map_or(0, quantity_value);
        Needs {
            cpu: amounts.cpu.unwrap_or(0),
            memory: amounts.memory.unwrap_or(0),
            storage,
        }
    };
    let add = |a: Needs, b: Needs| Needs {
        cpu: a.cpu + b.cpu,
        memory: a.memory + b.memory,
        storage: a.storage + b.storage,
    };
    let max = |a: Needs, b: Needs| Needs {
        cpu: a.cpu.max(b.cpu),
        memory: a.memory.max(b.memory),
        storage: a.storage.max(b.storage),
    };
    let mains = pod
        .spec()
        .containers
        .iter()
        .map(of)
        .fold(Needs::default(), add);
    let (mut sidecars, mut init) = (Needs::default(), Needs::default());
    for c in pod.init_containers() {
        if is_sidecar(c) {
            sidecars = add(sidecars, of(c));
            init = max(init, sidecars);
        } else {
            init = max(init, add(sidecars, of(c)));
        }
    }
    let mut all = max(add(mains, sidecars), init);
    if let Some(overhead) = &pod.spec().overhead {
        all.cpu += overhead.get("cpu").map_or(0, quantity_milli);
        all.memory += overhead.get("memory").map_or(0, quantity_value);
    }
    all
}

/// Error returned when a node has too little of a resource.
pub(crate) struct InsufficientResource {
    resource: &'static str,
    pub message: String,
}

fn fits(pod: &Pod, others: &[&Pod], a: &Allocatable) -> Result<(), Reason> {
    check_resources(pod, others, a).map_err(|e| refuse(&format!("OutOf{}", e.resource), e.message))
}

/// Checks that the node has what a pod requests, besides others.
pub(crate) fn check_resources(
    pod: &Pod,
    others: &[&Pod],
    a: &Allocatable,
) -> Result<(), InsufficientResource> {
    let out_of = |resource, requested: i64, used: i64, capacity: i64| InsufficientResource {
        resource,
        message: format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        ),
    };
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if count + 1 > a.pods {
        return Err(out_of("pods", 1, count, a.pods));
    }
    let wanted = needs(pod);
    let used = others
        .iter()
        .map(|p| needs(p))
        .fold(Needs::default(), |a, b| Needs {
            cpu: a.cpu + b.cpu,
            memory: a.memory + b.memory,
            storage: a.storage + b.storage,
        });
    for (name, wanted, used, capacity) in [
        ("cpu", wanted.cpu, used.cpu, a.cpu_millis),
        ("memory", wanted.memory, used.memory, a.memory),
        ("ephemeral-storage", wanted.storage, used.storage, a.storage),
    ] {
        if wanted > 0 && used + wanted > capacity {
            return Err(out_of(name, wanted, used, capacity));
        }
    }
    Ok(())
}

/// Whether the pod's selector and required affinity take a node of these labels.
fn selects(pod: &Pod, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let spec = pod.spec();
    let selector = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(k, v)| labels.get(k) == Some(v));
    if !selector {
        return false;
    }
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|n| {
            n.required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    let Some(required) = required else {
        return true;
    };
    // Terms are alternatives; an empty one takes nothing.
    required.node_selector_terms.iter().any(|term| {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        !(expressions.is_empty() && fields.is_empty())
            && expressions
                .iter()
                .all(|r| requirement(r, labels.get(&r.key).map(String::as_str)))
            && fields
                .iter()
                .all(|r| requirement(r, (r.key == "metadata.name").then_some(name)))
    })
}

fn requirement(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = r.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|x| x == v));
    let compare = |greater: bool| {
        let number = |s: Option<&str>| s.and_then(|s| s.parse::<i64>().ok());
        match (number(value), number(values.first().map(String::as_str))) {
            (Some(a), Some(b)) => (greater && a > b) || (!greater && a < b),
            _ => false,
        }
    };
    match r.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(true),
        "Lt" => compare(false),
        _ => false,
    }
}

/// Ports of the node that a pod takes: protocol, address, number.
fn host_ports(pod: &Pod) -> impl Iterator<Item = (&str, &str, i32)> {
    let network = pod.host_network();
    pod.init_containers()
        .iter()
        .filter(|c| is_sidecar(c))
        .chain(&pod.spec().containers)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(move |p| {
            let port = p
                .host_port
                .or_else(|| network.then_some(p.container_port))
                .filter(|p| *p > 0)?;
            let ip = p
                .host_ip
                .as_deref()
                .filter(|i| !i.is_empty())
                .unwrap_or("0.0.0.0");
            Some((p.protocol.as_deref().unwrap_or("TCP"), ip, port))
        })
}

fn ports(pod: &Pod, others: &[&Pod]) -> Result<(), Reason> {
    for (protocol, ip, port) in host_ports(pod) {
        let taken = others.iter().flat_map(|p| host_ports(p)).any(|(q, j, n)| {
            q == protocol && n == port && (ip == j || ip == "0.0.0.0" || j == "0.0.0.0")
        });
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
    use super::*;
    use k8s_openapi::api::core::v1::{
        Affinity, ContainerPort, NodeAffinity, NodeSelector, NodeSelectorTerm,
    };

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
            no.message,
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
    fn host_ports_are_taken_once() {
        assert!(ports(&pod("1", 80), &[&pod("1", 81)]).is_ok());
        assert_eq!(
            ports(&pod("1", 80), &[&pod("1", 80)]).unwrap_err().reason,
            "NodePorts"
        );
    }

    #[test]
    fn affinity_and_selector() {
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let mut p = pod("1", 1);
        assert!(selects(&p, &labels, "n"));
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
        assert!(selects(&p, &labels, "n"));
        assert!(!selects(&p, &labels, "m"));
        p.spec.as_mut().unwrap().node_selector = Some([("zone".to_owned(), "c".to_owned())].into());
        assert!(!selects(&p, &labels, "n"));
    }
}
