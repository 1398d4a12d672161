use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::{Schema, Structural, TypeRef};

fn builtin(name: &str) -> TypeRef {
    Schema::builtin()
        .definition(&format!("io.k8s.api.{name}"))
        .unwrap()
}

#[test]
fn repeated_keys_of_yaml_have_a_place() {
    let text = b"a: 1\nspec:\n  foo: bar\n  x: [{y: 1}]\n  foo: baz\n";
    assert_eq!(
        yaml_duplicate(text).unwrap(),
        "error converting YAML to JSON: yaml: unmarshal errors:\n  line 5: key \"foo\" already set in map"
    );
    assert_eq!(yaml_duplicate(b"a: 1\nb: [1.5, true, null, x]\n"), None);
}

#[test]
fn reports_duplicates() {
    let (object, messages) =
        parse_json(br#"{"a":1,"spec":{"containers":[{"image":"x","image":"y"}]},"a":2}"#).unwrap();
    assert_eq!(
        object,
        json!({"a": 2, "spec": {"containers": [{"image": "y"}]}})
    );
    assert_eq!(
        messages,
        [
            r#"duplicate field "spec.containers[0].image""#,
            r#"duplicate field "a""#
        ]
    );
}

#[test]
fn yaml_is_bounded() {
    let (object, _) = parse_yaml(b"a: 1\nb: [x, {c: null}]\n2: y\n").unwrap();
    assert_eq!(object, json!({"a": 1, "b": ["x", {"c": null}], "2": "y"}));
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        let item = format!("*a{},", i - 1).repeat(10);
        bomb.push_str(&format!("a{i}: &a{i} [{}]\n", item.trim_end_matches(',')));
    }
    assert!(parse_yaml(bomb.as_bytes()).is_err());
    let big = format!("a: &a {}\nb: [{}]", "x".repeat(10_000), "*a,".repeat(5000));
    assert!(parse_yaml(big.as_bytes()).is_err());
}

#[test]
fn depth_is_bounded() {
    let deep = "[".repeat(100_000);
    assert!(parse_json(deep.as_bytes()).is_err());
    assert!(parse_yaml(&deep.as_bytes()[..5000]).is_err());
    let fine = format!("{}{}", "[".repeat(100), "]".repeat(100));
    assert!(parse_json(fine.as_bytes()).is_ok());
}

#[test]
fn drops_unknown_fields() {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "x", "labels": {}, "creationTimestamp": null},
        "spec": {"foo": 1, "containers": [{"name": "c", "bar": {"x": 1}, "resources": {"limits": {"cpu": "1000m"}}}]},
    });
    let messages = check(builtin("core.v1.Pod"), &mut pod).unwrap();
    assert_eq!(
        messages,
        [
            r#"unknown field "spec.containers[0].bar""#,
            r#"unknown field "spec.foo""#
        ]
    );
    assert_eq!(
        pod,
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "status": {},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}]},
        })
    );
    let strict = Validation::Strict.judge(&pod, messages).unwrap_err();
    assert_eq!(
        strict.message,
        r#"Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.containers[0].bar", unknown field "spec.foo""#
    );
}

#[test]
fn words_type_errors_as_go() {
    let error = |kind: &str, object: serde_json::Value| {
        let mut object = object;
        check(builtin(kind), &mut object).unwrap_err().message
    };
    assert_eq!(
        error(
            "apps.v1.Deployment",
            json!({"kind": "Deployment", "apiVersion": "apps/v1", "spec": {"replicas": "3"}})
        ),
        r#"Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"#
    );
    assert_eq!(
        error(
            "core.v1.Pod",
            json!({"spec": {"containers": [{"env": [{"name": "a", "value": 1}]}]}})
        ),
        "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string"
    );
    assert_eq!(
        error("core.v1.Pod", json!({"spec": {"containers": {}}})),
        "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container"
    );
    assert_eq!(
        error("core.v1.Secret", json!({"data": {"a": "!"}})),
        "illegal base64 data at input byte 0"
    );
    assert_eq!(
        error("core.v1.Pod", json!([])),
        "json: cannot unmarshal array into Go value of type v1.Pod"
    );
}

#[test]
fn empty_objects_are_gos() {
    let empty = empty(builtin("apps.v1.Deployment"));
    assert_eq!(
        empty,
        json!({"metadata": {}, "status": {}, "spec": {"strategy": {}, "template": {"metadata": {}, "spec": {}}}})
    );
}

#[test]
fn prunes_custom_resources() {
    let schema = Structural::root(
        &json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "n": {"type": "integer"}, "maybe": {"type": "string", "nullable": true},
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}}}}}}),
    );
    let mut object = json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "n", "zzz": 1},
        "spec": {"n": 1.0, "maybe": null, "open": {"x": {"y": null}}, "list": [{"a": "b", "c": 1}], "un": 1}, "status": {}});
    let messages = check(&schema, &mut object).unwrap();
    assert_eq!(
        messages,
        [
            r#"unknown field "metadata.zzz""#,
            r#"unknown field "spec.list[0].c""#,
            r#"unknown field "spec.un""#,
            r#"unknown field "status""#
        ]
    );
    assert_eq!(
        object["spec"],
        json!({"n": 1, "maybe": null, "open": {"x": {"y": null}}, "list": [{"a": "b"}]})
    );
}

proptest! {
    #![proptest_config(crate::testing::config())]

    #[test]
    fn parsers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}:,&*a\" \n0-9-]{0,80}") {
        let _ = parse_json(&bytes);
        let _ = parse_yaml(&bytes);
        let _ = parse_json(text.as_bytes());
        let _ = parse_yaml(text.as_bytes());
    }

    #[test]
    fn check_is_idempotent_and_never_panics(object in crate::testing::pod_like()) {
        let ty = builtin("core.v1.Pod");
        let mut once = object;
        if check(ty, &mut once).is_ok() {
            let mut twice = once.clone();
            prop_assert_eq!(check(ty, &mut twice).unwrap(), Vec::<String>::new());
            prop_assert_eq!(once, twice);
        }
    }
}
