//! Success policies of indexed jobs.

use serde_json::json;

use super::{Case, assert_create, assert_item, assert_update};

fn job() -> serde_json::Value {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i",
        "imagePullPolicy": "IfNotPresent", "terminationMessagePolicy": "File"}]});
    json!({"metadata": {"name": "j", "namespace": "n", "uid": "u"}, "spec": {
        "completionMode": "Indexed", "completions": 5, "template": {"spec": spec}}})
}

#[test]
fn success_policies() {
    let long: Vec<String> = (0..40_000).map(|i| (i % 5).to_string()).collect();
    let long = json!({"succeededIndexes": long.join(",")}).to_string();
    let cases: &[Case<'_>] = &[
        ("{}", "Required @"),
        (r#"{"succeededCount": 5}"#, ""),
        (r#"{"succeededCount": 0}"#, ""),
        (r#"{"succeededCount": -1}"#, "Invalid @.succeededCount"),
        (r#"{"succeededCount": 6}"#, "Invalid @.succeededCount"),
        (r#"{"succeededIndexes": "0,2-4"}"#, ""),
        (r#"{"succeededIndexes": ""}"#, ""),
        (r#"{"succeededIndexes": "5"}"#, "Invalid @.succeededIndexes"),
        (
            r#"{"succeededIndexes": "0-5"}"#,
            "Invalid @.succeededIndexes",
        ),
        (
            r#"{"succeededIndexes": "2,1"}"#,
            "Invalid @.succeededIndexes",
        ),
        (
            r#"{"succeededIndexes": "1,1"}"#,
            "Invalid @.succeededIndexes",
        ),
        (
            r#"{"succeededIndexes": "3-2"}"#,
            "Invalid @.succeededIndexes",
        ),
        (
            r#"{"succeededIndexes": "0-1-2"}"#,
            "Invalid @.succeededIndexes",
        ),
        (r#"{"succeededIndexes": "a"}"#, "Invalid @.succeededIndexes"),
        (
            r#"{"succeededIndexes": "0,"}"#,
            "Invalid @.succeededIndexes",
        ),
        (
            &long,
            "TooLong @.succeededIndexes, Invalid @.succeededIndexes",
        ),
        (r#"{"succeededIndexes": "0-2", "succeededCount": 3}"#, ""),
        (
            r#"{"succeededIndexes": "0-2", "succeededCount": 4}"#,
            "Invalid @.succeededCount",
        ),
        (
            r#"{"succeededIndexes": "0-2", "succeededCount": 6}"#,
            "Invalid @.succeededCount, Invalid @.succeededCount",
        ),
    ];
    let wrap = |rule| json!({"spec": {"successPolicy": {"rules": [rule]}}});
    let item = (json!({}), "spec.successPolicy.rules[0]");
    assert_item(("batch", "Job"), job(), item, wrap, cases);
    let rules = |n: usize| {
        let rules = vec![json!({"succeededCount": 1}); n];
        json!({"spec": {"successPolicy": {"rules": rules}}}).to_string()
    };
    let (most, more) = (rules(20), rules(21));
    let cases: &[Case<'_>] = &[
        (&most, ""),
        (&more, "TooMany spec.successPolicy.rules"),
        (
            r#"{"spec": {"successPolicy": {"rules": []}}}"#,
            "Required spec.successPolicy.rules",
        ),
        (
            r#"{"spec": {"completionMode": "NonIndexed", "successPolicy": {"rules": [{"succeededCount": 9}]}}}"#,
            "Invalid spec.successPolicy",
        ),
    ];
    assert_create("batch", "Job", job(), cases);
    let cases: &[Case<'_>] = &[(&most, "Invalid spec.successPolicy")];
    assert_update("batch", "Job", job(), cases);
}
