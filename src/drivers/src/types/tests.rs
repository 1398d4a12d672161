use super::*;

#[test]
fn ports_are_read_as_docker_reads_them() {
    let read = |text: &str| text.parse::<PortMapping>().map(|p| p.to_string());
    assert_eq!(read("8080:80").unwrap(), "127.0.0.1:8080:80/tcp");
    assert_eq!(read("53:53/udp").unwrap(), "127.0.0.1:53:53/udp");
    assert_eq!(
        read("0.0.0.0:80:30080/tcp").unwrap(),
        "0.0.0.0:80:30080/tcp"
    );
    assert_eq!(read("443").unwrap(), "127.0.0.1:443:443/tcp");
    for bad in ["", "x", "0:80", "80:", "1:2:3:4", "80:80/sctp", "70000:1"] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

#[test]
fn mounts_are_read_and_keep_away_from_the_nodes_own_files() {
    let read = |text: &str| text.parse::<HostMount>().map(|m| m.to_string());
    assert_eq!(read("/data:/mnt/data").unwrap(), "/data:/mnt/data");
    assert_eq!(read("/data/:/mnt//x/:ro").unwrap(), "/data:/mnt/x:ro");
    assert_eq!(read("/a:b:/c:rw").unwrap(), "/a:b:/c");
    let here = std::env::current_dir().unwrap();
    let relative: HostMount = "src:/src".parse().unwrap();
    assert_eq!(relative.host, here.join("src"));
    for bad in [
        "",
        "/a",
        "/a:",
        ":/b",
        "/a:b",
        "/a:/",
        "/a:/../x",
        "/a:/proc/x",
        "/a:/var",
        "/a:/var/lib/rkube/images",
        "/a:/etc/rkube",
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

#[test]
fn published_ports_replace_addresses() {
    let node = |name: &str, last, control_plane, ssh_port| NodePlan {
        name: name.into(),
        ip: Ipv4Addr::new(10, 0, 0, last),
        cpu_millis: None,
        memory_bytes: None,
        control_plane,
        ssh_port,
        mounts: Vec::new(),
        ports: Vec::new(),
    };
    let plan = ClusterPlan {
        name: "p".into(),
        dir: "/p".into(),
        run_dir: "/r".into(),
        owner_uid: None,
        binary: "/b".into(),
        node_cidr: "10.0.0.0/24".parse().unwrap(),
        ipv6: None,
        loopback_ports: Vec::new(),
        api_port: Some(20001),
        ports: Vec::new(),
        machine: MachineOptions::default(),
        nodes: vec![node("a", 2, true, Some(20002)), node("b", 3, false, None)],
    };
    let direct = Endpoints::direct(&plan);
    assert_eq!(direct.api.to_string(), "10.0.0.2:8443");
    assert!(direct.routable);
    let published = Endpoints::published(&plan, false);
    assert_eq!(published.api.to_string(), "127.0.0.1:20001");
    assert_eq!(published.ssh["a"].to_string(), "127.0.0.1:20002");
    assert_eq!(published.ssh["b"].to_string(), "10.0.0.3:22");
    assert!(!published.routable);
}
