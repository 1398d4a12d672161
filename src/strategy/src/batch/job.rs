//! Jobs.

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Value, json};

use crate::apps::not_negative;
use crate::core::{pod_defaults, pod_validation};
use crate::errors::{Errors, IMMUTABLE, child, index, ratcheted};
use crate::generic;
use crate::tree::{
    at, at_mut, default_text, default_value, ensure, flag, has, int, keep, list, list_mut, map,
    put, same, text,
};
use crate::{Context, NameRule, Strategy, selectors};

/// Maximum length of `managedBy` (upstream: `maxManagedByLength`).
const MAX_MANAGED_BY_LENGTH: usize = 63;
/// Maximum number of exit codes in a rule of a pod failure policy.
const MAX_EXIT_CODES: usize = 255;

/// The strategy of kind `Job`.
pub(crate) struct Job;

/// Labels that identify the pods of a job, with prefix and in the legacy form.
const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const OLD_UID_LABEL: &str = "controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
const OLD_NAME_LABEL: &str = "job-name";

impl Strategy for Job {
    fn name_rule(&self) -> NameRule {
        NameRule::Dns1123Subdomain
    }

    fn default(&self, obj: &mut Object) {
        if let Some(spec) = at_mut(obj, "spec") {
            job_spec(spec);
        }
        // A job without labels inherits those of its template.
        if let Some(labels) = map(obj, "spec.template.metadata.labels").cloned()
            && crate::tree::is_empty(at(obj, "metadata.labels"))
            && !labels.is_empty()
        {
            put(obj, "metadata.labels", labels);
        }
    }

    fn prepare_create(&self, _ctx: &Context<'_>, obj: &mut Object) {
        generate_selector(obj);
        put(obj, "status", json!({}));
        put(obj, "metadata.generation", 1);
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_spec_update(new, old);
    }

    fn prepare_status_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_status_update(new, old);
        keep(new, old, "spec");
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        generated_selector(&mut errors, obj);
        validate_spec(&mut errors, at(obj, "spec"), "spec");
        let selector = at(obj, "spec.selector");
        if selector.is_null() {
            errors.required("spec.selector", "");
        } else {
            selectors::validate(&mut errors, selector, "spec.selector");
            let labels = map(obj, "spec.template.metadata.labels");
            if !selectors::matches(selector, labels) {
                errors.invalid(
                    "spec.template.metadata.labels",
                    at(obj, "spec.template.metadata.labels").clone(),
                    "`selector` does not match template `labels`",
                );
            }
        }
        if text(obj, "spec.completionMode") == "Indexed" {
            // The host names of pods consist of the job's name and an index.
            let last = int(obj, "spec.completions").unwrap_or(1).saturating_sub(1);
            let name = format!("{}-{}", text(obj, "metadata.name"), last.max(0));
            for message in crate::names::dns1123_label(&name) {
                errors.invalid(
                    "metadata.name",
                    text(obj, "metadata.name"),
                    format!(
                        "will not able to create pod with invalid DNS label: {name}: {message}"
                    ),
                );
            }
        }
        errors.0
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let errors_of = |obj| {
            let mut errors = Errors::new();
            validate_spec(&mut errors, at(obj, "spec"), "spec");
            errors.0
        };
        let mut errors = Errors(ratcheted(errors_of(new), || errors_of(old)));
        update(&mut errors, new, old);
        errors.0
    }

    fn validate_status_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        not_negative(
            &mut errors,
            new,
            "status",
            &["active", "succeeded", "failed", "ready", "terminating"],
        );
        let condition = |o: &Object, kind: &str| {
            list(o, "status.conditions")
                .iter()
                .any(|c| text(c, "type") == kind && text(c, "status") == "True")
        };
        if condition(new, "Complete") && condition(new, "Failed") {
            errors.invalid(
                "status.conditions",
                at(new, "status.conditions").clone(),
                "cannot set Complete=True and Failed=true conditions",
            );
        }
        for kind in ["Complete", "Failed"] {
            if condition(old, kind) && !condition(new, kind) {
                errors.invalid(
                    "status.conditions",
                    at(new, "status.conditions").clone(),
                    format!("cannot disable the terminal {kind}=True condition"),
                );
            }
        }
        if has(old, "status.completionTime")
            && at(new, "status.completionTime") != at(old, "status.completionTime")
        {
            errors.invalid(
                "status.completionTime",
                at(new, "status.completionTime").clone(),
                "completionTime cannot be mutated",
            );
        }
        errors.0
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let mut warnings = crate::apps::template_warnings(new, old);
        if old.is_none() {
            let used = "Pod names and hostnames";
            warnings.extend(crate::core::pod_warnings::name(new, used));
        }
        let parallel = int(new, "spec.parallelism").unwrap_or(0);
        if text(new, "spec.completionMode") == "Indexed"
            && int(new, "spec.completions").unwrap_or(0) > 100_000
            && parallel > 10_000
        {
            warnings.push("In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail".to_owned());
        }
        warnings
    }

    fn field_value(&self, obj: &Object, field: &str) -> Option<String> {
        match field {
            // Upstream's name of the selectable field differs from that of the status field.
            "status.successful" => Some(int(obj, "status.succeeded").unwrap_or(0).to_string()),
            _ => generic::field_value(obj, field),
        }
    }

    fn default_garbage_collection(&self) -> crate::GarbageCollection {
        crate::GarbageCollection::Background
    }
}

