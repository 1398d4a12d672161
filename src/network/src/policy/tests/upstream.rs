//! The cases of upstream's tests (`test/e2e/network/netpol`): three namespaces with three pods
//! each, and a table of who reaches whom.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::simulate::{Connection, passes};
use super::{DNS, World, allowed_by};
use crate::nft::HookKind;
use crate::node::Protocol::{self, Sctp, Tcp, Udp};

const PODS: [&str; 9] = [
    "x/a", "x/b", "x/c", "y/a", "y/b", "y/c", "z/a", "z/b", "z/c",
];

/// Returns the cluster of upstream's tests. Pods b are on the second node.
fn cluster() -> World {
    let mut world = World::new();
    for name in ["x", "y", "z", "kube-system"] {
        world.namespace(name, &json!({"ns": name}));
    }
    for (number, id) in PODS.into_iter().enumerate() {
        let node = usize::from(id.ends_with('b'));
        let ip = Ipv4Addr::new(10, 244, node as u8, 10 + number as u8);
        world.pod(id, &json!({"pod": &id[2..]}), node, ip);
    }
    world
}

/// Checks every pair of different pods.
fn expect(
    world: &mut World,
    case: &str,
    (protocol, port): (Protocol, u16),
    reaches: impl Fn(&str, &str) -> bool,
) {
    let tables = world.tables();
    for from in PODS {
        for to in PODS {
            // A pod always reaches itself.
            let expected = from == to || reaches(from, to);
            let connection = Connection::new(world.ip(from), world.ip(to), protocol, port);
            let found = allowed_by(&tables, &connection);
            assert_eq!(
                found, expected,
                "{case}: {from} to {to}, {protocol:?} {port}"
            );
        }
    }
}

fn pods(labels: Value) -> Value {
    json!({"podSelector": {"matchLabels": labels}})
}

fn ingress(selector: Value, rules: Value) -> Value {
    json!({"podSelector": selector, "policyTypes": ["Ingress"], "ingress": rules})
}

fn egress(selector: Value, rules: Value) -> Value {
    json!({"podSelector": selector, "policyTypes": ["Egress"], "egress": rules})
}

fn a() -> Value {
    json!({"matchLabels": {"pod": "a"}})
}

fn in_x(id: &str) -> bool {
    id.starts_with("x/")
}

const HTTP: (Protocol, u16) = (Tcp, 80);

#[test]
fn policies_isolate_the_pods_that_they_select() {
    let mut world = cluster();
    expect(&mut world, "no policy", HTTP, |_, _| true);
    assert!(
        world
            .states
            .iter_mut()
            .all(|state| state.tables().is_empty())
    );
    world.policy("x/p", &ingress(json!({}), json!([])));
    expect(&mut world, "deny ingress", HTTP, |_, to| !in_x(to));
    world.policy("x/p", &egress(json!({}), json!([])));
    expect(&mut world, "deny egress", HTTP, |from, _| !in_x(from));
    world.policy(
        "x/p",
        &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
    );
    expect(&mut world, "deny all", HTTP, |from, to| {
        !in_x(from) && !in_x(to)
    });
    world.policy("x/p", &ingress(a(), json!([{}])));
    expect(&mut world, "allow all", HTTP, |_, _| true);
    // Without types, rules for egress isolate for egress, too.
    world.policy("x/p", &json!({"podSelector": {}, "egress": [{}]}));
    expect(&mut world, "defaults", HTTP, |_, to| !in_x(to));
    world.policy(
        "x/q",
        &ingress(
            a(),
            json!([{"from": [{"podSelector": {}, "namespaceSelector": {}}]}]),
        ),
    );
    expect(&mut world, "stacked", HTTP, |_, to| {
        !in_x(to) || to == "x/a"
    });
    world.remove_policy("x/q");
    world.remove_policy("x/p");
    expect(&mut world, "deleted", HTTP, |_, _| true);
    assert!(
        world
            .states
            .iter_mut()
            .all(|state| state.tables().is_empty())
    );
}

