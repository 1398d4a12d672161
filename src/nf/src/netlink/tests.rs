//! Tests against the running kernel, in separate network namespaces.

use std::os::fd::AsFd;

use ipnet::{IpNet, Ipv4Net};

use super::*;
use crate::testing::root;

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

#[test]
fn links_addresses_and_routes_live_and_die() {
    if !root() {
        return;
    }
    let (left, right) = (new_netns().unwrap(), new_netns().unwrap());
    let nl = Netlink::open_in(left.as_fd()).unwrap();
    let peer = Netlink::open_in(right.as_fd()).unwrap();

    let bridge = nl.create_bridge("rk0").unwrap();
    let again = nl.create_bridge("rk0").unwrap_err();
    assert!(again.is_exists());
    assert_eq!(again.to_string(), "cannot create bridge rk0: File exists");
    let index = nl
        .create_veth(&Veth {
            name: "pod1",
            master: Some(bridge),
            mtu: Some(1400),
            up: true,
            peer_name: "eth0",
            peer_mac: Some([2, 0, 0, 0, 0, 9]),
            peer_netns: Some(Netns::Fd(right.as_fd())),
            ..Veth::default()
        })
        .unwrap();
    nl.set_hairpin(index, true).unwrap();
    nl.set_isolated(index, true).unwrap();
    nl.set_up("rk0").unwrap();
    nl.set_up("lo").unwrap();

    let link = nl.link("pod1").unwrap().unwrap();
    assert_eq!(
        (link.index, link.master, link.mtu, link.up),
        (index, Some(bridge), 1400, true)
    );
    assert_eq!(link.kind.as_deref(), Some("veth"));
    assert_eq!(nl.link(index).unwrap().unwrap(), link);
    assert_eq!(
        nl.link("rk0").unwrap().unwrap().kind.as_deref(),
        Some("bridge")
    );
    assert!(nl.link("nowhere").unwrap().is_none());
    assert!(nl.links().unwrap().iter().any(|link| link.loopback));
    let eth0 = peer.link("eth0").unwrap().unwrap();
    assert_eq!(
        (eth0.mac, eth0.mtu, eth0.up),
        (Some([2, 0, 0, 0, 0, 9]), 1400, false)
    );
    assert_eq!(link.peer, Some(eth0.index));

    nl.add_address("rk0", net("10.9.0.1/24")).unwrap();
    nl.add_address("rk0", net("10.9.0.1/24")).unwrap();
    peer.add_address("eth0", net("10.9.0.2/24")).unwrap();
    peer.set_up("eth0").unwrap();
    let expected = Address {
        link: bridge,
        net: IpNet::V4(net("10.9.0.1/24")),
    };
    assert!(nl.addresses().unwrap().contains(&expected));

    let default = Route::via(net("0.0.0.0/0"), std::net::Ipv4Addr::new(10, 9, 0, 1));
    peer.add_route(&default).unwrap();
    assert!(peer.add_route(&default).unwrap_err().is_exists());
    peer.replace_route(&default).unwrap();
    let found: Vec<_> = peer
        .routes()
        .unwrap()
        .into_iter()
        .filter(|r| r.destination.prefix_len() == 0 && r.gateway.is_some())
        .collect();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].gateway, found[0].link),
        (default.gateway, Some(eth0.index))
    );
    assert!(peer.delete_route(&default).unwrap());
    assert!(!peer.delete_route(&default).unwrap());
    let unreachable = Route::via(net("10.77.0.0/16"), std::net::Ipv4Addr::new(10, 88, 0, 1));
    let error = peer.add_route(&unreachable).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot add route 10.77.0.0/16 via 10.88.0.1: Network is unreachable"),
        "{error}"
    );

    assert!(nl.delete_address("rk0", net("10.9.0.1/24")).unwrap());
    assert!(!nl.delete_address("rk0", net("10.9.0.1/24")).unwrap());
    assert!(nl.delete_link("pod1").unwrap());
    assert!(!nl.delete_link("pod1").unwrap());
    assert!(peer.link("eth0").unwrap().is_none());
}

#[test]
fn a_link_is_renamed_changed_and_moved() {
    if !root() {
        return;
    }
    let (left, right) = (new_netns().unwrap(), new_netns().unwrap());
    let nl = Netlink::open_in(left.as_fd()).unwrap();
    nl.create_veth(&Veth {
        name: "a",
        peer_name: "b",
        ..Veth::default()
    })
    .unwrap();
    nl.rename("a", "c").unwrap();
    nl.set_mtu("c", 1300).unwrap();
    nl.set_mac("c", [2, 0, 0, 0, 0, 1]).unwrap();
    nl.set_up("c").unwrap();
    nl.set_down("c").unwrap();
    let link = nl.link("c").unwrap().unwrap();
    assert_eq!(
        (link.mtu, link.mac, link.up),
        (1300, Some([2, 0, 0, 0, 0, 1]), false)
    );
    nl.create_bridge("br").unwrap();
    nl.set_master("c", Some("br".into())).unwrap();
    assert!(nl.link("c").unwrap().unwrap().master.is_some());
    nl.set_master("c", None).unwrap();
    assert!(nl.link("c").unwrap().unwrap().master.is_none());
    nl.move_to("c", Netns::Fd(right.as_fd())).unwrap();
    assert!(nl.link("c").unwrap().is_none());
    assert!(
        Netlink::open_in(right.as_fd())
            .unwrap()
            .link("c")
            .unwrap()
            .is_some()
    );
}

#[test]
fn impossible_names_are_refused_with_the_reason() {
    if !root() {
        return;
    }
    let ns = new_netns().unwrap();
    let nl = Netlink::open_in(ns.as_fd()).unwrap();
    let error = nl
        .create_bridge("a-name-that-is-too-long")
        .unwrap_err()
        .to_string();
    assert!(error.contains("1 to 15 characters"), "{error}");
    assert!(nl.set_up("nowhere").unwrap_err().is_not_found());
}

#[test]
fn a_namespace_is_entered_by_a_thread_of_its_own() {
    if !root() {
        return;
    }
    let ns = new_netns().unwrap();
    let names = in_netns(ns.as_fd(), || Netlink::open().unwrap().links().unwrap()).unwrap();
    assert!(
        names
            .iter()
            .all(|link| link.index <= 1 || link.kind.is_some()),
        "{names:?}"
    );
    let value = in_netns(ns.as_fd(), || {
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
    })
    .unwrap();
    assert!(value.is_ok());
}
