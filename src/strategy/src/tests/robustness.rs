//! Strategies must not panic on any object. Objects have passed the schema, which permits many
//! odd values.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::{Context, Object, Subresource, strategy_for};

/// All kinds with a specific strategy, and one without.
const KINDS: &[(&str, &str)] = &[
    ("", "Pod"),
    ("", "Service"),
    ("", "Node"),
    ("", "Namespace"),
    ("", "ConfigMap"),
    ("", "Secret"),
    ("", "ServiceAccount"),
    ("", "PersistentVolumeClaim"),
    ("", "PersistentVolume"),
    ("", "LimitRange"),
    ("", "ResourceQuota"),
    ("", "Endpoints"),
    ("", "Event"),
    ("", "ReplicationController"),
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
    ("rbac.authorization.k8s.io", "Role"),
    ("rbac.authorization.k8s.io", "ClusterRole"),
    ("rbac.authorization.k8s.io", "RoleBinding"),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
    ("storage.k8s.io", "StorageClass"),
    ("storage.k8s.io", "VolumeAttachment"),
    ("storage.k8s.io", "CSIDriver"),
    ("storage.k8s.io", "CSINode"),
    ("storage.k8s.io", "CSIStorageCapacity"),
    ("storage.k8s.io", "VolumeAttributesClass"),
    ("coordination.k8s.io", "Lease"),
    ("certificates.k8s.io", "CertificateSigningRequest"),
    ("scheduling.k8s.io", "PriorityClass"),
    ("node.k8s.io", "RuntimeClass"),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema"),
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"),
    ("resource.k8s.io", "ResourceClaim"),
    ("resource.k8s.io", "ResourceClaimTemplate"),
    ("resource.k8s.io", "ResourceSlice"),
    (
        "admissionregistration.k8s.io",
        "MutatingWebhookConfiguration",
    ),
    (
        "admissionregistration.k8s.io",
        "ValidatingWebhookConfiguration",
    ),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
    (
        "admissionregistration.k8s.io",
        "ValidatingAdmissionPolicyBinding",
    ),
    ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ("apiregistration.k8s.io", "APIService"),
    ("authentication.k8s.io", "TokenRequest"),
    ("example.com", "Custom"),
];

/// Field names that the rules read, so that random objects reach them.
const FIELDS: &[&str] = &[
    "metadata",
    "name",
    "namespace",
    "uid",
    "labels",
    "annotations",
    "generation",
    "finalizers",
    "ownerReferences",
    "deletionTimestamp",
    "creationTimestamp",
    "spec",
    "status",
    "template",
    "containers",
    "initContainers",
    "ephemeralContainers",
    "image",
    "ports",
    "containerPort",
    "hostPort",
    "protocol",
    "env",
    "valueFrom",
    "fieldRef",
    "resources",
    "requests",
    "limits",
    "cpu",
    "memory",
    "volumes",
    "emptyDir",
    "secret",
    "projected",
    "sources",
    "volumeMounts",
    "livenessProbe",
    "httpGet",
    "port",
    "selector",
    "matchLabels",
    "matchExpressions",
    "replicas",
    "strategy",
    "updateStrategy",
    "rollingUpdate",
    "maxUnavailable",
    "maxSurge",
    "completions",
    "parallelism",
    "jobTemplate",
    "schedule",
    "type",
    "clusterIP",
    "clusterIPs",
    "nodePort",
    "rules",
    "http",
    "paths",
    "backend",
    "service",
    "ingress",
    "egress",
    "subjects",
    "roleRef",
    "conditions",
    "phase",
    "containerStatuses",
    "initContainerStatuses",
    "state",
    "terminated",
    "waiting",
    "restartCount",
    "capacity",
    "storage",
    "accessModes",
    "versions",
    "schema",
    "openAPIV3Schema",
    "properties",
    "items",
    "webhooks",
    "data",
    "stringData",
    "hard",
    "max",
    "min",
    "metrics",
    "behavior",
    "tolerations",
    "affinity",
    "nodeAffinity",
    "taints",
    "groups",
];

fn tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![
            Just(0),
            Just(1),
            Just(i64::MAX),
            Just(i64::MIN),
            any::<i64>()
        ]
        .prop_map(Value::from),
        prop_oneof![
            Just("Always".to_owned()),
            Just("LoadBalancer".to_owned()),
            Just("RollingUpdate".to_owned()),
            Just("10%".to_owned()),
            Just("100Mi".to_owned()),
            Just("é/..".to_owned()),
            ".{0,12}"
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(7, 96, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((proptest::sample::select(FIELDS), inner), 0..6).prop_map(
                |fields| {
                    let map: Map<String, Value> =
                        fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
                    Value::Object(map)
                }
            ),
        ]
    })
}

/// Generates objects with `metadata`, `spec` and `status`.
fn object() -> impl Strategy<Value = Object> {
    (tree(), tree(), tree(), tree()).prop_map(|(metadata, spec, status, rest)| {
        // The schema guarantees that these are maps or unset.
        let map = |value: Value| {
            if value.is_object() {
                value
            } else {
                Value::Null
            }
        };
        let mut object =
            json!({"metadata": map(metadata), "spec": map(spec), "status": map(status)});
        if let Value::Object(rest) = rest {
            let top = ["metadata", "spec", "status"];
            for (key, value) in rest.into_iter().filter(|(k, _)| !top.contains(&k.as_str())) {
                crate::tree::set(&mut object, &key, value);
            }
        }
        object
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn nothing_panics(new in object(), old in object()) {
        let ctx = Context::new(jiff::Timestamp::UNIX_EPOCH, "somebody");
        for (group, kind) in KINDS {
            let strategy = strategy_for(group, kind);
            let mut created = new.clone();
            strategy.default(&mut created);
            strategy.prepare_create(&ctx, &mut created);
            let _ = crate::validate_metadata(&created, true, strategy.name_rule());
            let _ = strategy.validate_create(&created);
            let _ = strategy.warnings(&created, Some(&old));
            let mut updated = new.clone();
            strategy.default(&mut updated);
            strategy.prepare_update(&ctx, &mut updated, &old);
            let _ = crate::validate_metadata_update(&updated, &old);
            let _ = strategy.validate_update(&updated, &old);
            let mut status = new.clone();
            strategy.prepare_status_update(&ctx, &mut status, &old);
            let _ = strategy.validate_status_update(&status, &old);
            for sub in [Subresource::EphemeralContainers, Subresource::Resize, Subresource::Approval, Subresource::Finalize] {
                let mut part = new.clone();
                strategy.prepare_subresource_update(&ctx, sub, &mut part, &old);
                let _ = strategy.validate_subresource_update(sub, &part, &old);
            }
            let _ = strategy.grace_period(&new, None);
            let _ = strategy.scale(&new);
            let mut bound = new.clone();
            let _ = strategy.bind(&ctx, &mut bound, &old);
        }
    }

    #[test]
    fn defaulting_twice_changes_nothing(object in object()) {
        for (group, kind) in KINDS {
            let strategy = strategy_for(group, kind);
            let mut once = object.clone();
            strategy.default(&mut once);
            let mut twice = once.clone();
            strategy.default(&mut twice);
            prop_assert_eq!(&once, &twice, "{}/{}", group, kind);
        }
    }
}
