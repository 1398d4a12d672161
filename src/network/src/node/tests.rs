//! Tests with a node, its pods and an outside machine in separate network namespaces.

use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::*;
use crate::netlink::{Netlink, Route, Veth, in_netns};
use crate::testing::{Serve, TestNetwork, ask_in_vain, listed, root};

#[test]
fn pods_reach_each_other_the_node_and_the_world() {
    if !root() {
        return;
    }
    let lab = TestNetwork::new();
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
    let peer: IpNet = "10.244.9.0/24".parse().unwrap();
    let routes = [(peer, lab.world_ip().into())];
    lab.network.set_routes(&routes).unwrap();
    lab.network.set_routes(&routes).unwrap();
    lab.route_world_to_pods();
    assert_eq!(one.ask(port(lab.world_ip())).unwrap(), one.ip.to_string());
    lab.network.set_routes(&[]).unwrap();
    let routes = in_netns(lab.node.as_fd(), || {
        Netlink::open().unwrap().routes().unwrap()
    })
    .unwrap();
    assert!(!routes.iter().any(|route| route.destination == peer));
}

#[test]
fn pods_reach_each_other_the_node_and_the_world_by_ipv6() {
    if !root() {
        return;
    }
    let Some(lab) = TestNetwork::dual() else {
        return;
    };
    let port = HostPort {
        protocol: Protocol::Tcp,
        host_ip: None,
        host_port: 80,
        container_port: 8080,
    };
    let one = lab.pod_with("one", vec![port]);
    let two = lab.pod("two");
    let (first, second) = (one.ipv6.unwrap(), two.ipv6.unwrap());
    assert_eq!(first, "fd00:10:244:1::2".parse::<Ipv6Addr>().unwrap());
    let node: Ipv6Addr = "fd00:77::2".parse().unwrap();
    let world: Ipv6Addr = "fd00:77::1".parse().unwrap();
    let at = |ip: Ipv6Addr, port| SocketAddr::from((ip, port));

    let _two = Serve::tcp(&two.netns, at(second, 8080));
    assert_eq!(one.ask(at(second, 8080)).unwrap(), first.to_string());
    let _node = Serve::tcp(&lab.node, at(node, 8080));
    assert_eq!(one.ask(at(node, 8080)).unwrap(), first.to_string());
    // Machines outside the cluster have no route to pods, so they see the node's address.
    let _world = Serve::tcp(&lab.world, at(world, 8080));
    assert_eq!(one.ask(at(world, 8080)).unwrap(), node.to_string());
    // A host port, from outside, from another pod and from the pod itself.
    let _one = Serve::tcp(&one.netns, at(first, 8080));
    assert_eq!(lab.ask_from_world(at(node, 80)).unwrap(), world.to_string());
    assert_eq!(two.ask(at(node, 80)).unwrap(), second.to_string());
    one.ask(at(node, 80)).unwrap();
    // Other nodes do have a route.
    let peer: IpNet = "fd00:10:244:9::/64".parse().unwrap();
    lab.network.set_routes(&[(peer, world.into())]).unwrap();
    lab.network.set_routes(&[(peer, world.into())]).unwrap();
    let routes = || {
        in_netns(lab.node.as_fd(), || {
            Netlink::open().unwrap().routes().unwrap()
        })
    };
    let found = routes().unwrap();
    assert_eq!(found.iter().filter(|r| r.destination == peer).count(), 1);
    lab.network.set_routes(&[]).unwrap();
    let found = routes().unwrap();
    assert!(found.iter().all(|route| route.destination != peer));
}

#[test]
fn a_pod_cannot_send_with_the_ipv6_address_of_another_one() {
    if !root() {
        return;
    }
    let Some(lab) = TestNetwork::dual() else {
        return;
    };
    let (one, two) = (lab.pod("one"), lab.pod("two"));
    let node = SocketAddr::from(("fd00:77::2".parse::<Ipv6Addr>().unwrap(), 8080));
    let _node = Serve::tcp(&lab.node, node);
    one.ask(node).unwrap();
    let (own, other) = (one.ipv6.unwrap(), two.ipv6.unwrap());
    in_netns(one.netns.as_fd(), || {
        let netlink = Netlink::open().unwrap();
        netlink
            .delete_address("eth0", Ipv6Net::new_assert(own, 64))
            .unwrap();
        netlink
            .add_address("eth0", Ipv6Net::new_assert(other, 64))
            .unwrap();
    })
    .unwrap();
    ask_in_vain(&one.netns, node);
    two.ask(node).unwrap();
}

