//! What upstream's documents say beyond the schema: enumerations, and the order of required fields.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

/// The facts about a definition: a field with its values, or `required` with the fields in order.
type Facts = Vec<(&'static str, Vec<&'static str>)>;

/// The facts by definition.
static FACTS: LazyLock<HashMap<&str, Facts>> = LazyLock::new(|| {
    let mut facts: HashMap<&str, Facts> = HashMap::new();
    let lines = include_str!("facts.txt").lines();
    for line in lines.filter(|line| !line.starts_with('#')) {
        let mut words = line.split('|');
        if let (Some(definition), Some(field)) = (words.next(), words.next()) {
            let of_definition = facts.entry(definition).or_default();
            of_definition.push((field, words.collect()));
        }
    }
    facts
});

/// Adds the enumerations of a definition's properties, and brings its required fields into order.
pub(super) fn complete(
    definition: &str,
    properties: &mut Map<String, Value>,
    required: &mut [Value],
) {
    for (field, values) in FACTS.get(definition).into_iter().flatten() {
        if *field == "required" {
            required.sort_by_key(|name| values.iter().position(|v| name == v));
            continue;
        }
        let schema = match field.strip_suffix("[]") {
            Some(list) => properties
                .get_mut(list)
                .and_then(|list| list.get_mut("items")),
            None => properties.get_mut(*field),
        };
        if let Some(schema) = schema.and_then(Value::as_object_mut) {
            schema.insert("enum".into(), values.iter().copied().collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn enumerations_and_order_are_upstreams() {
        for (definition, properties, required, want) in [
            (
                "io.k8s.api.apps.v1.DeploymentStrategy",
                json!({"type": {"type": "string"}}),
                json!([]),
                json!([{"type": {"type": "string", "enum": ["Recreate", "RollingUpdate"]}}, []]),
            ),
            (
                "io.k8s.api.apps.v1.DaemonSetCondition",
                json!({}),
                json!(["status", "type"]),
                json!([{}, ["type", "status"]]),
            ),
            (
                "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBindingSpec",
                json!({"validationActions": {"items": {}}}),
                json!([]),
                json!([{"validationActions": {"items": {"enum": ["Audit", "Deny", "Warn"]}}}, []]),
            ),
        ] {
            let mut properties = properties.as_object().unwrap().clone();
            let mut required = required.as_array().unwrap().clone();
            complete(definition, &mut properties, &mut required);
            assert_eq!(json!([properties, required]), want, "{definition}");
        }
    }
}