/// Sets the defaults of a job's spec.
pub(crate) fn job_spec(spec: &mut Value) {
    if !has(spec, "completions") && !has(spec, "parallelism") {
        default_value(spec, "completions", 1);
        default_value(spec, "parallelism", 1);
    }
    default_value(spec, "parallelism", 1);
    let indexed_limit = has(spec, "backoffLimitPerIndex");
    default_value(
        spec,
        "backoffLimit",
        if indexed_limit {
            i64::from(i32::MAX)
        } else {
            6
        },
    );
    default_value(spec, "completionMode", "NonIndexed");
    default_value(spec, "suspend", false);
    default_value(spec, "manualSelector", false);
    for rule in list_mut(spec, "podFailurePolicy.rules") {
        for pattern in list_mut(rule, "onPodConditions") {
            default_text(pattern, "status", "True");
        }
    }
    if !has(spec, "podReplacementPolicy") {
        let policy = if has(spec, "podFailurePolicy") {
            "Failed"
        } else {
            "TerminatingOrFailed"
        };
        default_value(spec, "podReplacementPolicy", policy);
    }
    if let Some(template) = at_mut(spec, "template") {
        pod_defaults::template(template);
    }
}

/// Generates the selector by UID and the labels of the template, unless `manualSelector` is set.
fn generate_selector(obj: &mut Object) {
    if flag(obj, "spec.manualSelector") {
        return;
    }
    let uid = text(obj, "metadata.uid").to_owned();
    let name = text(obj, "metadata.name").to_owned();
    ensure(obj, "spec.template");
    let labels = ensure(obj, "spec.template.metadata.labels");
    for (key, value) in [
        (UID_LABEL, &uid),
        (OLD_UID_LABEL, &uid),
        (NAME_LABEL, &name),
        (OLD_NAME_LABEL, &name),
    ] {
        // Keeps labels set by the user: validation rejects them if they differ.
        labels.entry(key).or_insert_with(|| value.as_str().into());
    }
    if !has(obj, "spec.selector") {
        ensure(obj, "spec.selector");
    }
    ensure(obj, "spec.selector.matchLabels")
        .entry(UID_LABEL)
        .or_insert_with(|| uid.into());
}

fn generated_selector(errors: &mut Errors, obj: &Object) {
    if flag(obj, "spec.manualSelector") {
        return;
    }
    let uid = text(obj, "metadata.uid");
    let name = text(obj, "metadata.name");
    let labels = at(obj, "spec.template.metadata.labels");
    if uid.is_empty() {
        errors.required("metadata.uid", "");
    }
    for (key, want) in [
        (OLD_UID_LABEL, uid),
        (UID_LABEL, uid),
        (OLD_NAME_LABEL, name),
        (NAME_LABEL, name),
    ] {
        let have = labels.get(key).and_then(Value::as_str);
        if have != Some(want) {
            errors.required(
                format!("spec.template.metadata.labels[{key}]"),
                format!("must be '{want}'"),
            );
        }
    }
    let selected = at(obj, "spec.selector.matchLabels");
    let by_uid = [UID_LABEL, OLD_UID_LABEL]
        .iter()
        .any(|k| selected.get(*k).and_then(Value::as_str) == Some(uid));
    if !by_uid || selected.as_object().is_none_or(|m| m.len() != 1) {
        errors.invalid(
            "spec.selector",
            at(obj, "spec.selector").clone(),
            "`selector` not auto-generated",
        );
    }
}

