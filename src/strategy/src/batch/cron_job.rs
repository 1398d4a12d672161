//! Cron jobs.

use rkube_api::Object;
use rkube_api::status::FieldError;
use rkube_component_helpers::cron;
use serde_json::json;

use super::job;
use crate::apps::not_negative;
use crate::errors::{Errors, ratcheted};
use crate::generic;
use crate::tree::{at, at_mut, default_text, default_value, flag, has, keep, put, text};
use crate::{Context, Strategy};

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
        let name = text(obj, "metadata.name");
        if name.len() > NAME_MAX {
            errors.invalid("metadata.name", name, "must be no more than 52 characters");
        }
        spec(&mut errors, obj);
        errors.0
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let errors_of = |obj| {
            let mut errors = Errors::new();
            spec(&mut errors, obj);
            errors.0
        };
        ratcheted(errors_of(new), || errors_of(old))
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let zone_in_schedule = text(new, "spec.schedule").contains("TZ");
        let mut warnings = crate::core::pod_warnings::pod_spec(
            at(new, "spec.jobTemplate.spec.template.spec"),
            old.map(|o| at(o, "spec.jobTemplate.spec.template.spec")),
            "spec.jobTemplate.spec.template.spec",
        );
        if zone_in_schedule {
            warnings.push("CRON_TZ or TZ used in spec.schedule is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".to_owned());
        }
        warnings
    }
}

fn spec(errors: &mut Errors, obj: &Object) {
    let when = text(obj, "spec.schedule");
    if when.is_empty() {
        errors.required("spec.schedule", "");
    } else {
        let in_schedule = when.contains("TZ");
        if in_schedule {
            errors.invalid(
                "spec.schedule",
                when,
                "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            );
        } else if let Err(message) = cron::parse(when) {
            errors.invalid("spec.schedule", when, message);
        }
    }
    if has(obj, "spec.timeZone") {
        let zone = text(obj, "spec.timeZone");
        if zone.is_empty() {
            errors.invalid(
                "spec.timeZone",
                "",
                "timeZone must be nil or non-empty string",
            );
        } else if zone.eq_ignore_ascii_case("local") {
            errors.invalid(
                "spec.timeZone",
                zone,
                "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            );
        } else if jiff::tz::TimeZone::get(zone).is_err() {
            errors.invalid("spec.timeZone", zone, format!("unknown time zone {zone}"));
        }
    }
    not_negative(
        errors,
        obj,
        "spec",
        &[
            "startingDeadlineSeconds",
            "successfulJobsHistoryLimit",
            "failedJobsHistoryLimit",
        ],
    );
    match text(obj, "spec.concurrencyPolicy") {
        "Allow" | "Forbid" | "Replace" => {}
        "" => errors.required("spec.concurrencyPolicy", ""),
        other => errors.not_supported(
            "spec.concurrencyPolicy",
            other,
            &["Allow", "Forbid", "Replace"],
        ),
    }
    if flag(obj, "spec.jobTemplate.spec.manualSelector") {
        errors.not_supported(
            "spec.jobTemplate.spec.manualSelector",
            "true",
            &["nil", "false"],
        );
    }
    if has(obj, "spec.jobTemplate.spec.selector") {
        errors.invalid(
            "spec.jobTemplate.spec.selector",
            at(obj, "spec.jobTemplate.spec.selector").clone(),
            "`selector` will be auto-generated",
        );
    }
    job::validate_spec(
        errors,
        at(obj, "spec.jobTemplate.spec"),
        "spec.jobTemplate.spec",
    );
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
