//! Cron jobs.

use rkube_api::Object;
use rkube_api::status::FieldError;
use rkube_component_helpers::cron;
use serde_json::json;

use super::job;
use crate::apps::not_negative;
use crate::errors::{Errors, ratcheted};
use crate::generic;
use crate::tree::{
    at, at_mut, default_text, default_value, flag, has, int, keep, put, same_at, text,
};
use crate::{Context, Strategy, selectors};

/// The strategy of kind `CronJob`.
pub(crate) struct CronJob;

/// Maximum length of a name; 11 characters remain for the suffix of job names.
const NAME_MAX: usize = 52;

impl Strategy for CronJob {
    fn default(&self, obj: &mut Object) {
        let Some(spec) = at_mut(obj, "spec") else {
            return;
        };
        default_text(spec, "concurrencyPolicy", "Allow");
        default_value(spec, "suspend", false);
        default_value(spec, "successfulJobsHistoryLimit", 3);
        default_value(spec, "failedJobsHistoryLimit", 1);
        // As upstream, only the pod template is defaulted here; jobs get their own on creation.
        if let Some(template) = at_mut(spec, "jobTemplate.spec.template") {
            crate::core::pod_defaults::template(template);
        }
    }

    fn prepare_create(&self, _ctx: &Context<'_>, obj: &mut Object) {
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
        validate(&mut errors, obj, None);
        let name = text(obj, "metadata.name");
        if name.len() > NAME_MAX {
            errors.invalid("metadata.name", name, "must be no more than 52 characters");
        }
        errors.0
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let errors_of = |obj| {
            let mut errors = Errors::new();
            validate(&mut errors, obj, Some(old));
            errors.0
        };
        ratcheted(errors_of(new), || errors_of(old))
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let mut warnings = Vec::new();
        if old.is_none() {
            let used = "Pod names and hostnames";
            warnings.extend(crate::core::pod_warnings::name(new, used));
        }
        let generation = |obj| int(obj, "metadata.generation");
        let path = "spec.jobTemplate.spec";
        if old.is_none_or(|old| generation(old) != generation(new)) {
            let before = old.map(|old| at(old, path));
            warnings.extend(job::spec_warnings(at(new, path), before, path));
        }
        if old.is_some() && text(new, "spec.schedule").contains("TZ") {
            // The path is upstream's.
            warnings.push("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".to_owned());
        }
        warnings
    }
}

fn validate(errors: &mut Errors, obj: &Object, old: Option<&Object>) {
    schedule(errors, obj, old);
    not_negative(errors, obj, "spec", &["startingDeadlineSeconds"]);
    let zone = "spec.timeZone";
    if !old.is_some_and(|old| same_at(old, obj, zone))
        && let Some(name) = at(obj, zone).as_str()
        && let Some(why) = zone_problem(name)
    {
        errors.invalid(zone, name, why);
    }
    match text(obj, "spec.concurrencyPolicy") {
        "Allow" | "Forbid" | "Replace" => {}
        "" => errors.required("spec.concurrencyPolicy", ""),
        other => errors.not_supported(
            "spec.concurrencyPolicy",
            other,
            &["Allow", "Forbid", "Replace"],
        ),
    }
    let path = "spec.jobTemplate.spec";
    super::spec::validate(errors, at(obj, path), path);
    let selector = "spec.jobTemplate.spec.selector";
    if has(obj, selector) {
        let shown = selectors::show_selector(at(obj, selector));
        errors.invalid_shown(selector, &shown, "`selector` will be auto-generated");
    }
    let manual = "spec.jobTemplate.spec.manualSelector";
    if flag(obj, manual) {
        errors.not_supported_shown(manual, "true", &["nil", "false"]);
    }
    let limits = ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"];
    not_negative(errors, obj, "spec", &limits);
}

/// Validates the schedule. It may have a time zone if the old one has.
fn schedule(errors: &mut Errors, obj: &Object, old: Option<&Object>) {
    let field = "spec.schedule";
    let when = text(obj, field);
    if when.is_empty() {
        errors.required(field, "");
        return;
    }
    if let Err(message) = cron::parse(when) {
        errors.invalid(field, when, message);
    }
    if !when.contains("TZ") {
        return;
    }
    let tolerated = old.is_some_and(|old| text(old, field).contains("TZ"));
    if !tolerated {
        let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.invalid(field, when, why);
    } else if has(obj, "spec.timeZone") {
        let why = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
        errors.invalid(field, when, why);
    }
}

/// Returns what is wrong with the name of a time zone.
fn zone_problem(zone: &str) -> Option<String> {
    let odd = |part: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || ".-_+".contains(c);
        matches!(part, "" | "." | "..")
            || part.starts_with('-')
            || part.len() > 14
            || !part.chars().all(known)
    };
    let unknown = || Some(format!("unknown time zone {zone}"));
    if zone.is_empty() {
        return Some("timeZone must be nil or non-empty string".to_owned());
    }
    if zone.split('/').any(odd) {
        return unknown();
    }
    if zone.eq_ignore_ascii_case("local") {
        let why =
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        return Some(why.to_owned());
    }
    match jiff::tz::TimeZone::get(zone) {
        Ok(_) => None,
        Err(_) => unknown(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validated() {
        let mut c = json!({"metadata": {"name": "c"}, "spec": {"schedule": "*/1 * * * *", "jobTemplate": {"spec": {"template": {
            "spec": {"restartPolicy": "OnFailure", "containers": [{"name": "c", "image": "i"}]}}}}}});
        CronJob.default(&mut c);
        assert_eq!(c["spec"]["concurrencyPolicy"], "Allow");
        assert_eq!(CronJob.validate_create(&c), vec![]);
        c["spec"]["schedule"] = json!("nonsense");
        assert_eq!(CronJob.validate_create(&c)[0].field, "spec.schedule");
    }
}
