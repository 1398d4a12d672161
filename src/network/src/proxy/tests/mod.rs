//! Tests of the compiled rules, and of packets through them with a node, pods and an outside
//! machine in separate network namespaces.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::*;
use crate::netlink::in_netns;
use crate::nft::{Family, Nftables, Table};
use crate::testing::{Pod, Serve, TestNetwork, ask_in_vain, ask_udp, listed, net, root};

mod balancer;
mod conntrack;
mod families;

fn service(name: &str, spec: Value) -> Arc<Service> {
    with_status(name, spec, json!({}))
}

fn with_status(name: &str, spec: Value, status: Value) -> Arc<Service> {
    let object =
        json!({"metadata": {"namespace": "default", "name": name}, "spec": spec, "status": status});
    Arc::new(serde_json::from_value(object).unwrap())
}

/// Returns a slice of `service` with port 8080 under each of `ports` (name, protocol).
fn slice(service: &str, ports: &[(&str, &str)], endpoints: Value) -> Arc<EndpointSlice> {
    let ports: Vec<Value> = ports
        .iter()
        .map(|(name, protocol)| json!({"name": name, "protocol": protocol, "port": 8080}))
        .collect();
    let object = json!({
        "metadata": {"namespace": "default", "name": format!("{service}-x"),
                     "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn config() -> ProxyConfig {
    ProxyConfig {
        node_name: "node-1".into(),
        cluster_cidrs: vec![net("10.244.0.0/16").into()],
        local_ips: vec![Ipv4Addr::new(10, 96, 0, 10).into()],
        load_balancers: Some(net("192.168.77.128/25")),
    }
}

fn state(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> ServiceState {
    ServiceState::from_objects(services, slices, "node-1")
}

fn chains(table: &Table, prefix: &str) -> usize {
    table
        .chains
        .keys()
        .filter(|name| name.starts_with(prefix))
        .count()
}

fn spec(extra: Value) -> Value {
    let mut spec = json!({"clusterIP": "10.96.0.20", "ports": [{"port": 80, "protocol": "TCP"}]});
    let Value::Object(extra) = extra else {
        panic!("an object")
    };
    spec.as_object_mut().unwrap().extend(extra);
    spec
}

#[test]
fn headless_named_and_foreign_services_are_left_alone() {
    let mut foreign = (*service("foreign", spec(json!({})))).clone();
    foreign.metadata.labels = Some(
        [(
            "service.kubernetes.io/service-proxy-name".into(),
            "x".into(),
        )]
        .into(),
    );
    let services = [
        service(
            "headless",
            json!({"clusterIP": "None", "ports": [{"port": 80}]}),
        ),
        service(
            "name",
            json!({"type": "ExternalName", "externalName": "example.com"}),
        ),
        Arc::new(foreign),
    ];
    assert!(state(&services, &[]).ports.is_empty());
    let dual = service(
        "dual",
        json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.96.0.9"], "ports": [{"port": 80}]}),
    );
    let ports = state(&[dual], &[]).ports;
    let ips: Vec<String> = ports
        .iter()
        .map(|port| port.cluster_ip.to_string())
        .collect();
    assert_eq!(ips, ["10.96.0.9", "fd00::1"]);
    // Cluster DNS is served by the node itself.
    let dns = service(
        "kube-dns",
        json!({"clusterIP": "10.96.0.10", "ports": [{"port": 53}]}),
    );
    let rules = compile(&state(&[dns], &[]), &config());
    assert!(rules.tables[0].sets["no-endpoint-ips"].elements.is_empty());
}

#[test]
fn the_nodes_zone_decides_between_hinted_endpoints() {
    let hinted = |last: u8, zone: &str| json!({"addresses": [format!("10.244.0.{last}")], "conditions": {"ready": true}, "hints": {"forZones": [{"name": zone}]}});
    let endpoints = json!([
        hinted(1, "zone-1"),
        hinted(2, "zone-2"),
        hinted(3, "zone-2")
    ]);
    let state = state(
        &[service("s", spec(json!({})))],
        &[slice("s", &[("", "TCP")], endpoints)],
    );
    let count = |zone: Option<&str>| {
        let state = state.clone().in_zone(zone.map(Into::into));
        let rules = compile(&state, &config());
        rules.tables[0].sets["hairpins"].elements.len()
    };
    assert_eq!(count(None), 3);
    assert_eq!(count(Some("zone-1")), 1);
    assert_eq!(count(Some("zone-2")), 2);
    assert_eq!(count(Some("zone-3")), 3);
}

#[test]
fn endpoints_are_chosen_by_condition_policy_and_hint() {
    let choose = |extra: Value, endpoints: Value| {
        let state = state(
            &[service("s", spec(extra))],
            &[slice("s", &[("", "TCP")], endpoints)],
        );
        let found = categorize(&state.ports[0], "node-1", Some("zone-1"));
        let last_byte = |e: &&Endpoint| match e.ip {
            std::net::IpAddr::V4(ip) => ip.octets()[3],
            std::net::IpAddr::V6(_) => unreachable!("the slice is of IPv4"),
        };
        let last = |list: &[&Endpoint]| list.iter().map(last_byte).collect::<Vec<_>>();
        (last(&found.cluster), last(&found.local), found.any)
    };
    let at = |last: u8, node: &str, conditions: Value| json!({"addresses": [format!("10.244.0.{last}")], "nodeName": node, "conditions": conditions});
    let ready = || json!({"ready": true});
    let draining = || json!({"ready": false, "serving": true, "terminating": true});
    let gone = || json!({"ready": false, "serving": false, "terminating": true});

    // Ready endpoints are preferred, then those still serving.
    let all = json!([
        at(1, "a", ready()),
        at(2, "node-1", draining()),
        at(3, "a", gone())
    ]);
    assert_eq!(choose(json!({}), all), (vec![1], vec![], true));
    let old = json!([
        at(2, "node-1", draining()),
        at(3, "a", gone()),
        at(4, "a", json!({"ready": false}))
    ]);
    assert_eq!(choose(json!({}), old), (vec![2], vec![], true));
    assert_eq!(
        choose(json!({}), json!([at(3, "a", gone())])),
        (vec![], vec![], false)
    );
    // Local policies.
    let local = json!({"internalTrafficPolicy": "Local"});
    let both = json!([at(1, "a", ready()), at(2, "node-1", ready())]);
    assert_eq!(choose(local.clone(), both.clone()), (vec![], vec![2], true));
    assert_eq!(
        choose(local.clone(), json!([at(1, "a", ready())])),
        (vec![], vec![], true)
    );
    let drained = json!([at(1, "a", ready()), at(2, "node-1", draining())]);
    assert_eq!(choose(local, drained), (vec![], vec![2], true));
    let external = json!({"externalTrafficPolicy": "Local", "externalIPs": ["203.0.113.1"]});
    assert_eq!(choose(external, both), (vec![1, 2], vec![2], true));
    // Hints apply if all ready endpoints have them and one matches this node.
    let hinted = |last: u8, zone: &str| json!({"addresses": [format!("10.244.0.{last}")], "hints": {"forZones": [{"name": zone}]}});
    assert_eq!(
        choose(json!({}), json!([hinted(1, "zone-1"), hinted(2, "zone-2")])).0,
        [1]
    );
    assert_eq!(
        choose(json!({}), json!([hinted(1, "zone-3"), hinted(2, "zone-2")])).0,
        [1, 2]
    );
    assert_eq!(
        choose(json!({}), json!([hinted(1, "zone-1"), at(2, "a", ready())])).0,
        [1, 2]
    );
    let node = |last: u8, node: &str| {
        json!({"addresses": [format!("10.244.0.{last}")],
               "hints": {"forZones": [{"name": "zone-1"}], "forNodes": [{"name": node}]}})
    };
    assert_eq!(
        choose(json!({}), json!([node(1, "node-1"), node(2, "node-2")])).0,
        [1]
    );
    assert_eq!(
        choose(json!({}), json!([node(1, "node-3"), node(2, "node-2")])).0,
        [1, 2]
    );
    // The address of a terminating pod that already belongs to a new one.
    assert_eq!(
        choose(
            json!({}),
            json!([at(1, "a", draining()), at(1, "a", ready())])
        )
        .0,
        [1]
    );
}

#[test]
fn only_what_is_needed_is_compiled() {
    let endpoints = || json!([{"addresses": ["10.244.0.1"]}, {"addresses": ["10.244.0.2"]}]);
    let one = state(
        &[service("s", spec(json!({})))],
        &[slice("s", &[("", "TCP")], endpoints())],
    );
    let rules = compile(&one, &config());
    assert_eq!(chains(&rules.tables[0], "service-"), 1);
    assert_eq!(chains(&rules.tables[0], "endpoint-"), 0);
    assert_eq!(rules.tables[0].sets["endpoints"].elements.len(), 2);
    assert_eq!(
        (
            chains(&rules.tables[0], "external-"),
            chains(&rules.tables[0], "local-")
        ),
        (0, 0)
    );
    assert_eq!(rules.tables[0].sets["service-ips"].elements.len(), 1);
    assert_eq!(compile(&one, &config()), rules);

    let lb = with_status(
        "s",
        spec(
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
                    "ports": [{"port": 80, "nodePort": 30080}], "loadBalancerSourceRanges": ["203.0.113.0/24"]}),
        ),
        json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "Proxy"}]}}),
    );
    let rules = compile(
        &state(&[lb], &[slice("s", &[("", "TCP")], endpoints())]),
        &config(),
    );
    let sizes = |name: &str| rules.tables[0].sets[name].elements.len();
    assert_eq!(sizes("service-ips"), 2);
    assert_eq!(sizes("service-nodeports"), 1);
    assert_eq!(sizes("firewall-ips"), 1);
    // No endpoint is on this node: outside traffic is dropped, not rejected.
    assert_eq!(
        (sizes("no-endpoint-ips"), sizes("no-endpoint-nodeports")),
        (1, 1)
    );
    assert_eq!(rules.health_checks[&31000].local_endpoints, 0);
}

