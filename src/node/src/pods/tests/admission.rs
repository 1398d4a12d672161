//! Admission of pods by the node (`TestGeneralPredicates` and the handlers beside it).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::admission::{NodeOffer, admit, check_resources};
use super::super::sysctls::Sysctls;
use super::{pod, pod_of};
use crate::allocatable::Allocatable;
use crate::kinds::*;

fn allocatable() -> Allocatable {
    Allocatable {
        cpu_millis: 10_000,
        memory: 20,
        storage: 100,
        pods: 3,
        hugepages: vec![("hugepages-2Mi".into(), 8 << 20)],
    }
}

/// Requests of a pod, those of the pods that run, and the resource that is missing, with the
/// amounts of the message.
#[test]
fn resources_that_run_out() {
    let none: &[&str] = &[];
    for (wanted, running, missing) in [
        ("cpu=8 memory=10 /", &["cpu=1 memory=1 /"][..], None),
        ("cpu=10 memory=20 ephemeral-storage=100 /", none, None),
        ("cpu=8 /", &["cpu=5 /"], Some(("cpu", 8000, 5000, 10_000))),
        ("cpu=10001m /", none, Some(("cpu", 10_001, 0, 10_000))),
        (
            "memory=10 /",
            &["memory=19 /"],
            Some(("memory", 10, 19, 20)),
        ),
        ("/ memory=21", none, Some(("memory", 21, 0, 20))),
        (
            "ephemeral-storage=60 /",
            &["ephemeral-storage=50 /"],
            Some(("ephemeral-storage", 60, 50, 100)),
        ),
        // Running pods may have grown beyond the node; a pod without requests is admitted.
        ("/", &["cpu=20 memory=30 /"], None),
        ("cpu=1 /", &["memory=30 /"], None),
        ("cpu=0 /", &["cpu=20 /"], None),
        ("/", &["/", "/"], None),
        ("/", &["/", "/", "/"], Some(("pods", 1, 3, 3))),
        ("hugepages-2Mi=8Mi / hugepages-2Mi=8Mi", none, None),
        (
            "hugepages-2Mi=4Mi /",
            &["hugepages-2Mi=6Mi /"],
            Some(("hugepages-2Mi", 4 << 20, 6 << 20, 8 << 20)),
        ),
        (
            "hugepages-1Gi=1Gi /",
            none,
            Some(("hugepages-1Gi", 1 << 30, 0, 0)),
        ),
        // The node does not manage extended resources: the scheduler does.
        ("example.com/gpu=5 /", none, None),
    ] {
        let others: Vec<Pod> = running.iter().map(|r| pod_of(&[r])).collect();
        let others: Vec<&Pod> = others.iter().collect();
        let got = check_resources(&pod_of(&[wanted]), &others, &allocatable());
        let want = missing.map(|(resource, requested, used, capacity)| {
            format!(
                "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
            )
        });
        assert_eq!(
            got.err().map(|e| e.message),
            want,
            "{wanted} beside {running:?}"
        );
    }
}

/// A specification, the labels of the node, and the reason of the refusal.
#[test]
fn reasons_of_refusals() {
    let port = |host_ip: &str, port: u16, protocol: &str| {
        format!(
            r#"{{"containers": [{{"name": "c", "ports": [{{"containerPort": 80, "hostPort": {port},
                "hostIP": "{host_ip}", "protocol": "{protocol}"}}]}}]}}"#
        )
    };
    let taken = pod(&port("127.0.0.1", 123, "TCP"));
    let affinity = |operator: &str, values: &str| {
        format!(
            r#"{{"containers": [], "affinity": {{"nodeAffinity": {{
                "requiredDuringSchedulingIgnoredDuringExecution": {{"nodeSelectorTerms": [
                {{"matchExpressions": [{{"key": "zone", "operator": "{operator}", "values": {values}}}]}}]}}}}}}}}"#
        )
    };
    let sysctl = |name: &str| {
        format!(
            r#"{{"containers": [], "securityContext": {{"sysctls": [{{"name": "{name}", "value": "1"}}]}}}}"#
        )
    };
    for (spec, reason) in [
        (r#"{"containers": []}"#.to_owned(), ""),
        (port("127.0.0.1", 123, "TCP"), "NodePorts"),
        (port("", 123, "TCP"), "NodePorts"),
        (port("0.0.0.0", 123, "TCP"), "NodePorts"),
        (port("127.0.0.2", 123, "TCP"), ""),
        (port("127.0.0.1", 124, "TCP"), ""),
        (port("127.0.0.1", 123, "UDP"), ""),
        (
            r#"{"containers": [], "nodeSelector": {"zone": "a"}}"#.to_owned(),
            "",
        ),
        (
            r#"{"containers": [], "nodeSelector": {"zone": "b"}}"#.to_owned(),
            "NodeAffinity",
        ),
        (
            r#"{"containers": [], "nodeSelector": {"disk": "ssd"}}"#.to_owned(),
            "NodeAffinity",
        ),
        (affinity("In", r#"["a", "b"]"#), ""),
        (affinity("NotIn", r#"["a"]"#), "NodeAffinity"),
        (affinity("Exists", "[]"), ""),
        (affinity("DoesNotExist", "[]"), "NodeAffinity"),
        (affinity("Gt", r#"["1"]"#), "NodeAffinity"),
        (
            r#"{"containers": [], "os": {"name": "linux"}}"#.to_owned(),
            "",
        ),
        (
            r#"{"containers": [], "os": {"name": "windows"}}"#.to_owned(),
            "PodOSNotSupported",
        ),
        (sysctl("net.ipv4.tcp_syncookies"), ""),
        (sysctl("net.core.somaxconn"), "SysctlForbidden"),
        (sysctl("vm.swappiness"), "SysctlForbidden"),
    ] {
        let mut wanted = pod(&spec);
        wanted.metadata.uid = Some("other".into());
        let sysctls = Sysctls::new(&[]);
        let node = NodeOffer {
            name: "n",
            allocatable: allocatable(),
            labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
            sysctls: &sysctls,
            taints: vec![],
            pressure: crate::pressure::Pressure::default(),
            extended: BTreeMap::new(),
            allocate: &|_| Ok(()),
        };
        let got = admit(&wanted, &[Arc::new(taken.clone())], &node);
        assert_eq!(
            got.err().map_or(String::new(), |e| e.reason),
            reason,
            "{spec}"
        );
    }
}
