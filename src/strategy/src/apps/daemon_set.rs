//! Daemon sets.

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::json;

use super::{
    always_restarted, at_most_all, collision_count, count_or_percent, immutable_selector,
    not_negative, plain_number, shown_strategy, template_warnings,
};
use crate::core::pod_defaults;
use crate::errors::{Errors, NOT_NEGATIVE};
use crate::generic;
use crate::tree::{at, at_mut, default_text, default_value, ensure, keep, put, same, text};
use crate::{Context, Strategy, selectors};

/// The strategy of kind `DaemonSet`.
pub(crate) struct DaemonSet;

/// Annotation with the generation of the template, which the former API `extensions/v1beta1`
/// had as a field.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn template_generation(obj: &Object) -> i64 {
    at(obj, "metadata.annotations")
        .get(TEMPLATE_GENERATION)
        .and_then(|value| value.as_str()?.parse().ok())
        .unwrap_or(0)
}

fn set_template_generation(obj: &mut Object, generation: i64) {
    ensure(obj, "metadata.annotations").insert(
        TEMPLATE_GENERATION.to_owned(),
        generation.to_string().into(),
    );
}

impl Strategy for DaemonSet {
    fn default(&self, obj: &mut Object) {
        let generation = template_generation(obj);
        set_template_generation(obj, generation);
        ensure(obj, "spec.updateStrategy");
        let Some(spec) = at_mut(obj, "spec") else {
            return;
        };
        if let Some(strategy) = at_mut(spec, "updateStrategy") {
            default_text(strategy, "type", "RollingUpdate");
            if text(strategy, "type") == "RollingUpdate" {
                ensure(strategy, "rollingUpdate");
                if let Some(rolling) = at_mut(strategy, "rollingUpdate") {
                    default_value(rolling, "maxUnavailable", 1);
                    default_value(rolling, "maxSurge", 0);
                }
            }
        }
        default_value(spec, "revisionHistoryLimit", 10);
        if let Some(template) = at_mut(spec, "template") {
            pod_defaults::template(template);
        }
    }

    fn prepare_create(&self, _ctx: &Context<'_>, obj: &mut Object) {
        put(
            obj,
            "status",
            json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0}),
        );
        put(obj, "metadata.generation", 1);
        let generation = template_generation(obj).max(1);
        set_template_generation(obj, generation);
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        keep(new, old, "status");
        let changed = !same(at(new, "spec"), at(old, "spec"));
        generic::set_generation(new, old, changed);
        let new_template = !same(at(new, "spec.template"), at(old, "spec.template"));
        let generation = template_generation(old).saturating_add(i64::from(new_template));
        set_template_generation(new, generation);
    }

    fn prepare_status_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_status_update(new, old);
        keep(new, old, "spec");
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        selector_and_labels(&mut errors, obj);
        let template = at(obj, "spec.template");
        crate::core::pod_validation::template(&mut errors, template, "spec.template");
        always_restarted(&mut errors, template, "spec.template", "DaemonSet");
        not_negative(&mut errors, obj, "spec", &["minReadySeconds"]);
        let generation = template_generation(obj);
        if generation < 0 {
            errors.invalid("spec.templateGeneration", generation, NOT_NEGATIVE);
        }
        strategy(&mut errors, obj);
        not_negative(&mut errors, obj, "spec", &["revisionHistoryLimit"]);
        errors.0
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        immutable_selector(&mut errors, new, old);
        errors.extend(crate::errors::ratcheted(self.validate_create(new), || {
            self.validate_create(old)
        }));
        errors.0
    }

    fn validate_status_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        not_negative(
            &mut errors,
            new,
            "status",
            &[
                "currentNumberScheduled",
                "numberMisscheduled",
                "desiredNumberScheduled",
                "numberReady",
                "observedGeneration",
                "updatedNumberScheduled",
                "numberAvailable",
                "numberUnavailable",
                "collisionCount",
            ],
        );
        collision_count(&mut errors, new, old);
        errors.0
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        match old {
            Some(old) if same(at(new, "spec.template"), at(old, "spec.template")) => Vec::new(),
            old => template_warnings(new, old),
        }
    }
}

fn strategy(errors: &mut Errors, obj: &Object) {
    let strategy = at(obj, "spec.updateStrategy");
    match text(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" => match at(strategy, "rollingUpdate") {
            serde_json::Value::Null => errors.required("spec.updateStrategy.rollingUpdate", ""),
            rolling => {
                let base = "spec.updateStrategy.rollingUpdate";
                let (unavailable, surge) = (at(rolling, "maxUnavailable"), at(rolling, "maxSurge"));
                let both = [("maxUnavailable", unavailable), ("maxSurge", surge)];
                for check in [count_or_percent, at_most_all] {
                    for (key, value) in both {
                        check(errors, value, &format!("{base}.{key}"));
                    }
                }
                let (u, s) = (plain_number(unavailable), plain_number(surge));
                if u == 0 && s == 0 {
                    errors.required(
                        format!("{base}.maxUnavailable"),
                        "cannot be 0 when maxSurge is 0",
                    );
                } else if u != 0 && s != 0 {
                    errors.invalid(
                        format!("{base}.maxSurge"),
                        surge.clone(),
                        "may not be set when maxUnavailable is non-zero",
                    );
                }
            }
        },
        _ => errors.not_supported_shown(
            "spec.updateStrategy",
            &shown_strategy(strategy),
            &["RollingUpdate", "OnDelete"],
        ),
    }
}

/// Validates the selector, and that it matches the template's labels.
fn selector_and_labels(errors: &mut Errors, obj: &Object) {
    let selector = at(obj, "spec.selector");
    if !selector.is_null() {
        selectors::validate(errors, selector, "spec.selector");
    }
    let labels = at(obj, "spec.template.metadata.labels");
    // As in Go, a missing selector selects nothing, and an empty one everything.
    let matches = !selector.is_null() && selectors::matches(selector, labels.as_object());
    if !matches && (selector.is_null() || selectors::is_sound(selector)) {
        errors.invalid(
            "spec.template.metadata.labels",
            labels.clone(),
            "`selector` does not match template `labels`",
        );
    }
    if !selector.is_null() && selectors::is_empty(selector) {
        let shown = selectors::show_selector(selector);
        let why = "empty selector is invalid for daemonset";
        errors.invalid_shown("spec.selector", &shown, why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults() {
        let mut d = json!({"spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        DaemonSet.default(&mut d);
        assert_eq!(
            d["spec"]["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
        );
        assert_eq!(DaemonSet.validate_create(&d), vec![]);
    }
}
