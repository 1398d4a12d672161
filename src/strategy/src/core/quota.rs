//! Limit ranges and resource quotas.

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Map, Value};

use crate::errors::{Errors, IMMUTABLE, child, index, keyed};
use crate::generic::{self, Rules};
use crate::tree::{at, default_value, keep, list, list_mut, map, remove, same, set, text};
use crate::{Context, Strategy, names, quantities};

/// The strategy of kind `LimitRange`.
pub(crate) static LIMIT_RANGE: Rules = Rules {
    default: default_limit_range,
    validate: limit_range,
    create_on_update: true,
    ..Rules::PLAIN
};

fn default_limit_range(obj: &mut Object) {
    for item in list_mut(obj, "spec.limits") {
        for key in [
            "max",
            "min",
            "default",
            "defaultRequest",
            "maxLimitRequestRatio",
        ] {
            quantities::normalize(item, key);
        }
        if text(item, "type") != "Container" {
            continue;
        }
        let copy = |from: &Value, to: &mut Map<String, Value>| {
            for (name, value) in from.as_object().into_iter().flatten() {
                to.entry(name.clone()).or_insert_with(|| value.clone());
            }
        };
        let mut limits = map(item, "default").cloned().unwrap_or_default();
        copy(at(item, "max"), &mut limits);
        let mut requests = map(item, "defaultRequest").cloned().unwrap_or_default();
        copy(&Value::Object(limits.clone()), &mut requests);
        copy(at(item, "min"), &mut requests);
        for (key, value) in [("default", limits), ("defaultRequest", requests)] {
            if !value.is_empty() {
                set(item, key, value);
            }
        }
    }
}

fn limit_range(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let mut seen = Vec::new();
    for (i, item) in list(obj, "spec.limits").iter().enumerate() {
        let field = index("spec.limits", i);
        let kind = text(item, "type");
        if seen.contains(&kind) {
            errors.duplicate(child(&field, "type"), kind);
        }
        seen.push(kind);
        let mut keys: Vec<&str> = Vec::new();
        for list in [
            "max",
            "min",
            "default",
            "defaultRequest",
            "maxLimitRequestRatio",
        ] {
            for (name, value) in map(item, list).into_iter().flatten() {
                let path = keyed(&child(&field, list), name);
                errors.invalid_each(&path, name, names::qualified_name(name));
                quantities::validate_quantity(&mut errors, name, value, &path);
                if !keys.contains(&name.as_str()) {
                    keys.push(name);
                }
            }
        }
        if kind == "Pod" {
            for list in ["default", "defaultRequest"] {
                if map(item, list).is_some_and(|m| !m.is_empty()) {
                    errors.forbidden(
                        child(&field, list),
                        "may not be specified when `type` is 'Pod'",
                    );
                }
            }
        }
        if kind == "PersistentVolumeClaim"
            && at(item, "min").get("storage").is_none()
            && at(item, "max").get("storage").is_none()
        {
            errors.required(
                child(&field, "limits"),
                "either minimum or maximum storage value is required, but neither was provided",
            );
        }
        for name in keys {
            let of = |list: &str| at(item, list).get(name).map(|v| quantities::of(Some(v)));
            let mut order = |small: &str, great: &str| {
                if let (Some(s), Some(g)) = (of(small), of(great))
                    && s > g
                {
                    // The message names the bounds in words, as upstream does.
                    let (s_word, g_word) = (word(small), word(great));
                    let (at_field, value) = (keyed(&child(&field, small), name), s.to_string());
                    errors.invalid(
                        at_field,
                        value.clone(),
                        format!("{s_word} value {value} is greater than {g_word} value {g}"),
                    );
                }
            };
            order("min", "max");
            order("min", "defaultRequest");
            order("defaultRequest", "max");
            order("min", "default");
            order("default", "max");
            order("defaultRequest", "default");
            if let Some(ratio) = of("maxLimitRequestRatio")
                && ratio < quantities::of(Some(&"1".into()))
            {
                errors.invalid(
                    keyed(&child(&field, "maxLimitRequestRatio"), name),
                    ratio.to_string(),
                    format!("ratio {ratio} is less than 1"),
                );
            }
        }
    }
    errors.0
}

fn word(list: &str) -> &'static str {
    match list {
        "min" => "min",
        "max" => "max",
        "default" => "default",
        _ => "default request",
    }
}

/// The strategy of kind `ResourceQuota`.
pub(crate) struct ResourceQuota;

impl Strategy for ResourceQuota {
    fn default(&self, obj: &mut Object) {
        for path in ["spec.hard", "status.hard", "status.used"] {
            quantities::normalize(obj, path);
        }
    }

    fn prepare_create(&self, _ctx: &Context<'_>, obj: &mut Object) {
        generic::prepare_create_plain(obj);
        remove(obj, "status");
        default_value(obj, "status", Value::Object(Map::new()));
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_update_plain(new, old);
        keep(new, old, "status");
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        hard(&mut errors, obj, "spec.hard");
        scopes(&mut errors, obj);
        errors.0
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        hard(&mut errors, new, "spec.hard");
        scopes(&mut errors, new);
        let sorted = |o: &Object| {
            let mut scopes: Vec<String> = list(o, "spec.scopes")
                .iter()
                .map(Value::to_string)
                .collect();
            scopes.sort();
            scopes
        };
        if sorted(new) != sorted(old) {
            errors.invalid("spec.scopes", at(new, "spec.scopes").clone(), IMMUTABLE);
        }
        if !same(at(new, "spec.scopeSelector"), at(old, "spec.scopeSelector")) {
            errors.invalid(
                "spec.scopeSelector",
                at(new, "spec.scopeSelector").clone(),
                IMMUTABLE,
            );
        }
        errors.0
    }

