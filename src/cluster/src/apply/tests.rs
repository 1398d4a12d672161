use rkube_drivers::MachineOptions;

use super::*;
use crate::labels::parse_taint;
use crate::profile::NewProfile;

fn profile(nodes: &[NodeSpec]) -> Profile {
    Profile::new(&NewProfile {
        name: "demo",
        driver: "native",
        nodes,
        node_cidr: "192.168.77.0/24".parse().unwrap(),
        pod_cidr: "10.244.0.0/16".parse().unwrap(),
        service_cidr: "10.96.0.0/12".parse().unwrap(),
        ipv6: None,
        dns_domain: "cluster.local",
        insecure_registries: &["r:5000".to_owned()],
        ports: &[],
        mounts: &["/srv:/srv".parse().unwrap()],
        kind: false,
        store: None,
        machine: &MachineOptions::default(),
    })
    .unwrap()
}

fn spec(tier: &str) -> NodeSpec {
    NodeSpec {
        labels: BTreeMap::from([("tier".to_owned(), tier.to_owned())]),
        ..NodeSpec::default()
    }
}

fn describe_changes(profile: &Profile, nodes: &[NodeSpec]) -> Vec<String> {
    let wanted = DesiredState {
        nodes: Some(nodes.to_vec()),
        ..DesiredState::default()
    };
    let steps = changes(profile, &wanted).unwrap();
    steps.iter().map(ToString::to_string).collect()
}

#[test]
fn settings_that_a_file_does_not_mention_stay() {
    let all = [spec("a"), spec("b")];
    let profile = profile(&all);
    assert_eq!(changes(&profile, &DesiredState::default()), Ok(Vec::new()));
    let same = DesiredState {
        nodes: Some(all.to_vec()),
        mounts: Some(profile.mounts.clone()),
        insecure_registries: Some(profile.insecure_registries.clone()),
        registries: Some(RegistryChanges::default()),
    };
    assert_eq!(changes(&profile, &same), Ok(Vec::new()));
    let none = DesiredState {
        nodes: None,
        mounts: Some(vec!["/srv:/srv:ro".parse().unwrap()]),
        insecure_registries: Some(Vec::new()),
        registries: None,
    };
    let steps = changes(&profile, &none).unwrap();
    let texts: Vec<String> = steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "unmount /srv in all nodes",
            "mount /srv:/srv:ro in all nodes",
            "set the registries without TLS: none",
        ]
    );
}

#[test]
fn nodes_are_paired_with_those_that_are_most_alike() {
    let profile = profile(&[spec("a"), spec("b"), spec("c"), spec("c")]);
    // The order of workers is of no account, and one of the last ones goes.
    assert_eq!(
        describe_changes(&profile, &[spec("a"), spec("c"), spec("b")]),
        ["delete the node demo-m04"]
    );
    // The one without an equal is changed instead of replaced.
    assert_eq!(
        describe_changes(&profile, &[spec("a"), spec("c"), spec("d"), spec("c")]),
        ["label the node demo-m02: tier=d"]
    );
    let large = NodeSpec {
        memory_bytes: Some(4 << 30),
        ..spec("b")
    };
    assert_eq!(
        describe_changes(&profile, &[spec("a"), large.clone(), spec("c"), spec("c")]),
        ["add a worker node", "delete the node demo-m02"]
    );
    let wanted = DesiredState {
        nodes: Some(vec![large]),
        ..DesiredState::default()
    };
    let refusal = changes(&profile, &wanted).unwrap_err();
    assert!(refusal.contains("demo cannot be changed"), "{refusal}");
}

#[test]
fn a_node_that_takes_over_ports_comes_after_the_one_that_had_them() {
    let with_port = |memory: Option<u64>| NodeSpec {
        memory_bytes: memory,
        ports: vec!["8080:80".parse().unwrap()],
        ..NodeSpec::default()
    };
    let profile = profile(&[NodeSpec::default(), with_port(None)]);
    assert_eq!(
        describe_changes(&profile, &[NodeSpec::default(), with_port(Some(1 << 30))]),
        ["delete the node demo-m02", "add a worker node"]
    );
}

#[test]
fn taints_and_labels_are_changed_by_key() {
    let tainted = |text: &str| NodeSpec {
        taints: vec![parse_taint(text).unwrap()],
        ..NodeSpec::default()
    };
    let profile = profile(&[tainted("a=b:NoSchedule"), spec("x")]);
    assert_eq!(
        describe_changes(&profile, &[tainted("a=c:NoSchedule"), NodeSpec::default()]),
        [
            "taint the node demo: a=c:NoSchedule a=b:NoSchedule-",
            "label the node demo-m02: tier-",
        ]
    );
    let api = |key: &str, value: Option<&str>| ApiTaint {
        key: key.to_owned(),
        value: value.map(str::to_owned),
        effect: "NoSchedule".to_owned(),
        time_added: None,
    };
    let now = vec![
        api("a", Some("b")),
        api("node.kubernetes.io/not-ready", None),
    ];
    let then = with_taints(
        now,
        &[parse_taint("a=c:NoSchedule").unwrap()],
        &[parse_taint("a=b:NoSchedule").unwrap()],
    );
    assert_eq!(
        then,
        [
            api("node.kubernetes.io/not-ready", None),
            api("a", Some("c"))
        ]
    );
}

