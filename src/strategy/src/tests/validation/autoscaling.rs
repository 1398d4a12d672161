//! Horizontal pod autoscalers: bounds, metrics and behavior.

use serde_json::{Value, json};

use super::{Case, assert_create, assert_item, assert_update};

const KIND: (&str, &str) = ("autoscaling", "HorizontalPodAutoscaler");

fn autoscaler() -> Value {
    json!({
        "apiVersion": "autoscaling/v2",
        "spec": {
            "minReplicas": 1,
            "maxReplicas": 5,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
        },
    })
}

#[test]
fn bounds_and_target() {
    let cases: &[Case<'_>] = &[
        (r#"{"spec": {"minReplicas": null}}"#, ""),
        (r#"{"spec": {"minReplicas": 5}}"#, ""),
        (
            r#"{"spec": {"minReplicas": 0}}"#,
            "Invalid spec.minReplicas, Forbidden spec.metrics",
        ),
        (
            r#"{"spec": {"minReplicas": -1}}"#,
            "Invalid spec.minReplicas",
        ),
        (
            r#"{"spec": {"minReplicas": 6}}"#,
            "Invalid spec.maxReplicas",
        ),
        (
            r#"{"spec": {"minReplicas": null, "maxReplicas": -5}}"#,
            "Invalid spec.maxReplicas",
        ),
        (
            r#"{"spec": {"scaleTargetRef": {"kind": null, "name": null}}}"#,
            "Required spec.scaleTargetRef.kind, Required spec.scaleTargetRef.name",
        ),
        (
            r#"{"spec": {"scaleTargetRef": {"kind": "a/b", "name": ".."}}}"#,
            "Invalid spec.scaleTargetRef.kind, Invalid spec.scaleTargetRef.name",
        ),
        (
            r#"{"spec": {"scaleTargetRef": {"apiVersion": ""}}}"#,
            "Invalid spec.scaleTargetRef.apiVersion",
        ),
        (
            r#"{"spec": {"scaleTargetRef": {"apiVersion": "v1", "kind": "ReplicationController"}}}"#,
            "",
        ),
    ];
    assert_create(KIND.0, KIND.1, autoscaler(), cases);
}

/// An autoscaler that has no replicas at least was made with the feature on; it keeps them.
#[test]
fn zero_replicas_stay() {
    let metric = json!({"type": "External", "external": {"metric": {"name": "m"},
        "target": {"type": "Value", "value": "1"}}});
    let mut object = autoscaler();
    object["spec"]["metrics"] = json!([metric]);
    assert_update(
        KIND.0,
        KIND.1,
        object.clone(),
        &[(
            r#"{"spec": {"minReplicas": 0}}"#,
            "Invalid spec.minReplicas",
        )],
    );
    object["spec"]["minReplicas"] = json!(0);
    assert_update(
        KIND.0,
        KIND.1,
        object,
        &[
            (r#"{"spec": {"maxReplicas": 7}}"#, ""),
            (
                r#"{"spec": {"minReplicas": -1}}"#,
                "Invalid spec.minReplicas",
            ),
            (
                r#"{"spec": {"metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 1}}}]}}"#,
                "Forbidden spec.metrics",
            ),
        ],
    );
}

/// Asserts the errors of an autoscaler with one metric; `@` is the metric's path.
#[track_caller]
fn assert_metric(metric: Value, cases: &[Case<'_>]) {
    let wrap = |metric| json!({"spec": {"metrics": [metric]}});
    let item = (metric, "spec.metrics[0]");
    assert_item(KIND, autoscaler(), item, wrap, cases);
}

#[test]
fn types_of_metrics() {
    assert_metric(
        json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}),
        &[
            ("{}", ""),
            (
                r#"{"type": ""}"#,
                "Required @.type, NotSupported @.type, NotSupported @.type",
            ),
            (
                r#"{"type": "Strange"}"#,
                "NotSupported @.type, NotSupported @.type",
            ),
            (r#"{"resource": null}"#, "Required @.resource"),
            (r#"{"type": "Pods"}"#, "Required @.pods"),
            (
                r#"{"pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1"}}}"#,
                "Forbidden @.pods",
            ),
            (
                r#"{"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1"}}}"#,
                "Forbidden @.resource",
            ),
        ],
    );
}

#[test]
fn resource_metrics() {
    assert_metric(
        json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}),
        &[
            (r#"{"resource": {"name": ""}}"#, "Required @.resource.name"),
            (r#"{"resource": {"name": "anything"}}"#, ""),
            (
                r#"{"resource": {"target": {"type": null}}}"#,
                "Required @.resource.target.type, Invalid @.resource.target.type",
            ),
            (
                r#"{"resource": {"target": {"type": "Median"}}}"#,
                "Invalid @.resource.target.type",
            ),
            (
                r#"{"resource": {"target": {"averageUtilization": 0}}}"#,
                "Invalid @.resource.target.averageUtilization",
            ),
            (
                r#"{"resource": {"target": {"averageUtilization": null}}}"#,
                "Required @.resource.target.averageUtilization",
            ),
            (
                r#"{"resource": {"target": {"averageValue": "1"}}}"#,
                "Forbidden @.resource.target.averageValue",
            ),
            (
                r#"{"resource": {"target": {"type": "AverageValue", "averageUtilization": null, "averageValue": "200Mi"}}}"#,
                "",
            ),
            (
                r#"{"resource": {"target": {"averageUtilization": null, "averageValue": "-1"}}}"#,
                "Invalid @.resource.target.averageValue",
            ),
            (
                r#"{"resource": {"target": {"averageUtilization": null, "averageValue": "0"}}}"#,
                "Invalid @.resource.target.averageValue",
            ),
        ],
    );
}

#[test]
fn container_metrics() {
    assert_metric(
        json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "app", "target": {"type": "Utilization", "averageUtilization": 70}}}),
        &[
            ("{}", ""),
            (
                r#"{"containerResource": {"name": ""}}"#,
                "Required @.containerResource.name",
            ),
            (
                r#"{"containerResource": {"name": "unheard"}}"#,
                "Invalid @.containerResource.name, Invalid @.containerResource.name",
            ),
            (r#"{"containerResource": {"name": "example.com/gpu"}}"#, ""),
            (
                r#"{"containerResource": {"container": ""}}"#,
                "Required @.containerResource.container",
            ),
            (
                r#"{"containerResource": {"container": "_A"}}"#,
                "Invalid @.containerResource.container",
            ),
            (
                r#"{"containerResource": {"target": {"averageUtilization": null}}}"#,
                "Required @.containerResource.target.averageUtilization",
            ),
            (
                r#"{"containerResource": {"target": {"averageValue": "1"}}}"#,
                "Forbidden @.containerResource.target.averageValue",
            ),
            (
                r#"{"containerResource": {"target": {"averageUtilization": -10}}}"#,
                "Invalid @.containerResource.target.averageUtilization",
            ),
        ],
    );
}

#[test]
fn pod_metrics() {
    assert_metric(
        json!({"type": "Pods", "pods": {"metric": {"name": "qps"}, "target": {"type": "AverageValue", "averageValue": "100"}}}),
        &[
            ("{}", ""),
            (
                r#"{"pods": {"metric": {"selector": {"matchLabels": {"a": "b"}}}}}"#,
                "",
            ),
            (
                r#"{"pods": {"metric": {"name": ""}}}"#,
                "Required @.pods.metric.name",
            ),
            (
                r#"{"pods": {"metric": {"name": "foo/../"}}}"#,
                "Invalid @.pods.metric.name",
            ),
            (
                r#"{"pods": {"target": {"averageValue": null}}}"#,
                "Required @.pods.target.averageValue",
            ),
            (
                r#"{"pods": {"target": {"averageValue": null, "value": "1"}}}"#,
                "Required @.pods.target.averageValue",
            ),
            (
                r#"{"pods": {"target": {"averageValue": "-2"}}}"#,
                "Invalid @.pods.target.averageValue",
            ),
        ],
    );
}

#[test]
fn object_metrics() {
    assert_metric(
        json!({"type": "Object", "object": {"describedObject": {"kind": "Ingress", "name": "i"}, "metric": {"name": "qps"}, "target": {"type": "Value", "value": "100"}}}),
        &[
            ("{}", ""),
            (
                r#"{"object": {"target": {"type": "AverageValue", "value": null, "averageValue": "5"}}}"#,
                "",
            ),
            (
                r#"{"object": {"describedObject": {"kind": "", "name": ""}}}"#,
                "Required @.object.describedObject.kind, Required @.object.describedObject.name",
            ),
            (
                r#"{"object": {"describedObject": {"name": "a/b"}}}"#,
                "Invalid @.object.describedObject.name",
            ),
            (
                r#"{"object": {"metric": {"name": ""}}}"#,
                "Required @.object.metric.name",
            ),
            (
                r#"{"object": {"target": {"value": null}}}"#,
                "Required @.object.target.averageValue",
            ),
            (
                r#"{"object": {"target": {"value": "0"}}}"#,
                "Invalid @.object.target.value",
            ),
        ],
    );
}

#[test]
fn external_metrics() {
    assert_metric(
        json!({"type": "External", "external": {"metric": {"name": "lag"}, "target": {"type": "Value", "value": "100"}}}),
        &[
            ("{}", ""),
            (
                r#"{"external": {"metric": {"name": ""}}}"#,
                "Required @.external.metric.name",
            ),
            (
                r#"{"external": {"metric": {"name": "a/b"}}}"#,
                "Invalid @.external.metric.name",
            ),
            (
                r#"{"external": {"target": {"value": null}}}"#,
                "Required @.external.target.averageValue",
            ),
            (
                r#"{"external": {"target": {"averageValue": "3"}}}"#,
                "Forbidden @.external.target.value",
            ),
            (
                r#"{"external": {"target": {"value": "-300"}}}"#,
                "Invalid @.external.target.value",
            ),
            (
                r#"{"external": {"target": {"value": null, "averageValue": "-3"}}}"#,
                "Invalid @.external.target.averageValue",
            ),
        ],
    );
}

#[test]
fn behavior() {
    let rules = json!({"stabilizationWindowSeconds": 60, "selectPolicy": "Max", "policies": [{"type": "Pods", "value": 1, "periodSeconds": 1800}]});
    let cases: &[Case<'_>] = &[
        ("{}", ""),
        (r#"{"selectPolicy": "Min"}"#, ""),
        (r#"{"selectPolicy": "Disabled"}"#, ""),
        (r#"{"selectPolicy": "Most"}"#, "NotSupported @.selectPolicy"),
        (r#"{"selectPolicy": ""}"#, "NotSupported @.selectPolicy"),
        (r#"{"stabilizationWindowSeconds": 3600}"#, ""),
        (
            r#"{"stabilizationWindowSeconds": 3601}"#,
            "Invalid @.stabilizationWindowSeconds",
        ),
        (
            r#"{"stabilizationWindowSeconds": -1}"#,
            "Invalid @.stabilizationWindowSeconds",
        ),
        (r#"{"policies": []}"#, "Required @.policies"),
        (
            r#"{"policies": [{"type": "Weeks", "value": 1, "periodSeconds": 1}]}"#,
            "NotSupported @.policies[0].type",
        ),
        (
            r#"{"policies": [{"value": 1, "periodSeconds": 1}]}"#,
            "NotSupported @.policies[0].type",
        ),
        (
            r#"{"policies": [{"type": "Percent", "value": 0, "periodSeconds": 0}]}"#,
            "Invalid @.policies[0].value, Invalid @.policies[0].periodSeconds",
        ),
        (
            r#"{"policies": [{"type": "Percent", "value": -1, "periodSeconds": -2}]}"#,
            "Invalid @.policies[0].value, Invalid @.policies[0].periodSeconds",
        ),
        (
            r#"{"policies": [{"type": "Percent", "value": 1, "periodSeconds": 1801}]}"#,
            "Invalid @.policies[0].periodSeconds",
        ),
        (r#"{"tolerance": "0"}"#, ""),
        (r#"{"tolerance": "0.05"}"#, ""),
        (r#"{"tolerance": "-0.05"}"#, "Invalid @.tolerance"),
    ];
    let up = |rules| json!({"spec": {"behavior": {"scaleUp": rules}}});
    let down = |rules| json!({"spec": {"behavior": {"scaleDown": rules}}});
    let item = (rules.clone(), "spec.behavior.scaleUp");
    assert_item(KIND, autoscaler(), item, up, cases);
    let item = (rules, "spec.behavior.scaleDown");
    assert_item(KIND, autoscaler(), item, down, cases);
}