#[test]
fn health_checks_count_ready_endpoints_only() {
    let lb = service(
        "s",
        json!({"type": "LoadBalancer", "clusterIP": "10.96.0.20", "externalTrafficPolicy": "Local",
                "healthCheckNodePort": 31000, "ports": [{"port": 80, "nodePort": 30080}]}),
    );
    let count = |conditions: &[Value]| {
        let endpoints: Value = (2..)
            .zip(conditions)
            .map(|(last, conditions)| {
                json!({"addresses": [format!("10.244.1.{last}")], "nodeName": config().node_name,
                        "conditions": conditions})
            })
            .collect();
        let state = state(
            std::slice::from_ref(&lb),
            &[slice("s", &[("", "TCP")], endpoints)],
        );
        let rules = compile(&state, &config());
        (
            rules.health_checks[&31000].local_endpoints,
            rules.tables[0].sets["no-endpoint-ips"].elements.len(),
        )
    };
    let ready = json!({"ready": true, "serving": true, "terminating": false});
    let terminating = json!({"ready": false, "serving": true, "terminating": true});
    assert_eq!(count(&[ready.clone(), terminating.clone()]), (1, 0));
    // They still serve what arrives, but no more shall.
    assert_eq!(count(&[terminating]), (0, 0));
}

struct Proxied {
    lab: TestNetwork,
    proxy: ServiceProxy,
}

