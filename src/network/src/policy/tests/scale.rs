//! A large cluster: what changes, and that only that changes.

use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::super::{Policy, PolicyEnforcer, PolicyPod, PolicyState};
use crate::netlink::{in_netns, new_netns};
use crate::nft::Table;
use crate::testing::root;

/// Numbers of policies, of pods, and of pods on this node.
const POLICIES: u32 = 1_000;
const PODS: u32 = 5_000;
const LOCAL: u32 = 110;

fn pod(number: u32, version: &str) -> Option<PolicyPod> {
    let ip = Ipv4Addr::from(0x0af4_0000 + number);
    let pod = json!({
        "metadata": {
            "namespace": format!("ns-{}", number % 10),
            "name": format!("pod-{number}"),
            "labels": {"app": format!("app-{}", number % 100), "version": version},
        },
        "spec": {
            "nodeName": if number < LOCAL { "here" } else { "there" },
            "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}],
        },
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    });
    PolicyPod::from_object(&serde_json::from_value(pod).unwrap(), "here", None)
}

fn policy(number: u32) -> Policy {
    // A tenth of the policies select peers in all namespaces.
    let mut peer =
        json!({"podSelector": {"matchLabels": {"app": format!("app-{}", number * 7 % 100)}}});
    if number % 10 == 3 {
        peer["namespaceSelector"] = json!({"matchLabels": {"team": format!("{}", number % 7)}});
    }
    let policy = json!({
        "metadata": {"namespace": format!("ns-{}", number % 10), "name": format!("p-{number}")},
        "spec": {
            "podSelector": {"matchLabels": {"app": format!("app-{}", number % 100)}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [peer], "ports": [{"port": "web"}, {"port": 9090}]}],
            "egress": [{"to": [peer, {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}]}],
        },
    });
    Policy::from_object(&serde_json::from_value(policy).unwrap())
}

/// Returns the number of chains and sets that are not shared between two versions.
fn changed(old: &Table, new: &Table) -> usize {
    let sets = new.sets.iter().filter(|(name, set)| {
        old.sets
            .get(*name)
            .is_none_or(|was| !Arc::ptr_eq(was, set) && was != *set)
    });
    let chains = new.chains.iter().filter(|(name, chain)| {
        old.chains
            .get(*name)
            .is_none_or(|was| !Arc::ptr_eq(was, chain) && was != *chain)
    });
    sets.count() + chains.count()
}

#[test]
fn a_change_in_a_large_cluster_changes_little() {
    let mut state = PolicyState::new(&["10.96.0.10".parse().unwrap()]);
    for number in 0..10 {
        let labels = [("team".to_owned(), format!("{}", number % 7))];
        state.set_namespace(&format!("ns-{number}"), Some(labels.into()));
    }
    let timed = |what: &str, began: Instant| println!("{what}: {:?}", began.elapsed());
    let pods: Vec<_> = (0..PODS).map(|number| pod(number, "1")).collect();
    let policies: Vec<_> = (0..POLICIES).map(policy).collect();
    let began = Instant::now();
    for (number, pod) in pods.into_iter().enumerate() {
        state.set_pod(&number.to_string(), pod);
    }
    for policy in policies {
        let (namespace, name) = (policy.namespace.clone(), policy.name.clone());
        state.set_policy(&namespace, &name, Some(policy));
    }
    let first = state.tables().remove(0);
    timed("the first table", began);
    assert!(
        first.chains.len() > 2_000 && first.sets.len() > 50,
        "{}",
        first.chains.len()
    );

    // A label without effect.
    let began = Instant::now();
    state.set_pod("4990", pod(4990, "2"));
    let second = state.tables().remove(0);
    timed("a label without effect", began);
    assert_eq!(changed(&first, &second), 0);

    // A pod of another node leaves a selection: elements of the sets that had it.
    let began = Instant::now();
    let mut other = pod(4990, "2").unwrap();
    other.labels.insert("app".into(), "none".into());
    state.set_pod("4990", Some(other));
    let third = state.tables().remove(0);
    timed("a label with an effect", began);
    let count = changed(&second, &third);
    assert!((1..=3).contains(&count), "{count} sets changed");

    // A policy: its own chains, and those of the pods that it applies to.
    let began = Instant::now();
    let mut stricter = policy(0);
    stricter.ingress = Some(Vec::new());
    state.set_policy("ns-0", "p-0", Some(stricter));
    let fourth = state.tables().remove(0);
    timed("a policy", began);
    let count = changed(&third, &fourth);
    assert!((1..=12).contains(&count), "{count} chains and sets changed");

    // A pod ends: elements only.
    let began = Instant::now();
    state.set_pod("0", None);
    let fifth = state.tables().remove(0);
    timed("the end of a pod", began);
    assert!(changed(&fourth, &fifth) <= 8);
    assert!(state.tables() == [fifth.clone()]);
    kernel_takes(&[first, second, third, fourth, fifth]);
}

/// Lets the kernel have the tables in turn.
fn kernel_takes(tables: &[Table]) {
    if !root() {
        return;
    }
    let netns = new_netns().unwrap();
    let enforcer = in_netns(netns.as_fd(), || PolicyEnforcer::new().unwrap()).unwrap();
    for table in tables {
        let began = Instant::now();
        let written = enforcer.apply(vec![table.clone()]).unwrap();
        println!("written: {written}, {:?}", began.elapsed());
    }
    assert!(enforcer.apply(Vec::new()).unwrap());
    assert!(!enforcer.apply(Vec::new()).unwrap());
}
