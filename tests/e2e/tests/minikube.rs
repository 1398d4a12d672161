//! Habits of minikube's users, on whole clusters: names of nodes, JSON, settings, services, files.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use rkube_testing::{Cluster, Done, eventually, is_native, require_machine};
use serde_json::Value;

fn json(done: Done) -> Value {
    serde_json::from_str(&done.ok()).expect("JSON")
}

#[test]
fn settings_precede_defaults_and_follow_the_environment() {
    let cluster = Cluster::plan("config");
    let set = |name: &str, value: &str| cluster.rkube(&["config", "set", name, value]);
    set("nodes", "3").ok();
    set("insecure-registry", "a:1,b:2").ok();
    assert!(set("memory", "lots").failed(14).contains("'lots'"));
    assert!(set("nodess", "1").failed(14).contains("'nodes'"));
    assert!(set("cni", "calico").failed(16).contains("no plug-ins"));
    assert!(set("WantUpdateNotification", "false").code == 0);
    let view = cluster.rkube(&["config", "view"]).ok();
    assert_eq!(view, "- insecure-registry: a:1,b:2\n- nodes: 3\n");
    assert_eq!(cluster.rkube(&["config", "get", "nodes"]).ok(), "3\n");
    cluster.rkube(&["config", "get", "memory"]).failed(15);

    // What would be done is printed even if no driver works here.
    let planned = |environment: Option<&str>, flags: &[&str]| {
        let mut command = cluster.rkube_command(&["start", "--dry-run"]);
        command.args(flags);
        if let Some(nodes) = environment {
            command.env("RKUBE_NODES", nodes);
        }
        let out = command.output().expect("rkube runs");
        let out = String::from_utf8_lossy(&out.stdout).into_owned();
        let count = out.split(" node").next().unwrap_or_default();
        count.rsplit(' ').next().unwrap_or_default().to_owned()
    };
    if rkube_testing::missing().is_none() {
        assert_eq!(planned(None, &[]), "3");
        assert_eq!(planned(Some("4"), &[]), "4");
        assert_eq!(planned(Some(""), &[]), "3");
        assert_eq!(planned(Some("4"), &["--nodes", "5"]), "5");
    }
    for name in ["nodes", "insecure-registry"] {
        cluster.rkube(&["config", "unset", name]).ok();
    }
    assert!(!cluster.home().exists());
}

#[test]
fn what_is_not_supported_says_so() {
    let cluster = Cluster::plan("words");
    for (words, code, part) in [
        (vec!["start", "--kubernetes-version=v1.30.0"], 16, "v1.36"),
        (vec!["start", "--ha", "--alsologtostderr"], 16, "--nodes"),
        (vec!["start", "--wait=etcd"], 14, "apiserver"),
        (vec!["node", "add", "--control-plane"], 16, "worker"),
        (vec!["pause", "-n", "default"], 85, "rkube start -p"),
        (
            vec!["pause", "-n", "Not;A;Name"],
            14,
            "not the name of a namespace",
        ),
        (vec!["cluster", "create", "--servers=3"], 16, "--agents"),
        (vec!["podman-env"], 16, "docker-env -p"),
        (vec!["docker-env"], 85, "rkube start -p"),
        (
            vec!["start", "--mount-string", "/a"],
            14,
            "HOST-PATH:NODE-PATH",
        ),
        (vec!["up"], 14, "rkube start"),
        (vec!["addons", "enable", "registry"], 85, "rkube start -p"),
        (vec!["status"], 85, "rkube start -p"),
    ] {
        let said = cluster.rkube(&words).failed(code);
        assert!(said.contains(part), "{words:?}: {said}");
    }
    let done = cluster.rkube(&["start", "--download-only"]).ok();
    assert!(done.contains("Nothing needs to be downloaded"), "{done}");
    let short = cluster.rkube(&["version", "--short"]).ok();
    assert!(short.starts_with('v') && short.lines().count() == 1);
    assert!(
        cluster
            .rkube(&["version", "-o", "yaml"])
            .ok()
            .contains("rkubeVersion: v")
    );
    assert!(!cluster.home().exists());
}

