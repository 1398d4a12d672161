//! Snapshots: saved from a running cluster, and restored after changes.

use rkube_testing::image::Image;
use rkube_testing::require_machine;
use rkube_testing::{Cluster, eventually};

const APP: &str = "apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: writer}
spec:
  strategy: {type: Recreate}
  selector: {matchLabels: {app: writer}}
  template:
    metadata: {labels: {app: writer}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: test/busybox:1
        command: [sleep, '36000']
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
";

/// Runs a shell command in a container that mounts the volume. Retries until the container
/// exists.
fn beside(cluster: &Cluster, line: &str) -> String {
    eventually(line, || {
        let args = ["exec", "deploy/writer", "--", "busybox", "sh", "-c", line];
        let done = cluster.kubectl(&args);
        (done.code == 0).then_some(done.stdout)
    })
}

fn rolled_out(cluster: &Cluster, name: &str) {
    let args = ["rollout", "status", name, &rkube_testing::timeout()];
    cluster.kubectl(&args).ok();
}

#[test]
fn a_cluster_becomes_what_it_was() {
    require_machine!();
    let Some(image) = Image::busybox("test/busybox:1") else {
        rkube_testing::skip!("no busybox-static");
    };
    let cluster = Cluster::start("snap", 2);
    let archive = cluster.path("busybox.tar");
    std::fs::write(&archive, image.docker_archive()).expect("archive");
    let archive = archive.to_str().expect("UTF-8");
    cluster.rkube(&["image", "load", archive]).ok();
    cluster.apply(APP);
    rolled_out(&cluster, "deployment/writer");
    cluster
        .kubectl(&["create", "configmap", "kept", "--from-literal=a=before"])
        .ok();
    beside(
        &cluster,
        "echo before >/data/file && busybox chown 7:8 /data/file",
    );
    let identity = || {
        let path = "jsonpath={.items[0].metadata.uid} {.items[0].spec.nodeName}";
        let args = ["get", "pod", "-l", "app=writer", "-o", path];
        cluster.kubectl(&args).ok()
    };
    let before = identity();

    let said = cluster.rkube(&["snapshot", "save", "first"]).ok();
    assert!(said.contains("'first' holds"), "{said}");
    let again = cluster.rkube(&["snapshot", "save", "first"]).failed(11);
    assert!(again.contains("already"), "{again}");
    let listed = cluster.rkube(&["-o", "json", "snapshot", "list"]).ok();
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed[0]["name"], "first");
    assert!(listed[0]["objects"].as_u64() > Some(100), "{listed}");
    assert_eq!(listed[0]["nodes"].as_array().map(Vec::len), Some(2));

    // Deletes, changes and adds objects. The app becomes another pod with other data.
    cluster.kubectl(&["delete", "configmap", "kept"]).ok();
    cluster.deploy_kubia(2);
    cluster
        .kubectl(&["rollout", "restart", "deployment/writer"])
        .ok();
    rolled_out(&cluster, "deployment/writer");
    beside(&cluster, "echo after >/data/file; echo >/data/new");
    assert_ne!(identity(), before);

    cluster.rkube(&["snapshot", "restore", "first"]).ok();
    let kept = ["get", "configmap", "kept", "-o", "jsonpath={.data.a}"];
    assert_eq!(cluster.kubectl(&kept).ok(), "before");
    assert_eq!(identity(), before, "the very pod that there was");
    rolled_out(&cluster, "deployment/writer");
    let found = beside(&cluster, "busybox stat -c '%u:%g' /data/file; cat /data/*");
    assert_eq!(found, "7:8\nbefore\n");
    assert!(cluster.pods("kubia").is_empty());
    let pods = cluster.kubectl(&["get", "deployments", "-o", "name"]).ok();
    assert_eq!(pods.trim(), "deployment.apps/writer");
    // The agents stop containers that the restored cluster does not have.
    eventually("no container of the other life", || {
        (1..=2)
            .all(|i| {
                let node = cluster.node(i);
                let args = ["ssh", "-n", &node, "--", "rkube", "ctl", "ps"];
                !cluster.rkube(&args).ok().contains("kubia")
            })
            .then_some(())
    });
    // The restored cluster works normally.
    cluster.deploy_kubia(2);

    // The next boot does not apply the snapshot again.
    beside(&cluster, "echo later >/data/file");
    cluster.rkube(&["stop"]).ok();
    let why = cluster.rkube(&["snapshot", "save", "second"]).failed(83);
    assert!(why.contains("rkube start"), "{why}");
    cluster.rkube(&["snapshot", "restore", "first"]).failed(83);
    cluster.rkube(&["start"]).ok();
    assert_eq!(beside(&cluster, "cat /data/file"), "later\n");
    assert_eq!(cluster.pods("kubia").len(), 2);
}

#[test]
fn what_cannot_be_restored_changes_nothing() {
    require_machine!();
    let cluster = Cluster::start("snaperr", 2);
    cluster.rkube(&["snapshot", "save", "../x"]).failed(14);
    cluster.rkube(&["snapshot", "restore", "none"]).failed(15);
    cluster.rkube(&["snapshot", "delete", "none"]).failed(15);
    assert!(
        cluster
            .rkube(&["snapshot", "list"])
            .ok()
            .contains("no snapshots")
    );

    cluster.rkube(&["snapshot", "save", "good"]).ok();
    cluster
        .kubectl(&["create", "configmap", "new", "--from-literal=a=b"])
        .ok();
    let there = || cluster.kubectl(&["get", "configmap", "new"]).ok();
    let objects = cluster
        .home()
        .join("profiles")
        .join(&cluster.profile)
        .join("snapshots/good/objects.gz");
    let whole = std::fs::read(&objects).expect("objects");
    std::fs::write(&objects, &whole[..whole.len() / 2]).expect("objects");
    let why = cluster.rkube(&["snapshot", "restore", "good"]).failed(18);
    assert!(why.contains("damaged"), "{why}");
    there();
    std::fs::write(&objects, whole).expect("objects");

    // The set of nodes differs from the snapshot's.
    let second = cluster.node(2);
    cluster.rkube(&["node", "delete", &second]).ok();
    let why = cluster.rkube(&["snapshot", "restore", "good"]).failed(11);
    assert!(why.contains(&second) && why.contains("node add"), "{why}");
    there();
    cluster.rkube(&["node", "add"]).ok();
    cluster.rkube(&["snapshot", "restore", "good"]).ok();
    cluster.kubectl(&["get", "configmap", "new"]).failed(1);
    let nodes = cluster.kubectl(&["get", "nodes", "--no-headers"]).ok();
    assert_eq!(nodes.matches(" Ready ").count(), 2, "{nodes}");
    cluster.rkube(&["snapshot", "delete", "good"]).ok();
}
