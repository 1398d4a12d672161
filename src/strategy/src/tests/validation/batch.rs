//! Jobs and cron jobs.

use serde_json::{Value, json};

use super::{Case, assert_create, assert_update};

fn spec() -> Value {
    json!({"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}})
}

fn job() -> Value {
    json!({"metadata": {"name": "j", "namespace": "n", "uid": "u"}, "spec": spec()})
}

const JOB: &[Case<'_>] = &[
    (
        r#"{"spec": {"parallelism": -1}}"#,
        "Invalid spec.parallelism",
    ),
    (
        r#"{"spec": {"completions": -1}}"#,
        "Invalid spec.completions",
    ),
    (
        r#"{"spec": {"activeDeadlineSeconds": -1}}"#,
        "Invalid spec.activeDeadlineSeconds",
    ),
    (
        r#"{"spec": {"backoffLimit": -1}}"#,
        "Invalid spec.backoffLimit",
    ),
    (
        r#"{"spec": {"ttlSecondsAfterFinished": -1}}"#,
        "Invalid spec.ttlSecondsAfterFinished",
    ),
    (
        r#"{"spec": {"template": {"spec": {"restartPolicy": "OnFailure"}}}}"#,
        "",
    ),
    (
        r#"{"spec": {"template": {"spec": {"restartPolicy": "Always"}}}}"#,
        "Required spec.template.spec.restartPolicy",
    ),
    (
        r#"{"spec": {"template": {"spec": {"restartPolicy": "Invalid"}}}}"#,
        "NotSupported spec.template.spec.restartPolicy, NotSupported spec.template.spec.restartPolicy",
    ),
    (
        r#"{"spec": {"completionMode": "Indexed", "completions": 2}}"#,
        "",
    ),
    (
        r#"{"spec": {"completionMode": "Indexed", "completions": null}}"#,
        "Required spec.completions",
    ),
    (
        r#"{"spec": {"completionMode": "Sorted"}}"#,
        "NotSupported spec.completionMode",
    ),
    (
        r#"{"spec": {"completionMode": "Indexed", "completions": 2, "parallelism": 100001}}"#,
        "Invalid spec.parallelism",
    ),
    (
        r#"{"spec": {"backoffLimitPerIndex": 1}}"#,
        "Invalid spec.backoffLimitPerIndex",
    ),
    (
        r#"{"spec": {"maxFailedIndexes": 1, "completionMode": "Indexed", "completions": 2}}"#,
        "Required spec.backoffLimitPerIndex",
    ),
    (
        r#"{"spec": {"podReplacementPolicy": "Never"}}"#,
        "NotSupported spec.podReplacementPolicy",
    ),
    (r#"{"spec": {"managedBy": "example.com/c"}}"#, ""),
    (
        r#"{"spec": {"managedBy": "UPPER"}}"#,
        "Invalid spec.managedBy",
    ),
    (
        r#"{"spec": {"podReplacementPolicy": "Failed", "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1, 2]}}]}}}"#,
        "",
    ),
    (
        r#"{"spec": {"podReplacementPolicy": "Failed", "podFailurePolicy": {"rules": [{"action": "Retry", "onExitCodes": {"operator": "In", "values": [1]}}]}}}"#,
        "NotSupported spec.podFailurePolicy.rules[0].action",
    ),
    (
        r#"{"spec": {"podReplacementPolicy": "Failed", "podFailurePolicy": {"rules": [{"action": "FailJob"}]}}}"#,
        "Invalid spec.podFailurePolicy.rules[0]",
    ),
    (
        r#"{"spec": {"podReplacementPolicy": "Failed", "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [0]}}]}}}"#,
        "Invalid spec.podFailurePolicy.rules[0].onExitCodes.values[0]",
    ),
    (
        r#"{"spec": {"podReplacementPolicy": "Failed", "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 1]}}]}}}"#,
        "Invalid spec.podFailurePolicy.rules[0].onExitCodes.values",
    ),
    (
        r#"{"spec": {"podReplacementPolicy": "Failed", "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1, 1]}}]}}}"#,
        "Duplicate spec.podFailurePolicy.rules[0].onExitCodes.values[1]",
    ),
    (
        r#"{"spec": {"podReplacementPolicy": "Failed", "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "containerName": "x", "values": [1]}}]}}}"#,
        "Invalid spec.podFailurePolicy.rules[0].onExitCodes.containerName",
    ),
];

const JOB_UPDATE: &[Case<'_>] = &[
    (r#"{"spec": {"parallelism": 5}}"#, ""),
    (r#"{"spec": {"suspend": true}}"#, ""),
    (
        r#"{"spec": {"completions": 5}}"#,
        "Invalid spec.completions",
    ),
    (
        r#"{"spec": {"completionMode": "Indexed"}}"#,
        "Invalid spec.completionMode",
    ),
    (
        r#"{"spec": {"template": {"spec": {"dnsPolicy": "Default"}}}}"#,
        "Invalid spec.template",
    ),
];

const CRON_JOB: &[Case<'_>] = &[
    (r#"{"spec": {"schedule": "@hourly"}}"#, ""),
    (r#"{"spec": {"schedule": ""}}"#, "Required spec.schedule"),
    (
        r#"{"spec": {"schedule": "error"}}"#,
        "Invalid spec.schedule",
    ),
    (
        r#"{"spec": {"schedule": "61 * * * *"}}"#,
        "Invalid spec.schedule",
    ),
    (
        r#"{"spec": {"schedule": "TZ=UTC 0 * * * *"}}"#,
        "Invalid spec.schedule",
    ),
    (r#"{"spec": {"schedule": "@every 1h"}}"#, ""),
    (r#"{"spec": {"timeZone": "America/New_York"}}"#, ""),
    (r#"{"spec": {"timeZone": ""}}"#, "Invalid spec.timeZone"),
    (
        r#"{"spec": {"timeZone": "Local"}}"#,
        "Invalid spec.timeZone",
    ),
    (
        r#"{"spec": {"timeZone": "broken"}}"#,
        "Invalid spec.timeZone",
    ),
    (
        r#"{"spec": {"concurrencyPolicy": ""}}"#,
        "Required spec.concurrencyPolicy",
    ),
    (
        r#"{"spec": {"concurrencyPolicy": "Sometimes"}}"#,
        "NotSupported spec.concurrencyPolicy",
    ),
    (
        r#"{"spec": {"startingDeadlineSeconds": -1}}"#,
        "Invalid spec.startingDeadlineSeconds",
    ),
    (
        r#"{"spec": {"successfulJobsHistoryLimit": -1}}"#,
        "Invalid spec.successfulJobsHistoryLimit",
    ),
    (
        r#"{"spec": {"failedJobsHistoryLimit": -1}}"#,
        "Invalid spec.failedJobsHistoryLimit",
    ),
    (
        r#"{"spec": {"jobTemplate": {"spec": {"parallelism": -1}}}}"#,
        "Invalid spec.jobTemplate.spec.parallelism",
    ),
    (
        r#"{"spec": {"jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Always"}}}}}}"#,
        "Required spec.jobTemplate.spec.template.spec.restartPolicy",
    ),
    (
        r#"{"metadata": {"name": "a123456789012345678901234567890123456789012345678901"}}"#,
        "",
    ),
    (
        r#"{"metadata": {"name": "a1234567890123456789012345678901234567890123456789012"}}"#,
        "Invalid metadata.name",
    ),
];

#[test]
fn jobs() {
    assert_create("batch", "Job", job(), JOB);
}

#[test]
fn changed_jobs() {
    assert_update("batch", "Job", job(), JOB_UPDATE);
}

#[test]
fn cron_jobs() {
    let object = json!({"spec": {"schedule": "* * * * ?", "jobTemplate": {"spec": spec()}}});
    assert_create("batch", "CronJob", object, CRON_JOB);
}