#[test]
fn peers_are_selected_by_pod_and_namespace() {
    let not_x = json!({"matchExpressions": [{"key": "ns", "operator": "NotIn", "values": ["x"]}]});
    let b = json!({"matchLabels": {"pod": "b"}});
    let y = json!({"matchLabels": {"ns": "y"}});
    type Reaches = fn(&str) -> bool;
    let cases: Vec<(&str, Value, Reaches)> = vec![
        (
            "pods of the namespace",
            json!([{"podSelector": b}]),
            |from| from == "x/b",
        ),
        ("any namespace", json!([{"namespaceSelector": {}}]), |_| {
            true
        }),
        (
            "another namespace",
            json!([{"namespaceSelector": y}]),
            |from| from.starts_with('y'),
        ),
        (
            "expressions",
            json!([{"podSelector": {"matchExpressions": [
                {"key": "pod", "operator": "In", "values": ["b"]},
                {"key": "other", "operator": "DoesNotExist"},
            ]}}]),
            |from| from == "x/b",
        ),
        (
            "either",
            json!([{"namespaceSelector": not_x}, {"podSelector": b}]),
            |from| !in_x(from) || from == "x/b",
        ),
        (
            "both",
            json!([{"namespaceSelector": not_x, "podSelector": b}]),
            |from| from == "y/b" || from == "z/b",
        ),
        ("all of the namespace", json!([{"podSelector": {}}]), in_x),
        ("an empty list", json!([]), |_| true),
        (
            "none",
            json!([{"podSelector": {"matchLabels": {"pod": "none"}}}]),
            |_| false,
        ),
    ];
    for (case, peers, reaches) in cases {
        let mut world = cluster();
        world.policy("x/p", &ingress(a(), json!([{"from": peers}])));
        expect(&mut world, case, HTTP, |from, to| {
            to != "x/a" || reaches(from)
        });
        let mut world = cluster();
        world.policy("x/p", &egress(a(), json!([{"to": peers}])));
        expect(&mut world, case, HTTP, |from, to| {
            from != "x/a" || reaches(to)
        });
    }
}

#[test]
fn labels_can_change() {
    let mut world = cluster();
    let y2 = json!([{"from": [{"namespaceSelector": {"matchLabels": {"ns": "y2"}}}]}]);
    world.policy("x/p", &ingress(a(), y2));
    expect(&mut world, "no such namespace", HTTP, |_, to| to != "x/a");
    world.namespace("y", &json!({"ns": "y2"}));
    expect(&mut world, "namespace", HTTP, |from, to| {
        to != "x/a" || from.starts_with('y')
    });
    world.namespace("y", &json!({"ns": "y"}));
    expect(&mut world, "namespace back", HTTP, |_, to| to != "x/a");
    world.policy(
        "x/p",
        &ingress(a(), json!([{"from": [pods(json!({"new": "1"}))]}])),
    );
    let ip = world.ip("x/b");
    world.pod("x/b", &json!({"pod": "b", "new": "1"}), 1, ip);
    expect(&mut world, "peer", HTTP, |from, to| {
        to != "x/a" || from == "x/b"
    });
    // The pod itself is no longer selected.
    let ip = world.ip("x/a");
    world.pod("x/a", &json!({"pod": "other"}), 0, ip);
    expect(&mut world, "target", HTTP, |_, _| true);
    world.pod("x/a", &json!({"pod": "a"}), 0, ip);
    expect(&mut world, "target back", HTTP, |from, to| {
        to != "x/a" || from == "x/b"
    });
    // Another pod gets the address while the API still has the old one.
    world.pod("z/new", &json!({}), 1, world.ip("x/b"));
    assert!(world.reaches("z/new", "x/a", Tcp, 80));
    world.remove_pod("x/b");
    assert!(!world.reaches("z/new", "x/a", Tcp, 80));
}

