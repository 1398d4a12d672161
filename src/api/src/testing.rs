//! Random trees for property tests: valid enough to reach deep into the code, and
//! random enough to be hostile.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Returns the configuration of property tests. Failures are reproduced from the printed
/// input, and no files are written.
pub fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Returns a strategy for small JSON values of any form.
pub fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..100).prop_map(Value::from),
        Just(json!(1.5)),
        "[a-c]{0,2}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let key = prop_oneof![
            "[a-c]",
            Just("name".to_owned()),
            Just("spec".to_owned()),
            Just("metadata".to_owned()),
            Just("containers".to_owned()),
            Just("ports".to_owned()),
            Just("containerPort".to_owned()),
            Just("labels".to_owned()),
            Just("$patch".to_owned()),
            Just("$retainKeys".to_owned()),
            Just("$setElementOrder/containers".to_owned()),
            Just("$deleteFromPrimitiveList/finalizers".to_owned()),
            Just("finalizers".to_owned()),
            Just("managedFields".to_owned()),
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key, inner), 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Returns a strategy for well-typed pods.
pub fn pod() -> impl Strategy<Value = Value> {
    let labels = proptest::collection::btree_map("[a-c]", "[x-z]", 0..3);
    let ports = proptest::collection::btree_map(1u16..5, "[a-b]", 0..3);
    let container = (
        proptest::option::of("[x-z]"),
        ports,
        proptest::collection::vec("[a-c]", 0..3),
    );
    let containers = proptest::collection::btree_map("[c-e]", container, 0..3);
    let finalizers = proptest::collection::btree_set("[a-d]", 0..3);
    let selector = proptest::option::of(proptest::collection::btree_map("[a-b]", "[x-z]", 1..3));
    (labels, containers, finalizers, selector).prop_map(|(labels, containers, finalizers, selector)| {
        let containers: Vec<Value> = containers
            .into_iter()
            .map(|(name, (image, ports, args))| {
                let mut container = json!({"name": name});
                if let Some(image) = image {
                    container["image"] = image.into();
                }
                if !ports.is_empty() {
                    container["ports"] = ports
                        .into_iter()
                        .map(|(port, name)| json!({"containerPort": port, "protocol": "TCP", "name": name}))
                        .collect();
                }
                if !args.is_empty() {
                    container["args"] = args.into();
                }
                container
            })
            .collect();
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}});
        if !labels.is_empty() {
            pod["metadata"]["labels"] = json!(labels);
        }
        if !finalizers.is_empty() {
            pod["metadata"]["finalizers"] = json!(finalizers);
        }
        if !containers.is_empty() {
            pod["spec"]["containers"] = containers.into();
        }
        if let Some(selector) = selector {
            pod["spec"]["nodeSelector"] = json!(selector);
        }
        pod
    })
}

/// Returns a strategy for pods of which one part may be any value.
pub fn pod_like() -> impl Strategy<Value = Value> {
    (pod(), any_json(), 0..4).prop_map(|(mut pod, wild, place)| {
        match place {
            0 => pod["spec"] = wild,
            1 => pod["metadata"] = wild,
            2 => pod["spec"]["containers"] = json!([wild]),
            _ => {}
        }
        pod
    })
}