#[test]
fn neighbours_exchange_no_frames() {
    if !root() {
        return;
    }
    let lab = TestNetwork::new();
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
    let lab = TestNetwork::new();
    let host_port = |host_ip: Option<Ipv4Addr>, host_port| HostPort {
        protocol: Protocol::Tcp,
        host_ip: host_ip.map(Into::into),
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
fn host_ports_end_with_the_pod_if_the_guard_cannot_be_written() {
    if !root() {
        return;
    }
    let lab = TestNetwork::new();
    let port = HostPort {
        protocol: Protocol::Tcp,
        host_ip: None,
        host_port: 4321,
        container_port: 8080,
    };
    lab.pod_with("web", vec![port]);
    let Some(before) = listed(&lab.node) else {
        return;
    };
    if !before.contains("table bridge rkube-guard") {
        rkube_testing::not_applicable("the kernel cannot filter frames");
        return;
    }
    assert!(before.contains("4321"), "{before}");
    // A table that belongs to another socket cannot be changed.
    let mut owner = in_netns(lab.node.as_fd(), || {
        Command::new("nft")
            .arg("-i")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    })
    .unwrap();
    let mut input = owner.stdin.take().unwrap();
    input
        .write_all(
            b"delete table bridge rkube-guard\nadd table bridge rkube-guard { flags owner; }\n",
        )
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut owned = false;
    while !owned && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
        owned = listed(&lab.node).unwrap().contains("flags owner");
    }
    let detached = lab.network.detach_pod("web");
    let after = listed(&lab.node).unwrap();
    drop(input);
    owner.wait().unwrap();
    assert!(owned, "nft has not made the table");
    assert!(detached.is_err(), "the guard was written");
    assert!(!after.contains("4321"), "{after}");
}

#[test]
fn a_restarted_agent_keeps_the_living_and_buries_the_dead() {
    if !root() {
        return;
    }
    let lab = TestNetwork::new();
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
    let lab = TestNetwork::new();
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

/// Returns a frame to the gateway, with a tag at its end.
fn frame(pod: &PodNetwork, source: [u8; 6], kind: u16, body: &[u8], tag: &str) -> Vec<u8> {
    let to = types::mac_of(pod.gateway);
    [&to, &source, &kind.to_be_bytes()[..], body, tag.as_bytes()].concat()
}

fn ipv4(source: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let head = [0x45, 0, 0, 40, 0, 0, 0, 0, 64, 253, 0, 0];
    [&head[..], &source.octets(), &to.octets()].concat()
}

fn arp(mac: [u8; 6], ip: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 2];
    [&head[..], &mac, &ip.octets(), &[0; 6], &to.octets()].concat()
}

/// Returns the tags of the frames that arrive at the bridge, up to the tag `last`.
fn arriving(at_bridge: &OwnedFd, last: &str) -> Vec<String> {
    let mut tags = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        assert!(Instant::now() < deadline, "only {tags:?} arrived");
        let mut buffer = [0; 2048];
        let Ok(length) = nix::unistd::read(at_bridge.as_raw_fd(), &mut buffer) else {
            continue;
        };
        let frame = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if let Some((_, tag)) = frame.rsplit_once("tag:") {
            tags.push(tag.to_owned());
            if tag == last {
                return tags;
            }
        }
    }
}

