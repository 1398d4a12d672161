//! Validation of the spec of jobs (upstream: `validateJobSpec`).

use serde_json::Value;

use super::{failure_policy, success_policy};
use crate::core::pod_validation;
use crate::errors::{Errors, NOT_NEGATIVE, child};
use crate::names;
use crate::tree::{at, has, int, text};

/// Longest name of a manager, in bytes.
const MAX_MANAGED_BY_LENGTH: usize = 63;
/// Most pods of an indexed job at a time, and most indexes of it that may fail.
const MAX_PARALLELISM: i64 = 100_000;
/// Completions from which the limits of an index's failures are lower.
const MANY_COMPLETIONS: i64 = 100_000;
/// Most pods at a time, and most failed indexes, of such a job.
const MAX_WITH_MANY: i64 = 10_000;

/// Validates the spec of a job, except its selector.
pub(super) fn validate(errors: &mut Errors, spec: &Value, path: &str) {
    for key in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        if let Some(n) = int(spec, key)
            && n < 0
        {
            errors.invalid(child(path, key), n, NOT_NEGATIVE);
        }
    }
    if has(spec, "maxFailedIndexes") && !has(spec, "backoffLimitPerIndex") {
        let field = child(path, "backoffLimitPerIndex");
        errors.required(field, "when maxFailedIndexes is specified");
    }
    if has(spec, "managedBy") {
        let field = child(path, "managedBy");
        let manager = text(spec, "managedBy");
        names::domain_prefixed_path(errors, manager, &field);
        if manager.len() > MAX_MANAGED_BY_LENGTH {
            errors.too_long(field, MAX_MANAGED_BY_LENGTH);
        }
    }
    completion_mode(errors, spec, path);
    if has(spec, "podFailurePolicy") {
        failure_policy::validate(errors, spec, &child(path, "podFailurePolicy"));
    }
    success_policy::validate(errors, spec, path);
    replacement_policy(errors, spec, path);
    let template = child(path, "template");
    pod_validation::template(errors, at(spec, "template"), &template);
    restart_policy(errors, spec, format!("{template}.spec.restartPolicy"));
}

fn completion_mode(errors: &mut Errors, spec: &Value, path: &str) {
    let mode = text(spec, "completionMode");
    let known = ["NonIndexed", "Indexed"];
    if has(spec, "completionMode") && !known.contains(&mode) {
        errors.not_supported(child(path, "completionMode"), mode, &known);
    }
    if mode == "Indexed" {
        indexed(errors, spec, path);
    } else if mode == "NonIndexed" || !has(spec, "completionMode") {
        for key in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(n) = int(spec, key) {
                errors.invalid(child(path, key), n, "requires indexed completion mode");
            }
        }
    }
}

fn indexed(errors: &mut Errors, spec: &Value, path: &str) {
    let completions = int(spec, "completions");
    let parallelism = int(spec, "parallelism").unwrap_or(0);
    let failed = int(spec, "maxFailedIndexes");
    if completions.is_none() {
        let field = child(path, "completions");
        errors.required(field, "when completion mode is Indexed");
    }
    if parallelism > MAX_PARALLELISM {
        let why = format!(
            "must be less than or equal to {MAX_PARALLELISM} when completion mode is Indexed"
        );
        errors.invalid(child(path, "parallelism"), parallelism, why);
    }
    if let Some(failed) = failed {
        let field = child(path, "maxFailedIndexes");
        if completions.is_some_and(|completions| failed > completions) {
            let why = "must be less than or equal to completions";
            errors.invalid(field.clone(), failed, why);
        }
        if failed > MAX_PARALLELISM {
            let why = format!("must be less than or equal to {MAX_PARALLELISM}");
            errors.invalid(field, failed, why);
        }
    }
    let many = completions.is_some_and(|completions| completions > MANY_COMPLETIONS);
    if !many || !has(spec, "backoffLimitPerIndex") {
        return;
    }
    if failed.is_none() {
        let why = format!("must be specified when completions is above {MANY_COMPLETIONS}");
        errors.required(child(path, "maxFailedIndexes"), why);
    }
    for (key, value) in [
        ("parallelism", parallelism),
        ("maxFailedIndexes", failed.unwrap_or(0)),
    ] {
        if value > MAX_WITH_MANY {
            let why = format!(
                "must be less than or equal to {MAX_WITH_MANY} when completions are above {MANY_COMPLETIONS} and used with backoff limit per index"
            );
            errors.invalid(child(path, key), value, why);
        }
    }
}

fn replacement_policy(errors: &mut Errors, spec: &Value, path: &str) {
    let key = "podReplacementPolicy";
    let known: &[&str] = match has(spec, "podFailurePolicy") {
        true => &["Failed"],
        false => &["Failed", "TerminatingOrFailed"],
    };
    let policy = text(spec, key);
    if has(spec, key) && !known.contains(&policy) {
        errors.not_supported(child(path, key), policy, known);
    }
}

fn restart_policy(errors: &mut Errors, spec: &Value, field: String) {
    match text(spec, "template.spec.restartPolicy") {
        "" | "Always" => errors.required(field, "valid values: \"OnFailure\", \"Never\""),
        "Never" => {}
        "OnFailure" if !has(spec, "podFailurePolicy") => {}
        "OnFailure" => errors.invalid(
            field,
            "OnFailure",
            "only \"Never\" is supported when podFailurePolicy is specified",
        ),
        other => errors.not_supported(field, other, &["OnFailure", "Never"]),
    }
}
