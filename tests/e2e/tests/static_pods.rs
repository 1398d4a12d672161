//! Pods from manifests in a directory of a node.

use rkube_testing::image::Image;
use rkube_testing::{Cluster, eventually, nodes, require_machine};

/// Where nodes look for manifests.
const DIRECTORY: &str = "/etc/kubernetes/manifests";

/// Returns a manifest whose pod writes `word` to a file of the node for as long as it runs.
fn manifest(word: &str) -> String {
    let script = format!(
        "trap 'rm -f /out/{word}; exit 0' TERM; echo {word} > /out/{word}; while :; do sleep 0.1; done"
    );
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, labels: {{word: {word}}}}}\n\
         spec:\n  containers:\n  - name: main\n    image: test/busybox:1\n    \
         command: [sh, -c, {script:?}]\n    volumeMounts: [{{name: out, mountPath: /out}}]\n  \
         volumes: [{{name: out, hostPath: {{path: /var/tmp/out, type: DirectoryOrCreate}}}}]\n"
    )
}

/// Copies a manifest to a node.
fn put(cluster: &Cluster, node: &str, text: &str) {
    let file = cluster.path("web.yaml");
    std::fs::write(&file, text).expect("a manifest");
    let to = format!("{node}:{DIRECTORY}/web.yaml");
    cluster
        .rkube(&["cp", &file.display().to_string(), &to])
        .ok();
}

/// Waits until exactly the pod that writes `word` runs on the node.
fn runs(cluster: &Cluster, node: &str, word: &str) {
    let ls = ["ssh", "-n", node, "ls /var/tmp/out"];
    eventually(&format!("the pod {word:?} on {node}"), || {
        let done = cluster.rkube(&ls);
        (done.code == 0 && done.stdout.trim() == word).then_some(())
    });
}

/// Sends a signal to a service of a node. That may end the connection of the command.
fn signal(cluster: &Cluster, node: &str, role: &str, signal: &str) {
    let script = format!(
        "for p in /proc/[0-9]*; do case $(tr '\\0' ' ' <$p/cmdline) in */rkube' {role} '*) \
         kill -{signal} ${{p#/proc/}};; esac; done"
    );
    cluster.rkube(&["ssh", "-n", node, &script]);
}

#[test]
fn a_manifest_is_a_pod_of_its_node() {
    require_machine!();
    let Some(image) = Image::busybox("test/busybox:1") else {
        rkube_testing::skip!("no busybox-static");
    };
    if nodes(2) < 2 {
        rkube_testing::skip!("the control plane must be on another node");
    }
    let cluster = Cluster::start("static", 2);
    let archive = cluster.path("busybox.tar");
    std::fs::write(&archive, image.docker_archive()).expect("the archive");
    let load = ["image", "load", &archive.display().to_string()];
    cluster.rkube(&load).ok();

    let (first, node) = (cluster.node(1), cluster.node(2));
    let pod = format!("web-{node}");
    let is = |field: &str, good: &dyn Fn(&str) -> bool| {
        let output = format!("jsonpath={field}");
        cluster.wait_for(&["get", "pod", &pod, "-o", &output], good)
    };
    put(&cluster, &node, &manifest("one"));
    is("{.status.phase}", &|phase| phase == "Running");
    runs(&cluster, &node, "one");
    let owner = is("{.metadata.ownerReferences[0].kind}", &|_| true);
    assert_eq!(owner, "Node");
    let source = is(
        r"{.metadata.annotations.kubernetes\.io/config\.source}",
        &|_| true,
    );
    assert_eq!(source, "file");

    // The mirror comes back; the container has never stopped.
    let container = "{.status.containerStatuses[0].containerID}";
    let (id, uid) = (is(container, &|_| true), is("{.metadata.uid}", &|_| true));
    cluster
        .kubectl(&["delete", "pod", &pod, "--wait=false"])
        .ok();
    is("{.metadata.uid}", &|now| now != uid);
    is(container, &|now| now == id);
    let logs = cluster
        .kubectl(&["exec", &pod, "--", "sh", "-c", "ls /out"])
        .ok();
    assert_eq!(logs.trim(), "one");

    // A change replaces the pod.
    put(&cluster, &node, &manifest("two"));
    is("{.metadata.labels.word}", &|word| word == "two");
    is("{.status.phase}", &|phase| phase == "Running");
    runs(&cluster, &node, "two");

    // Without the control plane, and for an agent that never reached it.
    signal(&cluster, &first, "control-plane", "STOP");
    put(&cluster, &node, &manifest("three"));
    runs(&cluster, &node, "three");
    signal(&cluster, &node, "agent", "TERM");
    runs(&cluster, &node, "three");
    let remove = format!("rm {DIRECTORY}/web.yaml");
    eventually("the new agent takes commands", || {
        (cluster.rkube(&["ssh", "-n", &node, &remove]).code == 0).then_some(())
    });
    runs(&cluster, &node, "");
    put(&cluster, &node, &manifest("four"));
    signal(&cluster, &first, "control-plane", "CONT");
    is("{.metadata.labels.word}", &|word| word == "four");
    is("{.status.phase}", &|phase| phase == "Running");

    // The pod ends with its manifest.
    cluster.rkube(&["ssh", "-n", &node, &remove]).ok();
    runs(&cluster, &node, "");
    let list = ["get", "pods", "-o", "name"];
    cluster.wait_for(&list, |pods| !pods.contains(&pod));
}
