//! Nodes, access control, scheduling, webhooks and leases.

use serde_json::json;

use super::{assert_create, assert_update};

#[test]
fn nodes() {
    assert_create(
        "",
        "Node",
        json!({}),
        &[
            (
                r#"{"spec": {"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}]}}"#,
                "",
            ),
            (
                r#"{"spec": {"taints": [{"key": "", "effect": "NoSchedule"}]}}"#,
                "Invalid metadata.taints[0].key, Invalid metadata.taints[0].key",
            ),
            (
                r#"{"spec": {"taints": [{"key": "a", "value": "b c", "effect": "NoSchedule"}]}}"#,
                "Invalid metadata.taints[0].value",
            ),
            (
                r#"{"spec": {"taints": [{"key": "a", "effect": "Never"}]}}"#,
                "NotSupported metadata.taints[0].effect",
            ),
            (
                r#"{"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "value": "x", "effect": "NoSchedule"}]}}"#,
                "Duplicate metadata.taints[1]",
            ),
            (
                r#"{"spec": {"podCIDRs": ["192.168.0.0/16"], "podCIDR": "192.168.0.0/16"}}"#,
                "",
            ),
            (
                r#"{"spec": {"podCIDRs": ["x"], "podCIDR": "x"}}"#,
                "Invalid spec.podCIDRs[0]",
            ),
        ],
    );
    assert_update(
        "",
        "Node",
        json!({"spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"], "providerID": "a"}}),
        &[
            (r#"{"spec": {"unschedulable": true}}"#, ""),
            (
                r#"{"spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]}}"#,
                "Forbidden spec.podCIDRs",
            ),
            (
                r#"{"spec": {"providerID": "b"}}"#,
                "Forbidden spec.providerID",
            ),
        ],
    );
}

#[test]
fn roles() {
    for kind in ["Role", "ClusterRole"] {
        assert_create(
            "rbac.authorization.k8s.io",
            kind,
            json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}),
            &[
                (r#"{"rules": []}"#, ""),
                (
                    r#"{"rules": [{"verbs": [], "apiGroups": [""], "resources": ["pods"]}]}"#,
                    "Required rules[0].verbs",
                ),
                (
                    r#"{"rules": [{"verbs": ["get"], "resources": ["pods"]}]}"#,
                    "Required rules[0].apiGroups",
                ),
                (
                    r#"{"rules": [{"verbs": ["get"], "apiGroups": [""]}]}"#,
                    "Required rules[0].resources",
                ),
            ],
        );
    }
    let urls = r#"{"rules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz"]}]}"#;
    let both = r#"{"rules": [{"verbs": ["get"], "nonResourceURLs": ["/*"], "apiGroups": [""], "resources": ["pods"]}]}"#;
    assert_create(
        "rbac.authorization.k8s.io",
        "ClusterRole",
        json!({"rules": []}),
        &[(urls, ""), (both, "Invalid rules[0].nonResourceURLs")],
    );
    assert_create(
        "rbac.authorization.k8s.io",
        "Role",
        json!({"rules": []}),
        &[(urls, "Invalid rules[0].nonResourceURLs")],
    );
}

