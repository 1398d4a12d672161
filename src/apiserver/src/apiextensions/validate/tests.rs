use super::*;
use serde_json::json;

#[test]
fn embedded_objects_have_type_and_metadata() {
    let template = json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true});
    let schema = Structural::root(
        &json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "one": template, "many": {"type": "array", "items": template}}}}}),
    );
    let found = |spec: Value| {
        let mut errors = Vec::new();
        validate_embedded(&schema, &json!({"spec": spec}), "", &mut errors);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let good = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": "b"}}});
    assert_eq!(found(json!({"one": good, "many": [good]})), [""; 0]);
    assert_eq!(
        found(json!({"one": {}, "many": [{"apiVersion": "a/b/c", "kind": ""}]})),
        [
            r#"spec.many[0].apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c"#,
            r#"spec.many[0].kind: Invalid value: "": must not be empty"#,
            "spec.one.apiVersion: Required value",
            "spec.one.kind: Required value",
        ]
    );
    let mut bad = good;
    bad["metadata"]["labels"]["a"] = json!("not a label");
    assert!(found(json!({"one": bad}))[0].starts_with("spec.one.metadata.labels: Invalid value"));
}

#[test]
fn formats_are_as_wide_as_upstreams() {
    for (format, text, fits) in [
        ("uri", "https://example.com/a?b", true),
        ("uri", "/a/b", true),
        ("uri", "urn:x", true),
        ("uri", "example.com", false),
        ("uri", "", false),
        ("uri", "http://a b/", false),
        ("hostname", "a.example.com", true),
        ("hostname", "a_b", false),
        ("hostname", "-a", false),
        ("duration", "1h30m", true),
        ("duration", "P3D", true),
        ("duration", "3 weeks", true),
        ("duration", "x", false),
    ] {
        assert_eq!(fits_format(format, text), fits, "{format} {text}");
    }
    let tenths = json!({"type": "number", "multipleOf": 0.1});
    assert_eq!(messages(tenths.clone(), json!(0.3)), [""; 0]);
    assert_eq!(messages(tenths, json!(0.35)).len(), 1);
    let map = json!({"type": "object", "additionalProperties": {"type": "string"}});
    assert_eq!(messages(map, json!({"a": null})), [""; 0]);
}

fn messages(schema: Value, value: Value) -> Vec<String> {
    let mut errors = Vec::new();
    validate(&schema, &value, None, "spec", &mut errors);
    errors
        .iter()
        .map(|e| format!("{}: {}", e.field, e.detail))
        .collect()
}

#[test]
fn says_what_is_wrong_and_where() {
    let schema = json!({
        "type": "object", "required": ["name"],
        "properties": {
            "replicas": {"type": "integer", "minimum": 1, "maximum": 10},
            "name": {"type": "string", "pattern": "^[a-z]+$"},
            "kind": {"enum": ["A", "B"]},
        },
    });
    assert_eq!(
        messages(
            schema.clone(),
            json!({"name": "a", "replicas": 3, "kind": "A"})
        ),
        [""; 0]
    );
    assert_eq!(
        messages(schema.clone(), json!({"name": "a", "replicas": 0})),
        ["spec.replicas: spec.replicas in body should be greater than or equal to 1"]
    );
    assert_eq!(
        messages(schema.clone(), json!({"name": "A"})),
        ["spec.name: spec.name in body should match '^[a-z]+$'"]
    );
    assert_eq!(
        messages(schema.clone(), json!({"name": "a", "replicas": "x"})),
        ["spec.replicas: spec.replicas in body must be of type integer: \"string\""]
    );
    assert_eq!(messages(schema, json!({})).len(), 1);
}

#[test]
fn list_maps_hold_each_key_once() {
    let schema = Structural::root(&json!({"type": "object", "properties": {"l": {
        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
        "items": {"type": "object", "properties": {"k": {"type": "string"}}},
    }}}));
    let mut errors = Vec::new();
    validate_lists(
        &schema,
        &json!({"l": [{"k": "a"}, {"k": "b"}, {"k": "a"}]}),
        "",
        &mut errors,
    );
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].field, "l[2]");
}
