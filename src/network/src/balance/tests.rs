//! Tests of the choice, and of addresses that move between machines in network namespaces.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::*;
use crate::netlink::{Netlink, Netns, Veth, in_netns, new_netns};
use crate::testing::{net, root};

const VIP: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 130);

fn node(name: &str, last: u8, ready: &str, extra: Value) -> Arc<Node> {
    let mut object = json!({
        "metadata": {"name": name},
        "status": {
            "addresses": [{"type": "InternalIP", "address": format!("192.168.77.{last}")}],
            "conditions": [{"type": "Ready", "status": ready}],
        },
    });
    for (key, value) in extra.as_object().unwrap() {
        object["metadata"][key] = value.clone();
    }
    Arc::new(serde_json::from_value(object).unwrap())
}

fn three(ready: [&str; 3]) -> Vec<Candidate> {
    candidates(&[
        node("a", 2, ready[0], json!({})),
        node("b", 3, ready[1], json!({})),
        node("c", 4, ready[2], json!({})),
    ])
}

fn service(name: &str, ip: &str, policy: &str) -> Arc<Service> {
    let object = json!({
        "metadata": {"namespace": "n", "name": name},
        "spec": {"type": "LoadBalancer", "externalTrafficPolicy": policy},
        "status": {"loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"}]}},
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn slice(service: &str, endpoints: Value) -> Arc<EndpointSlice> {
    let object = json!({
        "metadata": {"namespace": "n", "name": format!("{service}-1"),
                     "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": endpoints,
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

#[test]
fn nodes_that_serve_no_load_balancer_are_left_out() {
    let excluded =
        json!({"labels": {"node.kubernetes.io/exclude-from-external-load-balancers": ""}});
    let found = candidates(&[
        node("b", 3, "False", json!({})),
        node("a", 2, "True", json!({})),
        node("x", 5, "True", excluded),
        node(
            "y",
            6,
            "True",
            json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}),
        ),
    ]);
    let names: Vec<(&str, bool)> = found.iter().map(|c| (&*c.name, c.ready)).collect();
    assert_eq!(names, [("a", true), ("b", false)]);
}

#[test]
fn only_own_addresses_of_load_balancers_count() {
    let range = net("192.168.77.128/25");
    let mut other = (*service("other", "192.168.77.131", "Cluster")).clone();
    other.spec.as_mut().unwrap().type_ = Some("ClusterIP".into());
    let mut foreign = (*service("class", "192.168.77.132", "Cluster")).clone();
    foreign.spec.as_mut().unwrap().load_balancer_class = Some("x.example/lb".into());
    let endpoints = json!([
        {"addresses": ["10.0.0.1"], "nodeName": "a", "conditions": {"ready": false, "serving": true, "terminating": true}},
        {"addresses": ["10.0.0.2"], "nodeName": "b"},
        {"addresses": ["10.0.0.3"], "nodeName": "c", "conditions": {"ready": false}},
    ]);
    let found = balancers(
        &[
            service("web", "192.168.77.130", "Local"),
            service("all", "192.168.77.129", "Cluster"),
            service("node", "192.168.77.2", "Cluster"),
            service("name", "x", "Cluster"),
            Arc::new(other),
            Arc::new(foreign),
            // Restored twice: the first in order has it.
            service("web-2", "192.168.77.130", "Cluster"),
        ],
        &[slice("web", endpoints)],
        range,
    );
    let only = |names: &[&str]| Some(names.iter().map(|n| (*n).to_owned()).collect());
    assert_eq!(
        found,
        [
            Balancer {
                address: Ipv4Addr::new(192, 168, 77, 129),
                only: None
            },
            Balancer {
                address: VIP,
                only: only(&["b"])
            },
        ]
    );
}

#[test]
fn one_node_answers_and_others_stand_in() {
    let all = three(["True"; 3]);
    let balancer = |last, only: Option<&[&str]>| Balancer {
        address: Ipv4Addr::new(192, 168, 77, last),
        only: only.map(|names| names.iter().map(|n| (*n).to_owned()).collect()),
    };
    let balancers: Vec<Balancer> = (129..190).map(|last| balancer(last, None)).collect();
    let peers = Peers::default();
    let duties = |peers: &Peers, nodes: &[Candidate]| -> Vec<BTreeSet<Ipv4Addr>> {
        let of = |node: &Candidate| peers.duties(node.ip, &balancers, nodes).0;
        all.iter().map(of).collect()
    };
    let shares = duties(&peers, &all);
    assert_eq!(shares.iter().map(BTreeSet::len).sum::<usize>(), 61);
    assert!(shares.iter().all(|share| share.len() > 8), "{shares:?}");
    // Without a node, the others keep theirs and take its addresses over.
    let without = duties(&peers, &three(["True", "False", "True"]));
    assert!(without[0].is_superset(&shares[0]) && without[2].is_superset(&shares[2]));
    assert_eq!(without[0].len() + without[2].len(), 61);
    // The same if it is silent, and while nothing is ready.
    let mut silent = Peers::default();
    let (dead, none) = (BTreeSet::from([all[1].ip]), BTreeSet::new());
    let changes: Vec<bool> = (0..4).map(|_| silent.record(&dead, &none)).collect();
    assert_eq!(changes, [false, false, true, false]);
    let taken = duties(&silent, &all);
    assert_eq!((&taken[0], &taken[2]), (&without[0], &without[2]));
    assert!(silent.record(&dead, &dead), "it is back");
    assert_eq!(duties(&silent, &all), shares);
    assert_eq!(duties(&peers, &three(["False"; 3])), shares);
    // With local endpoints only. Without any, some node refuses.
    for (only, expected) in [(&["c"][..], Some("c")), (&["a"], Some("a")), (&[], None)] {
        let line = balancer(140, Some(only));
        let line = line.line(&all);
        assert_eq!(line.len(), 3);
        assert!(expected.is_none_or(|name| line[0].name == name));
    }
    // Those that stand in ask the nodes before them, no others.
    let one = [balancer(140, None)];
    let line = one[0].line(&all);
    let asked = |place: usize| peers.duties(line[place].ip, &one, &all).1;
    assert!(asked(0).is_empty());
    assert_eq!(asked(1), BTreeSet::from([line[0].ip]));
    assert_eq!(asked(2), BTreeSet::from([line[0].ip, line[1].ip]));
}

/// Connects a machine to the bridge in `world`, and serves its name at port 80 of all addresses.
fn machine(world: &OwnedFd, name: &'static str, last: u8) -> OwnedFd {
    let machine = new_netns().unwrap();
    let at_world = Netlink::open_in(world.as_fd()).unwrap();
    at_world
        .create_veth(&Veth {
            name,
            master: Some(at_world.index_of("br0").unwrap()),
            up: true,
            peer_name: "eth0",
            peer_netns: Some(Netns::Fd(machine.as_fd())),
            ..Veth::default()
        })
        .unwrap();
    in_netns(machine.as_fd(), || {
        let inside = Netlink::open().unwrap();
        let own = net(&format!("192.168.77.{last}/24"));
        inside.add_address("eth0", own).unwrap();
        inside.set_up("eth0").unwrap();
        inside.set_up("lo").unwrap();
        let listener = TcpListener::bind("0.0.0.0:80").unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.write_all(name.as_bytes());
            }
        });
    })
    .unwrap();
    machine
}

