//! Workloads of the group `apps`, and replication controllers.

use serde_json::{Value, json};

use super::{Case, assert_create, assert_update};

fn workload(rest: Value) -> Value {
    let mut object = json!({"spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    super::merge(&mut object, &rest);
    object
}

/// Cases that apply to all kinds with a template.
const TEMPLATE: &[Case<'_>] = &[
    (
        r#"{"spec": {"selector": {"matchLabels": {"a": "x"}}}}"#,
        "Invalid spec.template.metadata.labels",
    ),
    (
        r#"{"spec": {"selector": {"matchLabels": null}}}"#,
        "Invalid spec.selector",
    ),
    (
        r#"{"spec": {"template": {"spec": {"restartPolicy": "OnFailure"}}}}"#,
        "NotSupported spec.template.spec.restartPolicy",
    ),
    (
        r#"{"spec": {"template": {"spec": {"dnsPolicy": "X"}}}}"#,
        "NotSupported spec.template.spec.dnsPolicy",
    ),
    (
        r#"{"spec": {"template": {"spec": {"activeDeadlineSeconds": 30}}}}"#,
        "Forbidden spec.template.spec.activeDeadlineSeconds",
    ),
];

/// Selectors of the kinds but for daemon sets, which validate theirs in another way.
const SELECTORS: &[Case<'_>] = &[
    (
        r#"{"spec": {"selector": null}}"#,
        "Required spec.selector, Invalid spec.template.metadata.labels",
    ),
    (
        r#"{"spec": {"selector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}}"#,
        "Invalid spec.selector.matchExpressions[0].operator, Invalid spec.selector",
    ),
];

const REPLICAS: &[Case<'_>] = &[
    (r#"{"spec": {"replicas": 0}}"#, ""),
    (r#"{"spec": {"replicas": -1}}"#, "Invalid spec.replicas"),
];

const SECONDS: &[Case<'_>] = &[(
    r#"{"spec": {"minReadySeconds": -1}}"#,
    "Invalid spec.minReadySeconds",
)];

const DEPLOYMENT: &[Case<'_>] = &[
    (
        r#"{"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}}"#,
        "",
    ),
    (
        r#"{"spec": {"strategy": {"type": "Recreate"}}}"#,
        "Forbidden spec.strategy.rollingUpdate",
    ),
    (
        r#"{"spec": {"strategy": {"type": ""}}}"#,
        "NotSupported spec.strategy",
    ),
    (
        r#"{"spec": {"strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 0}}}}"#,
        "Invalid spec.strategy.rollingUpdate.maxUnavailable",
    ),
    (
        r#"{"spec": {"strategy": {"rollingUpdate": {"maxUnavailable": "110%"}}}}"#,
        "Invalid spec.strategy.rollingUpdate.maxUnavailable",
    ),
    (
        r#"{"spec": {"strategy": {"rollingUpdate": {"maxSurge": "20Percent"}}}}"#,
        "Invalid spec.strategy.rollingUpdate.maxSurge",
    ),
    (
        r#"{"spec": {"strategy": {"rollingUpdate": {"maxSurge": -1}}}}"#,
        "Invalid spec.strategy.rollingUpdate.maxSurge",
    ),
    (
        r#"{"spec": {"revisionHistoryLimit": -1}}"#,
        "Invalid spec.revisionHistoryLimit",
    ),
    (
        r#"{"spec": {"progressDeadlineSeconds": -1}}"#,
        "Invalid spec.progressDeadlineSeconds, Invalid spec.progressDeadlineSeconds",
    ),
    (
        r#"{"spec": {"minReadySeconds": 600}}"#,
        "Invalid spec.progressDeadlineSeconds",
    ),
];

const STATEFUL_SET: &[Case<'_>] = &[
    (r#"{"spec": {"podManagementPolicy": "Parallel"}}"#, ""),
    (
        r#"{"spec": {"podManagementPolicy": ""}}"#,
        "Required spec.podManagementPolicy",
    ),
    (
        r#"{"spec": {"podManagementPolicy": "Random"}}"#,
        "Invalid spec.podManagementPolicy",
    ),
    (
        r#"{"spec": {"updateStrategy": {"type": ""}}}"#,
        "Required spec.updateStrategy",
    ),
    (
        r#"{"spec": {"updateStrategy": {"type": "Other", "rollingUpdate": null}}}"#,
        "Invalid spec.updateStrategy",
    ),
    (
        r#"{"spec": {"updateStrategy": {"type": "OnDelete"}}}"#,
        "Invalid spec.updateStrategy.rollingUpdate",
    ),
    (
        r#"{"spec": {"updateStrategy": {"rollingUpdate": {"partition": -1}}}}"#,
        "Invalid spec.updateStrategy.rollingUpdate.partition",
    ),
    (
        r#"{"spec": {"ordinals": {"start": -2}}}"#,
        "Invalid spec.ordinals.start",
    ),
    (
        r#"{"spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Maybe"}}}"#,
        "NotSupported spec.persistentVolumeClaimRetentionPolicy.whenDeleted",
    ),
];

const STATEFUL_SET_UPDATE: &[Case<'_>] = &[
    (r#"{"spec": {"replicas": 5}}"#, ""),
    (
        r#"{"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}}"#,
        "",
    ),
    (r#"{"spec": {"serviceName": "other"}}"#, "Forbidden spec"),
    (
        r#"{"spec": {"podManagementPolicy": "Parallel"}}"#,
        "Forbidden spec",
    ),
];

const DAEMON_SET: &[Case<'_>] = &[
    (
        r#"{"spec": {"selector": null}}"#,
        "Invalid spec.template.metadata.labels",
    ),
    (
        r#"{"spec": {"selector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}}"#,
        "Invalid spec.selector.matchExpressions[0].operator",
    ),
    (
        r#"{"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}}"#,
        "",
    ),
    (
        r#"{"spec": {"updateStrategy": {"type": "Recreate"}}}"#,
        "NotSupported spec.updateStrategy",
    ),
    (
        r#"{"spec": {"updateStrategy": {"rollingUpdate": null}}}"#,
        "Required spec.updateStrategy.rollingUpdate",
    ),
    (
        r#"{"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 0}}}}"#,
        "Required spec.updateStrategy.rollingUpdate.maxUnavailable",
    ),
    (
        r#"{"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 1, "maxSurge": 1}}}}"#,
        "Invalid spec.updateStrategy.rollingUpdate.maxSurge",
    ),
    (
        r#"{"spec": {"revisionHistoryLimit": -1}}"#,
        "Invalid spec.revisionHistoryLimit",
    ),
];

#[test]
fn templates() {
    for kind in ["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet"] {
        assert_create("apps", kind, workload(json!({})), TEMPLATE);
        assert_create("apps", kind, workload(json!({})), SECONDS);
        if kind != "DaemonSet" {
            assert_create("apps", kind, workload(json!({})), SELECTORS);
        }
    }
}

#[test]
fn replicas() {
    for kind in ["Deployment", "ReplicaSet", "StatefulSet"] {
        assert_create("apps", kind, workload(json!({})), REPLICAS);
    }
    let controller = json!({"spec": {"selector": {"a": "b"}, "template": {"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    assert_create("", "ReplicationController", controller.clone(), REPLICAS);
    assert_create(
        "",
        "ReplicationController",
        controller,
        &[
            (r#"{"spec": {"selector": {}}}"#, ""),
            (r#"{"spec": {"selector": null}}"#, "Required spec.selector"),
            (
                r#"{"spec": {"selector": {"a": "x"}}}"#,
                "Invalid spec.template.metadata.labels",
            ),
            (r#"{"spec": {"template": null}}"#, "Required spec.template"),
        ],
    );
}

#[test]
fn deployments() {
    assert_create("apps", "Deployment", workload(json!({})), DEPLOYMENT);
}

#[test]
fn selectors_are_immutable() {
    let other = r#"{"spec": {"selector": {"matchLabels": {"a": "c"}}, "template": {"metadata": {"labels": {"a": "c"}}}}}"#;
    for kind in ["Deployment", "ReplicaSet", "DaemonSet"] {
        assert_update(
            "apps",
            kind,
            workload(json!({})),
            &[(other, "Invalid spec.selector")],
        );
    }
}

#[test]
fn stateful_sets() {
    let object = || workload(json!({"spec": {"serviceName": "s"}}));
    assert_create("apps", "StatefulSet", object(), STATEFUL_SET);
    assert_update("apps", "StatefulSet", object(), STATEFUL_SET_UPDATE);
}

#[test]
fn daemon_sets() {
    assert_create("apps", "DaemonSet", workload(json!({})), DAEMON_SET);
}

#[test]
fn controller_revisions() {
    let revision = json!({"data": {"a": 1}, "revision": 1});
    assert_create(
        "apps",
        "ControllerRevision",
        revision,
        &[
            (r#"{"revision": -1}"#, "Invalid revision"),
            (r#"{"data": null}"#, "Required data"),
        ],
    );
}
