//! Deployments.

use rkube_api::Object;
use rkube_api::status::{FieldError, Status};
use serde_json::json;

use super::{
    at_most_all, collision_count, count_or_percent, immutable_selector, not_negative, plain_number,
    scale_of, selector_and_template, set_replicas, shown_strategy,
};
use crate::core::pod_defaults;
use crate::errors::Errors;
use crate::generic;
use crate::tree::{
    at, at_mut, default_text, default_value, ensure, has, int, keep, put, same, text,
};
use crate::{Context, Strategy, selectors};

/// The strategy of kind `Deployment`.
pub(crate) struct Deployment;

impl Strategy for Deployment {
    fn default(&self, obj: &mut Object) {
        ensure(obj, "spec.strategy");
        let Some(spec) = at_mut(obj, "spec") else {
            return;
        };
        default_value(spec, "replicas", 1);
        default_value(spec, "revisionHistoryLimit", 10);
        default_value(spec, "progressDeadlineSeconds", 600);
        if let Some(strategy) = at_mut(spec, "strategy") {
            default_text(strategy, "type", "RollingUpdate");
            if text(strategy, "type") == "RollingUpdate" {
                ensure(strategy, "rollingUpdate");
                if let Some(rolling) = at_mut(strategy, "rollingUpdate") {
                    default_value(rolling, "maxUnavailable", "25%");
                    default_value(rolling, "maxSurge", "25%");
                }
            }
        }
        if let Some(template) = at_mut(spec, "template") {
            pod_defaults::template(template);
        }
    }

    fn prepare_create(&self, _ctx: &Context<'_>, obj: &mut Object) {
        put(obj, "status", json!({}));
        put(obj, "metadata.generation", 1);
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        keep(new, old, "status");
        // As upstream, annotations count as changes: tools store the change cause there.
        let changed = !same(at(new, "spec"), at(old, "spec"))
            || !same(
                at(new, "metadata.annotations"),
                at(old, "metadata.annotations"),
            );
        generic::set_generation(new, old, changed);
    }

    fn prepare_status_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_status_update(new, old);
        keep(new, old, "spec");
        keep(new, old, "metadata.labels");
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        not_negative(&mut errors, obj, "spec", &["replicas"]);
        selector_and_template(&mut errors, obj, "deployment");
        strategy(&mut errors, obj);
        not_negative(
            &mut errors,
            obj,
            "spec",
            &["minReadySeconds", "revisionHistoryLimit"],
        );
        if let Some(deadline) = int(obj, "spec.progressDeadlineSeconds") {
            not_negative(&mut errors, obj, "spec", &["progressDeadlineSeconds"]);
            if deadline <= int(obj, "spec.minReadySeconds").unwrap_or(0) {
                errors.invalid(
                    "spec.progressDeadlineSeconds",
                    deadline,
                    "must be greater than minReadySeconds",
                );
            }
        }
        errors.0
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        errors.extend(crate::errors::ratcheted(self.validate_create(new), || {
            self.validate_create(old)
        }));
        immutable_selector(&mut errors, new, old);
        errors.0
    }

    fn validate_status_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let counts = [
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "terminatingReplicas",
            "collisionCount",
        ];
        not_negative(&mut errors, new, "status", &counts);
        let of = |key: &str| int(new, &format!("status.{key}")).unwrap_or(0);
        for (key, limit) in [
            ("updatedReplicas", "replicas"),
            ("readyReplicas", "replicas"),
            ("availableReplicas", "replicas"),
            ("availableReplicas", "readyReplicas"),
        ] {
            if of(key) > of(limit) {
                let limit = if limit == "replicas" {
                    "status.replicas"
                } else {
                    limit
                };
                let why = format!("cannot be greater than {limit}");
                errors.invalid(format!("status.{key}"), of(key), why);
            }
        }
        collision_count(&mut errors, new, old);
        errors.0
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        super::named_warnings(new, old)
    }

    fn scale(&self, obj: &Object) -> Option<Object> {
        Some(scale_of(obj, &selectors::format(at(obj, "spec.selector"))))
    }

    fn set_scale(&self, obj: &mut Object, scale: &Object) -> Result<(), Status> {
        set_replicas(obj, scale)
    }
}

fn strategy(errors: &mut Errors, obj: &Object) {
    let strategy = at(obj, "spec.strategy");
    match text(strategy, "type") {
        "Recreate" => {
            if has(strategy, "rollingUpdate") {
                errors.forbidden(
                    "spec.strategy.rollingUpdate",
                    "may not be specified when strategy `type` is 'Recreate'",
                );
            }
        }
        "RollingUpdate" => match at(strategy, "rollingUpdate") {
            serde_json::Value::Null => errors.required(
                "spec.strategy.rollingUpdate",
                "this should be defaulted and never be nil",
            ),
            rolling => {
                let (unavailable, surge) = (at(rolling, "maxUnavailable"), at(rolling, "maxSurge"));
                let field = "spec.strategy.rollingUpdate.maxUnavailable";
                count_or_percent(errors, unavailable, field);
                count_or_percent(errors, surge, "spec.strategy.rollingUpdate.maxSurge");
                if plain_number(unavailable) == 0 && plain_number(surge) == 0 {
                    errors.invalid(
                        field,
                        unavailable.clone(),
                        "may not be 0 when `maxSurge` is 0",
                    );
                }
                at_most_all(errors, unavailable, field);
            }
        },
        _ => errors.not_supported_shown(
            "spec.strategy",
            &shown_strategy(strategy),
            &["Recreate", "RollingUpdate"],
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ctx() -> Context<'static> {
        Context::new(jiff::Timestamp::UNIX_EPOCH, "test")
    }

    fn deployment() -> Object {
        let mut d = json!({"metadata": {"name": "d"}, "spec": {
            "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}});
        Deployment.default(&mut d);
        Deployment.prepare_create(&ctx(), &mut d);
        d
    }

    #[test]
    fn defaults() {
        let d = deployment();
        assert_eq!(d["spec"]["replicas"], 1);
        assert_eq!(
            d["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        assert_eq!(d["spec"]["template"]["spec"]["restartPolicy"], "Always");
        assert!(
            d["spec"]["template"]["spec"]
                .get("enableServiceLinks")
                .is_none()
        );
        assert_eq!(Deployment.validate_create(&d), vec![]);
    }

    #[test]
    fn selector_must_fit_and_stay() {
        let d = deployment();
        let mut other = d.clone();
        other["spec"]["selector"]["matchLabels"]["app"] = json!("b");
        let errors = Deployment.validate_update(&other, &d);
        assert_eq!(
            errors[0].detail,
            "`selector` does not match template `labels`"
        );
        assert_eq!(
            errors[1].to_string(),
            "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"b\"}}: field is immutable"
        );
    }

    #[test]
    fn generations() {
        let old = deployment();
        let mut new = old.clone();
        new["spec"]["replicas"] = json!(3);
        new["metadata"]["generation"] = json!(77);
        Deployment.prepare_update(&ctx(), &mut new, &old);
        assert_eq!(new["metadata"]["generation"], 2);
        let scale = Deployment.scale(&new).unwrap();
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(scale["status"]["selector"], "app=a");
    }
}