fn ask(world: &OwnedFd) -> String {
    in_netns(world.as_fd(), || {
        let to = SocketAddrV4::new(VIP, 80).into();
        let mut text = String::new();
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
        stream.read_to_string(&mut text).unwrap();
        text
    })
    .unwrap()
}

#[test]
fn an_address_moves_between_machines() {
    if !root() {
        return;
    }
    let world = new_netns().unwrap();
    let at_world = Netlink::open_in(world.as_fd()).unwrap();
    let bridge = at_world.create_bridge("br0").unwrap();
    at_world
        .add_address(bridge, net("192.168.77.1/24"))
        .unwrap();
    at_world.set_up(bridge).unwrap();
    let (a, b) = (machine(&world, "a", 2), machine(&world, "b", 3));
    let open = |netns: &OwnedFd, last| {
        in_netns(netns.as_fd(), || {
            let own = Ipv4Addr::new(192, 168, 77, last);
            Announcer::open("eth0", own, net("192.168.77.128/25")).unwrap()
        })
        .unwrap()
    };
    let (first, second) = (open(&a, 2), open(&b, 3));
    let (one, none) = (BTreeSet::from([VIP]), BTreeSet::new());
    assert_eq!(first.set(&one).unwrap(), [VIP]);
    assert!(first.set(&one).unwrap().is_empty(), "it is there already");
    assert_eq!(ask(&world), "a");
    // The new machine announces itself, so the old entry in the world's ARP table does not last.
    first.set(&none).unwrap();
    assert_eq!(second.set(&one).unwrap(), [VIP]);
    std::thread::sleep(Duration::from_millis(1100));
    second.announce(&[VIP]).unwrap();
    assert_eq!(ask(&world), "b");
    // Machines see each other, and that one is gone.
    let peers: BTreeSet<Ipv4Addr> = [2, 9].map(|last| Ipv4Addr::new(192, 168, 77, last)).into();
    let answered = second.ask(&peers).unwrap();
    assert_eq!(answered, BTreeSet::from([Ipv4Addr::new(192, 168, 77, 2)]));
    at_world.delete_link("a").unwrap();
    assert!(second.ask(&peers).unwrap().is_empty());
}