#[test]
fn minikubes_commands_and_flags_work() {
    require_machine!();
    let cluster = Cluster::plan("habit");
    let nodes = rkube_testing::nodes(2).to_string();
    let start = [
        "start",
        "-n",
        &nodes,
        "--wait=all",
        "--cni=bridge",
        "--namespace=team",
        "-v=3",
    ];
    let started = cluster.rkube(&start);
    assert!(
        started.stderr.contains("--cni has no effect"),
        "{started:?}"
    );
    started.ok();
    let second = cluster.node(2);

    // The status.
    assert_eq!(
        cluster.rkube(&["status", "-f", "{{.Host}}"]).ok(),
        "Running"
    );
    let all = json(cluster.rkube(&["status", "-o", "json"]));
    assert_eq!(all[1]["Name"], second.as_str(), "{all}");
    assert_eq!(all[1]["APIServer"], "Irrelevant", "{all}");
    let one = json(cluster.rkube(&["status", "-o", "json", "-n", "m02"]));
    assert_eq!(one["Host"], "Running", "{one}");
    let whole = json(cluster.rkube(&["status", "-o", "json", "-l", "cluster"]));
    assert_eq!(whole["StatusName"], "OK", "{whole}");
    let stale = cluster
        .rkube_command(&["status", "-f", "{{.Kubeconfig}}"])
        .env("KUBECONFIG", cluster.path("none"))
        .output()
        .expect("rkube runs");
    assert_eq!(stale.status.code(), Some(4), "{stale:?}");
    let list = json(cluster.rkube(&["profile", "list", "-o", "json"]));
    let config = &list["valid"][0]["Config"];
    assert_eq!(list["valid"][0]["Status"], "OK", "{list}");
    let server = cluster
        .kubectl(&[
            "config",
            "view",
            "--minify",
            "-o",
            "jsonpath={.clusters[0].cluster.server}",
        ])
        .ok();
    let node = &config["Nodes"][0];
    let address = format!(
        "https://{}:{}",
        node["IP"].as_str().unwrap_or("-"),
        node["Port"]
    );
    assert_eq!(server, address);
    let namespace = ["config", "view", "--minify", "-o", "jsonpath={..namespace}"];
    assert_eq!(cluster.kubectl(&namespace).ok(), "team");

    // Commands on nodes, and files.
    let on = |words: &[&str]| cluster.rkube(words).ok().trim().to_owned();
    assert_eq!(on(&["ssh", "hostname"]), cluster.profile);
    assert_eq!(on(&["ssh", "-n", "m02", "hostname"]), second);
    assert_eq!(on(&["ssh", "hostname", "-n", "m02"]), second);
    assert_eq!(
        cluster.rkube(&["ip", "-n", "m02"]).ok(),
        cluster.rkube(&["ip", "-n", &second]).ok()
    );
    let (file, back) = (cluster.path("a.txt"), cluster.path("b.txt"));
    std::fs::write(&file, "by heart\n").expect("a file");
    on(&["cp", file.to_str().expect("a path"), "m02:/tmp/"]);
    on(&["cp", "m02:/tmp/a.txt", "m01:/tmp/it's"]);
    on(&["cp", "m01:/tmp/it's", back.to_str().expect("a path")]);
    assert_eq!(
        std::fs::read_to_string(&back).expect("the file"),
        "by heart\n"
    );
    let host = on(&["ssh-host"]);
    assert!(host.contains(" ssh-ed25519 "), "{host}");

    // kubectl, and logs.
    assert_eq!(
        cluster
            .rkube(&["kubectl", "--", "get", "nodes", "-o", "name"])
            .ok(),
        cluster.kubectl(&["get", "nodes", "-o", "name"]).ok()
    );
    let logs = json(cluster.rkube(&["logs", "-n", "1", "--node", "m02", "-o", "json"]));
    assert!(logs.as_array().is_some_and(|logs| !logs.is_empty()));
    assert!(logs[0]["lines"].as_array().is_some_and(|l| l.len() <= 1));

    // Another profile's commands do not touch this one.
    let hint = cluster.rkube(&["node", "delete", "m01"]).failed(11);
    assert!(
        hint.contains(&format!("rkube delete -p {}", cluster.profile)),
        "{hint}"
    );
    cluster.rkube(&["profile", &cluster.profile]).ok();
    let hint = cluster.rkube(&["node", "delete", "m01"]).failed(11);
    assert!(hint.trim().ends_with("rkube delete"), "{hint}");
    cluster.rkube(&["delete"]).ok();
    assert!(!cluster.home().exists());
}