#[test]
fn impossible_steps_fail_before_the_first_one() {
    let mut profile = profile(&[spec("a"), spec("b")]);
    profile.mounts.clear();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken: PortMapping = format!("{}:80", listener.local_addr().unwrap().port())
        .parse()
        .unwrap();
    profile.nodes[1].ports = vec![taken];
    let with = |ports: &[PortMapping], mounts: &[&str]| NodeSpec {
        ports: ports.to_vec(),
        mounts: mounts.iter().map(|m| m.parse().unwrap()).collect(),
        ..NodeSpec::default()
    };
    let check_all = |profile: &Profile, worker: NodeSpec| {
        let wanted = DesiredState {
            nodes: Some(vec![spec("a"), worker]),
            ..DesiredState::default()
        };
        check(profile, &changes(profile, &wanted).unwrap())
    };
    // The worker that goes holds the port.
    let one = NodeSpec {
        cpu_millis: Some(500),
        ..with(&[taken], &[])
    };
    check_all(&profile, one.clone()).unwrap();
    // A program holds it.
    profile.nodes[1].ports.clear();
    assert_eq!(check_all(&profile, one).unwrap_err().kind, Kind::Conflict);
    // Two nodes want it, or one that stays.
    let free = PortMapping {
        host_port: 0,
        ..taken
    };
    let add = Step::Add(with(&[free], &[]));
    check(&profile, std::slice::from_ref(&add)).unwrap();
    let failure = check(&profile, &[add.clone(), add.clone()]).unwrap_err();
    assert_eq!(failure.kind, Kind::Usage);
    profile.ports = vec![free];
    check(&profile, &[add]).unwrap_err();
    profile.ports.clear();
    let dir = tempfile::tempdir().unwrap();
    let (there, gone) = (dir.path().to_owned(), dir.path().join("gone"));
    let mount = |host: &std::path::Path| format!("{}:/data", host.display());
    check_all(&profile, with(&[], &[&mount(&there)])).unwrap();
    check_all(&profile, with(&[], &[&mount(&gone)])).unwrap_err();
    let twice = with(&[], &[&mount(&there), &mount(&there)]);
    assert_eq!(check_all(&profile, twice).unwrap_err().kind, Kind::Usage);
    // Directories of nodes that stay are looked at only if one is added.
    profile.mounts.push(mount(&gone).parse().unwrap());
    check(&profile, &[Step::Registries(Vec::new())]).unwrap();
    let step = Step::Mount {
        node: Some("demo".to_owned()),
        mount: format!("{}:/other", there.display()).parse().unwrap(),
    };
    check(&profile, std::slice::from_ref(&step)).unwrap_err();
    let unmount = Step::Unmount {
        node: None,
        path: "/data".into(),
    };
    check(&profile, &[unmount, step]).unwrap();
}

#[test]
fn workers_that_are_down_start_unless_they_go() {
    let profile = profile(&[spec("a"), spec("b"), spec("c")]);
    let wanted = DesiredState {
        nodes: Some(vec![spec("a"), spec("x")]),
        mounts: Some(Vec::new()),
        ..DesiredState::default()
    };
    let mut steps = changes(&profile, &wanted).unwrap();
    add_starts(
        &mut steps,
        vec!["demo-m02".to_owned(), "demo-m03".to_owned()],
    );
    let texts: Vec<String> = steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "unmount /srv in all nodes",
            "start the node demo-m02",
            "label the node demo-m02: tier=x",
            "delete the node demo-m03",
        ]
    );
}

#[test]
fn directories_have_commands_and_wait_for_those_in_their_place() {
    let mount = |node: Option<&str>, text: &str| Step::Mount {
        node: node.map(str::to_owned),
        mount: text.parse().unwrap(),
    };
    let unmount = |node: Option<&str>, path: &str| Step::Unmount {
        node: node.map(str::to_owned),
        path: path.into(),
    };
    for (step, text) in [
        (mount(None, "/a:/b:ro"), "mount /a:/b:ro"),
        (mount(Some("n"), "/a:/b"), "mount /a:/b --node n"),
        (unmount(None, "/b"), "mount --remove /b"),
        (unmount(Some("n"), "/b"), "mount --remove /b --node n"),
    ] {
        assert_eq!(step.command().as_deref(), Some(text));
    }
    assert_eq!(Step::Start("n".to_owned()).command(), None);
    assert!(mount(None, "/a:/b").needs(&unmount(None, "/b")));
    assert!(mount(Some("n"), "/a:/b").needs(&unmount(None, "/b")));
    assert!(!mount(Some("n"), "/a:/b").needs(&unmount(Some("m"), "/b")));
    assert!(!mount(None, "/a:/c").needs(&unmount(None, "/b")));
}