    fn validate_status_update(&self, new: &Object, _old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        hard(&mut errors, new, "status.hard");
        hard(&mut errors, new, "status.used");
        errors.0
    }
}

fn hard(errors: &mut Errors, obj: &Object, path: &str) {
    for (name, value) in map(obj, path).into_iter().flatten() {
        let field = keyed(path, name);
        quota_resource(errors, name, &field);
        quantities::validate_quantity(errors, name, value, &field);
    }
}

fn quota_resource(errors: &mut Errors, name: &str, field: &str) {
    errors.invalid_each(field, name, names::qualified_name(name));
    if name.contains('/') {
        return;
    }
    let standard = matches!(
        name,
        "cpu"
            | "memory"
            | "ephemeral-storage"
            | "requests.cpu"
            | "requests.memory"
            | "requests.storage"
            | "requests.ephemeral-storage"
            | "limits.cpu"
            | "limits.memory"
            | "limits.ephemeral-storage"
            | "pods"
            | "resourcequotas"
            | "services"
            | "replicationcontrollers"
            | "secrets"
            | "persistentvolumeclaims"
            | "configmaps"
            | "services.nodeports"
            | "services.loadbalancers"
            | "storage"
    ) || name.starts_with("count.")
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-");
    if !standard {
        errors.invalid(
            field,
            name,
            "must be a standard resource type or fully qualified",
        );
        errors.invalid(field, name, "must be a standard resource for quota");
    }
}

const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

fn scopes(errors: &mut Errors, obj: &Object) {
    let plain: Vec<&str> = list(obj, "spec.scopes")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    for scope in &plain {
        if !SCOPES.contains(scope) {
            errors.invalid(
                "spec.scopes",
                at(obj, "spec.scopes").clone(),
                "unsupported scope",
            );
        } else {
            fits(errors, obj, scope, "spec.scopes");
        }
    }
    for (a, b) in [
        ("BestEffort", "NotBestEffort"),
        ("Terminating", "NotTerminating"),
    ] {
        if plain.contains(&a) && plain.contains(&b) {
            errors.invalid(
                "spec.scopes",
                at(obj, "spec.scopes").clone(),
                "conflicting scopes",
            );
        }
    }
    for (i, expression) in list(obj, "spec.scopeSelector.matchExpressions")
        .iter()
        .enumerate()
    {
        let field = index("spec.scopeSelector.matchExpressions", i);
        let scope = text(expression, "scopeName");
        let operator = text(expression, "operator");
        let values = list(expression, "values");
        if !SCOPES.contains(&scope) {
            errors.invalid(child(&field, "scopeName"), scope, "unsupported scope");
        }
        if !matches!(scope, "PriorityClass" | "VolumeAttributesClass") && operator != "Exists" {
            errors.invalid(
                child(&field, "operator"),
                operator,
                "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
            );
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => errors.required(
                child(&field, "values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.invalid(
                child(&field, "values"),
                at(expression, "values").clone(),
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(
                child(&field, "operator"),
                other,
                "not a valid selector operator",
            ),
        }
    }
}

/// Validates that a quota scope supports the limited resources; `BestEffort` only counts pods.
fn fits(errors: &mut Errors, obj: &Object, scope: &str, field: &str) {
    for (name, _) in map(obj, "spec.hard").into_iter().flatten() {
        let fine = match scope {
            "BestEffort" => name == "pods",
            "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" => {
                matches!(
                    name.as_str(),
                    "pods"
                        | "cpu"
                        | "memory"
                        | "requests.cpu"
                        | "requests.memory"
                        | "limits.cpu"
                        | "limits.memory"
                )
            }
            _ => true,
        };
        if !fine {
            errors.invalid(
                field,
                at(obj, "spec.scopes").clone(),
                format!("unsupported scope applied to resource {name}"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn limits_default_each_other() {
        let mut r = json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}]}});
        LIMIT_RANGE.default(&mut r);
        assert_eq!(r["spec"]["limits"][0]["default"], json!({"cpu": "2"}));
        assert_eq!(
            r["spec"]["limits"][0]["defaultRequest"],
            json!({"cpu": "2", "memory": "1Mi"})
        );
        let bad = json!({"spec": {"limits": [{"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "2"}}]}});
        assert_eq!(
            LIMIT_RANGE.validate_create(&bad)[0].to_string(),
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"
        );
    }

    #[test]
    fn quotas() {
        let q = json!({"spec": {"hard": {"pods": "1.5", "nonsense": "1"}}});
        let fields: Vec<_> = ResourceQuota
            .validate_create(&q)
            .into_iter()
            .map(|e| e.field)
            .collect();
        assert_eq!(
            fields,
            [
                "spec.hard[nonsense]",
                "spec.hard[nonsense]",
                "spec.hard[pods]"
            ]
        );
    }
}