#[test]
fn a_tunnel_survives_a_restart_and_ends_with_its_cluster() {
    require_machine!();
    if !is_native("a route of this machine") {
        return;
    }
    let cluster = Cluster::plan("tunnel");
    cluster.rkube(&["start", "--no-load-balancer"]).ok();
    cluster.deploy_kubia(1);
    let expose = [
        "expose",
        "deployment",
        "kubia",
        "--name=lb",
        "--type=LoadBalancer",
    ];
    cluster
        .kubectl(&[&expose[..], &["--port=80", "--target-port=8080"]].concat())
        .ok();
    let mut tunnel = cluster
        .rkube_command(&["tunnel"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a tunnel");
    let path = [
        "get",
        "service",
        "lb",
        "-o",
        "jsonpath={.status.loadBalancer.ingress[0].ip}",
    ];
    let ip = cluster.wait_for(&path, |ip| !ip.is_empty());
    let answers = || {
        let stream = std::net::TcpStream::connect_timeout(
            &format!("{}:80", ip.trim()).parse().expect("an address"),
            std::time::Duration::from_secs(1),
        );
        stream.is_ok().then_some(())
    };
    eventually("an answer", answers);
    // It can be ended from elsewhere, and run without a terminal.
    cluster.rkube(&["tunnel", "--background"]).failed(11);
    let ended = cluster.rkube(&["tunnel", "--cleanup"]).ok();
    assert!(ended.contains("has ended"), "{ended}");
    assert!(tunnel.wait().expect("it ends").success());
    cluster.wait_for(&path, |ip| ip.is_empty());
    let nothing = cluster.rkube(&["tunnel", "--cleanup"]).ok();
    assert!(nothing.contains("nothing to do"), "{nothing}");
    cluster.rkube(&["tunnel", "--background"]).ok();
    assert_eq!(cluster.wait_for(&path, |found| !found.is_empty()), ip);
    cluster.rkube(&["tunnel", "-c"]).ok();
    let mut tunnel = cluster
        .rkube_command(&["tunnel"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a tunnel");
    assert_eq!(cluster.wait_for(&path, |found| !found.is_empty()), ip);
    let urls = json(cluster.rkube(&["service", "list", "-o", "json"]));
    let listed = urls
        .as_array()
        .into_iter()
        .flatten()
        .find(|s| s["Name"] == "lb");
    let url = format!("http://{}:80", ip.trim());
    assert_eq!(listed.expect("the service")["URLs"][0], url.as_str());
    let format = [
        "service",
        "lb",
        "--url",
        "--https",
        "--format",
        "http://{{.IP}}/{{.Name}}",
    ];
    assert_eq!(
        cluster.rkube(&format).ok(),
        format!("https://{}/lb\n", ip.trim())
    );

    cluster.rkube(&["snapshot", "save", "s"]).ok();
    cluster.rkube(&["stop"]).ok();
    cluster.rkube(&["start"]).ok();
    eventually("an answer after a restart", answers);
    cluster.rkube(&["snapshot", "restore", "s"]).ok();
    eventually("an answer after a restore", answers);

    cluster.rkube(&["delete"]).ok();
    assert!(tunnel.wait().expect("the tunnel ends").success());
    let out = BufReader::new(tunnel.stdout.take().expect("its output"));
    let last = out.lines().last().expect("a line").expect("text");
    assert!(last.contains("was deleted"), "{last}");
}
