//! Semantic equality as in upstream's `equality.Semantic.DeepEqual`: absent and empty lists and
//! maps are equal.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use rkube_api::fields;
use rkube_api::schema::Schema;
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

/// Returns whether two pod templates are equal in the encoding of the API server. Objects that
/// earlier versions stored may have zeros that it leaves out, and copies of templates in
/// revisions keep them.
pub fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    if a == b {
        return true;
    }
    let ty = Schema::builtin().definition("io.k8s.api.core.v1.PodTemplateSpec");
    let tree = |template: &PodTemplateSpec| {
        let mut tree = rkube_client::instances::tree(template).unwrap_or_default();
        // A value that does not fit the type stays as it is, and differs.
        if let Some(ty) = ty {
            let _ = fields::check(ty, &mut tree);
        }
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
    fn zeros_of_earlier_versions_make_no_other_template() {
        let of = |spec: serde_json::Value| -> PodTemplateSpec {
            serde_json::from_value(serde_json::json!({ "spec": spec })).unwrap()
        };
        let container = |more: serde_json::Value| {
            let mut container = serde_json::json!({"name": "c", "image": "i"});
            let fields = more.as_object().unwrap().clone();
            container.as_object_mut().unwrap().extend(fields);
            container
        };
        let now = of(
            serde_json::json!({"containers": [container(serde_json::json!({
                "volumeMounts": [{"name": "v", "mountPath": "/v"}], "ports": [{"containerPort": 1}],
            }))]}),
        );
        let before = of(serde_json::json!({"hostNetwork": false, "containers": [
            container(serde_json::json!({
                "tty": false,
                "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": false, "subPath": ""}],
                "ports": [{"containerPort": 1, "hostPort": 0}],
            })),
        ]}));
        assert!(!equal(&now, &before));
        assert!(same_template(&now, &before));
        let other = of(serde_json::json!({"hostNetwork": true, "containers": [
            container(serde_json::json!({})),
        ]}));
        assert!(!same_template(&now, &other));
    }

    #[test]
    fn empty_is_absent_for_lists_and_known_maps() {
        assert!(equal(&json!({"args": [], "labels": {}}), &json!({})));
        assert!(!equal(&json!({"emptyDir": {}}), &json!({})));
        assert!(!equal(&json!({"args": ["a"]}), &json!({})));
    }
}
