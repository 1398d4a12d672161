use super::*;

fn profile(nodes: usize) -> Profile {
    profile_of(&vec![NodeSpec::default(); nodes], false)
}

fn profile_of(nodes: &[NodeSpec], kind: bool) -> Profile {
    Profile::new(&NewProfile {
        name: "rkube",
        driver: "native",
        nodes,
        node_cidr: "192.168.58.0/24".parse().unwrap(),
        pod_cidr: "10.244.0.0/16".parse().unwrap(),
        service_cidr: "10.96.0.0/12".parse().unwrap(),
        ipv6: None,
        dns_domain: "cluster.local",
        insecure_registries: &[],
        ports: &[],
        mounts: &[],
        kind,
        store: None,
        machine: &MachineOptions::default(),
    })
    .unwrap()
}

#[test]
fn nodes_are_named_and_numbered_as_minikubes() {
    let p = profile(3);
    let names: Vec<_> = p.nodes.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(names, ["rkube", "rkube-m02", "rkube-m03"]);
    assert_eq!(p.nodes[2].ip, Ipv4Addr::new(192, 168, 58, 4));
    assert_eq!(p.nodes[2].pod_cidr.to_string(), "10.244.2.0/24");
    assert!(p.nodes[0].control_plane && !p.nodes[1].control_plane);
    assert_eq!(p.load_balancer_range().to_string(), "192.168.58.128/25");
}

#[test]
fn kinds_names_are_its_own() {
    let mut p = profile_of(&vec![NodeSpec::default(); 3], true);
    let names: Vec<_> = p.nodes.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(
        names,
        ["rkube-control-plane", "rkube-worker", "rkube-worker2"]
    );
    assert_eq!(p.context(), "kind-rkube");
    p.nodes.remove(1);
    assert_eq!(p.push_node(None, None).unwrap().name, "rkube-worker");
    assert_eq!(p.node(Some("worker2")).unwrap().name, "rkube-worker2");
}

#[test]
fn nodes_have_distinguishing_properties() {
    let port: PortMapping = "8080:80".parse().unwrap();
    let labelled = NodeSpec {
        labels: BTreeMap::from([("tier".to_owned(), "a".to_owned())]),
        mounts: vec!["/a:/b".parse().unwrap()],
        ports: vec![port],
        ..NodeSpec::default()
    };
    let mut p = profile_of(&[labelled.clone(), labelled], false);
    p.mounts = vec!["/c:/d".parse().unwrap()];
    assert_eq!(p.ports, [port]);
    assert!(p.nodes[0].ports.is_empty() && p.nodes[1].ports == [port]);
    let plan = p.plan(&Home::at("/x"));
    assert_eq!(plan.nodes[1].mounts.len(), 2);
    let config = p.node_config(&p.nodes[0], &[]);
    assert_eq!(config.cluster.nodes[1].labels["tier"], "a");
}

#[test]
fn a_new_node_takes_the_place_of_a_deleted_one() {
    let mut p = profile(3);
    p.nodes.remove(1);
    let added = p.push_node(None, None).unwrap();
    assert_eq!(
        (added.name.as_str(), added.ip),
        ("rkube-m02", Ipv4Addr::new(192, 168, 58, 3))
    );
}

#[test]
fn only_loopback_registries_open_a_port() {
    assert_eq!(loopback_port("127.0.0.1:5000"), Some(5000));
    assert_eq!(loopback_port("localhost"), Some(80));
    for other in ["registry.local:5000", "10.0.0.1:5000", "localhost:x", ""] {
        assert_eq!(loopback_port(other), None, "{other}");
    }
}

#[test]
fn names_that_would_break_something_are_refused() {
    for bad in ["", "a/b", "../x", "Abc", "-a", "a-", "a b", &"a".repeat(41)] {
        assert_eq!(check_name(bad).unwrap_err().exit_code(), 14, "{bad}");
    }
    check_name("my-cluster2").unwrap();
}

#[test]
fn a_profile_survives_the_disk_and_damage_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::at(dir.path());
    assert_eq!(Profile::load(&home, "rkube").unwrap_err().exit_code(), 85);
    let p = profile(2);
    p.save(&home).unwrap();
    assert_eq!(Profile::load(&home, "rkube").unwrap(), p);
    std::fs::write(home.profile_dir("rkube").join("profile.yaml"), "name: [").unwrap();
    let damaged = Profile::load(&home, "rkube").unwrap_err();
    assert_eq!(damaged.exit_code(), 18);
    assert!(damaged.advice.unwrap().contains("rkube delete"));
}
