//! Labels of nodes that upstream has deprecated.

use serde_json::Value;

use crate::errors::{child, index};
use crate::tree::{entries, list, text};

/// Returns the message about a deprecated label of nodes.
pub(crate) fn deprecated(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
        "beta.kubernetes.io/os" => "deprecated since v1.14; use \"kubernetes.io/os\" instead",
        "failure-domain.beta.kubernetes.io/region" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"
        }
        "beta.kubernetes.io/instance-type" => {
            "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"
        }
        "app.kubernetes.io/created-by" => "deprecated since v1.9",
        "scheduler.alpha.kubernetes.io/preferAvoidPods" => {
            "deprecated since v1.22; use Taints and Tolerations instead"
        }
        "node-role.kubernetes.io/master" => "use \"node-role.kubernetes.io/control-plane\" instead",
        _ => return None,
    })
}

/// Returns the warnings about the node selector of a runtime class.
pub(crate) fn selector_warnings(selector: &Value) -> Vec<String> {
    let labels = selector.as_object().into_iter().flatten();
    labels
        .filter_map(|(key, _)| deprecated(key))
        .map(|why| format!("scheduling.nodeSelector: {why}"))
        .collect()
}

/// Returns the warnings about a selector of nodes by label.
pub(crate) fn label_selector_warnings(selector: &Value, field: &str) -> Vec<String> {
    let expressions = list(selector, "matchExpressions").iter().enumerate();
    let mut warnings: Vec<String> = expressions
        .filter_map(|(i, expression)| {
            let key = text(expression, "key");
            let field = index(&child(field, "matchExpressions"), i);
            deprecated(key).map(|why| format!("{field}.key: {key} is {why}"))
        })
        .collect();
    warnings.extend(entries(selector, "matchLabels").filter_map(|(key, _)| {
        deprecated(key).map(|why| format!("{field}.matchLabels.{key}: {why}"))
    }));
    warnings
}
