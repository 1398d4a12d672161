use serde_json::Value;

use super::*;

fn at<'a>(root: Type<'a>, path: &str) -> Type<'a> {
    path.split('.').fold(root, |ty, step| match step {
        "*" => ty.element().expect(path),
        name => {
            ty.field(name)
                .unwrap_or_else(|| panic!("{path}: {name}"))
                .ty
        }
    })
}

#[test]
fn knows_pods() {
    let pod = Type::from(
        Schema::builtin()
            .definition("io.k8s.api.core.v1.Pod")
            .unwrap(),
    );
    assert_eq!(at(pod, "spec.containers").kind(), Kind::Array);
    assert_eq!(at(pod, "spec.containers").list_map_keys(), ["name"]);
    assert_eq!(
        at(pod, "spec.containers.*.ports").list_map_keys(),
        ["containerPort", "protocol"]
    );
    assert_eq!(
        at(pod, "spec.containers.*.ports").merge_key(),
        Some("containerPort")
    );
    assert_eq!(
        at(pod, "spec.containers.*.ports.*").field_default("protocol"),
        Some(Value::from("TCP"))
    );
    assert_eq!(at(pod, "metadata.finalizers").list_type(), ListType::Set);
    assert_eq!(at(pod, "metadata.creationTimestamp").kind(), Kind::Time);
    assert!(at(pod, "spec.nodeSelector").is_atomic_map());
    assert!(at(pod, "spec.volumes").patch_strategy().retain_keys);
    assert_eq!(
        at(pod, "spec.containers.*.resources.limits.*").kind(),
        Kind::Quantity
    );
    assert_eq!(
        at(pod, "spec.containers.*.livenessProbe.httpGet.port").kind(),
        Kind::IntOrString
    );
    assert_eq!(at(pod, "spec").go_name(), "v1.PodSpec");
    assert_eq!(at(pod, "spec.containers").go_name(), "[]v1.Container");
    assert!(pod.field("nope").is_none());
}

#[test]
fn uses_may_override_their_definition() {
    let schema = Schema::builtin();
    let pv = Type::from(
        schema
            .definition("io.k8s.api.core.v1.PersistentVolumeSpec")
            .unwrap(),
    );
    assert!(!at(pv, "claimRef").is_atomic_map());
    let event = Type::from(schema.definition("io.k8s.api.core.v1.Event").unwrap());
    assert!(at(event, "involvedObject").is_atomic_map());
    let deployment = Type::from(
        schema
            .definition("io.k8s.api.apps.v1.DeploymentSpec")
            .unwrap(),
    );
    assert!(at(deployment, "strategy").patch_strategy().retain_keys);
    assert_eq!(Type::from(schema.object_meta()).go_name(), "v1.ObjectMeta");
}
