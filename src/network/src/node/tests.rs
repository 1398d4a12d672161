//! Tests with a node, its pods and an outside machine in separate network namespaces.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;

use ipnet::{IpNet, Ipv4Net};

use super::*;
use crate::netlink::{Netlink, Route, Veth, in_netns};
use crate::testing::{Lab, Serve, ask_in_vain, root};

#[test]
fn pods_reach_each_other_the_node_and_the_world() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let one = lab.pod("one");
    let two = lab.pod("two");
    assert_ne!(one.ip, two.ip);
    let port = |ip| SocketAddrV4::new(ip, 8080);

    let _two = Serve::tcp(&two.netns, port(two.ip));
    assert_eq!(one.ask(port(two.ip)).unwrap(), one.ip.to_string());
    let _node = Serve::tcp(&lab.node, port(lab.node_ip()));
    assert_eq!(one.ask(port(lab.node_ip())).unwrap(), one.ip.to_string());
    assert_eq!(
        lab.ask_from_node(port(two.ip)).unwrap(),
        lab.network.gateway().to_string()
    );
    // Machines outside the cluster have no route to pods, so they see the node's address.
    let _world = Serve::tcp(&lab.world, port(lab.world_ip()));
    assert_eq!(
        one.ask(port(lab.world_ip())).unwrap(),
        lab.node_ip().to_string()
    );
    // Other nodes do have one.
    let peer: Ipv4Net = "10.244.9.0/24".parse().unwrap();
    lab.network.set_routes(&[(peer, lab.world_ip())]).unwrap();
    lab.network.set_routes(&[(peer, lab.world_ip())]).unwrap();
    lab.route_world_to_pods();
    assert_eq!(one.ask(port(lab.world_ip())).unwrap(), one.ip.to_string());
    lab.network.set_routes(&[]).unwrap();
    let routes = in_netns(lab.node.as_fd(), || {
        Netlink::open().unwrap().routes().unwrap()
    })
    .unwrap();
    assert!(
        !routes
            .iter()
            .any(|route| route.destination == IpNet::V4(peer))
    );
}

#[test]
fn neighbours_exchange_no_frames() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let (one, two) = (lab.pod("one"), lab.pod("two"));
    let port = SocketAddrV4::new(two.ip, 8080);
    let _two = Serve::tcp(&two.netns, port);
    one.ask(port).unwrap();
    // Past the gateway, and so past the packet filter.
    in_netns(one.netns.as_fd(), || {
        let netlink = Netlink::open().unwrap();
        let eth0 = netlink.index_of("eth0").unwrap();
        let direct = Route::on_link(Ipv4Net::from(two.ip), eth0);
        netlink.add_route(&direct).unwrap();
    })
    .unwrap();
    ask_in_vain(&one.netns, port);
}

#[test]
fn host_ports_lead_to_the_pod_from_everywhere() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let host_port = |host_ip, host_port| HostPort {
        protocol: Protocol::Tcp,
        host_ip,
        host_port,
        container_port: 8080,
    };
    let localhost = Ipv4Addr::LOCALHOST;
    let pod = lab.pod_with(
        "web",
        vec![host_port(None, 80), host_port(Some(localhost), 81)],
    );
    let other = lab.pod("other");
    let _serve = Serve::tcp(&pod.netns, SocketAddrV4::new(pod.ip, 8080));
    let node = SocketAddrV4::new(lab.node_ip(), 80);
    assert_eq!(
        lab.ask_from_world(node).unwrap(),
        lab.world_ip().to_string()
    );
    assert_eq!(other.ask(node).unwrap(), other.ip.to_string());
    assert_eq!(pod.ask(node).unwrap(), lab.network.gateway().to_string());
    lab.ask_from_node(SocketAddrV4::new(localhost, 80)).unwrap();
    lab.ask_from_node(SocketAddrV4::new(localhost, 81)).unwrap();
    assert!(
        lab.ask_from_world(SocketAddrV4::new(lab.node_ip(), 81))
            .is_err()
    );
    lab.network.detach_pod("web").unwrap();
    assert!(lab.ask_from_world(node).is_err());
}

#[test]
fn a_restarted_agent_keeps_the_living_and_buries_the_dead() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let kept = lab.pod("kept");
    let lost = lab.pod("lost");
    let again = in_netns(lab.node.as_fd(), || {
        let network = NodeNetwork::new(lab.network.config().clone()).unwrap();
        network.setup().unwrap();
        network
    })
    .unwrap();
    assert_eq!(again.pods().len(), 2);
    assert_eq!(again.pod("kept").unwrap().ip, kept.ip);
    let same = again.attach_pod(&kept.attach).unwrap();
    assert_eq!(same.ip, kept.ip);
    in_netns(lab.node.as_fd(), || {
        Netlink::open()
            .unwrap()
            .create_veth(&Veth {
                name: "rkpstray",
                peer_name: "x",
                ..Veth::default()
            })
            .unwrap();
    })
    .unwrap();
    assert_eq!(again.retain(|id| id == "kept").unwrap(), 2);
    assert!(again.pod("lost").is_none());
    let links = in_netns(lost.netns.as_fd(), || {
        Netlink::open().unwrap().link("eth0").unwrap()
    });
    assert!(links.unwrap().is_none());
    again.detach_pod("lost").unwrap();
    let next = in_netns(lab.node.as_fd(), || again.attach_pod(&lost.attach))
        .unwrap()
        .unwrap();
    assert_ne!(next.ip, lost.ip, "an address does not come back at once");
}

#[test]
fn attaching_is_quick() {
    if !root() {
        return;
    }
    let start = std::time::Instant::now();
    let lab = Lab::new();
    eprintln!("a lab with its node set up twice: {:?}", start.elapsed());
    let namespaces: Vec<_> = (0..20)
        .map(|_| crate::netlink::new_netns().unwrap())
        .collect();
    let start = std::time::Instant::now();
    for (n, netns) in namespaces.into_iter().enumerate() {
        lab.attach(&format!("pod-{n}"), netns, Vec::new());
    }
    eprintln!("attached: {:?} a pod", start.elapsed() / 20);
    let start = std::time::Instant::now();
    for n in 0..20 {
        lab.network.detach_pod(&format!("pod-{n}")).unwrap();
    }
    eprintln!("detached: {:?} a pod", start.elapsed() / 20);
    assert!(lab.network.pods().is_empty());
}
