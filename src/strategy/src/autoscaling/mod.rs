//! Horizontal pod autoscalers.

mod metrics;

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Value, json};

use self::metrics::Group;
use crate::Strategy;
use crate::errors::Errors;
use crate::generic::Rules;
use crate::tree::{at, at_mut, default_value, ensure, has, int, list, list_mut, text};

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    (kind == "HorizontalPodAutoscaler").then_some(&HPA)
}

static HPA: Rules = Rules {
    default,
    validate_new: |obj| validate(obj, None),
    validate_update: |new, old| validate(new, Some(old)),
    validate_status: |new, _| {
        let mut errors = Errors::new();
        let counts = ["currentReplicas", "desiredReplicas"];
        crate::apps::not_negative(&mut errors, new, "status", &counts);
        errors.0
    },
    ..Rules::SPEC_AND_STATUS_PLAIN
};

fn default(obj: &mut Object) {
    let v1 = text(obj, "apiVersion") == "autoscaling/v1";
    ensure(obj, "spec");
    let Some(spec) = at_mut(obj, "spec") else {
        return;
    };
    default_value(spec, "minReplicas", 1);
    if v1 {
        return;
    }
    if list(spec, "metrics").is_empty() {
        // Upstream's default target: 80 % of the requested CPU.
        let cpu = json!([{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 80}}}]);
        ensure(obj, "spec").insert("metrics".into(), cpu);
    }
    let Some(spec) = at_mut(obj, "spec") else {
        return;
    };
    if has(spec, "behavior") {
        for (key, stabilization, policies) in [
            (
                "scaleUp",
                0,
                json!([{"type": "Pods", "value": 4, "periodSeconds": 15},
                       {"type": "Percent", "value": 100, "periodSeconds": 15}]),
            ),
            (
                "scaleDown",
                -1,
                json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]),
            ),
        ] {
            ensure(spec, &format!("behavior.{key}"));
            if let Some(rules) = at_mut(spec, &format!("behavior.{key}")) {
                // Unset for scaling down: the controller's configured window applies.
                if stabilization >= 0 {
                    default_value(rules, "stabilizationWindowSeconds", stabilization);
                }
                default_value(rules, "selectPolicy", "Max");
                default_value(rules, "policies", policies);
            }
        }
    }
    for metric in list_mut(spec, "metrics") {
        for kind in [
            "resource",
            "containerResource",
            "pods",
            "object",
            "external",
        ] {
            for key in ["averageValue", "value"] {
                if let Some(quantity) = at_mut(metric, &format!("{kind}.target.{key}")) {
                    crate::quantities::normalize_value(quantity);
                }
            }
        }
    }
}

/// Validates an autoscaler, or the update of one.
fn validate(obj: &Object, old: Option<&Object>) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let (min, max) = (
        int(obj, "spec.minReplicas"),
        int(obj, "spec.maxReplicas").unwrap_or(0),
    );
    // Zero needs the feature `HPAScaleToZero`, which is off in v1.36; an autoscaler that has
    // zero keeps it.
    let lowest = match old.and_then(|old| int(old, "spec.minReplicas")) {
        Some(0) => 0,
        _ => 1,
    };
    if let Some(min) = min
        && min < lowest
    {
        let why = format!("must be greater than or equal to {lowest}");
        errors.invalid("spec.minReplicas", min, why);
    }
    if max == 0 {
        errors.required("spec.maxReplicas", "must be set and greater than 0");
    } else if max < 0 {
        let why = "must be greater than or equal to 1";
        errors.invalid("spec.maxReplicas", max, why);
    }
    if min.is_some_and(|min| max < min) {
        errors.invalid(
            "spec.maxReplicas",
            max,
            "must be greater than or equal to `minReplicas`",
        );
    }
    let target = at(obj, "spec.scaleTargetRef");
    metrics::reference(
        &mut errors,
        target,
        target_group(obj, old),
        "spec.scaleTargetRef",
    );
    let all = list(obj, "spec.metrics");
    let group = described_group(old);
    for (i, metric) in all.iter().enumerate() {
        metrics::metric(&mut errors, metric, group, &format!("spec.metrics[{i}]"));
    }
    let of_objects = |metric: &Value| matches!(text(metric, "type"), "Object" | "External");
    if min == Some(0) && !all.iter().any(of_objects) {
        errors.forbidden(
            "spec.metrics",
            "must specify at least one Object or External metric to support scaling to zero replicas",
        );
    }
    for direction in ["scaleUp", "scaleDown"] {
        let path = format!("spec.behavior.{direction}");
        metrics::scaling_rules(&mut errors, at(obj, &path), &path);
    }
    errors.0
}

/// Returns what the version of the target must be. The only kind that scales and has no group
/// is the replication controller; an update need not mend a target that it keeps.
fn target_group(obj: &Object, old: Option<&Object>) -> Group {
    let kept = |old: &Object| {
        ["apiVersion", "kind"].iter().all(|key| {
            let path = format!("spec.scaleTargetRef.{key}");
            text(obj, &path) == text(old, &path)
        })
    };
    match old {
        Some(old) if kept(old) => Group::Anything,
        _ if text(obj, "spec.scaleTargetRef.kind") == "ReplicationController" => Group::Optional,
        _ => Group::Required,
    }
}

/// Returns what the versions of described objects must be.
fn described_group(old: Option<&Object>) -> Group {
    let wrong = |metric: &Value| {
        let version = text(metric, "object.describedObject.apiVersion");
        text(metric, "type") == "Object" && Group::Optional.problem(version).is_some()
    };
    match old.is_some_and(|old| list(old, "spec.metrics").iter().any(wrong)) {
        true => Group::Anything,
        false => Group::Optional,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults() {
        let mut h = json!({"apiVersion": "autoscaling/v2", "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
        HPA.default(&mut h);
        assert_eq!(
            h["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"],
            80
        );
        assert_eq!(HPA.validate_create(&h), vec![]);
        h["spec"]["maxReplicas"] = json!(0);
        assert_eq!(HPA.validate_create(&h).len(), 2);
        h["spec"]["maxReplicas"] = json!(3);
        for (version, kind, refused) in [
            ("", "Deployment", true),
            ("v1", "Deployment", true),
            ("", "ReplicationController", false),
            ("v1", "ReplicationController", false),
        ] {
            let target = json!({"apiVersion": version, "kind": kind, "name": "d"});
            h["spec"]["scaleTargetRef"] = target;
            assert_eq!(
                !HPA.validate_create(&h).is_empty(),
                refused,
                "{version} {kind}"
            );
            assert_eq!(HPA.validate_update(&h, &h), vec![], "{version} {kind}");
        }
    }
}
