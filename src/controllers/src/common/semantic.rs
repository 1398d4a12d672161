//! Semantic equality as in upstream's `equality.Semantic.DeepEqual`: absent and empty lists and
//! maps are equal.

use serde::Serialize;
use serde_json::Value;

/// Names of maps for which absent and empty are equal. Other empty objects are significant
/// (`emptyDir: {}`).
const MAPS: &[&str] = &[
    "labels",
    "annotations",
    "nodeSelector",
    "matchLabels",
    "limits",
    "requests",
    "data",
];

fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| {
                prune(value);
                match value {
                    Value::Null => false,
                    Value::Array(items) => !items.is_empty(),
                    Value::Object(fields) => !(fields.is_empty() && MAPS.contains(&key.as_str())),
                    _ => true,
                }
            });
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

/// Returns whether two values are semantically equal.
pub fn equal<T: Serialize + PartialEq>(a: &T, b: &T) -> bool {
    if a == b {
        return true;
    }
    let tree = |value: &T| {
        let mut tree = rkube_client::instances::tree(value).unwrap_or_default();
        prune(&mut tree);
        tree
    };
    tree(a) == tree(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn empty_is_absent_for_lists_and_known_maps() {
        assert!(equal(&json!({"args": [], "labels": {}}), &json!({})));
        assert!(!equal(&json!({"emptyDir": {}}), &json!({})));
        assert!(!equal(&json!({"args": ["a"]}), &json!({})));
    }
}
