//! Equality as upstream's semantic deep-equal sees it: an absent list or map
//! is an empty one.

use serde::Serialize;
use serde_json::Value;

/// Maps of which absence and emptiness mean the same. Other empty objects are
/// meaningful (`emptyDir: {}`).
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

/// Whether two values mean the same.
pub fn equal<T: Serialize + PartialEq>(a: &T, b: &T) -> bool {
    if a == b {
        return true;
    }
    let tree = |value: &T| {
        let mut tree = serde_json::to_value(value).unwrap_or_default();
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
