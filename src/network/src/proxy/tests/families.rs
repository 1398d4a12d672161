//! Services of both families, with packets of IPv6.

use std::net::{Ipv6Addr, SocketAddr};

use super::*;
use crate::testing::ask;

fn dual_config() -> ProxyConfig {
    let mut config = config();
    config
        .cluster_cidrs
        .push("fd00:10:244::/56".parse().unwrap());
    config
}

fn slice6(service: &str, endpoints: Value) -> Arc<EndpointSlice> {
    let mut slice = (*slice(service, &[("", "TCP")], endpoints)).clone();
    slice.address_type = "IPv6".into();
    slice.metadata.name = Some(format!("{service}-6"));
    Arc::new(slice)
}

#[test]
fn each_family_has_its_endpoints_and_addresses() {
    let both = with_status(
        "both",
        json!({"clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20", "fd00:10:96::20"],
               "type": "LoadBalancer", "externalIPs": ["203.0.113.1", "2001:db8::1"],
               "loadBalancerSourceRanges": ["10.0.0.0/8"],
               "ports": [{"port": 80, "nodePort": 30080}]}),
        json!({"loadBalancer": {"ingress": [{"ip": "192.168.77.130"}, {"ip": "2001:db8::2"}]}}),
    );
    let slices = [
        slice(
            "both",
            &[("", "TCP")],
            json!([{"addresses": ["10.244.0.1"]}]),
        ),
        slice6("both", json!([{"addresses": ["fd00:10:244::1"]}])),
    ];
    let state = state(&[both], &slices);
    let [four, six] = state.ports.as_slice() else {
        panic!("{:?}", state.ports);
    };
    let texts = |port: &ServicePort| -> Vec<String> {
        let endpoints = port.endpoints.iter().map(|endpoint| endpoint.ip);
        let all = [port.cluster_ip].into_iter().chain(endpoints);
        let all = all.chain(port.external_ips.iter().copied());
        let all = all.chain(port.load_balancer_ips.iter().copied());
        all.map(|ip| ip.to_string()).collect()
    };
    assert_eq!(
        texts(four),
        ["10.96.0.20", "10.244.0.1", "203.0.113.1", "192.168.77.130"]
    );
    assert_eq!(
        texts(six),
        [
            "fd00:10:96::20",
            "fd00:10:244::1",
            "2001:db8::1",
            "2001:db8::2"
        ]
    );
    assert_eq!((four.source_ranges.len(), six.source_ranges.len()), (1, 0));

    let rules = compile(&state, &dual_config());
    let families: Vec<Family> = rules.tables.iter().map(|table| table.family).collect();
    assert_eq!(families, [Family::Ip, Family::Ip6]);
    for table in &rules.tables {
        assert_eq!(table.sets["service-ips"].elements.len(), 3);
        assert_eq!(table.sets["service-nodeports"].elements.len(), 1);
    }
    // A cluster of one family has one table.
    assert_eq!(compile(&state, &config()).tables.len(), 1);
}

#[test]
fn services_are_reached_by_ipv6() {
    if !root() {
        return;
    }
    let Some(lab) = TestNetwork::dual() else {
        return;
    };
    let (one, client) = (lab.pod("one"), lab.pod("client"));
    let ip = one.ipv6.unwrap();
    let at = |ip: &str, port| SocketAddr::from((ip.parse::<Ipv6Addr>().unwrap(), port));
    let _serve = Serve::tcp(&one.netns, SocketAddr::from((ip, 8080)));
    let spec = |cluster_ip: &str, port: u16, extra: Value| {
        let mut spec = json!({"clusterIP": cluster_ip, "type": "NodePort",
            "ports": [{"port": 80, "nodePort": port}]});
        spec.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        spec
    };
    let services = [
        service("plain", spec("fd00:10:96::20", 30080, json!({}))),
        service(
            "sticky",
            spec(
                "fd00:10:96::21",
                30081,
                json!({"sessionAffinity": "ClientIP"}),
            ),
        ),
        service(
            "local",
            spec(
                "fd00:10:96::22",
                30082,
                json!({"externalTrafficPolicy": "Local"}),
            ),
        ),
        service("empty", spec("fd00:10:96::23", 30083, json!({}))),
    ];
    let endpoints = json!([{"addresses": [ip], "nodeName": "node-1"}]);
    let slices: Vec<_> = ["plain", "sticky", "local"]
        .map(|name| slice6(name, endpoints.clone()))
        .into();
    let proxy = in_netns(lab.node.as_fd(), || {
        ServiceProxy::new(dual_config()).unwrap()
    })
    .unwrap();
    proxy.sync(&state(&services, &slices)).unwrap();
    assert!(!proxy.sync(&state(&services, &slices)).unwrap().changed);

    let from = client.ipv6.unwrap().to_string();
    for last in ["20", "21", "22"] {
        let address = at(&format!("fd00:10:96::{last}"), 80);
        assert_eq!(client.ask(address).unwrap(), from, "{address}");
        // A pod that reaches itself comes from its node.
        let gateway = "fd00:10:244:1::1";
        assert_eq!(one.ask(address).unwrap(), gateway, "{address}");
        assert_eq!(lab.ask_from_node(address).unwrap(), gateway, "{address}");
    }
    // Node ports: masqueraded, except with the policy Local.
    let world = "fd00:77::1";
    for (port, seen) in [
        (30080, "fd00:10:244:1::1"),
        (30081, "fd00:10:244:1::1"),
        (30082, world),
    ] {
        let answer = lab.ask_from_world(at("fd00:77::2", port)).unwrap();
        assert_eq!(answer, seen, "{port}");
    }
    let refused = std::io::ErrorKind::ConnectionRefused;
    for address in [
        at("fd00:10:96::23", 80),
        at("fd00:10:96::20", 81),
        at("fd00:77::2", 30083),
    ] {
        let error = ask(&client.netns, address).unwrap_err();
        assert_eq!(error.kind(), refused, "{address}");
    }
    proxy.cleanup().unwrap();
    ask_in_vain(&lab.world, at("fd00:77::2", 30080));
}
