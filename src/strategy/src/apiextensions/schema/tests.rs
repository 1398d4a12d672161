use super::*;

fn found(property: Value) -> Vec<String> {
    of_root(
        json!({"type": "object", "properties": {"a": property}}),
        false,
    )
}

fn of_root(schema: Value, has_status: bool) -> Vec<String> {
    let mut errors = Errors::new();
    validate(&mut errors, &schema, "s", has_status);
    errors.0.iter().map(ToString::to_string).collect()
}

fn keyed(keys: Value, items: Value) -> Value {
    json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys, "items": items})
}

#[test]
fn schemas_are_accepted() {
    for property in [
        json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
        json!({"x-kubernetes-int-or-string": true,
            "allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"pattern": "x"}]}),
        json!({"type": "object", "additionalProperties": {"type": "string"}}),
        json!({"type": "object", "properties": {"b": {"type": "string"}}, "anyOf": [{"required": ["b"]}, {"properties": {"b": {"minLength": 1}}}]}),
        keyed(
            json!(["k"]),
            json!({"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}}}),
        ),
        keyed(
            json!(["k"]),
            json!({"type": "object", "properties": {"k": {"type": "string", "default": "x"}}}),
        ),
        json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}),
        json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object", "x-kubernetes-map-type": "atomic"}}),
    ] {
        assert_eq!(found(property.clone()), Vec::<String>::new(), "{property}");
    }
    let root = json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}}}}});
    assert_eq!(of_root(root, true), Vec::<String>::new());
}

#[test]
fn keywords_are_refused_as_upstream() {
    let a = "s.properties[a]";
    for (property, message) in [
        (
            keyed(
                json!(["k"]),
                json!({"type": "object", "properties": {"k": {"type": "string"}}}),
            ),
            ".items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
        ),
        (
            keyed(json!(["k"]), json!({"type": "object"})),
            r#".x-kubernetes-list-map-keys: Invalid value: ["k"]: entries must all be names of item properties"#,
        ),
        (
            keyed(
                json!(["k"]),
                json!({"type": "object", "required": ["k"], "properties": {"k": {"type": "object"}}}),
            ),
            r#".items.properties[k].type: Invalid value: "object": must be a scalar type if parent array's x-kubernetes-list-type is map"#,
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}}),
            ".items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set",
        ),
        (
            json!({"type": "object", "x-kubernetes-map-type": "foo"}),
            r#".x-kubernetes-map-type: Unsupported value: "foo": supported values: "atomic", "granular""#,
        ),
        (
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": false}),
            ".x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined",
        ),
        (
            json!({"type": "object", "x-kubernetes-embedded-resource": true}),
            ".properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        ),
        (
            json!({"type": "string", "anyOf": [{"type": "string"}]}),
            ".anyOf[0].type: Forbidden: must be empty to be structural",
        ),
        (
            json!({"type": "object", "oneOf": [{"properties": {"b": {"minLength": 1}}}]}),
            ".properties[b]: Required value: because it is defined in s.properties[a].oneOf[0].properties[b]",
        ),
        (
            json!({"type": "array", "items": [{"type": "string"}]}),
            ".items: Forbidden: items must be a schema object and not an array",
        ),
        (
            json!({"type": "object", "patternProperties": {"x": {"type": "string"}}}),
            ".patternProperties: Forbidden: patternProperties is not supported",
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}, "properties": {"b": {"type": "string"}}}),
            ".additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
        ),
        (
            json!({}),
            ".type: Required value: must not be empty for specified object fields",
        ),
    ] {
        // Completeness is only checked from the root on.
        let found = match property.get("oneOf") {
            Some(_) => of_root(property.clone(), false)
                .iter()
                .map(|m| {
                    m.replace("s.oneOf", "s.properties[a].oneOf").replacen(
                        "s.properties[b]",
                        "s.properties[a].properties[b]",
                        1,
                    )
                })
                .collect(),
            None => found(property.clone()),
        };
        let message = format!("{a}{message}");
        assert!(
            found.contains(&message),
            "{property}: {found:?} lacks {message}"
        );
    }
}

#[test]
fn roots_are_restricted() {
    let metadata = json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}});
    assert_eq!(
        of_root(metadata, false),
        [
            "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified"
        ]
    );
    assert!(of_root(json!({"type": "object", "anyOf": []}), false).is_empty());
    let stray = of_root(json!({"type": "object", "anyOf": []}), true);
    assert!(
        stray[0].contains(
            "fields are allowed at the root of the schema if the status subresource is enabled"
        ),
        "{stray:?}"
    );
    let nullable = of_root(json!({"type": "object", "nullable": true}), false);
    assert_eq!(
        nullable,
        ["s.nullable: Forbidden: nullable cannot be true at the root"]
    );
}

#[test]
fn formats_that_nothing_checks_are_named() {
    let mut names = std::collections::BTreeSet::new();
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "string", "format": "nope"}, "b": {"type": "string", "format": "date-time"},
        "c": {"type": "integer", "format": "int64"}, "d": {"type": "number", "format": "int64"}}});
    unknown_formats(&schema, &mut names);
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["int64", "nope"]);
}
