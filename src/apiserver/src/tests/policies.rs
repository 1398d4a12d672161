//! CEL expressions in context: validation rules, admission policies and match conditions.

use std::time::Duration;

use serde_json::{Value, json};

use super::support::{TestServer, start};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const THINGS: &str = "/apis/example.com/v1/namespaces/default/things";
const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn definition(spec: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}}],
        },
    })
}

fn thing(spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a"}, "spec": spec})
}

/// Polls until `done` returns true.
async fn wait_until(what: &str, done: impl AsyncFn() -> bool) {
    for _ in 0..4000 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("{what} in eight seconds");
}

async fn served(t: &TestServer, spec: Value) {
    let (code, made) = t.post(CRDS, definition(spec)).await;
    assert_eq!(code, 201, "{made}");
    wait_until("the things are not served", async || {
        t.get(THINGS).await.0 == 200
    })
    .await;
}

fn message(answer: &Value) -> &str {
    answer["message"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_with_bad_rules_are_refused() {
    let t = start().await;
    for (rule, wanted) in [
        (
            json!({"rule": "self.nope > 1"}),
            "compilation failed: ERROR: <input>:1:5: undefined field 'nope'\n | self.nope > 1\n | ....^",
        ),
        (
            json!({"rule": "self.n"}),
            "cel expression must evaluate to a bool",
        ),
        (json!({"rule": "  "}), "rule is not specified"),
        (
            json!({"rule": "true", "messageExpression": "self.n"}),
            "messageExpression must evaluate to a string",
        ),
        (
            json!({"rule": "true", "fieldPath": ".nope"}),
            "must be a valid path",
        ),
        (
            json!({"rule": "self.list.all(x, self.list.all(y, x == y))"}),
            "estimated rule cost exceeds budget by factor of more than 100x",
        ),
        (
            json!({"rule": "true", "optionalOldSelf": true}),
            "may not be set if oldSelf is not used in rule",
        ),
    ] {
        let (code, answer) = t
            .post(
                CRDS,
                definition(json!({
                    "type": "object", "x-kubernetes-validations": [rule],
                    "properties": {"n": {"type": "integer"},
                        "list": {"type": "array", "items": {"type": "string"}}},
                })),
            )
            .await;
        assert_eq!(code, 422, "{answer}");
        assert!(message(&answer).contains(wanted), "{wanted}: {answer}");
    }
    let uncorrelatable = definition(json!({
        "type": "object", "properties": {"list": {"type": "array", "maxItems": 5, "items": {
            "type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]}}},
    }));
    let (_, answer) = t.post(CRDS, uncorrelatable).await;
    assert!(
        message(&answer)
            .contains("oldSelf cannot be used on the uncorrelatable portion of the schema"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_held_against_objects() {
    let t = start().await;
    served(
        &t,
        json!({
            "type": "object",
            "x-kubernetes-validations": [
                {"rule": "self.min <= self.max", "messageExpression": "self.max == 1 ? 'min is above 1' : 'min is above max'", "fieldPath": ".min"},
                {"rule": "!has(self.label) || self.label != 'bad'", "message": "bad label", "reason": "FieldValueForbidden"},
            ],
            "properties": {
                "min": {"type": "integer"}, "max": {"type": "integer"}, "label": {"type": "string", "maxLength": 9},
                "fixed": {"type": "string", "maxLength": 20, "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "fixed is fixed"}]},
                "parts": {"type": "array", "maxItems": 9, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
                    "items": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string", "maxLength": 5},
                        "size": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]}}}},
            },
        }),
    )
    .await;
    let (code, answer) = t.post(THINGS, thing(json!({"min": 5, "max": 1}))).await;
    assert_eq!(code, 422, "{answer}");
    assert_eq!(
        message(&answer),
        "Thing.example.com \"a\" is invalid: spec.min: Invalid value: min is above 1"
    );
    let (_, answer) = t
        .post(THINGS, thing(json!({"min": 1, "max": 1, "label": "bad"})))
        .await;
    assert_eq!(
        message(&answer),
        "Thing.example.com \"a\" is invalid: spec: Forbidden: bad label"
    );
    let (_, answer) = t.post(THINGS, thing(json!({"min": 1}))).await;
    assert_eq!(
        message(&answer),
        "Thing.example.com \"a\" is invalid: spec: Invalid value: \"object\": no such key: max evaluating rule: self.min <= self.max"
    );
    let spec = json!({"min": 1, "max": 2, "fixed": "x", "parts": [{"id": "a", "size": 2}, {"id": "b", "size": 1}]});
    let (code, made) = t.post(THINGS, thing(spec)).await;
    assert_eq!(code, 201, "{made}");
    let mut changed = made.clone();
    changed["spec"]["fixed"] = "y".into();
    changed["spec"]["parts"] = json!([{"id": "b", "size": 1}, {"id": "a", "size": 1}]);
    let (code, answer) = t.put(&format!("{THINGS}/a"), changed).await;
    assert_eq!(code, 422, "{answer}");
    assert_eq!(
        message(&answer),
        "Thing.example.com \"a\" is invalid: [spec.fixed: Invalid value: \"y\": fixed is fixed, spec.parts[1].size: Invalid value: 1: failed rule: self >= oldSelf]"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_wrong_before_may_stay() {
    let t = start().await;
    let schema = |rule: &str| {
        json!({"type": "object", "properties": {
            "a": {"type": "integer", "x-kubernetes-validations": [{"rule": rule}]},
            "b": {"type": "integer"}}})
    };
    served(&t, schema("self > 0")).await;
    let (code, made) = t.post(THINGS, thing(json!({"a": 1, "b": 1}))).await;
    assert_eq!(code, 201, "{made}");
    let path = format!("{CRDS}/things.example.com");
    let (_, mut crd) = t.get(&path).await;
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] =
        schema("self > 5");
    let (code, answer) = t.put(&path, crd).await;
    assert_eq!(code, 200, "{answer}");
    wait_until("the new rule does not apply", async || {
        t.post(
            THINGS,
            json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"generateName": "x"}, "spec": {"a": 1}}),
        )
        .await
        .0 == 422
    })
    .await;
    let mut other = made.clone();
    other["spec"]["b"] = 2.into();
    let (code, answer) = t.put(&format!("{THINGS}/a"), other).await;
    assert_eq!(code, 200, "{answer}");
    let mut wrong = answer.clone();
    wrong["spec"]["a"] = 2.into();
    assert_eq!(t.put(&format!("{THINGS}/a"), wrong).await.0, 422);
}

fn rules(group: &str, plural: &str) -> Value {
    json!({"resourceRules": [{"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": [plural]}]})
}

async fn policy(t: &TestServer, kind: &str, spec: Value, binding: Value) {
    let plural = if kind == "Validating" {
        "validatingadmissionpolicies"
    } else {
        "mutatingadmissionpolicies"
    };
    let (code, answer) = t
        .post(
            &format!("{ADMISSION}/{plural}"),
            json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}AdmissionPolicy"), "metadata": {"name": "p"}, "spec": spec}),
        )
        .await;
    assert_eq!(code, 201, "{answer}");
    let plural = plural.replace("policies", "policybindings");
    let (code, answer) = t
        .post(
            &format!("{ADMISSION}/{plural}"),
            json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}AdmissionPolicyBinding"), "metadata": {"name": "b"}, "spec": binding}),
        )
        .await;
    assert_eq!(code, 201, "{answer}");
}

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

#[tokio::test(flavor = "multi_thread")]
async fn validating_policies_refuse() {
    let t = start().await;
    t.post(MAPS, map("limits", json!({"max": "3"}))).await;
    policy(
        &t,
        "Validating",
        json!({
            "matchConstraints": rules("", "configmaps"),
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "matchConditions": [{"name": "not-ours", "expression": "request.name != 'free'"}],
            "variables": [{"name": "size", "expression": "has(object.data) ? object.data.size() : 0"},
                          {"name": "twice", "expression": "variables.size * 2"}],
            "validations": [
                {"expression": "variables.twice <= int(params.data.max) * 2",
                 "messageExpression": "'at most ' + params.data.max + ' entries in ' + namespaceObject.metadata.name"},
                {"expression": "!authorizer.group('').resource('pods').namespace('default').check('nope').errored()"},
                {"expression": "object.metadata.name != 'forbidden'", "reason": "Forbidden"},
            ],
        }),
        json!({"policyName": "p", "validationActions": ["Deny"], "paramRef": {"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"}}),
    )
    .await;
    let many = json!({"a": "1", "b": "2", "c": "3", "d": "4"});
    let (code, answer) = t.post(MAPS, map("m", many.clone())).await;
    assert_eq!(code, 422, "{answer}");
    assert_eq!(
        message(&answer),
        "configmaps \"m\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: at most 3 entries in default"
    );
    assert_eq!(answer["reason"], "Invalid");
    let (code, answer) = t.post(MAPS, map("forbidden", json!({}))).await;
    assert_eq!(
        (code, &answer["reason"]),
        (403, &json!("Forbidden")),
        "{answer}"
    );
    assert!(message(&answer).ends_with("failed expression: object.metadata.name != 'forbidden'"));
    assert_eq!(t.post(MAPS, map("free", many)).await.0, 201);
    assert_eq!(t.post(MAPS, map("few", json!({"a": "1"}))).await.0, 201);
    let (code, _) = t.delete(&format!("{MAPS}/limits")).await;
    assert_eq!(code, 200);
    let (_, answer) = t.post(MAPS, map("late", json!({}))).await;
    assert!(
        message(&answer).ends_with("failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_that_do_not_compile_are_refused_and_types_are_checked() {
    let t = start().await;
    let path = format!("{ADMISSION}/validatingadmissionpolicies");
    let made = |spec: Value| json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p"}, "spec": spec});
    let (code, answer) = t
        .post(&path, made(json!({"matchConstraints": rules("apps", "deployments"), "validations": [{"expression": "params.x > 1"}]})))
        .await;
    assert_eq!(code, 422);
    assert!(
        message(&answer).contains("spec.validations[0].expression: Invalid value: \"params.x > 1\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params' (in container '')"),
        "{answer}"
    );
    let (code, answer) = t
        .post(&path, made(json!({"matchConstraints": rules("apps", "deployments"), "validations": [
            {"expression": "object.spec.replicas > '1'"}, {"expression": "object.spec.replicas > 1"}]})))
        .await;
    assert_eq!(code, 201, "{answer}");
    let path = format!("{path}/p");
    wait_until("the types are not checked", async || {
        t.get(&path).await.1["status"]["typeChecking"].is_object()
    })
    .await;
    let (_, answer) = t.get(&path).await;
    let warnings = answer["status"]["typeChecking"]["expressionWarnings"]
        .as_array()
        .unwrap();
    assert_eq!(warnings.len(), 1, "{answer}");
    assert_eq!(warnings[0]["fieldRef"], "spec.validations[0].expression");
    assert_eq!(
        warnings[0]["warning"],
        "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'\n | object.spec.replicas > '1'\n | .....................^\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn mutating_policies_change_objects() {
    let t = start().await;
    policy(
        &t,
        "Mutating",
        json!({
            "matchConstraints": rules("apps", "deployments"),
            "failurePolicy": "Fail", "reinvocationPolicy": "Never",
            "variables": [{"name": "n", "expression": "object.spec.replicas"}],
            "mutations": [
                {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
                    "Object{metadata: Object.metadata{labels: {'size': string(variables.n)}}, spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{containers: [Object.spec.template.spec.containers{name: 'side', image: 'busybox'}]}}}}"}},
                {"patchType": "JSONPatch", "jsonPatch": {"expression":
                    "[JSONPatch{op: 'test', path: '/spec/replicas', value: 2}, JSONPatch{op: 'replace', path: '/spec/replicas', value: 3}, JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 'c'}]"}},
            ],
        }),
        json!({"policyName": "p"}),
    )
    .await;
    let deployment = |name: &str, replicas: i64| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "main", "image": "nginx"}]}}}})
    };
    let (code, made) = t.post(DEPLOYMENTS, deployment("two", 2)).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["replicas"], 3);
    assert_eq!(made["metadata"]["labels"], json!({"size": "2", "a/b": "c"}));
    let containers = made["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap();
    let names: Vec<_> = containers.iter().map(|c| &c["name"]).collect();
    assert_eq!(names, ["main", "side"]);
    let managers = made["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(managers.len(), 1, "{managers:?}");
    // A failed `test` operation means that nothing changes.
    let (code, made) = t.post(DEPLOYMENTS, deployment("four", 4)).await;
    assert_eq!(
        (code, &made["spec"]["replicas"]),
        (201, &json!(4)),
        "{made}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_see_the_version_that_they_name() {
    let t = start().await;
    let constraints = |policy: &str| {
        let mut rules = rules("autoscaling", "horizontalpodautoscalers");
        rules["matchPolicy"] = policy.into();
        rules
    };
    policy(
        &t,
        "Mutating",
        json!({
            "matchConstraints": constraints("Equivalent"),
            "failurePolicy": "Fail", "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
                "Object{spec: Object.spec{targetCPUUtilizationPercentage: object.spec.maxReplicas * 10}}"}}],
        }),
        json!({"policyName": "p"}),
    )
    .await;
    policy(
        &t,
        "Validating",
        json!({
            "matchConstraints": constraints("Equivalent"),
            "validations": [{
                "expression": "object.spec.targetCPUUtilizationPercentage <= 50",
                "messageExpression": "object.apiVersion + ' ' + request.kind.version + ' ' + request.requestKind.version",
            }],
        }),
        json!({"policyName": "p", "validationActions": ["Deny"]}),
    )
    .await;
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let scaler = |name: &str, most: i64| {
        json!({"metadata": {"name": name}, "spec": {"maxReplicas": most,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}})
    };
    let (code, made) = t.post(path, scaler("a", 5)).await;
    assert_eq!(code, 201, "{made}");
    let target = &made["spec"]["metrics"][0]["resource"]["target"];
    assert_eq!(target["averageUtilization"], 50, "{made}");
    let (code, refused) = t.post(path, scaler("b", 6)).await;
    assert_eq!(code, 422, "{refused}");
    assert!(
        message(&refused).ends_with("denied request: autoscaling/v1 v1 v2"),
        "{refused}"
    );
    for plural in ["mutatingadmissionpolicies", "validatingadmissionpolicies"] {
        let (code, answer) = t
            .patch(
                &format!("{ADMISSION}/{plural}/p"),
                "merge-patch+json",
                json!({"spec": {"matchConstraints": {"matchPolicy": "Exact"}}}),
            )
            .await;
        assert_eq!(code, 200, "{answer}");
    }
    t.get("/api/v1/namespaces").await;
    let (code, made) = t.post(path, scaler("c", 6)).await;
    assert_eq!(code, 201, "{made}");
    let target = &made["spec"]["metrics"][0]["resource"]["target"];
    assert_eq!(
        target["averageUtilization"], 80,
        "upstream's default: {made}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_policies_put_in_is_filled_in_as_well() {
    let t = start().await;
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [{"type": "Container", "default": {"memory": "64Mi"}}]}});
    let (code, made) = t
        .post("/api/v1/namespaces/default/limitranges", range)
        .await;
    assert_eq!(code, 201, "{made}");
    let account = json!({"metadata": {"name": "default"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    assert_eq!(t.post(accounts, account).await.0, 201);
    let mutating = async |name: &str, again: &str, expression: &str| {
        let policy = json!({"metadata": {"name": name}, "spec": {
            "matchConstraints": rules("", "pods"), "failurePolicy": "Fail", "reinvocationPolicy": again,
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]}});
        let path = format!("{ADMISSION}/mutatingadmissionpolicies");
        let (code, answer) = t.post(&path, policy).await;
        assert_eq!(code, 201, "{answer}");
        let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name}});
        let path = format!("{ADMISSION}/mutatingadmissionpolicybindings");
        let (code, answer) = t.post(&path, binding).await;
        assert_eq!(code, 201, "{answer}");
    };
    let count = |label: &str| {
        format!(
            "Object{{metadata: Object.metadata{{labels: {{'{label}': string(object.spec.containers.size())}}}}}}"
        )
    };
    mutating("a", "IfNeeded", &count("seen-last")).await;
    mutating("b", "Never", &count("seen-first")).await;
    mutating(
        "c",
        "Never",
        "Object{spec: Object.spec{containers: [Object.spec.containers{name: 'side', image: 'busybox'}]}}",
    )
    .await;
    t.get("/api/v1/namespaces").await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "main", "image": "nginx"}]}});
    let (code, made) = t.post("/api/v1/namespaces/default/pods", pod).await;
    assert_eq!(code, 201, "{made}");
    let labels = &made["metadata"]["labels"];
    assert_eq!(labels["seen-last"], "2", "{made}");
    assert_eq!(labels["seen-first"], "1", "{made}");
    let containers = made["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 2);
    for container in containers {
        assert_eq!(container["resources"]["limits"]["memory"], "64Mi", "{made}");
        assert_eq!(
            container["volumeMounts"].as_array().unwrap().len(),
            1,
            "{made}"
        );
    }
    assert_eq!(made["spec"]["volumes"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn match_conditions_spare_webhooks() {
    let t = start().await;
    let path = format!("{ADMISSION}/validatingwebhookconfigurations");
    let hook = |expression: &str| {
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "w"}, "webhooks": [{
            "name": "w.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 1,
            "clientConfig": {"url": "https://127.0.0.1:1/"},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]}],
            "matchConditions": [{"name": "named", "expression": expression}]}]})
    };
    let (code, answer) = t.post(&path, hook("object.nope(")).await;
    assert_eq!(code, 422, "{answer}");
    assert!(message(&answer).contains("webhooks[0].matchConditions[0].expression: Invalid value: \"object.nope(\": compilation failed: ERROR"), "{answer}");
    let (code, answer) = t
        .post(&path, hook("object.metadata.name.startsWith('asked')"))
        .await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(t.post(MAPS, map("spared", json!({}))).await.0, 201);
    let (code, answer) = t.post(MAPS, map("asked", json!({}))).await;
    assert_eq!(code, 500, "{answer}");
    assert!(
        message(&answer).contains("failed calling webhook"),
        "{answer}"
    );
}
