//! Pods whose users are others on the node, and pods that start over.

use rkube_testing::{Cluster, require_machine};

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: own}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 1
  securityContext: {fsGroup: 3000}
  initContainers:
  - name: init
    image: test/busybox:1
    command: [sh, -c, \"echo KEY=\\\\'value\\\\' > /data/env\"]
    volumeMounts: [{name: data, mountPath: /data}]
  containers:
  - name: main
    image: test/busybox:1
    command: [sleep, '3600']
    env:
    - name: FROM_FILE
      valueFrom: {fileKeyRef: {volumeName: data, path: env, key: KEY}}
    securityContext: {procMount: Unmasked}
    readinessProbe: {exec: {command: [sh, -c, 'test -w /data']}, periodSeconds: 1}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: over}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  initContainers:
  - name: init
    image: test/busybox:1
    command: [sh, -c, 'echo again >> /data/count']
    volumeMounts: [{name: data, mountPath: /data}]
  containers:
  - name: cause
    image: test/busybox:1
    command: [sh, -c, 'test $(wc -l < /data/count) -ge 3 && exec sleep 3600; sleep 3; exit 42']
    restartPolicy: Never
    restartPolicyRules:
    - {action: RestartAllContainers, exitCodes: {operator: In, values: [42]}}
    volumeMounts: [{name: data, mountPath: /data}]
  - name: other
    image: test/busybox:1
    command: [sleep, '3600']
  volumes: [{name: data, emptyDir: {}}]
";

#[test]
fn pods_have_users_of_their_own_and_start_over() {
    require_machine!();
    let Some(image) = rkube_testing::image::Image::busybox("test/busybox:1") else {
        rkube_testing::skip!("no busybox-static");
    };
    let cluster = Cluster::start("users", 1);
    let archive = cluster.path("busybox.tar");
    std::fs::write(&archive, image.docker_archive()).expect("the archive");
    let load = ["image", "load", &archive.display().to_string()];
    cluster.rkube(&load).ok();
    let support = "jsonpath={.items[0].status.runtimeHandlers[0].features.userNamespaces}";
    if cluster.kubectl(&["get", "nodes", "-o", support]).ok() != "true" {
        rkube_testing::skip!("the kernel has no user namespaces, or no idmapped mounts");
    }
    cluster.apply(PODS);
    let ready = "--for=condition=Ready";
    cluster
        .kubectl(&["wait", ready, "pod/own", &rkube_testing::timeout()])
        .ok();
    let sh = |script: &str| {
        cluster
            .kubectl(&["exec", "own", "--", "sh", "-c", script])
            .ok()
    };
    let map = sh("cat /proc/self/uid_map");
    let map: Vec<&str> = map.split_whitespace().collect();
    assert_eq!((map[0], map[2]), ("0", "65536"), "{map:?}");
    assert_ne!(map[1], "0");
    assert_eq!(
        sh("echo $FROM_FILE; stat -c %u:%g /data /data/env /").trim(),
        "value\n0:3000\n0:3000\n0:0"
    );
    let write = "(: > /proc/sys/kernel/core_pattern) 2> /dev/null && echo may; true";
    assert_eq!(sh(write).trim(), "");

    let counts = "jsonpath={.status.containerStatuses[*].restartCount}";
    let counts = ["get", "pod", "over", "-o", counts];
    cluster.wait_for(&counts, |out| out == "2 2");
    let last = "jsonpath={.status.containerStatuses[*].lastState.terminated.reason}";
    let last = cluster.kubectl(&["get", "pod", "over", "-o", last]).ok();
    assert_eq!(
        last.trim(),
        "RestartingAllContainers RestartingAllContainers"
    );
}