/// Validates the spec of a job, except its selector.
pub(crate) fn validate_spec(errors: &mut Errors, spec: &Value, path: &str) {
    let holder = json!({ "spec": spec });
    let before = errors.0.len();
    not_negative(
        errors,
        &holder,
        "spec",
        &[
            "parallelism",
            "completions",
            "activeDeadlineSeconds",
            "backoffLimit",
            "ttlSecondsAfterFinished",
            "backoffLimitPerIndex",
            "maxFailedIndexes",
        ],
    );
    for error in &mut errors.0[before..] {
        error.field = format!("{path}{}", error.field.trim_start_matches("spec"));
    }
    let mode = text(spec, "completionMode");
    match mode {
        "" | "NonIndexed" | "Indexed" => {}
        other => errors.not_supported(
            child(path, "completionMode"),
            other,
            &["Indexed", "NonIndexed"],
        ),
    }
    if mode == "Indexed" {
        match int(spec, "completions") {
            None => errors.required(
                child(path, "completions"),
                "when completion mode is Indexed",
            ),
            Some(n) if n > i64::from(i32::MAX) => {}
            Some(_) => {}
        }
        if let Some(n) = int(spec, "parallelism")
            && n > 100_000
        {
            errors.invalid(
                child(path, "parallelism"),
                n,
                "must be less than or equal to 100000 when completion mode is Indexed",
            );
        }
    } else {
        for key in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(n) = int(spec, key) {
                errors.invalid(child(path, key), n, "requires indexed completion mode");
            }
        }
    }
    if int(spec, "maxFailedIndexes").is_some() && int(spec, "backoffLimitPerIndex").is_none() {
        errors.required(
            child(path, "backoffLimitPerIndex"),
            "when maxFailedIndexes is specified",
        );
    }
    match text(spec, "podReplacementPolicy") {
        "" | "Failed" => {}
        "TerminatingOrFailed" if !has(spec, "podFailurePolicy") => {}
        other => {
            let known: &[&str] = if has(spec, "podFailurePolicy") {
                &["Failed"]
            } else {
                &["Failed", "TerminatingOrFailed"]
            };
            errors.not_supported(child(path, "podReplacementPolicy"), other, known);
        }
    }
    failure_policy(errors, spec, path);
    super::success_policy::validate(errors, spec, path);

    let template = child(path, "template");
    pod_validation::template(errors, at(spec, "template"), &template);
    let policy = text(spec, "template.spec.restartPolicy");
    let field = format!("{template}.spec.restartPolicy");
    if policy == "Always" {
        errors.required(field, "valid values: \"OnFailure\", \"Never\"");
    } else if !matches!(policy, "OnFailure" | "Never") {
        errors.not_supported(field.clone(), policy, &["OnFailure", "Never"]);
    } else if has(spec, "podFailurePolicy") && policy != "Never" {
        errors.invalid(
            field,
            policy,
            "only \"Never\" is supported when podFailurePolicy is specified",
        );
    }
    if has(spec, "managedBy") {
        let field = child(path, "managedBy");
        let manager = text(spec, "managedBy");
        crate::names::domain_prefixed_path(errors, manager, &field);
        if manager.len() > MAX_MANAGED_BY_LENGTH {
            errors.too_long(field, MAX_MANAGED_BY_LENGTH);
        }
    }
}

fn failure_policy(errors: &mut Errors, spec: &Value, path: &str) {
    let rules = list(spec, "podFailurePolicy.rules");
    let base = format!("{path}.podFailurePolicy.rules");
    if rules.len() > 20 {
        errors.too_many(base.clone(), rules.len(), 20);
    }
    let names: Vec<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|k| list(at(spec, "template.spec"), k))
        .map(|c| text(c, "name"))
        .collect();
    for (i, rule) in rules.iter().enumerate() {
        let field = index(&base, i);
        match text(rule, "action") {
            "FailJob" | "Ignore" | "Count" => {}
            "FailIndex" => {
                if !has(spec, "backoffLimitPerIndex") {
                    errors.invalid(
                        child(&field, "action"),
                        "FailIndex",
                        "requires the backoffLimitPerIndex to be set",
                    );
                }
            }
            "" => errors.required(
                child(&field, "action"),
                "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]",
            ),
            other => errors.not_supported(
                child(&field, "action"),
                other,
                &["Count", "FailIndex", "FailJob", "Ignore"],
            ),
        }
        let codes = at(rule, "onExitCodes");
        let conditions = list(rule, "onPodConditions");
        if codes.is_null() && conditions.is_empty() {
            errors.invalid(
                field.clone(),
                rule.clone(),
                "specifying one of OnExitCodes and OnPodConditions is required",
            );
        }
        if !codes.is_null() && !conditions.is_empty() {
            errors.invalid(
                field.clone(),
                rule.clone(),
                "specifying both OnExitCodes and OnPodConditions is not supported",
            );
        }
        if !codes.is_null() {
            let field = child(&field, "onExitCodes");
            let operator = text(codes, "operator");
            match operator {
                "In" | "NotIn" => {}
                "" => errors.required(
                    child(&field, "operator"),
                    "valid values: [\"In\" \"NotIn\"]",
                ),
                other => errors.not_supported(child(&field, "operator"), other, &["In", "NotIn"]),
            }
            let name = text(codes, "containerName");
            if !name.is_empty() && !names.contains(&name) {
                errors.invalid(
                    child(&field, "containerName"),
                    name,
                    "must be one of the container or initContainer names in the pod template",
                );
            }
            let values = list(codes, "values");
            if values.is_empty() {
                errors.invalid(
                    child(&field, "values"),
                    at(codes, "values").clone(),
                    "at least one value is required",
                );
            } else if values.len() > MAX_EXIT_CODES {
                errors.too_many(child(&field, "values"), values.len(), MAX_EXIT_CODES);
            }
            exit_codes(errors, operator, values, &child(&field, "values"));
        }
    }
}

