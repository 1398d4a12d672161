//! Webhooks, admission policies and their bindings.

use serde_json::{Value, json};

use super::{Case, assert_create, assert_item, assert_update};

const GROUP: &str = "admissionregistration.k8s.io";
const WEBHOOKS: (&str, &str) = (GROUP, "ValidatingWebhookConfiguration");

fn hook() -> Value {
    json!({
        "name": "a.b.example.com",
        "clientConfig": {"service": {"name": "s", "namespace": "n"}},
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
    })
}

fn rule() -> Value {
    json!({"operations": ["CREATE"], "apiGroups": ["a"], "apiVersions": ["v1"], "resources": ["r"], "scope": "*"})
}

#[test]
fn webhooks() {
    let long: Vec<Value> = (0..65)
        .map(|i| json!({"name": format!("c{i}"), "expression": "true"}))
        .collect();
    let long = json!({"matchConditions": long}).to_string();
    let cases: &[Case<'_>] = &[
        ("{}", ""),
        (r#"{"name": ""}"#, "Required @.name"),
        (r#"{"name": "K8s.example.com"}"#, "Invalid @.name"),
        (r#"{"name": "example.com"}"#, "Invalid @.name"),
        (
            r#"{"admissionReviewVersions": ["v1", "v2", "invalid"]}"#,
            "",
        ),
        (
            r#"{"admissionReviewVersions": ["v1", "v1"]}"#,
            "Invalid @.admissionReviewVersions[1]",
        ),
        (
            r#"{"admissionReviewVersions": ["v1", "0v"]}"#,
            "Invalid @.admissionReviewVersions[1]",
        ),
        (
            r#"{"admissionReviewVersions": ["v3"]}"#,
            "Invalid @.admissionReviewVersions",
        ),
        (
            r#"{"sideEffects": "Unknown"}"#,
            "NotSupported @.sideEffects",
        ),
        (r#"{"sideEffects": "NoneOnDryRun"}"#, ""),
        (r#"{"timeoutSeconds": 30}"#, ""),
        (
            r#"{"namespaceSelector": {"matchLabels": {"a": "_"}}}"#,
            "Invalid @.namespaceSelector.matchLabels",
        ),
        (
            r#"{"matchConditions": [{"name": "a", "expression": "true"}, {"name": "b/c", "expression": "true"}]}"#,
            "",
        ),
        (
            r#"{"matchConditions": [{"name": "a", "expression": " "}, {"expression": "true"}]}"#,
            "Required @.matchConditions[0].expression, Required @.matchConditions[1].name",
        ),
        (
            r#"{"matchConditions": [{"name": "a", "expression": "true"}, {"name": "a", "expression": "true"}]}"#,
            "Duplicate @.matchConditions[1].name",
        ),
        (
            r#"{"matchConditions": [{"name": "a b", "expression": "true"}]}"#,
            "Invalid @.matchConditions[0].name",
        ),
        (&long, "TooMany @.matchConditions"),
    ];
    let wrap = |hook| json!({"webhooks": [hook]});
    assert_item(WEBHOOKS, json!({}), (hook(), "webhooks[0]"), wrap, cases);
    let twice = json!({"webhooks": [hook(), hook()]}).to_string();
    let cases = [(twice.as_str(), "Duplicate webhooks[1].name")];
    assert_create(GROUP, WEBHOOKS.1, json!({}), &cases);
}

#[test]
fn places_of_webhooks() {
    let wrap = |config| {
        let mut hook = hook();
        hook["clientConfig"] = config;
        json!({"webhooks": [hook]})
    };
    let path = "webhooks[0].clientConfig";
    let cases: &[Case<'_>] = &[
        (r#"{"url": "https://example.com"}"#, ""),
        (r#"{"url": "HTTPS://example.com:8443/a/b"}"#, ""),
        (r#"{"url": "http://example.com"}"#, "Invalid @.url"),
        (r#"{"url": "example.com"}"#, "Invalid @.url, Invalid @.url"),
        (r#"{"url": "https:///path"}"#, "Invalid @.url"),
        (r#"{"url": "https://u:p@example.com"}"#, "Invalid @.url"),
        (r#"{"url": "https://example.com#f"}"#, "Invalid @.url"),
        (r#"{"url": "https://example.com?a=b"}"#, "Invalid @.url"),
        (
            r#"{"url": "ftp://u@/x?q#f"}"#,
            "Invalid @.url, Invalid @.url, Invalid @.url, Invalid @.url, Invalid @.url",
        ),
    ];
    assert_item(WEBHOOKS, json!({}), (json!({}), path), wrap, cases);
    let service = json!({"service": {"name": "s", "namespace": "n", "port": 443}});
    let cases: &[Case<'_>] = &[
        ("{}", ""),
        (
            r#"{"service": {"name": "", "namespace": ""}}"#,
            "Required @.service.name, Required @.service.namespace",
        ),
        (r#"{"service": {"port": 0}}"#, "Invalid @.service.port"),
        (r#"{"service": {"port": 65536}}"#, "Invalid @.service.port"),
        (r#"{"service": {"path": ""}}"#, ""),
        (r#"{"service": {"path": "/"}}"#, ""),
        (r#"{"service": {"path": "/apis/foo.bar/v1alpha1/"}}"#, ""),
        (
            r#"{"service": {"path": "/foo//bar"}}"#,
            "Invalid @.service.path",
        ),
        (
            r#"{"service": {"path": "/foo/bar//"}}"#,
            "Invalid @.service.path",
        ),
        (
            r#"{"service": {"path": "//"}}"#,
            "Invalid @.service.path, Invalid @.service.path",
        ),
        (r#"{"service": {"path": "foo"}}"#, "Invalid @.service.path"),
        (
            r#"{"service": {"path": "/apis/foo.bar/_v1"}}"#,
            "Invalid @.service.path",
        ),
        (r#"{"url": "https://example.com"}"#, "Required @"),
    ];
    assert_item(WEBHOOKS, json!({}), (service, path), wrap, cases);
}

#[test]
fn rules_of_webhooks() {
    let wrap = |rule| {
        let mut hook = hook();
        hook["rules"] = json!([rule]);
        json!({"webhooks": [hook]})
    };
    let cases: &[Case<'_>] = &[
        ("{}", ""),
        (r#"{"operations": []}"#, "Required @.operations"),
        (r#"{"operations": ["CREATE", "*"]}"#, "Invalid @.operations"),
        (
            r#"{"operations": ["PATCH"]}"#,
            "NotSupported @.operations[0]",
        ),
        (r#"{"apiGroups": [""]}"#, ""),
        (r#"{"apiGroups": []}"#, "Required @.apiGroups"),
        (r#"{"apiGroups": ["a", "*"]}"#, "Invalid @.apiGroups"),
        (r#"{"apiVersions": []}"#, "Required @.apiVersions"),
        (r#"{"apiVersions": [""]}"#, "Required @.apiVersions[0]"),
        (r#"{"apiVersions": ["v1", "*"]}"#, "Invalid @.apiVersions"),
        (r#"{"scope": "Region"}"#, "NotSupported @.scope"),
        (r#"{"scope": null}"#, ""),
        (r#"{"resources": []}"#, "Required @.resources"),
        (r#"{"resources": [""]}"#, "Required @.resources[0]"),
        (r#"{"resources": ["a", "a/b", "c/*", "*/d"]}"#, ""),
        (r#"{"resources": ["*", "a/b"]}"#, ""),
        (r#"{"resources": ["a/*", "a/x"]}"#, "Invalid @.resources[1]"),
        (r#"{"resources": ["*/a", "x/a"]}"#, "Invalid @.resources[1]"),
        (r#"{"resources": ["*/*", "a"]}"#, "Invalid @.resources"),
        (r#"{"resources": ["*", "a"]}"#, "Invalid @.resources"),
        (r#"{"resources": ["*/*"]}"#, ""),
    ];
    let item = (rule(), "webhooks[0].rules[0]");
    assert_item(WEBHOOKS, json!({}), item, wrap, cases);
}

/// Webhooks of beta versions keep what is refused today.
#[test]
fn old_webhooks_stay() {
    let mut old = hook();
    old["sideEffects"] = json!("Unknown");
    old["admissionReviewVersions"] = json!(["v0"]);
    old["matchConditions"] = json!([{"name": "a b", "expression": ""}]);
    let old = json!({"webhooks": [old, old]});
    let mut changed = old.clone();
    changed["webhooks"][0]["sideEffects"] = json!("Some");
    let mut wrong = old.clone();
    wrong["webhooks"][0]["sideEffects"] = json!("Many");
    let mut conditions = old.clone();
    conditions["webhooks"][1]["matchConditions"] = json!([{"name": "", "expression": "true"}]);
    assert_update(
        GROUP,
        WEBHOOKS.1,
        old.clone(),
        &[
            ("{}", ""),
            (&changed.to_string(), ""),
            (&wrong.to_string(), "NotSupported webhooks[0].sideEffects"),
            (
                &conditions.to_string(),
                "Required webhooks[0].matchConditions[0].expression, Invalid webhooks[0].matchConditions[0].name, Required webhooks[1].matchConditions[0].name",
            ),
        ],
    );
    let clean = json!({"webhooks": [hook()]});
    assert_update(GROUP, WEBHOOKS.1, clean, &[(&old.to_string(), ORDERED)]);
}

/// The errors of the old webhooks when they are new, in the order of checks.
const ORDERED: &str = "NotSupported webhooks[0].sideEffects, Required webhooks[0].matchConditions[0].expression, Invalid webhooks[0].matchConditions[0].name, Invalid webhooks[0].admissionReviewVersions, NotSupported webhooks[1].sideEffects, Required webhooks[1].matchConditions[0].expression, Invalid webhooks[1].matchConditions[0].name, Invalid webhooks[1].admissionReviewVersions, Duplicate webhooks[1].name";

fn policy() -> Value {
    json!({
        "metadata": {"name": "p.example.com"},
        "spec": {
            "validations": [{"expression": "true"}],
            "matchConstraints": {"resourceRules": [rule()]},
        },
    })
}

#[test]
fn validating_policies() {
    let annotations: Vec<Value> = (0..21)
        .map(|i| json!({"key": format!("k{i}"), "valueExpression": "'a'"}))
        .collect();
    let annotations = json!({"spec": {"auditAnnotations": annotations}}).to_string();
    let long = "x".repeat((5 << 10) + 1);
    let long =
        json!({"spec": {"auditAnnotations": [{"key": "k", "valueExpression": long}]}}).to_string();
    let cases: &[Case<'_>] = &[
        (
            r#"{"spec": {"failurePolicy": null}}"#,
            "Required spec.failurePolicy",
        ),
        (
            r#"{"spec": {"failurePolicy": "Warn"}}"#,
            "NotSupported spec.failurePolicy",
        ),
        (
            r#"{"spec": {"matchConstraints": null}}"#,
            "Required spec.matchConstraints",
        ),
        (
            r#"{"spec": {"matchConstraints": {"resourceRules": []}}}"#,
            "Required spec.matchConstraints.resourceRules",
        ),
        (
            r#"{"spec": {"matchConstraints": {"matchPolicy": null, "namespaceSelector": null, "objectSelector": null}}}"#,
            "Required spec.matchConstraints.matchPolicy, Required spec.matchConstraints.namespaceSelector, Required spec.matchConstraints.objectSelector",
        ),
        (
            r#"{"spec": {"matchConstraints": {"matchPolicy": "Loose"}}}"#,
            "NotSupported spec.matchConstraints.matchPolicy",
        ),
        (
            r#"{"spec": {"matchConstraints": {"objectSelector": {"matchLabels": {"a b": ""}}}}}"#,
            "Invalid spec.matchConstraints.objectSelector.matchLabels",
        ),
        (
            r#"{"spec": {"validations": []}}"#,
            "Required spec.validations, Required spec.auditAnnotations",
        ),
        (
            r#"{"spec": {"validations": [], "auditAnnotations": [{"key": "k", "valueExpression": "'a'"}]}}"#,
            "",
        ),
        (
            r#"{"spec": {"validations": [{"expression": " "}]}}"#,
            "Required spec.validations[0].expression",
        ),
        (
            r#"{"spec": {"validations": [{"expression": "true", "message": " ", "messageExpression": " "}]}}"#,
            "Invalid spec.validations[0].messageExpression, Invalid spec.validations[0].message",
        ),
        (
            r#"{"spec": {"validations": [{"expression": "true", "message": "a\nb"}]}}"#,
            "Invalid spec.validations[0].message",
        ),
        (
            r#"{"spec": {"validations": [{"expression": "true", "reason": "Other"}]}}"#,
            "NotSupported spec.validations[0].reason",
        ),
        (
            r#"{"spec": {"validations": [{"expression": "true", "reason": "RequestEntityTooLarge"}]}}"#,
            "",
        ),
        (
            r#"{"spec": {"variables": [{"name": "v_1", "expression": "1"}]}}"#,
            "",
        ),
        (
            r#"{"spec": {"variables": [{"name": "1a", "expression": "1"}, {"name": "in", "expression": "1"}]}}"#,
            "Invalid spec.variables[0].name, Invalid spec.variables[1].name",
        ),
        (
            r#"{"spec": {"variables": [{"name": "", "expression": ""}]}}"#,
            "Required spec.variables[0].name, Required spec.variables[0].expression",
        ),
        (
            r#"{"spec": {"matchConditions": [{"name": "a b", "expression": "true"}]}}"#,
            "Invalid spec.matchConditions[0].name",
        ),
        (
            r#"{"spec": {"auditAnnotations": [{"key": "k", "valueExpression": ""}, {"key": "k", "valueExpression": "'a'"}]}}"#,
            "Required spec.auditAnnotations[0].valueExpression, Duplicate spec.auditAnnotations[1].key",
        ),
        (
            r#"{"spec": {"auditAnnotations": [{"key": "@", "valueExpression": "'a'"}]}}"#,
            "Invalid spec.auditAnnotations[0].key",
        ),
        (&annotations, "Invalid spec.auditAnnotations"),
        (&long, "Required spec.auditAnnotations[0].valueExpression"),
    ];
    assert_create(GROUP, "ValidatingAdmissionPolicy", policy(), cases);
}

/// Conditions of before are not validated again unless they or their parameters change.
#[test]
fn old_conditions_stay() {
    let old = json!({"spec": {"matchConditions": [{"name": "a b", "expression": ""}]}});
    let mut old_policy = policy();
    super::merge(&mut old_policy, &old);
    let cases: &[Case<'_>] = &[
        (r#"{"spec": {"failurePolicy": "Ignore"}}"#, ""),
        (
            r#"{"spec": {"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}}}"#,
            "Required spec.matchConditions[0].expression, Invalid spec.matchConditions[0].name",
        ),
    ];
    assert_update(GROUP, "ValidatingAdmissionPolicy", old_policy, cases);
}

#[test]
fn parameters_and_rules_of_policies() {
    let wrap = |kind| json!({"spec": {"paramKind": kind}});
    let kind = json!({"apiVersion": "rules.example.com/v1", "kind": "ReplicaLimit"});
    let cases: &[Case<'_>] = &[
        ("{}", ""),
        (r#"{"apiVersion": "v1", "kind": "ConfigMap"}"#, ""),
        (
            r#"{"apiVersion": "", "kind": ""}"#,
            "Required @.apiVersion, Required @.kind",
        ),
        (r#"{"apiVersion": "a/b/c"}"#, "Invalid @.apiVersion"),
        (r#"{"apiVersion": "a/"}"#, "Invalid @.apiVersion"),
        (
            r#"{"apiVersion": "A/1"}"#,
            "Invalid @.apiVersion, Invalid @.apiVersion",
        ),
        (r#"{"kind": "a b"}"#, "Invalid @.kind"),
    ];
    let policy_kind = (GROUP, "ValidatingAdmissionPolicy");
    assert_item(policy_kind, policy(), (kind, "spec.paramKind"), wrap, cases);
    let wrap = |rule| json!({"spec": {"matchConstraints": {"resourceRules": [rule]}}});
    let cases: &[Case<'_>] = &[
        (r#"{"resourceNames": ["a", "b:c"]}"#, ""),
        (
            r#"{"resourceNames": ["a", "a"]}"#,
            "Duplicate @.resourceNames[1]",
        ),
        (
            r#"{"resourceNames": ["a/b"]}"#,
            "Invalid @.resourceNames[0]",
        ),
        (r#"{"resources": ["*/*", "a"]}"#, "Invalid @.resources"),
        (r#"{"operations": ["DELETE"]}"#, ""),
    ];
    let item = (rule(), "spec.matchConstraints.resourceRules[0]");
    assert_item(policy_kind, policy(), item, wrap, cases);
}

#[test]
fn mutating_policies() {
    let policy = json!({"kind": "MutatingAdmissionPolicy", "spec": {
        "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}],
        "matchConstraints": {"resourceRules": [rule()]},
    }});
    let cases: &[Case<'_>] = &[
        (r#"{"spec": {"mutations": []}}"#, "Required spec.mutations"),
        (
            r#"{"spec": {"reinvocationPolicy": ""}}"#,
            "Required spec.reinvocationPolicy",
        ),
        (
            r#"{"spec": {"reinvocationPolicy": "Once"}}"#,
            "NotSupported spec.reinvocationPolicy",
        ),
        (r#"{"spec": {"reinvocationPolicy": "IfNeeded"}}"#, ""),
        (
            r#"{"spec": {"mutations": [{"patchType": "", "jsonPatch": {"expression": "[]"}}]}}"#,
            "Required spec.mutations[0].patchType",
        ),
        (
            r#"{"spec": {"mutations": [{"patchType": "Merge"}]}}"#,
            "NotSupported spec.mutations[0].patchType",
        ),
        (
            r#"{"spec": {"mutations": [{"patchType": "JSONPatch"}]}}"#,
            "Required spec.mutations[0].jsonPatch",
        ),
        (
            r#"{"spec": {"mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": " "}}]}}"#,
            "Required spec.mutations[0].jsonPatch.expression",
        ),
        (
            r#"{"spec": {"mutations": [{"patchType": "ApplyConfiguration", "jsonPatch": {"expression": "[]"}}]}}"#,
            "Required spec.mutations[0].applyConfiguration, Invalid spec.mutations[0].jsonPatch",
        ),
        (
            r#"{"spec": {"mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{}"}}]}}"#,
            "",
        ),
        (
            r#"{"spec": {"matchConstraints": {"resourceRules": [{"operations": ["DELETE"], "apiGroups": ["a"], "apiVersions": ["v1"], "resources": ["r"]}]}}}"#,
            "NotSupported spec.matchConstraints.resourceRules.operations",
        ),
    ];
    assert_create(GROUP, "MutatingAdmissionPolicy", policy, cases);
}

#[test]
fn bindings() {
    let binding = json!({"spec": {"policyName": "p.example.com", "validationActions": ["Deny"]}});
    let cases: &[Case<'_>] = &[
        (
            r#"{"spec": {"policyName": ""}}"#,
            "Required spec.policyName",
        ),
        (
            r#"{"spec": {"policyName": "A b"}}"#,
            "Invalid spec.policyName",
        ),
        (
            r#"{"spec": {"validationActions": []}}"#,
            "Required spec.validationActions",
        ),
        (r#"{"spec": {"validationActions": ["Deny", "Audit"]}}"#, ""),
        (
            r#"{"spec": {"validationActions": ["Deny", "Deny"]}}"#,
            "Duplicate spec.validationActions[1]",
        ),
        (
            r#"{"spec": {"validationActions": ["Log"]}}"#,
            "NotSupported spec.validationActions[0]",
        ),
        (
            r#"{"spec": {"validationActions": ["Deny", "Warn"]}}"#,
            "Invalid spec.validationActions",
        ),
        (
            r#"{"spec": {"paramRef": {"name": "n", "parameterNotFoundAction": "Deny"}}}"#,
            "",
        ),
        (
            r#"{"spec": {"paramRef": {"selector": {"matchLabels": {"a": "b"}}, "parameterNotFoundAction": "Allow"}}}"#,
            "",
        ),
        (
            r#"{"spec": {"paramRef": {"parameterNotFoundAction": "Deny"}}}"#,
            "Required spec.paramRef",
        ),
        (
            r#"{"spec": {"paramRef": {"name": "n", "selector": {}, "parameterNotFoundAction": "Deny"}}}"#,
            "Forbidden spec.paramRef.name, Forbidden spec.paramRef.selector",
        ),
        (
            r#"{"spec": {"paramRef": {"name": "n"}}}"#,
            "Required spec.paramRef.parameterNotFoundAction",
        ),
        (
            r#"{"spec": {"paramRef": {"name": "n", "parameterNotFoundAction": "Ignore"}}}"#,
            "NotSupported spec.paramRef.parameterNotFoundAction",
        ),
        (
            r#"{"spec": {"matchResources": {"matchPolicy": "Exact", "namespaceSelector": {}, "objectSelector": {}}}}"#,
            "",
        ),
        (
            r#"{"spec": {"matchResources": {"matchPolicy": "Loose", "namespaceSelector": {}}}}"#,
            "NotSupported spec.matchResources.matchPolicy, Required spec.matchResources.objectSelector",
        ),
    ];
    assert_create(GROUP, "ValidatingAdmissionPolicyBinding", binding, cases);
    let binding =
        json!({"kind": "MutatingAdmissionPolicyBinding", "spec": {"policyName": "p.example.com"}});
    let cases: &[Case<'_>] = &[
        ("{}", ""),
        (
            r#"{"spec": {"policyName": ""}}"#,
            "Required spec.policyName",
        ),
    ];
    assert_create(GROUP, "MutatingAdmissionPolicyBinding", binding, cases);
}
