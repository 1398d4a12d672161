//! Pods that use more of the node's disk than they may are evicted.

use rkube_testing::{Cluster, require_machine};

/// One pod writes to its own layer, the other to a volume; a third one keeps its limits.
const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: layer}
spec:
  containers:
  - name: main
    image: test/busybox:1
    command: [sh, -c, 'dd if=/dev/zero of=/file bs=1M count=20; sleep 1000']
    resources: {limits: {ephemeral-storage: 10Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: volume}
spec:
  containers:
  - name: main
    image: test/busybox:1
    command: [sh, -c, 'dd if=/dev/zero of=/scratch/file bs=1M count=20; sleep 1000']
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes: [{name: scratch, emptyDir: {sizeLimit: 10Mi}}]
---
apiVersion: v1
kind: Pod
metadata: {name: modest}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: test/busybox:1
    command: [sh, -c, 'dd if=/dev/zero of=/scratch/file bs=1M count=5; sleep 1000']
    resources: {limits: {ephemeral-storage: 1Gi}}
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes: [{name: scratch, emptyDir: {sizeLimit: 10Mi}}]
";

#[test]
fn pods_that_fill_the_disk_are_evicted() {
    require_machine!();
    let Some(image) = rkube_testing::image::Image::busybox("test/busybox:1") else {
        rkube_testing::skip!("no busybox-static");
    };
    let cluster = Cluster::start("eviction", 1);
    let archive = cluster.path("busybox.tar");
    std::fs::write(&archive, image.docker_archive()).expect("the archive");
    let load = ["image", "load", &archive.display().to_string()];
    cluster.rkube(&load).ok();
    cluster.apply(PODS);
    for (pod, message) in [
        (
            "layer",
            "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. ",
        ),
        (
            "volume",
            "Usage of EmptyDir volume \"scratch\" exceeds the limit \"10Mi\". ",
        ),
    ] {
        let status = "jsonpath={.status.phase}/{.status.reason}/{.status.message}";
        let get = ["get", "pod", pod, "-o", status];
        let wanted = format!("Failed/Evicted/{message}");
        cluster.wait_for(&get, |out| out == wanted);
        let state = "jsonpath={.status.containerStatuses[0].state}";
        let state = cluster.kubectl(&["get", "pod", pod, "-o", state]).ok();
        assert!(state.contains("terminated"), "{state}");
        let selector = format!("--field-selector=involvedObject.name={pod},reason=Evicted");
        let events = [
            "get",
            "events",
            &selector,
            "-o",
            "jsonpath={.items[*].message}",
        ];
        cluster.wait_for(&events, |out| out.trim_end() == message.trim_end());
    }
    let phase = ["get", "pod", "modest", "-o", "jsonpath={.status.phase}"];
    cluster.wait_for(&phase, |out| out == "Running");
}