/// Validates the values of an `onExitCodes` requirement individually.
fn exit_codes(errors: &mut Errors, operator: &str, values: &[Value], path: &str) {
    let codes: Vec<i64> = values.iter().filter_map(Value::as_i64).collect();
    for (i, code) in codes.iter().enumerate() {
        if operator == "In" && *code == 0 {
            errors.invalid(index(path, i), 0, "must not be 0 for the In operator");
        }
        if codes[..i].contains(code) {
            errors.duplicate(index(path, i), *code);
        }
    }
    if !codes.is_sorted() {
        errors.invalid(path, values.to_vec(), "must be ordered");
    }
}

fn update(errors: &mut Errors, new: &Object, old: &Object) {
    let elastic = text(new, "spec.completionMode") == "Indexed"
        && int(new, "spec.completions") == int(new, "spec.parallelism")
        && int(new, "spec.completions").is_some();
    if !elastic {
        immutable(errors, new, old, "spec.completions");
    }
    immutable(errors, new, old, "spec.selector");
    template_update(errors, new, old);
    immutable(errors, new, old, "spec.completionMode");
    immutable(errors, new, old, "spec.podFailurePolicy");
    immutable(errors, new, old, "spec.backoffLimitPerIndex");
    immutable(errors, new, old, "spec.managedBy");
    immutable(errors, new, old, "spec.successPolicy");
}

fn immutable(errors: &mut Errors, new: &Object, old: &Object, path: &str) {
    crate::core::service::immutable(errors, new, old, path);
}

/// Validates a change of the template. Scheduling directives, resources, labels and annotations
/// are mutable while the job is suspended and has not started.
fn template_update(errors: &mut Errors, new: &Object, old: &Object) {
    let mut normal = at(new, "spec.template").clone();
    let before = at(old, "spec.template");
    let suspended = flag(old, "spec.suspend") && !has(old, "status.startTime");
    if suspended {
        for path in [
            "spec.nodeSelector",
            "spec.tolerations",
            "spec.schedulingGates",
            "spec.affinity",
            "metadata.annotations",
            "metadata.labels",
        ] {
            keep(&mut normal, before, path);
        }
        let resources: Vec<(String, Vec<Value>)> = ["containers", "initContainers"]
            .iter()
            .map(|k| {
                let path = format!("spec.{k}");
                (path.clone(), list(before, &path).to_vec())
            })
            .collect();
        for (path, before) in resources {
            for (c, old) in list_mut(&mut normal, &path).iter_mut().zip(&before) {
                keep(c, old, "resources");
            }
        }
    }
    if !same(&normal, before) {
        errors.invalid("spec.template", at(new, "spec.template").clone(), IMMUTABLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Object {
        let mut j = json!({"metadata": {"name": "j", "uid": "u-1"}, "spec": {"template": {
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}}}});
        Job.default(&mut j);
        Job.prepare_create(&Context::new(jiff::Timestamp::UNIX_EPOCH, "test"), &mut j);
        j
    }

    #[test]
    fn selector_is_generated() {
        let j = job();
        assert_eq!(
            j["spec"]["selector"],
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u-1"}})
        );
        assert_eq!(
            j["spec"]["template"]["metadata"]["labels"],
            json!({"batch.kubernetes.io/controller-uid": "u-1", "controller-uid": "u-1",
                "batch.kubernetes.io/job-name": "j", "job-name": "j"})
        );
        assert_eq!(j["spec"]["backoffLimit"], 6);
        assert_eq!(j["spec"]["completions"], 1);
        assert_eq!(j["spec"]["podReplacementPolicy"], "TerminatingOrFailed");
        assert_eq!(Job.validate_create(&j), vec![]);
    }

    #[test]
    fn restart_policy() {
        let mut j = job();
        j["spec"]["template"]["spec"]["restartPolicy"] = json!("Always");
        assert_eq!(
            Job.validate_create(&j)[0].to_string(),
            "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""
        );
    }

    #[test]
    fn template_stays() {
        let old = job();
        let mut new = old.clone();
        new["spec"]["parallelism"] = json!(3);
        assert_eq!(Job.validate_update(&new, &old), vec![]);
        new["spec"]["template"]["spec"]["containers"][0]["image"] = json!("i:2");
        assert_eq!(Job.validate_update(&new, &old)[0].field, "spec.template");
    }
}
