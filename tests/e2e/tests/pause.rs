//! Pausing of namespaces.

use rkube_testing::{Cluster, require_machine};

/// A pod whose probes fail within seconds if it does not answer.
const PROBED: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: web}
---
apiVersion: v1
kind: Pod
metadata: {name: probed, namespace: web}
spec:
  containers:
  - name: kubia
    image: rkube/kubia
    livenessProbe: {httpGet: {port: 8080, path: /}, periodSeconds: 1, failureThreshold: 1}
    readinessProbe: {httpGet: {port: 8080, path: /}, periodSeconds: 1, failureThreshold: 1}
";

fn pod(cluster: &Cluster) -> (String, bool) {
    let path = "jsonpath={.status.containerStatuses[0].restartCount} {.status.podIP}";
    let said = cluster
        .kubectl(&["get", "pod", "probed", "-n", "web", "-o", path])
        .ok();
    let (restarts, ip) = said.split_once(' ').expect("a pod with an address");
    let curl = format!("curl -s -o /dev/null -m 1 http://{ip}:8080/");
    let answers = cluster.rkube(&["ssh", "--", &curl]).code == 0;
    (restarts.to_owned(), answers)
}

#[test]
fn paused_namespaces_neither_answer_nor_are_restarted() {
    require_machine!();
    let cluster = Cluster::start("pausens", 2);
    cluster.apply(PROBED);
    let wait = [
        "wait",
        "--for=condition=Ready",
        "pod/probed",
        "-n",
        "web",
        "--timeout=60s",
    ];
    cluster.kubectl(&wait).ok();
    assert_eq!(pod(&cluster), ("0".into(), true));

    let said = cluster.rkube(&["pause", "--namespaces", "web"]).ok();
    assert!(said.contains("unpause --namespaces web"), "{said}");
    assert!(
        cluster
            .rkube(&["status"])
            .ok()
            .contains("pausedNamespaces: web")
    );
    // Several periods of the probes.
    for _ in 0..4 {
        assert_eq!(pod(&cluster), ("0".into(), false));
    }
    let exec = cluster.kubectl(&["exec", "-n", "web", "probed", "--", "true"]);
    assert!(exec.stderr.contains("paused container"), "{}", exec.stderr);
    cluster.rkube(&["pause", "-n", "nosuch"]).failed(105);

    cluster.rkube(&["unpause", "--namespaces", "web"]).ok();
    assert_eq!(pod(&cluster), ("0".into(), true));
    assert!(!cluster.rkube(&["status"]).ok().contains("pausedNamespaces"));

    // A paused pod can be deleted, and a restart resumes everything.
    cluster.rkube(&["pause", "-n", "web,default"]).ok();
    let delete = [
        "delete",
        "pod",
        "probed",
        "-n",
        "web",
        "--grace-period=1",
        "--timeout=30s",
    ];
    cluster.kubectl(&delete).ok();
    cluster.rkube(&["stop"]).ok();
    cluster.rkube(&["start"]).ok();
    assert!(!cluster.rkube(&["status"]).ok().contains("pausedNamespaces"));
}
