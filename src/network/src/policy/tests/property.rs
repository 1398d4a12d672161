//! The compiled rules decide as the API's semantics do, after any sequence of changes.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::simulate::Connection;
use super::{World, allowed_by, naive};
use crate::node::Protocol;

/// A change of the cluster.
#[derive(Clone, Debug)]
enum Change {
    Namespace(usize, Value),
    Pod(usize, Value, usize, u8),
    Remove(usize),
    Policy(usize, Value),
    Withdraw(usize),
}

const NAMESPACES: [&str; 2] = ["x", "y"];
const PODS: [&str; 6] = ["x/a", "x/b", "x/c", "y/a", "y/b", "y/c"];
const POLICIES: [&str; 3] = ["x/p", "x/q", "y/p"];

/// Address of a machine outside of the cluster.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 250);

fn labels() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[kl]", "[12]", 0..=2).prop_map(|labels| json!(labels))
}

fn selector() -> impl Strategy<Value = Value> {
    prop_oneof![
        1 => Just(json!({})),
        2 => labels().prop_map(|labels| json!({"matchLabels": labels})),
        2 => ("[kl]", prop::sample::select(vec!["In", "NotIn"]), "[12]").prop_map(
            |(key, operator, value)| json!({"matchExpressions": [
                {"key": key, "operator": operator, "values": [value]},
            ]}),
        ),
        1 => ("[kl]", prop::sample::select(vec!["Exists", "DoesNotExist"])).prop_map(
            |(key, operator)| json!({"matchExpressions": [{"key": key, "operator": operator}]}),
        ),
    ]
}

fn peer() -> impl Strategy<Value = Value> {
    prop_oneof![
        selector().prop_map(|pods| json!({"podSelector": pods})),
        selector().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        (selector(), selector())
            .prop_map(|(n, p)| json!({"namespaceSelector": n, "podSelector": p})),
        (0..16u8, 26..=32u8, prop::option::of((0..16u8, 28..=32u8))).prop_map(
            |(low, length, hole)| {
                let except: Vec<String> = hole
                    .map(|(low, length)| format!("10.244.0.{low}/{length}"))
                    .into_iter()
                    .collect();
                json!({"ipBlock": {"cidr": format!("10.244.0.{low}/{length}"), "except": except}})
            }
        ),
        Just(json!({"ipBlock": {"cidr": "0.0.0.0/0"}})),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    let protocol = || prop::sample::select(vec!["TCP", "UDP"]);
    prop_oneof![
        protocol().prop_map(|p| json!({"protocol": p})),
        (protocol(), 80..83u16).prop_map(|(p, n)| json!({"protocol": p, "port": n})),
        (protocol(), 78..81u16, 0..3u16)
            .prop_map(|(p, n, more)| json!({"protocol": p, "port": n, "endPort": n + more})),
        (
            protocol(),
            prop::sample::select(vec!["serve-80-tcp", "serve-81-udp"])
        )
            .prop_map(|(p, name)| json!({"protocol": p, "port": name})),
    ]
}

fn rules(peers: &'static str) -> impl Strategy<Value = Value> {
    let rule = (
        prop::option::of(prop::collection::vec(peer(), 0..3)),
        prop::option::of(prop::collection::vec(port(), 0..3)),
    );
    prop::collection::vec(rule, 0..3).prop_map(move |rules| {
        let rules = rules.into_iter().map(|(list, ports)| {
            let mut rule = json!({});
            if let Some(list) = list {
                rule[peers] = json!(list);
            }
            if let Some(ports) = ports {
                rule["ports"] = json!(ports);
            }
            rule
        });
        Value::Array(rules.collect())
    })
}

fn policy() -> impl Strategy<Value = Value> {
    let types = prop::option::of(prop::sample::select(vec![
        json!(["Ingress"]),
        json!(["Egress"]),
        json!(["Ingress", "Egress"]),
    ]));
    (selector(), types, rules("from"), rules("to")).prop_map(|(pods, types, ingress, egress)| {
        let mut spec = json!({"podSelector": pods, "ingress": ingress, "egress": egress});
        if let Some(types) = types {
            spec["policyTypes"] = types;
        }
        spec
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        1 => (0..NAMESPACES.len(), labels()).prop_map(|(n, l)| Change::Namespace(n, l)),
        3 => (0..PODS.len(), labels(), 0..2usize, 0..16u8)
            .prop_map(|(n, l, node, low)| Change::Pod(n, l, node, low)),
        1 => (0..PODS.len()).prop_map(Change::Remove),
        4 => (0..POLICIES.len(), policy()).prop_map(|(n, spec)| Change::Policy(n, spec)),
        1 => (0..POLICIES.len()).prop_map(Change::Withdraw),
    ]
}

fn apply(world: &mut World, change: &Change) {
    match change {
        Change::Namespace(n, labels) => world.namespace(NAMESPACES[*n], labels),
        Change::Pod(n, labels, node, low) => {
            let ip = Ipv4Addr::new(10, 244, 0, *low);
            let taken = |(id, _): (&String, _)| id != PODS[*n] && world.ip(id) == ip;
            if !world.pods.iter().any(taken) {
                world.pod(PODS[*n], labels, *node, ip);
            }
        }
        Change::Remove(n) => world.remove_pod(PODS[*n]),
        Change::Policy(n, spec) => world.policy(POLICIES[*n], spec),
        Change::Withdraw(n) => world.remove_policy(POLICIES[*n]),
    }
}

/// Compares all pairs of addresses on some ports. Returns the first difference.
fn compare(world: &mut World) -> Option<String> {
    let mut ips: Vec<Ipv4Addr> = world.pods.keys().map(|id| world.ip(id)).collect();
    ips.push(OUTSIDE);
    let tables = world.tables();
    for client in &ips {
        for server in &ips {
            for (protocol, port) in [
                (Protocol::Tcp, 80),
                (Protocol::Tcp, 81),
                (Protocol::Udp, 81),
                (Protocol::Udp, 82),
            ] {
                let connection = Connection::new(*client, *server, protocol, port);
                let found = allowed_by(&tables, &connection);
                let expected = naive::allows(world, *client, *server, protocol, port);
                if found != expected {
                    return Some(format!("{connection:?}: {found}, but should be {expected}"));
                }
            }
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn rules_decide_as_the_policies_do(changes in prop::collection::vec(change(), 1..24)) {
        let mut world = World::new();
        for name in NAMESPACES {
            world.namespace(name, &json!({}));
        }
        for (number, id) in PODS.into_iter().enumerate() {
            world.pod(id, &json!({"k": "1"}), number % 2, Ipv4Addr::new(10, 244, 0, number as u8));
        }
        for (count, change) in changes.iter().enumerate() {
            apply(&mut world, change);
            // Not after each change: several may be compiled at once.
            if count % 3 == 0 {
                prop_assert_eq!(compare(&mut world), None);
            }
        }
        prop_assert_eq!(compare(&mut world), None);
    }
}