impl Proxied {
    fn new() -> Self {
        let lab = TestNetwork::new();
        let proxy = in_netns(lab.node.as_fd(), || ServiceProxy::new(config()).unwrap()).unwrap();
        lab.route_world(net("10.96.0.0/12"));
        lab.route_world(net("203.0.113.0/24"));
        Self { lab, proxy }
    }

    fn sync(&self, services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> SyncReport {
        self.proxy.sync(&state(services, slices)).unwrap()
    }
}

fn at(last: u8, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, last), port)
}

fn on(pods: &[&Pod]) -> Value {
    pods.iter()
        .map(|pod| json!({"addresses": [pod.ip], "nodeName": "node-1"}))
        .collect()
}

fn serve(pod: &Pod) -> Serve {
    Serve::tcp(&pod.netns, SocketAddrV4::new(pod.ip, 8080))
}

fn name(pod: &Pod, words: &str) -> Serve {
    Serve::tcp_saying(
        &pod.netns,
        SocketAddrV4::new(pod.ip, 8080),
        Some(words.into()),
    )
}

#[test]
fn a_cluster_address_leads_to_its_pods_from_pods_and_node() {
    if !root() {
        return;
    }
    let p = Proxied::new();
    let (client, web) = (p.lab.pod("client"), p.lab.pod("web"));
    let _web = serve(&web);
    let services = [service("web", spec(json!({})))];
    let slices = [slice("web", &[("", "TCP")], on(&[&web]))];
    assert!(p.sync(&services, &slices).changed);
    assert!(!p.sync(&services, &slices).changed);

    // A neighbour on the same bridge, a pod and itself, and the node's own processes.
    assert_eq!(client.ask(at(20, 80)).unwrap(), client.ip.to_string());
    assert_eq!(
        web.ask(at(20, 80)).unwrap(),
        p.lab.network.gateway().to_string()
    );
    assert_eq!(
        p.lab.ask_from_node(at(20, 80)).unwrap(),
        p.lab.network.gateway().to_string()
    );
    // An outside client is masqueraded, so that the response takes the same path.
    assert_eq!(
        p.lab.ask_from_world(at(20, 80)).unwrap(),
        p.lab.network.gateway().to_string()
    );

    // A port that the service does not have, and a service without endpoints.
    let refused = |result: std::io::Result<String>| {
        assert_eq!(
            result.unwrap_err().kind(),
            std::io::ErrorKind::ConnectionRefused
        );
    };
    refused(client.ask(at(20, 81)));
    refused(p.lab.ask_from_node(at(20, 81)));
    assert!(p.sync(&services, &[]).changed);
    refused(client.ask(at(20, 80)));
    refused(p.lab.ask_from_node(at(20, 80)));
    p.sync(&services, &slices);
    client.ask(at(20, 80)).unwrap();
    p.proxy.cleanup().unwrap();
    ask_in_vain(&client.netns, at(20, 80));
}

