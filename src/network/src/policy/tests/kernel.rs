//! The rules in the kernel, with packets between network namespaces.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::{Policy, PolicyEnforcer, PolicyPod, PolicyState};
use crate::netlink::in_netns;
use crate::node::{HostPort, Protocol};
use crate::testing::{Pod, Serve, TestNetwork, ask_in_vain, listed, root};

/// A node with enforced policies.
struct Node {
    lab: TestNetwork,
    state: PolicyState,
    enforcer: PolicyEnforcer,
}

impl Node {
    fn new() -> Self {
        let lab = TestNetwork::new();
        let enforcer = in_netns(lab.node.as_fd(), || PolicyEnforcer::new().unwrap()).unwrap();
        Self {
            lab,
            state: PolicyState::new(&["10.96.0.10".parse().unwrap()]),
            enforcer,
        }
    }

    fn pod(&mut self, name: &str, pod: &Pod, labels: &Value) {
        let object = json!({
            "metadata": {"namespace": "default", "name": name, "labels": labels},
            "spec": {"nodeName": "here", "containers": [
                {"name": "c", "ports": [{"name": "web", "containerPort": 8080}]},
            ]},
        });
        let object = serde_json::from_value(object).unwrap();
        let pod = PolicyPod::from_object(&object, "here", Some(vec![pod.ip.into()]));
        self.state.set_pod(name, pod);
    }

    fn policy(&mut self, name: &str, spec: Value) {
        let object = json!({"metadata": {"namespace": "default", "name": name}, "spec": spec});
        let policy = Policy::from_object(&serde_json::from_value(object).unwrap());
        self.state.set_policy("default", name, Some(policy));
        self.apply();
    }

    fn apply(&mut self) {
        self.enforcer.apply(self.state.tables()).unwrap();
    }
}

#[test]
fn the_kernel_enforces_policies() {
    if !root() {
        return;
    }
    let mut node = Node::new();
    let host_port = HostPort {
        protocol: Protocol::Tcp,
        host_ip: None,
        host_port: 80,
        container_port: 8080,
    };
    let server = node.lab.pod_with("server", vec![host_port]);
    let (friend, stranger) = (node.lab.pod("friend"), node.lab.pod("stranger"));
    node.lab.route_world_to_pods();
    let at = SocketAddrV4::new(server.ip, 8080);
    let at_node = SocketAddrV4::new(node.lab.node_ip(), 80);
    let _serve = Serve::tcp(&server.netns, at);
    let other_port = SocketAddrV4::new(server.ip, 8081);
    let _other = Serve::tcp(&server.netns, other_port);
    node.pod("server", &server, &json!({"app": "server"}));
    node.pod("friend", &friend, &json!({"app": "friend"}));
    node.pod("stranger", &stranger, &json!({"app": "stranger"}));
    let selected = json!({"matchLabels": {"app": "server"}});

    node.policy(
        "p",
        json!({"podSelector": selected, "policyTypes": ["Ingress"]}),
    );
    assert!(
        !node.enforcer.apply(node.state.tables()).unwrap(),
        "written twice"
    );
    for from in [&friend, &stranger] {
        ask_in_vain(&from.netns, at);
        ask_in_vain(&from.netns, at_node);
    }
    ask_in_vain(&node.lab.world, at);
    ask_in_vain(&node.lab.world, at_node);
    node.lab.ask_from_node(at).expect("its node reaches it");
    server.ask(at).expect("it reaches itself");
    server
        .ask(at_node)
        .expect("it reaches itself through the node");

    node.policy(
        "p",
        json!({
            "podSelector": selected, "policyTypes": ["Ingress"],
            "ingress": [{
                "from": [{"podSelector": {"matchLabels": {"app": "friend"}}},
                         {"ipBlock": {"cidr": "192.168.77.0/24", "except": ["192.168.77.2/32"]}}],
                "ports": [{"port": "web"}, {"port": 9000, "endPort": 9010}, {"port": 1}],
            }],
        }),
    );
    friend.ask(at).unwrap();
    friend.ask(at_node).unwrap();
    node.lab.ask_from_world(at).unwrap();
    ask_in_vain(&friend.netns, other_port);
    ask_in_vain(&stranger.netns, at);
    ask_in_vain(&stranger.netns, at_node);
    if let Some(text) = listed(&node.lab.node) {
        for part in [
            "vmap @isolated-ingress",
            "comment \"default/p\"",
            "ct original ip saddr",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    // A label is enough.
    node.pod("stranger", &stranger, &json!({"app": "friend"}));
    node.apply();
    stranger.ask(at).unwrap();

    node.policy("out", json!({"podSelector": {}, "policyTypes": ["Egress"]}));
    ask_in_vain(&friend.netns, at);
    server.ask(at).unwrap();
    node.lab.ask_from_world(at).expect("replies are no egress");

    // Another program deletes the rules: they come back with the next change.
    in_netns(node.lab.node.as_fd(), || {
        let nft = crate::nft::Nftables::open().unwrap();
        nft.delete_table(crate::nft::Family::Ip, super::super::TABLE)
    })
    .unwrap()
    .unwrap();
    node.state.set_policy("default", "out", None);
    node.apply();
    friend.ask(at).unwrap();
    ask_in_vain(&friend.netns, other_port);
    node.state.set_policy("default", "p", None);
    node.apply();
    friend.ask(other_port).unwrap();
    if let Some(text) = listed(&node.lab.node) {
        assert!(!text.contains("rkube-policy"), "{text}");
    }
}

#[test]
fn a_change_applies_to_open_connections() {
    if !root() {
        return;
    }
    let mut node = Node::new();
    let (server, client) = (node.lab.pod("server"), node.lab.pod("client"));
    node.pod("server", &server, &json!({"app": "server"}));
    node.pod("client", &client, &json!({"app": "client"}));
    let at = SocketAddrV4::new(server.ip, 8080);
    let listener = in_netns(server.netns.as_fd(), || TcpListener::bind(at))
        .unwrap()
        .unwrap();
    let mut near = in_netns(client.netns.as_fd(), || TcpStream::connect(at))
        .unwrap()
        .unwrap();
    let (mut far, _) = listener.accept().unwrap();
    for stream in [&near, &far] {
        stream
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
    }
    let mut buffer = [0; 1];
    near.write_all(b"1").unwrap();
    far.read_exact(&mut buffer).unwrap();

    let selected = json!({"matchLabels": {"app": "server"}});
    node.policy(
        "p",
        json!({"podSelector": selected, "policyTypes": ["Ingress"]}),
    );
    near.write_all(b"2").unwrap();
    far.read_exact(&mut buffer)
        .expect_err("the client's side passes");
    far.write_all(b"2").unwrap();
    near.read_exact(&mut buffer)
        .expect_err("the server's side passes");

    // Allowed again before either side has given up: TCP repeats what was lost.
    node.state.set_policy("default", "p", None);
    node.apply();
    for stream in [&near, &far] {
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
    }
    far.read_exact(&mut buffer).unwrap();
    near.read_exact(&mut buffer).unwrap();
    assert_eq!(buffer, *b"2");
}
