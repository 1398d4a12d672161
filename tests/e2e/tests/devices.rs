//! Dynamic resource allocation in the control plane, without a driver: claims from templates, devices
//! of hand-written slices, reservations, and what happens when pods go.

use rkube_testing::{Cluster, require_machine};

/// A node with one device, and a claim for a pod.
const OBJECTS: &str = "
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: gpu}
spec:
  selectors: [{cel: {expression: 'device.driver == \"gpu.example.com\"'}}]
---
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {name: gpus}
spec:
  driver: gpu.example.com
  nodeName: NODE
  pool: {name: NODE, generation: 1, resourceSliceCount: 1}
  devices:
  - name: gpu-0
    attributes: {model: {string: large}}
    capacity: {memory: {value: 8Gi}}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: one-gpu}
spec:
  spec:
    devices:
      requests:
      - name: gpu
        exactly:
          deviceClassName: gpu
          selectors:
          - cel: {expression: 'device.capacity[\"gpu.example.com\"].memory.compareTo(quantity(\"4Gi\")) >= 0'}
";

fn pod(name: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: rkube/kubia
    resources: {{claims: [{{name: gpu}}]}}
  resourceClaims: [{{name: gpu, resourceClaimTemplateName: one-gpu}}]
"
    )
}

#[test]
fn claims_get_devices_and_give_them_back() {
    require_machine!();
    let cluster = Cluster::start("devices", 2);
    let nodes = ["get", "nodes", "-o", "jsonpath={.items[1].metadata.name}"];
    let node = cluster.kubectl(&nodes).ok();
    cluster.apply(&OBJECTS.replace("NODE", node.trim()));

    cluster.apply(&pod("first"));
    let placed = ["get", "pod", "first", "-o", "jsonpath={.spec.nodeName}"];
    cluster.wait_for(&placed, |out| out == node.trim());
    let claim = "jsonpath={.status.resourceClaimStatuses[0].resourceClaimName}";
    let claim = cluster.kubectl(&["get", "pod", "first", "-o", claim]).ok();
    assert!(claim.starts_with("first-gpu-"), "{claim}");
    let result = "jsonpath={.status.allocation.devices.results[0].device} {.status.reservedFor[0].name} {.metadata.finalizers[0]}";
    let claim = cluster.kubectl(&["get", "resourceclaim", claim.trim(), "-o", result]);
    assert_eq!(
        claim.ok(),
        "gpu-0 first resource.kubernetes.io/delete-protection"
    );

    // There is no device for another one.
    cluster.apply(&pod("second"));
    let message = "jsonpath={.status.conditions[?(@.type==\"PodScheduled\")].message}";
    let message = ["get", "pod", "second", "-o", message];
    let wanted = "0/2 nodes are available: 2 cannot allocate all claims. still not schedulable, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    cluster.wait_for(&message, |out| out == wanted);

    // Until the first one is gone.
    cluster
        .kubectl(&["delete", "pod", "first", "--timeout=60s"])
        .ok();
    let placed = ["get", "pod", "second", "-o", "jsonpath={.spec.nodeName}"];
    cluster.wait_for(&placed, |out| out == node.trim());
    let users = "jsonpath={.items[*].status.reservedFor[*].name}";
    let users = ["get", "resourceclaims", "-o", users];
    cluster.wait_for(&users, |out| out == "second");
}