#[test]
fn ports_have_numbers_ranges_names_and_protocols() {
    type Allows = fn(Protocol, u16) -> bool;
    let cases: Vec<(Value, Allows)> = vec![
        (json!([{"port": 81}]), |p, n| p == Tcp && n == 81),
        (json!([{"port": 80, "endPort": 81}]), |p, n| {
            p == Tcp && (80..=81).contains(&n)
        }),
        (json!([{"port": 81, "endPort": 65535}]), |p, n| {
            p == Tcp && n >= 81
        }),
        (json!([{"port": "serve-81-tcp"}]), |p, n| {
            p == Tcp && n == 81
        }),
        // A name has its protocol only.
        (json!([{"port": "serve-81-udp"}]), |_, _| false),
        (
            json!([{"port": "serve-81-udp", "protocol": "UDP"}]),
            |p, n| p == Udp && n == 81,
        ),
        (json!([{"port": "no-such-port"}]), |_, _| false),
        (json!([{"protocol": "UDP"}]), |p, _| p == Udp),
        (json!([{"protocol": "SCTP", "port": 80}]), |p, n| {
            p == Sctp && n == 80
        }),
        (json!([{"protocol": "SCTP"}, {"port": 80}]), |p, n| {
            p == Sctp || (p == Tcp && n == 80)
        }),
        (
            json!([{"port": 80}, {"port": 81, "protocol": "UDP"}]),
            |p, n| (p, n) == (Tcp, 80) || (p, n) == (Udp, 81),
        ),
        (json!([]), |_, _| true),
    ];
    let peers = json!([
        {"podSelector": {"matchLabels": {"pod": "b"}}},
        {"namespaceSelector": {"matchLabels": {"ns": "y"}}},
    ]);
    let is_peer = |id: &str| id == "x/b" || id.starts_with('y');
    for (ports, allows) in cases {
        for at in [
            (Tcp, 80),
            (Tcp, 81),
            (Udp, 80),
            (Udp, 81),
            (Sctp, 80),
            (Tcp, 8080),
        ] {
            let case = ports.to_string();
            let allows = allows(at.0, at.1);
            let mut world = cluster();
            world.policy("x/p", &ingress(a(), json!([{"ports": ports}])));
            expect(&mut world, &case, at, |_, to| to != "x/a" || allows);
            world.policy(
                "x/p",
                &ingress(a(), json!([{"from": peers, "ports": ports}])),
            );
            expect(&mut world, &case, at, |from, to| {
                to != "x/a" || (allows && is_peer(from))
            });
            world.policy("x/p", &egress(a(), json!([{"to": peers, "ports": ports}])));
            expect(&mut world, &case, at, |from, to| {
                from != "x/a" || (allows && is_peer(to))
            });
        }
    }
}

#[test]
fn directions_are_independent() {
    let mut world = cluster();
    world.policy(
        "x/out",
        &egress(a(), json!([{"to": [pods(json!({"pod": "b"}))]}])),
    );
    world.policy(
        "x/in",
        &ingress(a(), json!([{"from": [pods(json!({"pod": "b"}))]}])),
    );
    expect(&mut world, "b only", HTTP, |from, to| {
        (from != "x/a" || to == "x/b") && (to != "x/a" || from == "x/b")
    });
    // The client's side denies what the server's side allows.
    world.policy("x/out", &egress(a(), json!([])));
    world.policy("y/in", &ingress(json!({}), json!([{}])));
    expect(&mut world, "denied by the client", HTTP, |from, to| {
        from != "x/a" && (to != "x/a" || from == "x/b")
    });
    // One of several policies is enough.
    world.policy("x/out-all", &egress(a(), json!([{}])));
    expect(&mut world, "allowed by another", HTTP, |from, to| {
        to != "x/a" || from == "x/b"
    });
}

#[test]
fn blocks_contain_addresses_of_pods_and_others() {
    let mut world = cluster();
    let b = world.ip("x/b");
    let block = |cidr: &str, except: &[String]| {
        egress(
            a(),
            json!([{"to": [{"ipBlock": {"cidr": cidr, "except": except}}]}]),
        )
    };
    world.policy("x/p", &block(&format!("{b}/32"), &[]));
    expect(&mut world, "one", HTTP, |from, to| {
        from != "x/a" || to == "x/b"
    });
    world.policy("x/p", &block("10.244.1.0/24", &[format!("{b}/32")]));
    let second_node = |to: &str| to.ends_with('b');
    expect(&mut world, "except", HTTP, |from, to| {
        from != "x/a" || (second_node(to) && to != "x/b")
    });
    // Another policy allows what is an exception here.
    world.policy("x/q", &block(&format!("{b}/32"), &[]));
    expect(&mut world, "overlap", HTTP, |from, to| {
        from != "x/a" || second_node(to)
    });
    world.remove_policy("x/q");
    world.policy("x/p", &block("0.0.0.0/0", &["10.0.0.0/8".into()]));
    expect(&mut world, "the world", HTTP, |from, _| from != "x/a");
    let outside = Ipv4Addr::new(1, 1, 1, 1);
    let to_outside = Connection::new(world.ip("x/a"), outside, Tcp, 443);
    assert!(world.allows(&to_outside));
    world.policy("x/p", &block("0.0.0.0/0", &["0.0.0.0/0".into()]));
    assert!(!world.allows(&to_outside));
    // A block of IPv6 has none of the network's addresses.
    world.policy("x/p", &block("::/0", &[]));
    assert!(!world.allows(&to_outside));
    world.policy("x/p", &block("0.0.0.0/0", &[]));
    assert!(world.allows(&to_outside));
    // The same, inwards.
    world.policy(
        "x/p",
        &ingress(
            a(),
            json!([{"from": [{"ipBlock": {"cidr": "1.1.1.0/24"}}]}]),
        ),
    );
    assert!(world.allows(&Connection::new(outside, world.ip("x/a"), Tcp, 80)));
    expect(&mut world, "outside only", HTTP, |_, to| to != "x/a");
}

