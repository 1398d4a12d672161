//! `/etc/hosts`, `/etc/resolv.conf` and `/etc/hostname`, and ports of the node.

use rkube_config::ClusterConfig;

use super::super::files::{Resolver, hostname, hosts, resolver};
use super::super::sandbox::host_ports;
use super::pod;

fn cluster() -> ClusterConfig {
    ClusterConfig {
        name: "c".into(),
        dns_domain: "cluster.local".into(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        dns_ip: "10.96.0.10".parse().unwrap(),
        pod_cidr: "10.244.0.0/16".parse().unwrap(),
        node_cidr: "10.77.0.0/24".parse().unwrap(),
        ipv6: None,
        api_server_ip: "10.77.0.2".parse().unwrap(),
        api_server_port: 8443,
        load_balancers: None,
        nodes: vec![],
    }
}

/// `TestParseResolvConf`: a file, and the one that the kubelet reads from it.
#[test]
fn resolvers_are_read() {
    for (text, read) in [
        ("\t\n\t", ""),
        (" #comment\n", ""),
        ("#comment\nnameserver", ""),
        (
            "#comment\nnameserver 1.2.3.4\nsearch",
            "nameserver 1.2.3.4\n",
        ),
        (" nameserver 1.2.3.4", "nameserver 1.2.3.4\n"),
        ("nameserver \t 1.2.3.4 #comment", "nameserver 1.2.3.4\n"),
        ("search ", ""),
        // The root adds nothing, and a dot at the end makes no other domain.
        ("search foo. bar .", "search foo bar\n"),
        ("search .", ""),
        ("search foo\nsearch bar", "search bar\n"),
        ("domain foo", ""),
        (
            "nameserver 1.2.3.4\nsearch foo\nnameserver 5.6.7.8\nsearch bar\noptions ndots:5 attempts:4",
            "search bar\nnameserver 1.2.3.4\nnameserver 5.6.7.8\noptions ndots:5 attempts:4\n",
        ),
        ("options ", ""),
        // Options of all lines count, the last value of each.
        (
            "options ndots:1\noptions ndots:5 attempts:3",
            "options ndots:5 attempts:3\n",
        ),
        (
            "options ndots:1 debug\noptions attempts:3 ndots:2",
            "options debug attempts:3 ndots:2\n",
        ),
    ] {
        assert_eq!(Resolver::parse(text).render(), read, "{text:?}");
    }
}

/// `TestGetPodDNS`, `TestMergeDNSOptions` and `TestGetPodDNSType`, on a node with the name server
/// 8.8.8.8, the search domain `lan` and the option `edns0`.
#[test]
fn policies_choose_the_resolver() {
    const CLUSTER: &str = "search ns.svc.cluster.local svc.cluster.local cluster.local lan\n\
                           nameserver 10.96.0.10\noptions ndots:5\n";
    const NODE: &str = "search lan\nnameserver 8.8.8.8\noptions edns0\n";
    let node = Resolver::parse(NODE);
    for (spec, file) in [
        ("", CLUSTER),
        (r#", "dnsPolicy": "ClusterFirst""#, CLUSTER),
        (
            r#", "dnsPolicy": "ClusterFirst", "hostNetwork": true"#,
            NODE,
        ),
        (r#", "dnsPolicy": "ClusterFirstWithHostNet""#, CLUSTER),
        (
            r#", "dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true"#,
            CLUSTER,
        ),
        (r#", "dnsPolicy": "Default""#, NODE),
        (r#", "dnsPolicy": "Default", "hostNetwork": true"#, NODE),
        (r#", "dnsPolicy": "None""#, ""),
        (
            r#", "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a", "b", "a"]}"#,
            "search a b\nnameserver 1.1.1.1\n",
        ),
        // Existing entries are not repeated.
        (
            r#", "dnsConfig": {"nameservers": ["10.96.0.10", "1.1.1.1"], "searches": ["lan", "x"]}"#,
            "search ns.svc.cluster.local svc.cluster.local cluster.local lan x\n\
             nameserver 10.96.0.10\nnameserver 1.1.1.1\noptions ndots:5\n",
        ),
        (
            r#", "dnsPolicy": "Default", "dnsConfig": {"options": [{"name": "ndots", "value": "3"},
                {"name": "debug"}, {"name": "edns0", "value": ""}, {"name": "attempts", "value": "1"}]}"#,
            "search lan\nnameserver 8.8.8.8\noptions ndots:3 debug edns0 attempts:1\n",
        ),
        (
            r#", "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}"#,
            "search ns.svc.cluster.local svc.cluster.local cluster.local lan\n\
             nameserver 10.96.0.10\noptions ndots:2\n",
        ),
    ] {
        let pod = pod(&format!(r#"{{"containers": []{spec}}}"#));
        assert_eq!(resolver(&pod, &cluster(), &node).render(), file, "{spec}");
    }
}

/// `TestFormDNSSearchFitsLimits` and `TestFormDNSNameserversFitsLimits`.
#[test]
fn resolvers_fit_the_limits() {
    const SEARCH: &str = "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: ";
    const SERVERS: &str = "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: ";
    // 2048 = 128 + 127 · 15 + 15
    let long: Vec<String> = (0..16)
        .map(|i| "a".repeat(if i == 0 { 128 } else { 127 }))
        .collect();
    let more = |list: &[String], domain: &str| [list, &[domain.to_owned()]].concat();
    let numbers: Vec<String> = (1..=32).map(|i| i.to_string()).collect();
    for (search, kept) in [
        (vec!["a".to_owned(), "b".to_owned()], None),
        (numbers.clone(), None),
        (more(&numbers, "33"), Some(numbers)),
        (long.clone(), None),
        (more(&long, "b"), Some(long)),
        (vec!["a".repeat(253)], None),
        (
            vec!["a".into(), "b".repeat(254), "c".into()],
            Some(vec!["a".to_owned(), "c".to_owned()]),
        ),
    ] {
        let mut r = Resolver {
            search: search.clone(),
            ..Default::default()
        };
        let message = kept
            .as_ref()
            .map(|kept| format!("{SEARCH}{}", kept.join(" ")));
        assert_eq!(r.limit(), Vec::from_iter(message));
        assert_eq!(r.search, kept.unwrap_or(search));
    }
    for (servers, message) in [
        (&["127.0.0.1"][..], None),
        (&["127.0.0.1", "10.0.0.10", "8.8.8.8"], None),
        (
            &["127.0.0.1", "10.0.0.10", "8.8.8.8", "1.2.3.4"],
            Some(format!("{SERVERS}127.0.0.1 10.0.0.10 8.8.8.8")),
        ),
    ] {
        let mut r = Resolver {
            servers: servers.iter().map(|s| (*s).to_owned()).collect(),
            ..Default::default()
        };
        assert_eq!(r.limit(), Vec::from_iter(message));
        assert_eq!(r.servers, servers[..servers.len().min(3)]);
    }
}

/// `TestGeneratePodHostNameAndDomain` and `TestTruncatePodHostname`: the rest of a specification,
/// and host name and domain, or the start of the message after `!`.
#[test]
fn names_of_pods() {
    let longest = "1234567.1234567.1234567.1234567.1234567.1234567.1234567";
    let fqdn = format!(
        "!Failed to construct FQDN from Pod hostname and cluster domain, FQDN {}",
        "x".repeat(40)
    );
    for (spec, name, domain) in [
        (String::new(), "web", ""),
        (r#""hostname": "h""#.to_owned(), "h", ""),
        (r#""hostname": """#.to_owned(), "web", ""),
        (
            r#""subdomain": "s""#.to_owned(),
            "web",
            "s.ns.svc.cluster.local",
        ),
        (
            r#""hostname": "h", "subdomain": "s""#.to_owned(),
            "h",
            "s.ns.svc.cluster.local",
        ),
        // The kernel's name has the domain only on request, and only if there is one.
        (
            r#""hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true"#.to_owned(),
            "h.s.ns.svc.cluster.local",
            "s.ns.svc.cluster.local",
        ),
        (
            r#""hostname": "h", "setHostnameAsFQDN": true"#.to_owned(),
            "h",
            "",
        ),
        (
            format!(
                r#""hostname": "{}", "subdomain": "s", "setHostnameAsFQDN": true"#,
                "x".repeat(42)
            ),
            &fqdn,
            "",
        ),
        (
            r#""hostNetwork": true, "hostname": "h", "subdomain": "s""#.to_owned(),
            "node",
            "",
        ),
        (
            r#""hostnameOverride": "o.example", "hostname": "h", "subdomain": "s""#.to_owned(),
            "o.example",
            "",
        ),
        // A name that was too long is cut to a label that ends in a letter or digit.
        (
            format!(r#""hostname": "{longest}.1234567""#),
            &format!("{longest}.1234567"),
            "",
        ),
        (
            format!(r#""hostname": "{longest}.1234567.1""#),
            &format!("{longest}.1234567"),
            "",
        ),
        (
            format!(r#""hostname": "{longest}.123456.1""#),
            &format!("{longest}.123456"),
            "",
        ),
        (
            format!(r#""hostname": "{longest}.123456-.1""#),
            &format!("{longest}.123456"),
            "",
        ),
    ] {
        let comma = if spec.is_empty() { "" } else { ", " };
        let pod = pod(&format!(r#"{{"containers": []{comma}{spec}}}"#));
        match hostname(&pod, "node", "cluster.local") {
            Ok(names) => assert_eq!(
                (names.name.as_str(), names.domain.as_str()),
                (name, domain),
                "{spec}"
            ),
            Err(message) => assert!(format!("!{message}").starts_with(name), "{spec}: {message}"),
        }
    }
}

/// `TestManagedHostsFileContent` and `TestNodeHostsFileContent`: the rest of a specification, the
/// pod's addresses, and the end of the file.
#[test]
fn hosts_of_pods() {
    const FIXED: &str = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n\
        fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";
    for (spec, ips, file) in [
        (
            r#""hostname": "podFoo""#,
            &["123.45.67.89"][..],
            format!("{FIXED}123.45.67.89\tpodFoo\n"),
        ),
        (
            r#""hostname": "podFoo", "subdomain": "s""#,
            &["203.0.113.1", "fd01::6"],
            format!(
                "{FIXED}203.0.113.1\tpodFoo.s.ns.svc.cluster.local\tpodFoo\n\
                 fd01::6\tpodFoo.s.ns.svc.cluster.local\tpodFoo\n"
            ),
        ),
        (
            r#""hostname": "podFoo", "hostAliases": [{"ip": "123.45.67.89", "hostnames": ["foo", "bar", "baz"]},
                {"ip": "456.78.90.123", "hostnames": ["park", "doo"]}]"#,
            &["203.0.113.1"],
            format!(
                "{FIXED}203.0.113.1\tpodFoo\n\n# Entries added by HostAliases.\n\
                 123.45.67.89\tfoo\tbar\tbaz\n456.78.90.123\tpark\tdoo\n"
            ),
        ),
        (
            r#""hostNetwork": true, "hostAliases": [{"ip": "123.45.67.89", "hostnames": ["foo"]}]"#,
            &["203.0.113.1"],
            "# Kubernetes-managed hosts file (host network).\n# mine\n127.0.0.1\tlocalhost\n\n\
             # Entries added by HostAliases.\n123.45.67.89\tfoo\n"
                .to_owned(),
        ),
    ] {
        let pod = pod(&format!(r#"{{"containers": [], {spec}}}"#));
        let names = hostname(&pod, "node", "cluster.local").expect("a name");
        let ips: Vec<_> = ips
            .iter()
            .map(|ip| ip.parse().expect("an address"))
            .collect();
        assert_eq!(
            hosts(&pod, &names, &ips, "# mine\n127.0.0.1\tlocalhost\n"),
            file,
            "{spec}"
        );
    }
}

/// `TestMakePortMappings`: ports of a container, and those of the node as
/// `protocol address:port>port`.
#[test]
fn ports_of_the_node() {
    for (ports, mapped) in [
        (r#"{"containerPort": 80}"#, ""),
        (r#"{"containerPort": 80, "hostPort": 0}"#, ""),
        (
            r#"{"containerPort": 80, "hostPort": 8080}"#,
            "Tcp *:8080>80",
        ),
        (
            r#"{"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1", "protocol": "TCP"},
               {"containerPort": 443, "hostPort": 4343, "hostIP": "192.168.0.1"},
               {"containerPort": 555, "hostPort": 5555, "protocol": "UDP"},
               {"containerPort": 7, "hostPort": 7, "protocol": "SCTP"}"#,
            "Tcp 127.0.0.1:8080>80, Tcp 192.168.0.1:4343>443, Udp *:5555>555, Sctp *:7>7",
        ),
        // One port of the node may have two targets on two addresses, but no port is mapped twice.
        (
            r#"{"containerPort": 443, "hostPort": 4343}, {"containerPort": 443, "hostPort": 4343}"#,
            "Tcp *:4343>443",
        ),
        (
            r#"{"containerPort": 443, "hostPort": 4343, "hostIP": "192.168.0.1"},
               {"containerPort": 443, "hostPort": 4343, "hostIP": "172.16.0.1"}"#,
            "Tcp 192.168.0.1:4343>443, Tcp 172.16.0.1:4343>443",
        ),
        // Rules are made for the families that the pod has.
        (
            r#"{"containerPort": 80, "hostPort": 8080, "hostIP": "::1"}"#,
            "Tcp ::1:8080>80",
        ),
        (
            r#"{"containerPort": 80, "hostPort": 8080, "hostIP": "::"}"#,
            "Tcp :::8080>80",
        ),
    ] {
        let pod = pod(&format!(
            r#"{{"containers": [{{"name": "c", "ports": [{ports}]}}]}}"#
        ));
        let got: Vec<String> = host_ports(&pod)
            .iter()
            .map(|p| {
                let ip = p.host_ip.map_or("*".to_owned(), |ip| ip.to_string());
                format!("{:?} {ip}:{}>{}", p.protocol, p.host_port, p.container_port)
            })
            .collect();
        assert_eq!(got.join(", "), mapped, "{ports}");
    }
}
