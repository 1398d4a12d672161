//! Jobs.

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Map, Value, json};

use super::spec;
use crate::core::pod_defaults;
use crate::core::service::immutable;
use crate::errors::{Errors, IMMUTABLE, ratcheted};
use crate::generic;
use crate::tree::{
    at, at_mut, default_text, default_value, ensure, flag, has, int, keep, list, list_mut, map,
    put, same, same_at, text,
};
use crate::{Context, NameRule, Strategy, conditions, selectors};

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
        validate(obj, true).0
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let labels = at(old, "spec.template.metadata.labels");
        let prefixed = [NAME_LABEL, UID_LABEL]
            .iter()
            .all(|key| labels.get(*key).is_some());
        let errors = validate(new, prefixed).0;
        let mut errors = Errors(ratcheted(errors, || validate(old, prefixed).0));
        update(&mut errors, new, old);
        errors.0
    }

    fn validate_status_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        super::status::validate(new, old)
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let generation = |obj| int(obj, "metadata.generation");
        if old.is_some_and(|old| generation(old) == generation(new)) {
            return Vec::new();
        }
        let mut warnings = Vec::new();
        if old.is_none() {
            let used = "Pod names and hostnames";
            warnings.extend(crate::core::pod_warnings::name(new, used));
        }
        let before = old.map(|old| at(old, "spec"));
        warnings.extend(spec_warnings(at(new, "spec"), before, "spec"));
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
        crate::GarbageCollection::Orphan
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

/// Validates that the selector and the labels of pods are those that are generated. `prefixed`
/// asks for the labels with prefix, which old jobs lack.
fn generated_selector(errors: &mut Errors, obj: &Object, prefixed: bool) {
    let selector = at(obj, "spec.selector");
    if flag(obj, "spec.manualSelector") || selector.is_null() {
        return;
    }
    let uid = text(obj, "metadata.uid");
    let name = text(obj, "metadata.name");
    let labels = at(obj, "spec.template.metadata.labels");
    if uid.is_empty() {
        errors.required("metadata.uid", "");
    }
    let mut expected = Map::new();
    for (key, want, asked) in [
        (OLD_UID_LABEL, uid, true),
        (OLD_NAME_LABEL, name, true),
        (UID_LABEL, uid, prefixed),
        (NAME_LABEL, name, prefixed),
    ] {
        if !asked {
            continue;
        }
        expected.insert(key.to_owned(), want.into());
        let field = format!("spec.template.metadata.labels[{key}]");
        let why = format!("must be '{want}'");
        match labels.get(key).and_then(Value::as_str) {
            None => errors.required(field, why),
            Some(have) if have != want => errors.invalid(field, labels.clone(), why),
            Some(_) => {}
        }
    }
    if selectors::is_sound(selector) && !selectors::matches(selector, Some(&expected)) {
        let shown = selectors::show_selector(selector);
        errors.invalid_shown("spec.selector", &shown, "`selector` not auto-generated");
    }
}

/// Validates a job, except its metadata (upstream: `ValidateJob`).
fn validate(obj: &Object, prefixed: bool) -> Errors {
    let mut errors = Errors::new();
    generated_selector(&mut errors, obj, prefixed);
    spec::validate(&mut errors, at(obj, "spec"), "spec");
    let selector = at(obj, "spec.selector");
    if selector.is_null() {
        errors.required("spec.selector", "");
    } else {
        selectors::validate(&mut errors, selector, "spec.selector");
    }
    let labels = at(obj, "spec.template.metadata.labels");
    // As in Go, a missing selector selects nothing.
    let selects = !selector.is_null() && selectors::matches(selector, labels.as_object());
    if !selects && (selector.is_null() || selectors::is_sound(selector)) {
        errors.invalid(
            "spec.template.metadata.labels",
            labels.clone(),
            "`selector` does not match template `labels`",
        );
    }
    let completions = int(obj, "spec.completions").unwrap_or(0);
    if text(obj, "spec.completionMode") == "Indexed" && completions > 0 {
        // The host names of pods consist of the job's name and an index.
        let name = text(obj, "metadata.name");
        let host = format!("{name}-{}", completions - 1);
        if !crate::names::dns1123_label(&host).is_empty() {
            let why = format!("will not able to create pod with invalid DNS label: {host}");
            errors.invalid("metadata.name", name, why);
        }
    }
    errors
}

/// Returns the warnings about the spec of a job at a path.
pub(super) fn spec_warnings(spec: &Value, old: Option<&Value>, path: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    if text(spec, "completionMode") == "Indexed"
        && int(spec, "completions").unwrap_or(0) > 100_000
        && int(spec, "parallelism").unwrap_or(0) > 10_000
    {
        warnings.push(format!("{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"));
    }
    warnings.extend(crate::core::pod_warnings::pod_spec(
        at(spec, "template.spec"),
        old.map(|old| at(old, "template.spec")),
        &format!("{path}.template.spec"),
    ));
    warnings
}

fn update(errors: &mut Errors, new: &Object, old: &Object) {
    completions(errors, new, old);
    let path = "spec.selector";
    if !same_at(new, old, path) {
        errors.invalid_shown(path, &selectors::show_selector(at(new, path)), IMMUTABLE);
    }
    template_update(errors, new, old);
    for path in [
        "spec.completionMode",
        "spec.podFailurePolicy",
        "spec.backoffLimitPerIndex",
        "spec.managedBy",
        "spec.successPolicy",
    ] {
        immutable(errors, new, old, path);
    }
}

/// Validates that the number of completions stays, or changes with the parallelism of an indexed
/// job.
fn completions(errors: &mut Errors, new: &Object, old: &Object) {
    let path = "spec.completions";
    if text(new, "spec.completionMode") != "Indexed" {
        immutable(errors, new, old, path);
    } else if let Some(count) = int(new, path)
        && !same_at(new, old, path)
        && Some(count) != int(new, "spec.parallelism")
    {
        let why = "can only be modified in tandem with spec.parallelism";
        errors.invalid(path, count, why);
    }
}

/// Validates a change of the template. Scheduling directives, resources, labels and annotations
/// are mutable while the job is suspended and has no pods.
fn template_update(errors: &mut Errors, new: &Object, old: &Object) {
    let path = "spec.template";
    let template = at(new, path);
    let mut before = at(old, path).clone();
    let idle =
        !has(old, "status.startTime") || conditions::is_true(old, "status.conditions", "Suspended");
    let mutable = flag(old, "spec.suspend") && idle && int(old, "status.active").unwrap_or(0) == 0;
    if !mutable {
        immutable(errors, new, old, path);
        return;
    }
    for path in [
        "spec.affinity.nodeAffinity",
        "spec.nodeSelector",
        "spec.tolerations",
        "spec.schedulingGates",
    ] {
        keep(&mut before, template, path);
    }
    for path in ["spec.containers", "spec.initContainers"] {
        let now = list(template, path).to_vec();
        let containers = list_mut(&mut before, path);
        if containers.len() != now.len() {
            continue;
        }
        for (container, now) in containers.iter_mut().zip(&now) {
            if text(container, "name") == text(now, "name") {
                keep(container, now, "resources");
            }
        }
    }
    let spec = at(template, "spec");
    if !same(spec, at(&before, "spec")) {
        errors.invalid("spec.template.spec", spec.clone(), IMMUTABLE);
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
