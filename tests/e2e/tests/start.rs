//! A new cluster: the output of `rkube start` and the view of kubectl.

use rkube_testing::Cluster;
use rkube_testing::require_machine;

#[test]
fn all_nodes_are_ready_and_tell_who_they_are() {
    require_machine!();
    let cluster = Cluster::plan("start");
    let count = rkube_testing::nodes(4);
    let done = cluster.rkube(&["start", "--nodes", &count.to_string()]);
    let steps = done.stderr.clone();
    let said = done.ok();
    assert!(said.contains(&format!("is ready: {count} nodes")), "{said}");
    for step in [
        "Checking the machine",
        "certificates",
        &format!("Starting {count} {} nodes", rkube_testing::driver()),
        "nodes to be ready",
    ] {
        assert!(steps.contains(step), "{steps}");
    }
    assert!(!steps.contains('\x1b'), "colour off a terminal: {steps:?}");

    assert_eq!(
        cluster.kubectl(&["config", "current-context"]).ok().trim(),
        cluster.profile
    );
    let text = cluster
        .kubectl(&["get", "nodes", "-o", "wide", "--no-headers"])
        .ok();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), count, "{text}");
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(
            (row[0], row[1]),
            (cluster.node(i + 1).as_str(), "Ready"),
            "{text}"
        );
        assert!(row[2].contains("worker"), "{text}");
        assert_eq!(row[2].contains("control-plane"), i == 0, "{text}");
        assert!(
            row[4].starts_with("v1.36.") && row[4].contains("+rkube"),
            "{text}"
        );
    }
    let addresses: std::collections::BTreeSet<&str> = rows.iter().map(|r| r[5]).collect();
    assert_eq!(addresses.len(), count, "{text}");

    assert!(
        cluster
            .kubectl(&["cluster-info"])
            .ok()
            .contains("is running at")
    );
    let described = cluster
        .kubectl(&["describe", "node", &cluster.node(1)])
        .ok();
    for expected in [
        "Ready ",
        "PodCIDR:",
        "Kubelet Version:",
        "InternalIP:",
        "Allocatable:",
    ] {
        assert!(described.contains(expected), "{described}");
    }
    assert!(
        cluster
            .kubectl(&["get", "--raw", "/readyz?verbose"])
            .ok()
            .contains("readyz check passed")
    );
    let components = cluster.kubectl(&["get", "componentstatuses"]).ok();
    assert!(components.matches("Healthy").count() >= 3, "{components}");
    let version = cluster.kubectl(&["version"]).ok();
    assert!(version.contains("Server Version: v1.36."), "{version}");

    let status = cluster.rkube(&["status"]).ok();
    assert_eq!(status.matches("host: Running").count(), count, "{status}");
    let json: serde_json::Value =
        serde_json::from_str(&cluster.rkube(&["status", "-o", "json"]).ok()).expect("JSON");
    // minikube's form: an array of nodes, or the one node.
    assert_eq!(json.pointer("/0").unwrap_or(&json)["APIServer"], "Running");
    assert_eq!(cluster.rkube(&["ip"]).ok().trim(), rows[0][5]);

    // A second start changes nothing.
    cluster.rkube(&["start"]).ok();
}

#[test]
fn clusters_run_side_by_side() {
    require_machine!();
    let (one, two) = (Cluster::plan("one"), Cluster::plan("two"));
    // Both choose their address ranges at the same time, each in its own home.
    let starts = [&one, &two].map(|cluster| {
        let mut start = cluster.rkube_command(&["start"]);
        start
            .env_remove("RKUBE_SUBNET")
            .spawn()
            .expect("rkube runs")
    });
    for mut start in starts {
        assert!(start.wait().expect("ends").success());
    }
    let ip = |c: &Cluster| c.rkube(&["ip"]).ok();
    assert_ne!(ip(&one), ip(&two));
    for cluster in [&one, &two] {
        let nodes = cluster.kubectl(&["get", "nodes", "-o", "name"]).ok();
        assert_eq!(nodes.trim(), format!("node/{}", cluster.profile));
    }
    two.rkube(&["delete"]).ok();
    one.kubectl(&["get", "nodes"]).ok();
}

#[test]
fn json_output_is_events_a_line() {
    require_machine!();
    let cluster = Cluster::plan("json");
    let out = cluster.rkube(&["start", "-o", "json"]).ok();
    for line in out.lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        assert_eq!(event["specversion"], "1.0");
        assert!(
            event["type"]
                .as_str()
                .is_some_and(|t| t.starts_with("io.k8s.sigs.minikube.")),
            "{line}"
        );
    }
}
