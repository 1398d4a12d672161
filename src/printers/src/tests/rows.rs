//! Rows of objects, with the cells that upstream's printers compute.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{cells, columns, row_conditions};

/// Asserts that the row of an object has the given cells, in order, after the
/// name. Objects are two hours old.
#[track_caller]
fn assert_row(group: &str, kind: &str, mut object: Value, want: &[Value]) {
    let now: Timestamp = "2026-01-01T02:00:00Z".parse().unwrap();
    object["metadata"]["name"] = json!("x");
    object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    let row = cells(group, kind, &object, now);
    assert_eq!(row[0], "x", "{kind}");
    assert_eq!(&row[1..], want, "{kind}");
}

fn row(cells: Value) -> Vec<Value> {
    cells.as_array().expect("a list of cells").clone()
}

#[test]
fn core() {
    for (kind, object, want) in [
        (
            "Namespace",
            json!({"status": {"phase": "Active"}}),
            json!(["Active", "120m"]),
        ),
        (
            "Secret",
            json!({"type": "Opaque", "data": {"a": "", "b": ""}}),
            json!(["Opaque", 2, "120m"]),
        ),
        (
            "ConfigMap",
            json!({"data": {"a": ""}, "binaryData": {"b": ""}}),
            json!([2, "120m"]),
        ),
        (
            "ServiceAccount",
            json!({"secrets": [{}]}),
            json!([1, "120m"]),
        ),
        (
            "PersistentVolume",
            json!({"spec": {"capacity": {"storage": "4Gi"}, "accessModes": ["ReadOnlyMany", "ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"namespace": "n", "name": "c"},
                "storageClassName": "fast", "volumeMode": "Block"}, "status": {"phase": "Bound"}}),
            json!([
                "4Gi", "RWO,ROX", "Retain", "Bound", "n/c", "fast", "<unset>", "", "120m", "Block"
            ]),
        ),
        (
            "PersistentVolume",
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Bound"}}),
            json!([
                "0",
                "",
                "",
                "Terminating",
                "",
                "",
                "<unset>",
                "",
                "120m",
                "<unset>"
            ]),
        ),
        (
            "PersistentVolumeClaim",
            json!({"status": {"phase": "Pending"}, "spec": {"storageClassName": "s"}}),
            json!(["Pending", "", "", "", "s", "<unset>", "120m", "<unset>"]),
        ),
        (
            "ReplicationController",
            json!({"spec": {"replicas": 5, "selector": {"a": "b", "c": "d"},
                "template": {"spec": {"containers": [{"name": "c1", "image": "i1"}, {"name": "c2", "image": "i2"}]}}},
                "status": {"replicas": 3, "readyReplicas": 1}}),
            json!([5, 3, 1, "120m", "c1,c2", "i1,i2", "a=b,c=d"]),
        ),
        (
            "ResourceQuota",
            json!({"status": {"hard": {"cpu": "2", "limits.cpu": "4", "pods": "10"}, "used": {"cpu": "500m", "pods": "1"}}}),
            json!(["cpu: 500m/2, pods: 1/10", "limits.cpu: 0/4", "120m"]),
        ),
        (
            "ComponentStatus",
            json!({"conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]}),
            json!(["Healthy", "ok", ""]),
        ),
        (
            "ComponentStatus",
            json!({"conditions": [{"type": "Healthy", "status": "False", "error": "e"}]}),
            json!(["Unhealthy", "", "e"]),
        ),
        ("ComponentStatus", json!({}), json!(["Unknown", "", ""])),
        (
            "PodTemplate",
            json!({"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}),
            json!(["c", "i", "a=b"]),
        ),
        ("LimitRange", json!({}), json!(["2026-01-01T00:00:00Z"])),
    ] {
        assert_row("", kind, object, &row(want));
    }
}

#[test]
fn workloads() {
    let template = json!({"spec": {"containers": [{"name": "c", "image": "i"}]}});
    for (group, kind, object, want) in [
        (
            "apps",
            "ReplicaSet",
            json!({"spec": {"replicas": 2, "template": template, "selector": {"matchExpressions": [
                {"key": "k", "operator": "In", "values": ["a", "b"]}, {"key": "x", "operator": "Exists"}]}},
                "status": {"replicas": 2, "readyReplicas": 2}}),
            json!([2, 2, 2, "120m", "c", "i", "k in (a,b),x"]),
        ),
        (
            "apps",
            "StatefulSet",
            json!({"spec": {"replicas": 5, "template": template}, "status": {"readyReplicas": 2}}),
            json!(["2/5", "120m", "c", "i"]),
        ),
        (
            "apps",
            "DaemonSet",
            json!({"spec": {"template": {"spec": {"nodeSelector": {"disk": "ssd"}, "containers": []}}, "selector": {"matchLabels": {"a": "b"}}},
                "status": {"desiredNumberScheduled": 4, "currentNumberScheduled": 3, "numberReady": 2,
                    "updatedNumberScheduled": 1, "numberAvailable": 0}}),
            json!([4, 3, 2, 1, 0, "disk=ssd", "120m", "", "", "a=b"]),
        ),
        (
            "apps",
            "ControllerRevision",
            json!({"revision": 3, "metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "controller": true}]}}),
            json!(["daemonset.apps/d", 3, "120m"]),
        ),
        (
            "apps",
            "ControllerRevision",
            json!({"revision": 1}),
            json!(["<none>", 1, "120m"]),
        ),
        (
            "batch",
            "Job",
            json!({"spec": {"completions": 2, "template": template, "selector": {"matchLabels": {"a": "b"}}},
                "status": {"succeeded": 1, "conditions": [{"type": "Failed", "status": "True"}],
                    "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T01:02:03Z"}}),
            json!(["Failed", "1/2", "62m", "120m", "c", "i", "a=b"]),
        ),
        (
            "batch",
            "Job",
            json!({"status": {"conditions": [{"type": "Suspended", "status": "True"}]}}),
            json!(["Suspended", "0/1", "", "120m", "", "", "<none>"]),
        ),
        (
            "batch",
            "CronJob",
            json!({"spec": {"schedule": "0 * * * *", "suspend": true, "timeZone": "Etc/UTC", "jobTemplate": {"spec": {"template": template}}},
                "status": {"active": [{}], "lastScheduleTime": "2026-01-01T01:59:00Z"}}),
            json!([
                "0 * * * *",
                "Etc/UTC",
                "True",
                1,
                "60s",
                "120m",
                "c",
                "i",
                "<none>"
            ]),
        ),
        (
            "batch",
            "CronJob",
            json!({"spec": {"schedule": "0 * * * *", "suspend": false}}),
            json!([
                "0 * * * *",
                "<none>",
                "False",
                0,
                "<none>",
                "120m",
                "",
                "",
                "<none>"
            ]),
        ),
        (
            "policy",
            "PodDisruptionBudget",
            json!({"spec": {"minAvailable": 22}, "status": {"disruptionsAllowed": 5}}),
            json!(["22", "N/A", 5, "120m"]),
        ),
        (
            "policy",
            "PodDisruptionBudget",
            json!({"spec": {"maxUnavailable": "50%"}}),
            json!(["N/A", "50%", 0, "120m"]),
        ),
    ] {
        assert_row(group, kind, object, &row(want));
    }
}

#[test]
fn autoscalers() {
    let resource = |target: Value, current: Value| {
        json!({"spec": {"minReplicas": 2, "maxReplicas": 10, "scaleTargetRef": {"kind": "RS", "name": "r"},
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]},
            "status": {"currentReplicas": 4, "currentMetrics": [{"type": "Resource", "resource": {"current": current}}]}})
    };
    for (object, targets) in [
        (
            resource(
                json!({"averageUtilization": 80}),
                json!({"averageUtilization": 50}),
            ),
            "cpu: 50%/80%",
        ),
        (
            resource(json!({"averageUtilization": 80}), json!({})),
            "cpu: <unknown>/80%",
        ),
        (
            resource(
                json!({"averageValue": "100m"}),
                json!({"averageValue": "50m"}),
            ),
            "cpu: 50m/100m",
        ),
        (
            resource(json!({"averageValue": "100m"}), json!({})),
            "cpu: <unknown>/100m",
        ),
    ] {
        let want = json!(["RS/r", targets, "2", 10, 4, "120m"]);
        assert_row("autoscaling", "HorizontalPodAutoscaler", object, &row(want));
    }
    let pods = json!({"type": "Pods", "pods": {"target": {"averageValue": "100m"}}});
    let external = json!({"type": "External", "external": {"target": {"averageValue": "1"}}});
    let object = json!({"type": "Object", "object": {"target": {"value": "3"}}});
    let many = json!({"spec": {"maxReplicas": 1, "metrics": [pods, external, object]}});
    let want = json!([
        "/",
        "<unknown>/100m, <unknown>/1 (avg) + 1 more...",
        "<unset>",
        1,
        0,
        "120m"
    ]);
    assert_row("autoscaling", "HorizontalPodAutoscaler", many, &row(want));
}

#[test]
fn network() {
    for (group, kind, object, want) in [
        (
            "",
            "Service",
            json!({"spec": {"type": "ClusterIP", "clusterIPs": ["10.9.8.7"], "externalIPs": ["1.2.3.4"],
                "ports": [{"port": 2233, "protocol": "UDP"}, {"port": 8888, "nodePort": 30000, "protocol": "TCP"}]}}),
            json!([
                "ClusterIP",
                "10.9.8.7",
                "1.2.3.4",
                "2233/UDP,8888:30000/TCP",
                "120m",
                "<none>"
            ]),
        ),
        (
            "",
            "Service",
            json!({"spec": {"type": "LoadBalancer", "externalIPs": ["9.9.9.9"]},
                "status": {"loadBalancer": {"ingress": [{"ip": "2.2.2.2"}, {"hostname": "h"}]}}}),
            json!([
                "LoadBalancer",
                "<none>",
                "2.2.2.2,h,9.9.9.9",
                "<none>",
                "120m",
                "<none>"
            ]),
        ),
        (
            "networking.k8s.io",
            "Ingress",
            json!({"spec": {"rules": [{"host": "a"}, {"host": "b"}, {"host": "c"}, {"host": "d"}], "tls": [{}], "ingressClassName": "nginx"},
                "status": {"loadBalancer": {"ingress": [{"ip": "2.2.2.2"}]}}}),
            json!(["nginx", "a,b,c + 1 more...", "2.2.2.2", "80, 443", "120m"]),
        ),
        (
            "networking.k8s.io",
            "Ingress",
            json!({}),
            json!(["<none>", "*", "", "80", "120m"]),
        ),
        (
            "networking.k8s.io",
            "IngressClass",
            json!({"spec": {"controller": "example.com/c", "parameters": {"apiGroup": "g.io", "kind": "P", "name": "p"}}}),
            json!(["example.com/c", "P.g.io/p", "120m"]),
        ),
        (
            "networking.k8s.io",
            "NetworkPolicy",
            json!({"spec": {"podSelector": {}}}),
            json!(["<none>", "120m"]),
        ),
        (
            "networking.k8s.io",
            "ServiceCIDR",
            json!({"spec": {"cidrs": ["10.0.0.0/8", "fd00::/64"]}}),
            json!(["10.0.0.0/8,fd00::/64", "120m"]),
        ),
        (
            "networking.k8s.io",
            "IPAddress",
            json!({"spec": {"parentRef": {"resource": "services", "namespace": "n", "name": "s"}}}),
            json!(["services/n/s"]),
        ),
        (
            "discovery.k8s.io",
            "EndpointSlice",
            json!({"addressType": "IPv4", "ports": [{"port": 80}, {"name": "x"}, {}], "endpoints": [{"addresses": ["1.1.1.1", "2.2.2.2"]}]}),
            json!(["IPv4", "80,x,*", "1.1.1.1,2.2.2.2", "120m"]),
        ),
        (
            "discovery.k8s.io",
            "EndpointSlice",
            json!({"addressType": "IPv6"}),
            json!(["IPv6", "<unset>", "<unset>", "120m"]),
        ),
    ] {
        assert_row(group, kind, object, &row(want));
    }
}

#[test]
fn smaller_groups() {
    for (group, kind, object, want) in [
        (
            "rbac.authorization.k8s.io",
            "RoleBinding",
            json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}, {"kind": "User", "name": "v"},
                {"kind": "Group", "name": "g"}, {"kind": "ServiceAccount", "namespace": "n", "name": "s"}]}),
            json!(["Role/r", "120m", "u, v", "g", "n/s"]),
        ),
        (
            "rbac.authorization.k8s.io",
            "ClusterRole",
            json!({}),
            json!(["2026-01-01T00:00:00Z"]),
        ),
        (
            "storage.k8s.io",
            "StorageClass",
            json!({"provisioner": "p", "reclaimPolicy": "Retain", "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true}),
            json!(["p", "Retain", "WaitForFirstConsumer", true, "120m"]),
        ),
        (
            "storage.k8s.io",
            "VolumeAttachment",
            json!({"spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "v"}}, "status": {"attached": true}}),
            json!(["a", "v", "n", true, "120m"]),
        ),
        (
            "storage.k8s.io",
            "CSIDriver",
            json!({"spec": {"attachRequired": false, "tokenRequests": [{"audience": "t"}], "volumeLifecycleModes": ["Persistent"]}}),
            json!([false, false, false, "t", false, "Persistent", "120m"]),
        ),
        (
            "storage.k8s.io",
            "CSINode",
            json!({"spec": {"drivers": [{}, {}]}}),
            json!([2, "120m"]),
        ),
        (
            "storage.k8s.io",
            "CSIStorageCapacity",
            json!({"storageClassName": "s", "capacity": "100Gi"}),
            json!(["2026-01-01T00:00:00Z"]),
        ),
        (
            "storage.k8s.io",
            "VolumeAttributesClass",
            json!({"driverName": "d"}),
            json!(["d", "120m"]),
        ),
        (
            "coordination.k8s.io",
            "Lease",
            json!({"spec": {"holderIdentity": "h"}}),
            json!(["h", "120m"]),
        ),
        (
            "certificates.k8s.io",
            "CertificateSigningRequest",
            json!({"spec": {"signerName": "s.io/x", "username": "u"}, "status": {"conditions": [{"type": "Denied"}, {"type": "Failed"}]}}),
            json!(["120m", "s.io/x", "u", "<none>", "Denied,Failed"]),
        ),
        (
            "scheduling.k8s.io",
            "PriorityClass",
            json!({"value": 1, "preemptionPolicy": "Never"}),
            json!([1, false, "120m", "Never"]),
        ),
        (
            "node.k8s.io",
            "RuntimeClass",
            json!({"handler": "h"}),
            json!(["h", "120m"]),
        ),
        (
            "admissionregistration.k8s.io",
            "MutatingWebhookConfiguration",
            json!({"webhooks": [{}, {}]}),
            json!([2, "120m"]),
        ),
        (
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicy",
            json!({"spec": {"validations": [{}], "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}}}),
            json!([1, "v1/ConfigMap", "120m"]),
        ),
        (
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicyBinding",
            json!({"spec": {"policyName": "p", "paramRef": {"name": "n"}}}),
            json!(["p", "*/n", "120m"]),
        ),
        (
            "admissionregistration.k8s.io",
            "MutatingAdmissionPolicyBinding",
            json!({"spec": {"policyName": "p", "paramRef": {"namespace": "ns", "selector": {}}}}),
            json!(["p", "ns/*", "120m"]),
        ),
        (
            "flowcontrol.apiserver.k8s.io",
            "FlowSchema",
            json!({"spec": {"matchingPrecedence": 9, "priorityLevelConfiguration": {"name": "l"}, "distinguisherMethod": {"type": "ByUser"}},
                "status": {"conditions": [{"type": "Dangling", "status": "False"}]}}),
            json!(["l", 9, "ByUser", "120m", "False"]),
        ),
        (
            "flowcontrol.apiserver.k8s.io",
            "PriorityLevelConfiguration",
            json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 47, "limitResponse": {"queuing": {"queues": 8, "handSize": 3, "queueLengthLimit": 50}}}}}),
            json!(["Limited", 47, 8, 3, 50, "120m"]),
        ),
        (
            "apiregistration.k8s.io",
            "APIService",
            json!({"spec": {"service": {"namespace": "n", "name": "s"}}, "status": {"conditions": [{"type": "Available", "status": "False", "reason": "R"}]}}),
            json!(["n/s", "False (R)", "120m"]),
        ),
        (
            "resource.k8s.io",
            "ResourceClaim",
            json!({"status": {"allocation": {}, "reservedFor": [{}]}}),
            json!(["allocated,reserved", "120m"]),
        ),
        (
            "resource.k8s.io",
            "ResourceSlice",
            json!({"spec": {"driver": "d", "pool": {"name": "p"}}}),
            json!(["<unset>", "d", "p", "120m"]),
        ),
        ("example.com", "Custom", json!({}), json!(["120m"])),
    ] {
        assert_row(group, kind, object, &row(want));
    }
}

#[test]
fn finished_pods_are_marked() {
    for (phase, reason) in [
        ("Succeeded", Some("Succeeded")),
        ("Failed", Some("Failed")),
        ("Running", None),
    ] {
        let conditions = row_conditions("", "Pod", &json!({"status": {"phase": phase}}));
        assert_eq!(
            conditions.first().and_then(|c| c["reason"].as_str()),
            reason
        );
    }
    assert!(row_conditions("batch", "Job", &json!({"status": {"phase": "Failed"}})).is_empty());
}

#[test]
fn columns_are_definitions_of_a_table() {
    assert_eq!(
        columns("", "Namespace")[0].to_value(),
        json!({"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0})
    );
    let wide: Vec<&str> = columns("", "Pod")
        .iter()
        .filter(|c| c.priority == 1)
        .map(|c| c.name)
        .collect();
    assert_eq!(wide, ["IP", "Node", "Nominated Node", "Readiness Gates"]);
}
