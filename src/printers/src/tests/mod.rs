//! Tests across all printers.

mod rows;

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::{PRINTERS, cells, columns};

/// Fields that printers read.
const FIELDS: &[&str] = &[
    "metadata",
    "name",
    "labels",
    "annotations",
    "creationTimestamp",
    "deletionTimestamp",
    "ownerReferences",
    "spec",
    "status",
    "type",
    "ports",
    "port",
    "nodePort",
    "clusterIPs",
    "externalIPs",
    "loadBalancer",
    "ingress",
    "rules",
    "host",
    "selector",
    "matchLabels",
    "matchExpressions",
    "template",
    "containers",
    "initContainers",
    "containerStatuses",
    "initContainerStatuses",
    "state",
    "lastState",
    "terminated",
    "waiting",
    "running",
    "restartCount",
    "restartPolicy",
    "finishedAt",
    "conditions",
    "replicas",
    "metrics",
    "currentMetrics",
    "resource",
    "current",
    "target",
    "averageUtilization",
    "averageValue",
    "capacity",
    "storage",
    "accessModes",
    "claimRef",
    "hard",
    "used",
    "subsets",
    "addresses",
    "endpoints",
    "subjects",
    "roleRef",
    "webhooks",
    "active",
    "schedule",
    "jobTemplate",
    "regarding",
    "series",
    "source",
    "paramRef",
];

fn tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop_oneof![
            Just("2024-01-01T00:00:00Z".to_owned()),
            Just("True".to_owned()),
            Just("Ready".to_owned()),
            Just("LoadBalancer".to_owned()),
            Just("Always".to_owned()),
            Just("1Gi".to_owned()),
            ".{0,8}"
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(FIELDS), inner), 0..6).prop_map(|fields| {
                let map: Map<String, Value> =
                    fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
                Value::Object(map)
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_object_has_as_many_cells_as_columns(metadata in tree(), spec in tree(), status in tree()) {
        let object = json!({"metadata": metadata, "spec": spec, "status": status});
        for (group, kind) in PRINTERS.keys() {
            prop_assert_eq!(
                cells(group, kind, &object, Timestamp::UNIX_EPOCH).len(),
                columns(group, kind).len()
            );
        }
    }
}

#[test]
fn as_many_cells_as_columns() {
    let kinds = [
        ("", "Pod"),
        ("", "Service"),
        ("", "Node"),
        ("", "Namespace"),
        ("", "Secret"),
        ("", "ConfigMap"),
        ("", "ServiceAccount"),
        ("", "PersistentVolume"),
        ("", "PersistentVolumeClaim"),
        ("", "Event"),
        ("", "Endpoints"),
        ("", "ReplicationController"),
        ("", "ResourceQuota"),
        ("", "LimitRange"),
        ("", "ComponentStatus"),
        ("", "PodTemplate"),
        ("apps", "Deployment"),
        ("apps", "ReplicaSet"),
        ("apps", "StatefulSet"),
        ("apps", "DaemonSet"),
        ("apps", "ControllerRevision"),
        ("batch", "Job"),
        ("batch", "CronJob"),
        ("autoscaling", "HorizontalPodAutoscaler"),
        ("policy", "PodDisruptionBudget"),
        ("networking.k8s.io", "Ingress"),
        ("networking.k8s.io", "IngressClass"),
        ("networking.k8s.io", "NetworkPolicy"),
        ("networking.k8s.io", "ServiceCIDR"),
        ("networking.k8s.io", "IPAddress"),
        ("discovery.k8s.io", "EndpointSlice"),
        ("rbac.authorization.k8s.io", "RoleBinding"),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
        ("storage.k8s.io", "StorageClass"),
        ("storage.k8s.io", "CSIDriver"),
        ("storage.k8s.io", "CSINode"),
        ("storage.k8s.io", "VolumeAttachment"),
        ("coordination.k8s.io", "Lease"),
        ("certificates.k8s.io", "CertificateSigningRequest"),
        ("scheduling.k8s.io", "PriorityClass"),
        ("node.k8s.io", "RuntimeClass"),
        (
            "admissionregistration.k8s.io",
            "MutatingWebhookConfiguration",
        ),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
        (
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicyBinding",
        ),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema"),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"),
        ("apiregistration.k8s.io", "APIService"),
        ("resource.k8s.io", "ResourceClaim"),
        ("resource.k8s.io", "ResourceSlice"),
        ("example.com", "Custom"),
    ];
    for (group, kind) in kinds {
        let cells = cells(group, kind, &json!({}), Timestamp::UNIX_EPOCH);
        assert_eq!(cells.len(), columns(group, kind).len(), "{group}/{kind}");
    }
}