#[test]
fn pods_send_with_their_own_addresses_only() {
    if !root() {
        return;
    }
    let lab = TestNetwork::new();
    let (one, two) = (lab.pod("one"), lab.pod("two"));
    let (own, other) = (
        lab.network.pod("one").unwrap(),
        lab.network.pod("two").unwrap(),
    );
    // As the next agent finds them.
    let again = in_netns(lab.node.as_fd(), || {
        let network = NodeNetwork::new(lab.network.config().clone()).unwrap();
        network.setup().unwrap();
        network
    })
    .unwrap();
    let from = packet_socket(&one.netns, "eth0");
    let at_bridge = packet_socket(&lab.node, "rk0");
    let gateway = own.gateway;
    let unused = Ipv4Addr::new(10, 244, 1, 200);
    let vlan = [&[0, 1, 8, 0][..], &ipv4(other.ip, gateway)].concat();
    let zero = Ipv4Addr::UNSPECIFIED;
    let frames = [
        ("tag:ip", own.mac, 0x0800, ipv4(other.ip, gateway)),
        ("tag:unused ip", own.mac, 0x0800, ipv4(unused, gateway)),
        ("tag:no ip", own.mac, 0x0800, ipv4(zero, gateway)),
        ("tag:mac", other.mac, 0x0800, ipv4(own.ip, gateway)),
        (
            "tag:gateway",
            types::mac_of(gateway),
            0x0800,
            ipv4(own.ip, gateway),
        ),
        ("tag:both", other.mac, 0x0800, ipv4(other.ip, gateway)),
        (
            "tag:arp ip",
            own.mac,
            0x0806,
            arp(own.mac, other.ip, gateway),
        ),
        (
            "tag:arp gateway",
            own.mac,
            0x0806,
            arp(own.mac, gateway, other.ip),
        ),
        (
            "tag:arp mac",
            own.mac,
            0x0806,
            arp(other.mac, own.ip, gateway),
        ),
        (
            "tag:arp frame",
            other.mac,
            0x0806,
            arp(own.mac, own.ip, gateway),
        ),
        ("tag:short arp", own.mac, 0x0806, vec![0, 1]),
        ("tag:ipv6", own.mac, 0x86dd, vec![0x60; 40]),
        ("tag:vlan", own.mac, 0x8100, vlan),
        ("tag:llc", own.mac, 0x0026, vec![0x42, 0x42, 3]),
        ("tag:own probe", own.mac, 0x0806, arp(own.mac, zero, own.ip)),
        (
            "tag:own arp",
            own.mac,
            0x0806,
            arp(own.mac, own.ip, gateway),
        ),
        ("tag:own ip", own.mac, 0x0800, ipv4(own.ip, gateway)),
    ];
    for (tag, mac, kind, body) in frames {
        nix::unistd::write(&from, &frame(&own, mac, kind, &body, tag)).unwrap();
    }
    let arrived = arriving(&at_bridge, "own ip");
    assert_eq!(arrived, ["own probe", "own arp", "own ip"]);

    // Link-local frames pass the filter, but do not tell the bridge where a pod is.
    let port = SocketAddrV4::new(two.ip, 8080);
    let _two = Serve::tcp(&two.netns, port);
    lab.ask_from_node(port).unwrap();
    let lldp = [0x01, 0x80, 0xc2, 0, 0, 0x0e];
    let forged = [&lldp, &other.mac, &[0x88, 0xcc, 0, 0][..]].concat();
    nix::unistd::write(&from, &forged).unwrap();
    lab.ask_from_node(port).unwrap();

    again.detach_pod("two").unwrap();
    if let Some(rules) = listed(&lab.node) {
        assert!(
            rules.contains(&own.host_link) && !rules.contains(&other.host_link),
            "{rules}"
        );
    }
}

/// Opens a socket for all frames of an interface.
fn packet_socket(netns: &OwnedFd, link: &str) -> OwnedFd {
    let index = Netlink::open_in(netns.as_fd())
        .unwrap()
        .index_of(link)
        .unwrap();
    in_netns(netns.as_fd(), || {
        let all = (libc::ETH_P_ALL as u16).to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: plain system calls; the address is complete and outlives its call.
        unsafe {
            let fd = libc::socket(libc::AF_PACKET, kind, i32::from(all));
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            let fd = OwnedFd::from_raw_fd(fd);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = all;
            address.sll_ifindex = index.cast_signed();
            let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            let bound = libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length);
            assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
            fd
        }
    })
    .unwrap()
}
