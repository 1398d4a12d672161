//! Flow schemas and priority levels.

use serde_json::{Value, json};

use super::{Case, assert_create, assert_item};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMA: (&str, &str) = (GROUP, "FlowSchema");
const LEVEL: &str = "PriorityLevelConfiguration";

fn rule() -> Value {
    json!({
        "subjects": [{"kind": "User", "user": {"name": "jane"}}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}],
    })
}

fn schema() -> Value {
    json!({"spec": {"priorityLevelConfiguration": {"name": "global-default"}, "rules": [rule()]}})
}

#[test]
fn flow_schemas() {
    let cases: &[Case<'_>] = &[
        (r#"{"spec": {"matchingPrecedence": 2}}"#, ""),
        (r#"{"spec": {"matchingPrecedence": 10000}}"#, ""),
        (
            r#"{"spec": {"matchingPrecedence": 10001}}"#,
            "Invalid spec.matchingPrecedence",
        ),
        (
            r#"{"spec": {"matchingPrecedence": 0}}"#,
            "Invalid spec.matchingPrecedence",
        ),
        (
            r#"{"spec": {"matchingPrecedence": 1}}"#,
            "Invalid spec.matchingPrecedence",
        ),
        (
            r#"{"spec": {"distinguisherMethod": {"type": "ByUser"}}}"#,
            "",
        ),
        (
            r#"{"spec": {"distinguisherMethod": {"type": "ByNamespace"}}}"#,
            "",
        ),
        (
            r#"{"spec": {"distinguisherMethod": {"type": "ByMood"}}}"#,
            "NotSupported spec.distinguisherMethod.type",
        ),
        (
            r#"{"spec": {"priorityLevelConfiguration": {"name": ""}}}"#,
            "Required spec.priorityLevelConfiguration.name",
        ),
        (
            r#"{"spec": {"priorityLevelConfiguration": {"name": "system+++$$"}}}"#,
            "Invalid spec.priorityLevelConfiguration.name",
        ),
        (r#"{"spec": {"rules": []}}"#, ""),
    ];
    assert_create(GROUP, "FlowSchema", schema(), cases);
}

#[test]
fn subjects_of_flow_schemas() {
    let wrap = |subject| {
        let mut rule = rule();
        rule["subjects"] = json!([subject]);
        json!({"spec": {"rules": [rule]}})
    };
    let path = "spec.rules[0].subjects[0]";
    let user = json!({"kind": "User", "user": {"name": "jane"}});
    let cases: &[Case<'_>] = &[
        (r#"{"user": {"name": "*"}}"#, ""),
        (r#"{"user": {"name": ""}}"#, "Required @.user.name"),
        (r#"{"user": null}"#, "Required @.user"),
        (r#"{"group": {"name": "g"}}"#, "Forbidden @.group"),
        (
            r#"{"serviceAccount": {"name": "a", "namespace": "n"}}"#,
            "Forbidden @.serviceAccount",
        ),
        (r#"{"kind": "Robot"}"#, "NotSupported @.kind"),
        (r#"{"kind": ""}"#, "NotSupported @.kind"),
        (r#"{"kind": "Group"}"#, "Required @.group, Forbidden @.user"),
    ];
    assert_item(SCHEMA, schema(), (user, path), wrap, cases);
    let group = json!({"kind": "Group", "group": {"name": "g"}});
    let cases: &[Case<'_>] = &[
        ("{}", ""),
        (r#"{"group": {"name": ""}}"#, "Required @.group.name"),
        (r#"{"user": {"name": "u"}}"#, "Forbidden @.user"),
    ];
    assert_item(SCHEMA, schema(), (group, path), wrap, cases);
    let account =
        json!({"kind": "ServiceAccount", "serviceAccount": {"name": "a", "namespace": "n"}});
    let cases: &[Case<'_>] = &[
        ("{}", ""),
        (r#"{"serviceAccount": {"name": "*"}}"#, ""),
        (
            r#"{"serviceAccount": {"name": ""}}"#,
            "Required @.serviceAccount.name",
        ),
        (
            r#"{"serviceAccount": {"name": "A"}}"#,
            "Invalid @.serviceAccount.name",
        ),
        (
            r#"{"serviceAccount": {"namespace": ""}}"#,
            "Required @.serviceAccount.namespace",
        ),
        (
            r#"{"serviceAccount": {"namespace": "*"}}"#,
            "Invalid @.serviceAccount.namespace",
        ),
        (r#"{"serviceAccount": null}"#, "Required @.serviceAccount"),
    ];
    assert_item(SCHEMA, schema(), (account, path), wrap, cases);
}

#[test]
fn rules_of_flow_schemas() {
    let wrap = |rule| json!({"spec": {"rules": [rule]}});
    let cases: &[Case<'_>] = &[
        ("{}", ""),
        (r#"{"subjects": []}"#, "Required @.subjects"),
        (r#"{"resourceRules": []}"#, "Required @"),
        (
            r#"{"resourceRules": null, "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/version/*", "/"]}]}"#,
            "",
        ),
    ];
    assert_item(SCHEMA, schema(), (rule(), "spec.rules[0]"), wrap, cases);
    let wrap = |resources| {
        let mut rule = rule();
        rule["resourceRules"] = json!([resources]);
        json!({"spec": {"rules": [rule]}})
    };
    let resources = rule()["resourceRules"][0].clone();
    let path = "spec.rules[0].resourceRules[0]";
    let cases: &[Case<'_>] = &[
        (r#"{"verbs": ["get", "proxy", "deletecollection"]}"#, ""),
        (r#"{"verbs": []}"#, "Required @.verbs"),
        (r#"{"verbs": ["get", "*"]}"#, "Invalid @.verbs"),
        (r#"{"verbs": ["feed"]}"#, "NotSupported @.verbs"),
        (r#"{"apiGroups": [""]}"#, ""),
        (r#"{"apiGroups": []}"#, "Required @.apiGroups"),
        (r#"{"apiGroups": ["apps", "*"]}"#, "Invalid @.apiGroups"),
        (r#"{"resources": []}"#, "Required @.resources"),
        (r#"{"resources": ["pods", "*"]}"#, "Invalid @.resources"),
        (r#"{"namespaces": []}"#, "Required @.namespaces"),
        (r#"{"namespaces": [], "clusterScope": true}"#, ""),
        (r#"{"namespaces": ["a", "b-c"]}"#, ""),
        (r#"{"namespaces": ["a", "*"]}"#, "Invalid @.namespaces"),
        (
            r#"{"namespaces": ["a", "-foo"]}"#,
            "Invalid @.namespaces[1]",
        ),
    ];
    assert_item(SCHEMA, schema(), (resources, path), wrap, cases);
    let wrap = |urls| {
        let mut rule = rule();
        rule["nonResourceRules"] = json!([urls]);
        json!({"spec": {"rules": [rule]}})
    };
    let urls = json!({"verbs": ["get"], "nonResourceURLs": ["/healthz"]});
    let path = "spec.rules[0].nonResourceRules[0]";
    let cases: &[Case<'_>] = &[
        (r#"{"verbs": ["*"], "nonResourceURLs": ["*"]}"#, ""),
        (r#"{"verbs": []}"#, "Required @.verbs"),
        (r#"{"verbs": ["*", "get"]}"#, "Invalid @.verbs"),
        (r#"{"nonResourceURLs": []}"#, "Required @.nonResourceURLs"),
        (
            r#"{"nonResourceURLs": ["*", "/a"]}"#,
            "Invalid @.nonResourceURLs",
        ),
        (
            r#"{"nonResourceURLs": ["/a/b", ""]}"#,
            "Invalid @.nonResourceURLs[1]",
        ),
        (
            r#"{"nonResourceURLs": ["a"]}"#,
            "Invalid @.nonResourceURLs[0]",
        ),
        (
            r#"{"nonResourceURLs": ["/a b"]}"#,
            "Invalid @.nonResourceURLs[0]",
        ),
        (
            r#"{"nonResourceURLs": ["//a"]}"#,
            "Invalid @.nonResourceURLs[0]",
        ),
        (
            r#"{"nonResourceURLs": ["/a*"]}"#,
            "Invalid @.nonResourceURLs[0]",
        ),
        (
            r#"{"nonResourceURLs": ["/a*/b"]}"#,
            "Invalid @.nonResourceURLs[0]",
        ),
        (
            r#"{"nonResourceURLs": ["/*/*"]}"#,
            "Invalid @.nonResourceURLs[0]",
        ),
    ];
    assert_item(SCHEMA, schema(), (urls, path), wrap, cases);
}

/// The schemas that the server makes are valid, and cannot be changed.
#[test]
fn mandatory_flow_schemas() {
    let everything = json!({
        "subjects": [{"kind": "Group", "group": {"name": "system:masters"}}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    });
    let exempt = json!({
        "metadata": {"name": "exempt"},
        "spec": {"matchingPrecedence": 1, "priorityLevelConfiguration": {"name": "exempt"}, "rules": [everything]},
    });
    let cases: &[Case<'_>] = &[
        ("{}", ""),
        (r#"{"spec": {"matchingPrecedence": 2}}"#, "Invalid spec"),
        (r#"{"spec": {"rules": []}}"#, "Invalid spec"),
    ];
    assert_create(GROUP, "FlowSchema", exempt.clone(), cases);
    let mut catch_all = exempt;
    catch_all["metadata"]["name"] = json!("catch-all");
    catch_all["spec"]["matchingPrecedence"] = json!(10_000);
    catch_all["spec"]["priorityLevelConfiguration"]["name"] = json!("catch-all");
    catch_all["spec"]["distinguisherMethod"] = json!({"type": "ByUser"});
    catch_all["spec"]["rules"][0]["subjects"] = json!([
        {"kind": "Group", "group": {"name": "system:unauthenticated"}},
        {"kind": "Group", "group": {"name": "system:authenticated"}},
    ]);
    let cases: &[Case<'_>] = &[
        ("{}", ""),
        (r#"{"spec": {"distinguisherMethod": null}}"#, "Invalid spec"),
        (
            r#"{"spec": {"priorityLevelConfiguration": {"name": "exempt"}}}"#,
            "Invalid spec",
        ),
    ];
    assert_create(GROUP, "FlowSchema", catch_all, cases);
}

#[test]
fn priority_levels() {
    let limited = json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}});
    let cases: &[Case<'_>] = &[
        (r#"{"spec": {"type": "Other"}}"#, "NotSupported spec.type"),
        (
            r#"{"spec": {"type": "Exempt"}}"#,
            "Invalid spec.type, Forbidden spec.limited",
        ),
        (r#"{"spec": {"limited": null}}"#, "Required spec.limited"),
        (
            r#"{"spec": {"exempt": {}, "limited": null}}"#,
            "Forbidden spec.exempt, Required spec.limited",
        ),
        (
            r#"{"spec": {"limited": {"nominalConcurrencyShares": 0}}}"#,
            "",
        ),
        (
            r#"{"spec": {"limited": {"nominalConcurrencyShares": -1}}}"#,
            "Invalid spec.limited.nominalConcurrencyShares",
        ),
        (r#"{"spec": {"limited": {"lendablePercent": 100}}}"#, ""),
        (
            r#"{"spec": {"limited": {"lendablePercent": 101}}}"#,
            "Invalid spec.limited.lendablePercent",
        ),
        (
            r#"{"spec": {"limited": {"lendablePercent": -1}}}"#,
            "Invalid spec.limited.lendablePercent",
        ),
        (r#"{"spec": {"limited": {"borrowingLimitPercent": 0}}}"#, ""),
        (
            r#"{"spec": {"limited": {"borrowingLimitPercent": 1000}}}"#,
            "",
        ),
        (
            r#"{"spec": {"limited": {"borrowingLimitPercent": -1}}}"#,
            "Invalid spec.limited.borrowingLimitPercent",
        ),
        (
            r#"{"spec": {"limited": {"limitResponse": {"type": "Wait"}}}}"#,
            "NotSupported spec.limited.limitResponse.type",
        ),
        (
            r#"{"spec": {"limited": {"limitResponse": {"type": "Reject"}}}}"#,
            "Forbidden spec.limited.limitResponse.queuing",
        ),
        (
            r#"{"spec": {"limited": {"limitResponse": {"type": "Reject", "queuing": null}}}}"#,
            "",
        ),
        (
            r#"{"spec": {"limited": {"limitResponse": {"queuing": null}}}}"#,
            "Required spec.limited.limitResponse.queuing",
        ),
    ];
    assert_create(GROUP, LEVEL, limited, cases);
}

#[test]
fn queues_of_priority_levels() {
    let queuing = json!({"queues": 512, "handSize": 4, "queueLengthLimit": 100});
    let wrap = |queuing| json!({"spec": {"limited": {"limitResponse": {"type": "Queue", "queuing": queuing}}}});
    let cases: &[Case<'_>] = &[
        ("{}", ""),
        (r#"{"queueLengthLimit": 0}"#, "Invalid @.queueLengthLimit"),
        (r#"{"queues": 0}"#, "Invalid @.queues, Invalid @.handSize"),
        (r#"{"handSize": 0}"#, "Invalid @.handSize"),
        (r#"{"queues": 3}"#, "Invalid @.handSize"),
        (r#"{"queues": 4}"#, ""),
        (r#"{"handSize": 8}"#, "Invalid @.handSize"),
        (r#"{"handSize": 6}"#, ""),
        (r#"{"queues": 128, "handSize": 10}"#, "Invalid @.handSize"),
        (r#"{"queues": 128, "handSize": 8}"#, ""),
        (r#"{"queues": 10000000, "handSize": 2}"#, ""),
        (
            r#"{"queues": 2147483647, "handSize": 3}"#,
            "Invalid @.queues, Invalid @.handSize",
        ),
    ];
    let level =
        json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}});
    let item = (queuing, "spec.limited.limitResponse.queuing");
    assert_item((GROUP, LEVEL), level, item, wrap, cases);
}

#[test]
fn mandatory_priority_levels() {
    let exempt = json!({"metadata": {"name": "exempt"}, "spec": {"type": "Exempt", "exempt": {}}});
    let cases: &[Case<'_>] = &[
        ("{}", ""),
        (
            r#"{"spec": {"exempt": {"nominalConcurrencyShares": 10, "lendablePercent": 10}}}"#,
            "",
        ),
        (
            r#"{"spec": {"exempt": {"nominalConcurrencyShares": -1, "lendablePercent": 101}}}"#,
            "Invalid spec.exempt.nominalConcurrencyShares, Invalid spec.exempt.lendablePercent",
        ),
        (
            r#"{"spec": {"limited": {"limitResponse": {"type": "Reject"}}}}"#,
            "Forbidden spec.limited, Invalid spec",
        ),
        (
            r#"{"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}}"#,
            "Invalid spec.type, Forbidden spec.exempt, Invalid spec",
        ),
    ];
    assert_create(GROUP, LEVEL, exempt, cases);
    let catch_all = json!({"metadata": {"name": "catch-all"}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "limitResponse": {"type": "Reject"}}}});
    let cases: &[Case<'_>] = &[
        ("{}", ""),
        (
            r#"{"spec": {"limited": {"nominalConcurrencyShares": 42}}}"#,
            "Invalid spec",
        ),
    ];
    assert_create(GROUP, LEVEL, catch_all, cases);
}
