//! Addresses of load balancers that the node itself answers for.

use super::*;
use crate::balance::Announcer;
use crate::node::HostPort;

#[test]
fn only_services_are_reached_at_a_load_balancers_address() {
    if !root() {
        return;
    }
    let p = Proxied::new();
    let balancer = Ipv4Addr::new(192, 168, 77, 130);
    let host_port = HostPort {
        protocol: crate::node::Protocol::Tcp,
        host_ip: None,
        host_port: 80,
        container_port: 8080,
    };
    let (web, client) = (p.lab.pod("web"), p.lab.pod("client"));
    let host = p.lab.pod_with("host", vec![host_port]);
    let (_web, _host) = (name(&web, "web"), name(&host, "host"));
    let anywhere = Ipv4Addr::UNSPECIFIED;
    let _ssh = Serve::tcp(&p.lab.node, SocketAddrV4::new(anywhere, 22));
    let make = |policy: &str, ranges: Value| {
        with_status(
            "web",
            spec(
                json!({"type": "LoadBalancer", "externalTrafficPolicy": policy,
                       "ports": [{"port": 80, "nodePort": 30080}], "loadBalancerSourceRanges": ranges}),
            ),
            json!({"loadBalancer": {"ingress": [{"ip": balancer}]}}),
        )
    };
    let slices = [slice("web", &[("", "TCP")], on(&[&web]))];
    p.sync(&[make("Local", json!([]))], &slices);
    in_netns(p.lab.node.as_fd(), || {
        let range = net("192.168.77.128/25");
        let announcer = Announcer::open("eth0", p.lab.node_ip(), range).unwrap();
        announcer.set(&[balancer].into()).unwrap();
    })
    .unwrap();
    let at = |port| SocketAddrV4::new(balancer, port);
    // Not the host port, which the node has at its own address.
    assert_eq!(p.lab.ask_from_world(at(80)).unwrap(), "web");
    assert_eq!(client.ask(at(80)).unwrap(), "web");
    assert_eq!(p.lab.ask_from_node(at(80)).unwrap(), "web");
    let own = SocketAddrV4::new(p.lab.node_ip(), 80);
    assert_eq!(p.lab.ask_from_world(own).unwrap(), "host");
    for port in [22, 30080, 81] {
        let error = p.lab.ask_from_world(at(port)).unwrap_err();
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::ConnectionRefused,
            "{port}"
        );
    }
    p.lab
        .ask_from_world(SocketAddrV4::new(p.lab.node_ip(), 22))
        .unwrap();
    // The machine itself is the client.
    p.sync(&[make("Local", json!(["203.0.113.0/24"]))], &slices);
    let error = ask_in_vain(&p.lab.world, at(80));
    assert_eq!(error, std::io::ErrorKind::TimedOut);
    p.sync(&[make("Local", json!(["192.168.77.1/32"]))], &slices);
    assert_eq!(p.lab.ask_from_world(at(80)).unwrap(), "web");
}