#[test]
fn all_endpoints_have_their_share_and_affinity_keeps_a_client_on_one() {
    if !root() {
        return;
    }
    let p = Proxied::new();
    let client = p.lab.pod("client");
    let pods: Vec<Pod> = (0..3).map(|n| p.lab.pod(&format!("web-{n}"))).collect();
    let _servers: Vec<Serve> = pods
        .iter()
        .enumerate()
        .map(|(n, pod)| name(pod, &n.to_string()))
        .collect();
    let slices = [slice(
        "web",
        &[("", "TCP")],
        on(&pods.iter().collect::<Vec<_>>()),
    )];
    let answers = |count: usize| {
        let mut answers: Vec<String> = (0..count)
            .map(|_| client.ask(at(20, 80)).unwrap())
            .collect();
        answers.sort();
        answers.dedup();
        answers
    };
    p.sync(&[service("web", spec(json!({})))], &slices);
    // The chance of missing one endpoint in 60 attempts is 3 × (2/3)^60.
    // The listing must be readable with `nft` for debugging.
    if let Some(text) = listed(&p.lab.node) {
        assert!(
            text.contains("numgen random mod 3 map @endpoints"),
            "{text}"
        );
    }
    assert_eq!(answers(60), ["0", "1", "2"]);
    let sticky = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 100}}});
    p.sync(&[service("web", spec(sticky.clone()))], &slices);
    let one = answers(20);
    assert_eq!(one.len(), 1);
    // The client keeps its endpoint when other services are added.
    p.sync(
        &[
            service("web", spec(sticky)),
            service(
                "other",
                json!({"clusterIP": "10.96.0.30", "ports": [{"port": 80}]}),
            ),
        ],
        &slices,
    );
    assert_eq!(answers(20), one);
}