#[test]
fn pods_without_own_address_are_neither_isolated_nor_selected() {
    let mut world = cluster();
    let mut pod = world.pods["x/b"].clone();
    pod.spec.as_mut().unwrap().host_network = Some(true);
    world.put_pod("x/b", pod);
    world.policy(
        "x/p",
        &ingress(json!({}), json!([{"from": [pods(json!({"pod": "b"}))]}])),
    );
    // It is a node: allowed by its address only.
    expect(&mut world, "host network", HTTP, |_, to| {
        !in_x(to) || to == "x/b"
    });
    // A pod that ended has given its address back.
    let mut pod = world.pods["x/c"].clone();
    pod.status.as_mut().unwrap().phase = Some("Succeeded".into());
    world.put_pod("x/c", pod);
    assert!(world.reaches("y/a", "x/c", Tcp, 80));
}

#[test]
fn the_name_server_is_a_pod_of_kube_system() {
    let mut world = cluster();
    let at_dns = |world: &mut World, protocol, port| {
        let connection = Connection::new(world.ip("x/a"), DNS, protocol, port);
        let table = world.states[0].tables().remove(0);
        passes(&table, &connection, HookKind::Input)
    };
    world.policy("x/p", &egress(a(), json!([])));
    assert!(!at_dns(&mut world, Udp, 53));
    let dns = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    });
    world.policy(
        "x/p",
        &egress(
            a(),
            json!([{"to": [dns], "ports": [
                {"port": 53, "protocol": "UDP"}, {"port": "dns-tcp"},
            ]}]),
        ),
    );
    assert!(at_dns(&mut world, Udp, 53) && at_dns(&mut world, Tcp, 53));
    assert!(!at_dns(&mut world, Tcp, 443));
    expect(&mut world, "DNS only", HTTP, |from, _| from != "x/a");
    // The node's other addresses are not filtered.
    let to_node = Connection::new(world.ip("x/a"), Ipv4Addr::new(192, 168, 58, 2), Tcp, 8443);
    let table = world.states[0].tables().remove(0);
    assert!(passes(&table, &to_node, HookKind::Input));
}

#[test]
fn packets_without_a_connection_pass_only_if_everything_does() {
    let mut world = cluster();
    let stray = |world: &World| Connection {
        tracked: false,
        ..Connection::new(world.ip("y/a"), world.ip("x/a"), Tcp, 80)
    };
    world.policy("x/p", &ingress(a(), json!([{"ports": [{"port": 80}]}])));
    let connection = stray(&world);
    assert!(!world.allows(&connection));
    world.policy("x/p", &ingress(a(), json!([{}])));
    assert!(world.allows(&connection));
    world.policy(
        "x/p",
        &egress(json!({"matchLabels": {"pod": "a"}}), json!([])),
    );
    assert!(world.allows(&connection));
}

#[test]
fn replies_are_judged_like_the_connection() {
    let mut world = cluster();
    world.policy(
        "x/p",
        &json!({
            "podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"ports": [{"port": 80}]}],
        }),
    );
    let (client, server) = (world.ip("y/a"), world.ip("x/a"));
    let reply = |port| Connection {
        packet: (server, client),
        ..Connection::new(client, server, Tcp, port)
    };
    // Although the server may open no connection.
    assert!(world.allows(&reply(80)));
    assert!(!world.allows(&reply(81)));
}
