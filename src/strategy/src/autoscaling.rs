//! Horizontal pod autoscalers.

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::json;

use crate::Strategy;
use crate::errors::Errors;
use crate::generic::Rules;
use crate::names;
use crate::tree::{
    at, at_mut, default_text, default_value, ensure, has, int, list, list_mut, text,
};

/// Returns the strategy of a kind of this module, `None` for kinds without one.
pub(crate) fn strategy_for(kind: &str) -> Option<&'static dyn Strategy> {
    (kind == "HorizontalPodAutoscaler").then_some(&HPA)
}

static HPA: Rules = Rules {
    default,
    validate,
    validate_new: target_group,
    validate_update: |new, old| {
        let same = ["apiVersion", "kind"].iter().all(|key| {
            let path = format!("spec.scaleTargetRef.{key}");
            text(new, &path) == text(old, &path)
        });
        if same { Vec::new() } else { target_group(new) }
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
                default_text(rules, "selectPolicy", "Max");
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

/// Validates that the target's version has a group. The only kind that scales and has none is
/// the replication controller.
fn target_group(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let version = text(obj, "spec.scaleTargetRef.apiVersion");
    let is_core = text(obj, "spec.scaleTargetRef.kind") == "ReplicationController";
    if !version.contains('/') && !is_core {
        errors.invalid(
            "spec.scaleTargetRef.apiVersion",
            version,
            "apiVersion must specify API group",
        );
    }
    errors.0
}

fn validate(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let (min, max) = (
        int(obj, "spec.minReplicas").unwrap_or(1),
        int(obj, "spec.maxReplicas").unwrap_or(0),
    );
    if min < 1 {
        errors.invalid(
            "spec.minReplicas",
            min,
            "must be greater than or equal to 1",
        );
    }
    if max < 1 {
        errors.invalid("spec.maxReplicas", max, "must be greater than 0");
    }
    if max < min {
        errors.invalid(
            "spec.maxReplicas",
            max,
            "must be greater than or equal to `minReplicas`",
        );
    }
    for key in ["kind", "name"] {
        let path = format!("spec.scaleTargetRef.{key}");
        let value = text(obj, &path);
        if value.is_empty() {
            errors.required(path, "");
        } else {
            errors.invalid_each(&path, value, names::path_segment_name(value));
        }
    }
    for (i, metric) in list(obj, "spec.metrics").iter().enumerate() {
        let field = format!("spec.metrics[{i}]");
        let kind = text(metric, "type");
        let (key, known) = match kind {
            "Object" => ("object", true),
            "Pods" => ("pods", true),
            "Resource" => ("resource", true),
            "ContainerResource" => ("containerResource", true),
            "External" => ("external", true),
            "" => {
                errors.required(format!("{field}.type"), "must specify a metric source type");
                continue;
            }
            _ => ("", false),
        };
        if !known {
            errors.not_supported(
                format!("{field}.type"),
                kind,
                &[
                    "ContainerResource",
                    "External",
                    "Object",
                    "Pods",
                    "Resource",
                ],
            );
            continue;
        }
        if at(metric, key).is_null() {
            errors.required(
                format!("{field}.{key}"),
                format!(
                    "must populate information for the given metric source (only {key} is given)"
                ),
            );
            continue;
        }
        let target = at(metric, key).get("target");
        let kind = target.map_or("", |t| text(t, "type"));
        if kind.is_empty() {
            errors.required(
                format!("{field}.{key}.target.type"),
                "must specify a metric target type",
            );
        } else if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
            errors.invalid(
                format!("{field}.{key}.target.type"),
                kind,
                "must be either Utilization, Value, or AverageValue",
            );
        }
    }
    errors.0
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
