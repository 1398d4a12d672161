//! Tracked connections, with packets between network namespaces.

use super::*;

#[test]
fn tracked_connections_have_upstreams_timeouts() {
    if !root() {
        return;
    }
    let p = Proxied::new();
    let timeout = |name: &str| {
        let name = format!("net/netfilter/nf_conntrack_tcp_timeout_{name}");
        in_netns(p.lab.node.as_fd(), || crate::sysctl::read(&name).unwrap()).unwrap()
    };
    assert_eq!(timeout("close_wait"), "3600");
    assert_eq!(timeout("established"), "86400");
}

#[test]
fn udp_clients_are_moved_from_endpoints_that_are_gone() {
    if !root() {
        return;
    }
    let p = Proxied::new();
    let client = p.lab.pod("client");
    let (old, new) = (p.lab.pod("old"), p.lab.pod("new"));
    let _old = Serve::udp_saying(&old.netns, SocketAddrV4::new(old.ip, 8080), "old");
    let _new = Serve::udp_saying(&new.netns, SocketAddrV4::new(new.ip, 8080), "new");
    let services = [service(
        "dns",
        json!({"clusterIP": "10.96.0.20", "ports": [{"port": 53, "protocol": "UDP"}]}),
    )];
    let socket = in_netns(client.netns.as_fd(), || {
        UdpSocket::bind("0.0.0.0:0").unwrap()
    })
    .unwrap();
    p.sync(&services, &[slice("dns", &[("", "UDP")], on(&[&old]))]);
    assert_eq!(ask_udp(&socket, at(20, 53)).unwrap(), "old");
    let report = p.sync(&services, &[slice("dns", &[("", "UDP")], on(&[&new]))]);
    assert_eq!(report.conntrack_removed, 1);
    assert_eq!(ask_udp(&socket, at(20, 53)).unwrap(), "new");
    // Without endpoints, the packet is rejected by ICMP once the entry is gone.
    p.sync(&services, &[]);
    let fresh = in_netns(client.netns.as_fd(), || {
        UdpSocket::bind("0.0.0.0:0").unwrap()
    })
    .unwrap();
    let error = ask_udp(&fresh, at(20, 53)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn udp_clients_of_a_node_port_follow_its_target_port() {
    if !root() {
        return;
    }
    let p = Proxied::new();
    let (client, server) = (p.lab.pod("client"), p.lab.pod("server"));
    let serve =
        |port, words| Serve::udp_saying(&server.netns, SocketAddrV4::new(server.ip, port), words);
    let (_old, _new) = (serve(8080, "old"), serve(8081, "new"));
    let services = [service(
        "s",
        json!({"type": "NodePort", "clusterIP": "10.96.0.20",
                "ports": [{"port": 53, "nodePort": 30053, "protocol": "UDP"}]}),
    )];
    let at_node = SocketAddrV4::new(p.lab.node_ip(), 30053);
    let bind = |netns: &std::os::fd::OwnedFd| {
        in_netns(netns.as_fd(), || UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap()
    };
    let sockets = [bind(&client.netns), bind(&p.lab.node), bind(&p.lab.world)];
    for (port, words) in [(8080, "old"), (8081, "new")] {
        let mut slice = slice("s", &[("", "UDP")], on(&[&server]));
        for target in Arc::make_mut(&mut slice).ports.iter_mut().flatten() {
            target.port = Some(port);
        }
        p.sync(&services, &[slice]);
        for socket in &sockets {
            assert_eq!(ask_udp(socket, at_node).unwrap(), words);
        }
    }
}
