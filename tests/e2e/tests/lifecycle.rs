//! Stopping and starting a cluster; adding and deleting nodes.

use rkube_testing::require_machine;
use rkube_testing::{Cluster, eventually, http_get};

#[test]
fn a_cluster_comes_back_as_it_was() {
    require_machine!();
    let cluster = Cluster::start("again", 2);
    cluster.deploy_kubia(2);
    cluster
        .kubectl(&[
            "expose",
            "deployment",
            "kubia",
            "--type=NodePort",
            "--port=8080",
        ])
        .ok();
    cluster
        .kubectl(&["create", "configmap", "kept", "--from-literal=a=b"])
        .ok();
    let nodes = || {
        cluster
            .kubectl(&[
                "get",
                "nodes",
                "-o",
                "custom-columns=N:.metadata.name,U:.metadata.uid,A:.status.addresses[0].address",
            ])
            .ok()
    };
    let port = cluster
        .kubectl(&[
            "get",
            "service",
            "kubia",
            "-o",
            "jsonpath={.spec.ports[0].nodePort}",
        ])
        .ok();
    let (before, kubeconfig) = (
        nodes(),
        std::fs::read_to_string(cluster.kubeconfig()).expect("kubeconfig"),
    );

    cluster.rkube(&["stop"]).ok();
    assert_eq!(cluster.rkube(&["status"]).code, 7);
    assert!(
        rkube_testing::leftovers::find(&cluster.profile, &cluster.path("nowhere"))
            .iter()
            .all(|l| l.starts_with("folder") || l.starts_with("engine") && !l.contains(" Up "))
    );
    cluster.rkube(&["start"]).ok();
    assert_eq!(nodes(), before);
    assert_eq!(
        std::fs::read_to_string(cluster.kubeconfig()).expect("kubeconfig"),
        kubeconfig
    );
    assert_eq!(
        cluster
            .kubectl(&["get", "cm", "kept", "-o", "jsonpath={.data.a}"])
            .ok(),
        "b"
    );
    let ip = cluster.rkube(&["ip"]).ok();
    let address = format!("{}:{port}", ip.trim());
    eventually("the app", || {
        http_get(&address).filter(|b| b.starts_with("You've hit kubia-"))
    });
    cluster
        .kubectl(&[
            "rollout",
            "status",
            "deployment/kubia",
            &rkube_testing::timeout(),
        ])
        .ok();
}

#[test]
fn nodes_come_and_go() {
    require_machine!();
    let cluster = Cluster::start("nodes", 2);
    cluster.rkube(&["node", "add"]).ok();
    let (second, third) = (cluster.node(2), cluster.node(3));
    let listed = cluster.rkube(&["node", "list"]).ok();
    assert_eq!(listed.matches("Running").count(), 3, "{listed}");
    cluster.deploy_kubia(3);
    let on = |node: &str| {
        cluster
            .kubectl(&[
                "get",
                "pods",
                "-o",
                "name",
                "--field-selector",
                &format!("spec.nodeName={node}"),
            ])
            .ok()
    };
    assert!(!on(&third).is_empty());

    cluster.rkube(&["node", "delete", &third]).ok();
    assert!(!cluster.kubectl(&["get", "nodes"]).ok().contains(&third));
    cluster
        .kubectl(&[
            "rollout",
            "status",
            "deployment/kubia",
            &rkube_testing::timeout(),
        ])
        .ok();
    assert!(on(&third).is_empty());

    cluster.rkube(&["node", "stop", &second]).ok();
    let json: serde_json::Value =
        serde_json::from_str(&cluster.rkube(&["node", "list", "-o", "json"]).ok()).expect("JSON");
    assert_eq!(json[1]["Host"], "Stopped");
    cluster.wait_for(&["get", "node", &second], |t| t.contains("NotReady"));
    cluster.rkube(&["node", "start", &second]).ok();
    cluster.wait_for(&["get", "node", &second], |t| !t.contains("NotReady"));
    // The first node cannot be deleted.
    cluster
        .rkube(&["node", "delete", &cluster.node(1)])
        .failed(11);
}