#[test]
fn node_ports_and_external_addresses_follow_the_policy() {
    if !root() {
        return;
    }
    let p = Proxied::new();
    let (client, web) = (p.lab.pod("client"), p.lab.pod("web"));
    let _web = serve(&web);
    let node_port = SocketAddrV4::new(p.lab.node_ip(), 30080);
    let (external, balanced) = (
        SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 1), 80),
        SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 2), 80),
    );
    let make = |policy: &str, ranges: Value| {
        with_status(
            "web",
            spec(
                json!({"type": "LoadBalancer", "externalTrafficPolicy": policy, "externalIPs": ["203.0.113.1"],
                        "ports": [{"port": 80, "nodePort": 30080}], "loadBalancerSourceRanges": ranges}),
            ),
            json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.2"}]}}),
        )
    };
    let slices = [slice("web", &[("", "TCP")], on(&[&web]))];
    let gateway = p.lab.network.gateway().to_string();
    let world = p.lab.world_ip().to_string();

    p.sync(&[make("Cluster", json!([]))], &slices);
    for address in [node_port, external, balanced] {
        assert_eq!(p.lab.ask_from_world(address).unwrap(), gateway);
        client.ask(address).unwrap();
        p.lab.ask_from_node(address).unwrap();
    }
    p.sync(&[make("Local", json!([]))], &slices);
    for address in [node_port, external, balanced] {
        // The client's own address is preserved.
        assert_eq!(p.lab.ask_from_world(address).unwrap(), world);
        client.ask(address).unwrap();
        p.lab.ask_from_node(address).unwrap();
    }
    p.sync(&[make("Cluster", json!(["198.51.100.0/24"]))], &slices);
    assert_eq!(
        ask_in_vain(&p.lab.world, balanced),
        std::io::ErrorKind::TimedOut
    );
    p.lab.ask_from_world(external).unwrap();
    p.sync(
        &[make(
            "Cluster",
            json!(["198.51.100.0/24", "192.168.77.0/28"]),
        )],
        &slices,
    );
    p.lab.ask_from_world(balanced).unwrap();
    // Without a local endpoint, outside traffic is dropped; pods reach other nodes.
    let elsewhere = json!([{"addresses": [web.ip], "nodeName": "node-2"}]);
    p.sync(
        &[make("Local", json!([]))],
        &[slice("web", &[("", "TCP")], elsewhere)],
    );
    assert_eq!(
        ask_in_vain(&p.lab.world, node_port),
        std::io::ErrorKind::TimedOut
    );
    client.ask(external).unwrap();
    p.lab.ask_from_node(external).unwrap();
    // Without any endpoint, traffic is rejected.
    p.sync(&[make("Cluster", json!([]))], &[]);
    for address in [node_port, external] {
        let error = p.lab.ask_from_world(address).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

#[test]
fn a_thousand_services_fit_and_rules_flushed_by_others_come_back() {
    if !root() {
        return;
    }
    let p = Proxied::new();
    let (mut services, mut slices) = (Vec::new(), Vec::new());
    for n in 0..1000 {
        let name = format!("service-{n}");
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 100, 0, 0)) + n);
        services.push(service(
            &name,
            json!({"clusterIP": ip, "ports": [{"port": 80}]}),
        ));
        let endpoints: Value = (0..4)
            .map(|e| json!({"addresses": [Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 0, 0)) + n * 4 + e)]}))
            .collect();
        slices.push(slice(&name, &[("", "TCP")], endpoints));
    }
    let state = state(&services, &slices);
    let start = std::time::Instant::now();
    let rules = compile(&state, &config());
    eprintln!("compiled in {:?}", start.elapsed());
    assert_eq!(rules.tables[0].sets["endpoints"].elements.len(), 4000);
    for words in ["first sync", "nothing new", "one service less"] {
        let mut state = state.clone();
        if words == "one service less" {
            state.ports.pop();
        }
        let start = std::time::Instant::now();
        p.proxy.sync(&state).unwrap();
        eprintln!("{words}: {:?}", start.elapsed());
    }
    let nft = in_netns(p.lab.node.as_fd(), || Nftables::open().unwrap()).unwrap();
    nft.delete_table(Family::Ip, TABLE).unwrap();
    assert!(p.proxy.sync(&state).unwrap().changed);
    assert!(
        nft.tables(Family::Ip)
            .unwrap()
            .iter()
            .any(|name| name == TABLE)
    );
}

#[tokio::test]
async fn health_checks_tell_whether_there_are_local_endpoints() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let server = health::HealthServer::new(Ipv4Addr::UNSPECIFIED.into());
    let check = |count| HealthCheck {
        namespace: "default".into(),
        name: "web".into(),
        local_endpoints: count,
    };
    let ask = || async move {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    server.update(&[(port, check(2))].into());
    let answer = ask().await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\"localEndpoints\":2"),
        "{answer}"
    );
    server.update(&[(port, check(0))].into());
    assert!(ask().await.unwrap().starts_with("HTTP/1.1 503 "));
    server.update(&Default::default());
    // The listener is closed when its task is next scheduled.
    while ask().await.is_ok() {
        tokio::task::yield_now().await;
    }
}
