//! Limit ranges and resource quotas.

use std::collections::BTreeSet;

use rkube_api::Object;
use rkube_api::status::FieldError;
use rkube_component_helpers::resource::{is_hugepages, is_native};
use rkube_component_helpers::resource_names::is_of_quota;
use serde_json::{Map, Value};

use super::requirements;
use super::shown::{Field, Form, show};
use crate::errors::{Errors, IMMUTABLE, child, index, keyed};
use crate::generic::{self, Rules};
use crate::quantities::Quantity;
use crate::tree::{at, default_value, keep, list, list_mut, map, remove, set, text};
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
    let mut seen = BTreeSet::new();
    for (i, item) in list(obj, "spec.limits").iter().enumerate() {
        let field = index("spec.limits", i);
        let kind = text(item, "type");
        limit_type(&mut errors, kind, &child(&field, "type"));
        if !seen.insert(kind) {
            errors.duplicate(child(&field, "type"), kind);
        }
        let mut keys: BTreeSet<&str> = BTreeSet::new();
        let mut names_of = |errors: &mut Errors, list: &str| {
            for (name, _) in map(item, list).into_iter().flatten() {
                let path = keyed(&child(&field, list), name);
                match kind {
                    "Pod" | "Container" => requirements::container_name(errors, name, &path),
                    _ => {
                        requirements::name(errors, name, &path);
                    }
                }
            }
            let names = map(item, list).into_iter().flatten();
            keys.extend(names.map(|(name, _)| name.as_str()));
        };
        names_of(&mut errors, "max");
        names_of(&mut errors, "min");
        for list in ["default", "defaultRequest"] {
            if kind != "Pod" {
                names_of(&mut errors, list);
            } else if map(item, list).is_some_and(|m| !m.is_empty()) {
                errors.forbidden(
                    child(&field, list),
                    "may not be specified when `type` is 'Pod'",
                );
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
        names_of(&mut errors, "maxLimitRequestRatio");
        for name in keys {
            limits_of(&mut errors, item, name, &field);
        }
    }
    errors.0
}

/// Validates what a limit is for.
fn limit_type(errors: &mut Errors, kind: &str, field: &str) {
    let problems = names::qualified_name(kind);
    let known = matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim");
    if !problems.is_empty() {
        errors.invalid_each(field, kind, problems);
    } else if !kind.contains('/') && !known {
        errors.invalid(
            field,
            kind,
            "must be a standard limit type or fully qualified",
        );
    }
}

/// Validates that the limits of a resource are in order. The field and value in an error are
/// upstream's.
fn limits_of(errors: &mut Errors, item: &Value, name: &str, field: &str) {
    let is_pod = text(item, "type") == "Pod";
    let of = |list: &str| -> Option<Quantity> {
        let of_pods = !matches!(list, "default" | "defaultRequest");
        let amount = at(item, list).get(name).filter(|_| of_pods || !is_pod);
        amount.map(|amount| quantities::read(Some(amount)))
    };
    let word = |list: &str| match list {
        "defaultRequest" => "default request",
        other => match other {
            "min" => "min",
            "max" => "max",
            _ => "default",
        },
    };
    for (small, great, at_field, value) in [
        ("min", "max", "min", "min"),
        ("min", "defaultRequest", "defaultRequest", "defaultRequest"),
        ("defaultRequest", "max", "defaultRequest", "defaultRequest"),
        (
            "defaultRequest",
            "default",
            "defaultRequest",
            "defaultRequest",
        ),
        ("min", "default", "default", "min"),
        ("default", "max", "default", "max"),
    ] {
        let (Some(s), Some(g)) = (of(small), of(great)) else {
            continue;
        };
        if s > g {
            let great = match (small, great) {
                ("defaultRequest", "default") => "default limit",
                _ => word(great),
            };
            errors.invalid(
                keyed(&child(field, at_field), name),
                of(value).unwrap_or(Quantity::ZERO).to_string(),
                format!(
                    "{} value {s} is greater than {great} value {g}",
                    word(small)
                ),
            );
        }
    }
    if let Some(ratio) = of("maxLimitRequestRatio") {
        let path = keyed(&child(field, "maxLimitRequestRatio"), name);
        ratio_of(errors, ratio, of("min").zip(of("max")), path);
    }
    let overcommitted = is_native(name) && !is_hugepages(name);
    if let (Some(limit), Some(request)) = (of("default"), of("defaultRequest"))
        && limit != request
        && !overcommitted
    {
        errors.invalid(
            keyed(&child(field, "defaultRequest"), name),
            request.to_string(),
            format!("default value {limit} must equal to defaultRequest value {request} in {name}"),
        );
    }
}

/// Validates that a ratio of limit and request is at least one, and possible within the bounds.
fn ratio_of(
    errors: &mut Errors,
    ratio: Quantity,
    bounds: Option<(Quantity, Quantity)>,
    path: String,
) {
    /// Most whole units whose thousandths fit into the number.
    const MAX_MILLI: i64 = i64::MAX / 1000;
    if ratio < quantities::read(Some(&"1".into())) {
        let detail = format!("ratio {ratio} is less than 1");
        errors.invalid(path.clone(), ratio.to_string(), detail);
    }
    let Some((min, max)) = bounds else {
        return;
    };
    let fine = [ratio, min, max].iter().all(|q| q.value() < MAX_MILLI);
    let (wanted, most) = match fine {
        true => (
            ratio.milli_value() as f64 / 1000.0,
            max.milli_value() as f64 / min.milli_value() as f64,
        ),
        false => (
            ratio.value() as f64,
            max.value() as f64 / min.value() as f64,
        ),
    };
    if wanted > most {
        errors.invalid(
            path,
            ratio.to_string(),
            format!("ratio {ratio} is greater than max/min = {most:.6}"),
        );
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
            let scopes = list(o, "spec.scopes").iter();
            scopes.map(Value::to_string).collect::<BTreeSet<_>>()
        };
        if sorted(new) != sorted(old) {
            errors.invalid("spec.scopes", at(new, "spec.scopes").clone(), IMMUTABLE);
        }
        errors.0
    }

    fn validate_status_update(&self, new: &Object, _old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        hard(&mut errors, new, "status.hard");
        hard(&mut errors, new, "status.used");
        errors.0
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        if old.is_some() {
            return Vec::new();
        }
        let hard = at(new, "spec.hard");
        let amount = |name: &str| hard.get(name).map(|amount| quantities::read(Some(amount)));
        let mut warnings = Vec::new();
        for name in ["cpu", "memory", "storage", "ephemeral-storage"] {
            let (mut key, limit_key) = (format!("requests.{name}"), format!("limits.{name}"));
            if hard.get(&key).is_none() && matches!(name, "cpu" | "memory") {
                key = name.to_owned();
            }
            if let (Some(request), Some(limit)) = (amount(&key), amount(&limit_key))
                && request > limit
            {
                warnings.push(format!(
                    "ResourceQuota {key} ({request}) should be less than {limit_key} ({limit})"
                ));
            }
        }
        warnings
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
    requirements::name(errors, name, field);
    if !name.contains('/') && !is_of_quota(name) {
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
    let field = "spec.scopes";
    let shown = at(obj, field);
    let plain: Vec<&str> = list(obj, field).iter().filter_map(Value::as_str).collect();
    for scope in &plain {
        if !SCOPES.contains(scope) {
            errors.invalid(field, shown.clone(), "unsupported scope");
        }
        for _ in 0..unfit(obj, scope) {
            errors.invalid(
                field,
                shown.clone(),
                "unsupported scope applied to resource",
            );
        }
    }
    conflicts(errors, &plain, shown, field);
    scope_selector(errors, obj);
}

/// Validates that scopes do not exclude each other. The value in an error is upstream's.
fn conflicts(errors: &mut Errors, scopes: &[&str], shown: &Value, field: &str) {
    for (a, b) in [
        ("BestEffort", "NotBestEffort"),
        ("Terminating", "NotTerminating"),
    ] {
        if scopes.contains(&a) && scopes.contains(&b) {
            errors.invalid(field, shown.clone(), "conflicting scopes");
        }
    }
}

const SELECTOR: &[Field] = &[Field(
    "matchExpressions",
    "MatchExpressions",
    Form::Items(&[
        Field("scopeName", "ScopeName", Form::Text),
        Field("operator", "Operator", Form::Text),
        Field("values", "Values", Form::Optional),
    ]),
)];

/// Validates the selector of scopes. As upstream, errors do not tell which of its expressions is
/// wrong.
fn scope_selector(errors: &mut Errors, obj: &Object) {
    let field = "spec.scopeSelector.matchExpressions";
    let expressions = list(obj, field);
    for expression in expressions {
        let scope = text(expression, "scopeName");
        let operator = text(expression, "operator");
        let values = list(expression, "values");
        if !SCOPES.contains(&scope) {
            errors.invalid(child(field, "scopeName"), scope, "unsupported scope");
        }
        for _ in 0..unfit(obj, scope) {
            let shown = show(at(obj, "spec.scopeSelector"), SELECTOR);
            errors.invalid_shown(field, &shown, "unsupported scope applied to resource");
        }
        let plain = matches!(
            scope,
            "BestEffort"
                | "NotBestEffort"
                | "Terminating"
                | "NotTerminating"
                | "CrossNamespacePodAffinity"
        );
        if plain && operator != "Exists" {
            errors.invalid(
                child(field, "operator"),
                operator,
                "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
            );
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => errors.required(
                child(field, "values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.invalid(
                child(field, "values"),
                at(expression, "values").clone(),
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(
                child(field, "operator"),
                other,
                "not a valid selector operator",
            ),
        }
    }
    let scopes: Vec<&str> = expressions.iter().map(|e| text(e, "scopeName")).collect();
    conflicts(errors, &scopes, at(obj, "spec.scopes"), field);
}

/// Returns how many of the limited resources a scope does not know.
fn unfit(obj: &Object, scope: &str) -> usize {
    let fits = |name: &str| match scope {
        "BestEffort" => name == "pods",
        "Terminating"
        | "NotTerminating"
        | "NotBestEffort"
        | "PriorityClass"
        | "CrossNamespacePodAffinity" => matches!(
            name,
            "pods"
                | "cpu"
                | "memory"
                | "requests.cpu"
                | "requests.memory"
                | "limits.cpu"
                | "limits.memory"
        ),
        "VolumeAttributesClass" => matches!(name, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    };
    let names = map(obj, "spec.hard").into_iter().flatten();
    names
        .filter(|(name, _)| is_of_quota(name) && !fits(name))
        .count()
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