#[test]
fn role_bindings() {
    let binding = json!({"metadata": {"namespace": "n"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "u", "apiGroup": "rbac.authorization.k8s.io"}]});
    assert_create(
        "rbac.authorization.k8s.io",
        "RoleBinding",
        binding.clone(),
        &[
            (r#"{"roleRef": {"kind": "ClusterRole"}}"#, ""),
            (
                r#"{"roleRef": {"apiGroup": "other"}}"#,
                "NotSupported roleRef.apiGroup",
            ),
            (
                r#"{"roleRef": {"kind": "Other"}}"#,
                "NotSupported roleRef.kind",
            ),
            (r#"{"roleRef": {"name": ""}}"#, "Required roleRef.name"),
            (
                r#"{"subjects": [{"kind": "User", "name": "", "apiGroup": "rbac.authorization.k8s.io"}]}"#,
                "Required subjects[0].name",
            ),
            (
                r#"{"subjects": [{"kind": "User", "name": "u", "apiGroup": "x"}]}"#,
                "NotSupported subjects[0].apiGroup",
            ),
            (
                r#"{"subjects": [{"kind": "Robot", "name": "u"}]}"#,
                "NotSupported subjects[0].kind",
            ),
            (
                r#"{"subjects": [{"kind": "ServiceAccount", "name": "s", "namespace": "n"}]}"#,
                "",
            ),
            (
                r#"{"subjects": [{"kind": "ServiceAccount", "name": "s"}]}"#,
                "",
            ),
        ],
    );
    assert_update(
        "rbac.authorization.k8s.io",
        "RoleBinding",
        binding.clone(),
        &[
            (r#"{"roleRef": {"name": "s"}}"#, "Invalid roleRef"),
            (r#"{"subjects": []}"#, ""),
        ],
    );
    let mut of_cluster = binding;
    of_cluster["roleRef"]["kind"] = json!("ClusterRole");
    assert_create(
        "rbac.authorization.k8s.io",
        "ClusterRoleBinding",
        of_cluster,
        &[
            (
                r#"{"roleRef": {"kind": "Role"}}"#,
                "NotSupported roleRef.kind",
            ),
            (
                r#"{"subjects": [{"kind": "ServiceAccount", "name": "s"}]}"#,
                "Required subjects[0].namespace",
            ),
        ],
    );
}

#[test]
fn disruption_budgets() {
    assert_create(
        "policy",
        "PodDisruptionBudget",
        json!({"spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}}),
        &[
            (r#"{"spec": {"minAvailable": "20%"}}"#, ""),
            (
                r#"{"spec": {"minAvailable": "101%"}}"#,
                "Invalid spec.minAvailable",
            ),
            (
                r#"{"spec": {"minAvailable": "2Percent"}}"#,
                "Invalid spec.minAvailable",
            ),
            (
                r#"{"spec": {"minAvailable": -1}}"#,
                "Invalid spec.minAvailable",
            ),
            (r#"{"spec": {"maxUnavailable": 1}}"#, "Invalid spec"),
            (
                r#"{"spec": {"unhealthyPodEvictionPolicy": "Never"}}"#,
                "NotSupported spec.unhealthyPodEvictionPolicy",
            ),
        ],
    );
}

#[test]
fn autoscalers() {
    let autoscaler = json!({"spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "minReplicas": 1, "maxReplicas": 5,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}]}});
    assert_create(
        "autoscaling",
        "HorizontalPodAutoscaler",
        autoscaler,
        &[
            (
                r#"{"spec": {"minReplicas": -1}}"#,
                "Invalid spec.minReplicas",
            ),
            (
                r#"{"spec": {"minReplicas": 7}}"#,
                "Invalid spec.maxReplicas",
            ),
            (
                r#"{"spec": {"maxReplicas": 0}}"#,
                "Required spec.maxReplicas, Invalid spec.maxReplicas",
            ),
            (
                r#"{"spec": {"scaleTargetRef": {"kind": ""}}}"#,
                "Required spec.scaleTargetRef.kind",
            ),
            (
                r#"{"spec": {"scaleTargetRef": {"kind": ".."}}}"#,
                "Invalid spec.scaleTargetRef.kind",
            ),
            (
                r#"{"spec": {"scaleTargetRef": {"name": ""}}}"#,
                "Required spec.scaleTargetRef.name",
            ),
            (
                r#"{"spec": {"metrics": [{"type": "Resource"}]}}"#,
                "Required spec.metrics[0].resource",
            ),
            (
                r#"{"spec": {"metrics": [{"type": "Other"}]}}"#,
                "NotSupported spec.metrics[0].type, NotSupported spec.metrics[0].type",
            ),
        ],
    );
}

#[test]
fn priority_classes() {
    assert_create(
        "scheduling.k8s.io",
        "PriorityClass",
        json!({"value": 100}),
        &[
            (r#"{"value": 1000000001}"#, "Forbidden value"),
            (
                r#"{"preemptionPolicy": "Sometimes"}"#,
                "NotSupported preemptionPolicy",
            ),
            (
                r#"{"metadata": {"name": "system-x"}}"#,
                "Forbidden metadata.name",
            ),
        ],
    );
    assert_update(
        "scheduling.k8s.io",
        "PriorityClass",
        json!({"value": 100}),
        &[
            (r#"{"description": "d"}"#, ""),
            (r#"{"value": 101}"#, "Forbidden value"),
            (
                r#"{"preemptionPolicy": "Never"}"#,
                "Invalid preemptionPolicy",
            ),
        ],
    );
}

#[test]
fn runtime_classes() {
    assert_create(
        "node.k8s.io",
        "RuntimeClass",
        json!({"handler": "runc"}),
        &[
            (r#"{"handler": ""}"#, "Required handler"),
            (r#"{"handler": "a.b"}"#, "Invalid handler"),
            (r#"{"overhead": {"podFixed": {"cpu": "10m"}}}"#, ""),
        ],
    );
    assert_update(
        "node.k8s.io",
        "RuntimeClass",
        json!({"handler": "runc"}),
        &[(r#"{"handler": "other"}"#, "Invalid handler")],
    );
}

#[test]
fn leases() {
    assert_create(
        "coordination.k8s.io",
        "Lease",
        json!({"spec": {"holderIdentity": "h", "leaseDurationSeconds": 10, "leaseTransitions": 1}}),
        &[
            (
                r#"{"spec": {"leaseDurationSeconds": 0}}"#,
                "Invalid spec.leaseDurationSeconds",
            ),
            (
                r#"{"spec": {"leaseTransitions": -1}}"#,
                "Invalid spec.leaseTransitions",
            ),
            (
                r#"{"spec": {"preferredHolder": "p"}}"#,
                "Forbidden spec.preferredHolder",
            ),
        ],
    );
}

/// A valid webhook; cases override its fields.
const WEBHOOK: &str = r#"{"name": "a.b.example.com", "clientConfig": {"url": "https://h/p"}, "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail", "matchPolicy": "Exact"}"#;

#[test]
fn webhooks() {
    let webhook: serde_json::Value = serde_json::from_str(WEBHOOK).expect("a webhook");
    for kind in [
        "MutatingWebhookConfiguration",
        "ValidatingWebhookConfiguration",
    ] {
        let cases: Vec<(String, &str)> = [
            (r#"{"name": "short.name"}"#, "Invalid webhooks[0].name"),
            (
                r#"{"sideEffects": "Some"}"#,
                "NotSupported webhooks[0].sideEffects",
            ),
            (
                r#"{"sideEffects": null}"#,
                "Required webhooks[0].sideEffects",
            ),
            (
                r#"{"failurePolicy": "Retry"}"#,
                "NotSupported webhooks[0].failurePolicy",
            ),
            (
                r#"{"matchPolicy": "Loose"}"#,
                "NotSupported webhooks[0].matchPolicy",
            ),
            (
                r#"{"timeoutSeconds": 0}"#,
                "Invalid webhooks[0].timeoutSeconds",
            ),
            (
                r#"{"timeoutSeconds": 31}"#,
                "Invalid webhooks[0].timeoutSeconds",
            ),
            (
                r#"{"clientConfig": {"url": "http://h"}}"#,
                "Invalid webhooks[0].clientConfig.url",
            ),
            (
                r#"{"clientConfig": {"url": null}}"#,
                "Required webhooks[0].clientConfig",
            ),
            (
                r#"{"clientConfig": {"service": {"name": "s", "namespace": "n"}}}"#,
                "Required webhooks[0].clientConfig",
            ),
            (
                r#"{"clientConfig": {"url": null, "service": {"name": "", "namespace": "n"}}}"#,
                "Required webhooks[0].clientConfig.service.name",
            ),
            (
                r#"{"admissionReviewVersions": []}"#,
                "Required webhooks[0].admissionReviewVersions",
            ),
            (
                r#"{"admissionReviewVersions": ["v2"]}"#,
                "Invalid webhooks[0].admissionReviewVersions",
            ),
        ]
        .into_iter()
        .map(|(patch, want)| {
            let webhook = super::patched(&webhook, patch);
            (json!({"webhooks": [webhook]}).to_string(), want)
        })
        .collect();
        let cases: Vec<super::Case<'_>> = cases.iter().map(|(p, w)| (p.as_str(), *w)).collect();
        let object = json!({"webhooks": [webhook.clone()]});
        assert_create("admissionregistration.k8s.io", kind, object, &cases);
    }
}
