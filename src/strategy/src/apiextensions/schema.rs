//! Validation of the schemas in definitions of custom resources.
//!
//! Three passes, as upstream has them: keywords that are not supported or contradict each
//! other, structurality (a node's type is never only implied), and completeness (what a
//! combination validates is also declared). Defaults, patterns and rules are checked by the
//! API server, which has what they need.

use serde_json::{Map, Value, json};

use crate::errors::{Errors, child, index};
use crate::tree::{at, flag, has, list, text};

/// The place of a node: at the root, as an item of a list, or as a field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// The keywords that combine schemas.
const COMBINATIONS: [&str; 3] = ["anyOf", "allOf", "oneOf"];

/// Keywords that must not be in a schema.
const UNSUPPORTED: [&str; 6] = [
    "id",
    "additionalItems",
    "patternProperties",
    "definitions",
    "dependencies",
    "$ref",
];

/// Keywords that a root may have if the status is a subresource, whose part of the schema is
/// then used alone.
const AT_ROOT_WITH_STATUS: [(&str, &str); 22] = [
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    (
        "x-kubernetes-preserve-unknown-fields",
        "XPreserveUnknownFields",
    ),
    ("x-kubernetes-validations", "XValidations"),
];

/// Validates the schema of one version. `has_status` tells whether its status is a
/// subresource.
pub(super) fn validate(errors: &mut Errors, schema: &Value, path: &str, has_status: bool) {
    if has_status {
        let stray = schema
            .as_object()
            .into_iter()
            .flatten()
            .any(|(key, _)| AT_ROOT_WITH_STATUS.iter().all(|(known, _)| known != key));
        if stray {
            let known = AT_ROOT_WITH_STATUS.map(|(_, name)| name).join(" ");
            errors.invalid(
                path,
                schema.clone(),
                format!(
                    "only [{known}] fields are allowed at the root of the schema if the status subresource is enabled"
                ),
            );
        }
    }
    if flag(schema, "nullable") {
        errors.forbidden(
            child(path, "nullable"),
            "nullable cannot be true at the root",
        );
    }
    structural(errors, schema, path, Level::Root);
    let declared = Declared { schema, path };
    complete_combinations(errors, schema, declared, path);
    keywords(errors, schema, path, true, false);
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    at(schema, "properties").as_object().into_iter().flatten()
}

fn property(path: &str, name: &str) -> String {
    format!("{path}.properties[{name}]")
}

/// Checks that a node is structural.
fn structural(errors: &mut Errors, schema: &Value, path: &str, level: Level) {
    let items = at(schema, "items");
    if text(schema, "type") == "array" && items.is_null() {
        errors.required(child(path, "items"), "must be specified");
    }
    if items.is_object() {
        structural(errors, items, &child(path, "items"), Level::Item);
    }
    for (name, inner) in properties(schema) {
        structural(errors, inner, &property(path, name), Level::Field);
    }
    let additional = at(schema, "additionalProperties");
    let at_additional = child(path, "additionalProperties");
    if !additional.is_null() && level == Level::Root {
        errors.forbidden(&at_additional, "must not be used at the root");
    }
    if additional.is_object() {
        structural(errors, additional, &at_additional, Level::Field);
    }
    extensions(errors, schema, path);
    let pattern = int_or_string_pattern(schema);
    combinations(errors, schema, path, pattern);
    node_type(errors, schema, path, level);
    resource(errors, schema, path, level);
}

/// Checks keywords of Kubernetes that exclude each other.
fn extensions(errors: &mut Errors, schema: &Value, path: &str) {
    if !flag(schema, "x-kubernetes-int-or-string") {
        return;
    }
    for key in [
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
    ] {
        if flag(schema, key) {
            errors.invalid(
                child(path, key),
                true,
                "must be false if x-kubernetes-int-or-string is true",
            );
        }
    }
}

fn node_type(errors: &mut Errors, schema: &Value, path: &str, level: Level) {
    let kind = text(schema, "type");
    let at_type = child(path, "type");
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    if embedded && kind != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        if kind.is_empty() {
            errors.required(&at_type, detail);
        } else {
            errors.invalid(&at_type, kind, detail);
        }
    } else if kind.is_empty()
        && !flag(schema, "x-kubernetes-int-or-string")
        && !flag(schema, "x-kubernetes-preserve-unknown-fields")
    {
        let whose = match level {
            Level::Root => "at the root",
            Level::Item => "for specified array items",
            Level::Field => "for specified object fields",
        };
        errors.required(&at_type, format!("must not be empty {whose}"));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.invalid(at_type, kind, "must be object at the root");
    }
}

/// Checks what a resource, at the root or embedded, must and must not declare.
fn resource(errors: &mut Errors, schema: &Value, path: &str, level: Level) {
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    let declared = at(schema, "properties");
    if embedded && has(schema, "additionalProperties") {
        errors.forbidden(
            child(path, "additionalProperties"),
            "must not be used if x-kubernetes-embedded-resource is set",
        );
    }
    if level == Level::Root || embedded {
        for (name, kind) in [
            ("kind", "string"),
            ("apiVersion", "string"),
            ("metadata", "object"),
        ] {
            if let Some(inner) = declared.get(name)
                && text(inner, "type") != kind
            {
                errors.invalid(
                    child(&property(path, name), "type"),
                    text(inner, "type"),
                    format!("must be {kind}"),
                );
            }
        }
    }
    if level == Level::Root
        && let Some(metadata) = declared.get("metadata")
        && restricts_more_than_names(metadata)
    {
        errors.forbidden(
            property(path, "metadata"),
            "must not specify anything other than name and generateName, but metadata is implicitly specified",
        );
    }
    if embedded
        && !flag(schema, "x-kubernetes-preserve-unknown-fields")
        && declared.as_object().is_none_or(Map::is_empty)
    {
        errors.required(
            child(path, "properties"),
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        );
    }
}

fn restricts_more_than_names(metadata: &Value) -> bool {
    metadata
        .as_object()
        .into_iter()
        .flatten()
        .any(|(key, value)| match key.as_str() {
            "type" | "default" => false,
            "properties" => value
                .as_object()
                .into_iter()
                .flatten()
                .any(|(name, _)| !matches!(name.as_str(), "name" | "generateName")),
            _ => true,
        })
}

/// Where a schema has `anyOf` of integer and string, the only types in a combination that are
/// structural.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pattern {
    None,
    AnyOf,
    FirstOfAllOf,
}

fn int_or_string_pattern(schema: &Value) -> Pattern {
    let pattern = json!([{"type": "integer"}, {"type": "string"}]);
    if *at(schema, "anyOf") == pattern {
        return Pattern::AnyOf;
    }
    match list(schema, "allOf").first() {
        Some(first) if *at(first, "anyOf") == pattern => Pattern::FirstOfAllOf,
        _ => Pattern::None,
    }
}

/// Checks the parts of combinations: they validate values and declare nothing.
fn combinations(errors: &mut Errors, schema: &Value, path: &str, pattern: Pattern) {
    for key in COMBINATIONS {
        if key == "anyOf" && pattern == Pattern::AnyOf {
            continue;
        }
        for (i, part) in list(schema, key).iter().enumerate() {
            let inner = match pattern {
                Pattern::FirstOfAllOf if key == "allOf" && i == 0 => Pattern::AnyOf,
                _ => Pattern::None,
            };
            nested(errors, part, &index(&child(path, key), i), inner);
        }
    }
    let not = at(schema, "not");
    if not.is_object() {
        nested(errors, not, &child(path, "not"), Pattern::None);
    }
}

fn nested(errors: &mut Errors, schema: &Value, path: &str, pattern: Pattern) {
    combinations(errors, schema, path, pattern);
    let items = at(schema, "items");
    if items.is_object() {
        nested(errors, items, &child(path, "items"), Pattern::None);
    }
    for (name, inner) in properties(schema) {
        nested(errors, inner, &property(path, name), Pattern::None);
    }
    for (key, detail) in [
        ("type", "must be empty to be structural"),
        ("additionalProperties", "must be undefined to be structural"),
        ("default", "must be undefined to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        (
            "x-kubernetes-list-map-keys",
            "must be empty to be structural",
        ),
        (
            "x-kubernetes-list-type",
            "must be undefined to be structural",
        ),
        (
            "x-kubernetes-map-type",
            "must be undefined to be structural",
        ),
        ("x-kubernetes-validations", "must be empty to be structural"),
    ] {
        if has(schema, key) {
            errors.forbidden(child(path, key), detail);
        }
    }
    for key in [
        "nullable",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-int-or-string",
    ] {
        if flag(schema, key) {
            errors.forbidden(child(path, key), "must be false to be structural");
        }
    }
    if at(schema, "properties").get("metadata").is_some() {
        errors.forbidden(
            property(path, "metadata"),
            "must not be specified in a nested context",
        );
    }
}

/// A node outside of combinations, and its path.
#[derive(Clone, Copy)]
struct Declared<'a> {
    schema: &'a Value,
    path: &'a str,
}

/// Checks that what the combinations of a node validate is declared outside of them.
fn complete_combinations(errors: &mut Errors, part: &Value, declared: Declared<'_>, path: &str) {
    let not = at(part, "not");
    if not.is_object() {
        complete(errors, not, declared, &child(path, "not"));
    }
    for key in COMBINATIONS {
        for (i, inner) in list(part, key).iter().enumerate() {
            complete(errors, inner, declared, &index(&child(path, key), i));
        }
    }
}

fn complete(errors: &mut Errors, part: &Value, declared: Declared<'_>, path: &str) {
    complete_combinations(errors, part, declared, path);
    let mut enter = |inner: &Value, found: &Value, place: String, path: String| {
        if found.is_object() {
            let declared = Declared {
                schema: found,
                path: &place,
            };
            complete(errors, inner, declared, &path);
        } else {
            errors.required(place, format!("because it is defined in {path}"));
        }
    };
    let items = at(part, "items");
    if items.is_object() {
        enter(
            items,
            at(declared.schema, "items"),
            child(declared.path, "items"),
            child(path, "items"),
        );
    }
    for (name, inner) in properties(part) {
        let found = at(declared.schema, "properties").get(name);
        enter(
            inner,
            found.unwrap_or(&Value::Null),
            property(declared.path, name),
            property(path, name),
        );
    }
}

/// Checks a node's keywords, and those of all nodes below it.
fn keywords(errors: &mut Errors, schema: &Value, path: &str, root: bool, in_metadata: bool) {
    unsupported(errors, schema, path, in_metadata);
    let additional = at(schema, "additionalProperties");
    let has_properties = at(schema, "properties")
        .as_object()
        .is_some_and(|map| !map.is_empty());
    if has_properties && !additional.is_null() && *additional != Value::Bool(true) {
        errors.forbidden(
            child(path, "additionalProperties"),
            "additionalProperties and properties are mutual exclusive",
        );
    }
    if *at(schema, "x-kubernetes-preserve-unknown-fields") == Value::Bool(false) {
        errors.invalid(
            child(path, "x-kubernetes-preserve-unknown-fields"),
            false,
            "must be true or undefined",
        );
    }
    map_type(errors, schema, path);
    list_type(errors, schema, path);
    let is_resource = root || flag(schema, "x-kubernetes-embedded-resource");
    for (name, inner) in properties(schema) {
        let meta = is_resource && matches!(name.as_str(), "metadata" | "kind" | "apiVersion");
        keywords(
            errors,
            inner,
            &property(path, name),
            false,
            in_metadata || meta,
        );
    }
    for key in ["additionalProperties", "items", "not"] {
        let inner = at(schema, key);
        if inner.is_object() {
            keywords(errors, inner, &child(path, key), false, in_metadata);
        }
    }
    for key in ["items", "allOf", "oneOf", "anyOf"] {
        for (i, inner) in list(schema, key).iter().enumerate() {
            let path = index(&child(path, key), i);
            keywords(errors, inner, &path, false, in_metadata);
        }
    }
}

fn unsupported(errors: &mut Errors, schema: &Value, path: &str, in_metadata: bool) {
    let kind = text(schema, "type");
    let at_type = child(path, "type");
    if !matches!(
        kind,
        "" | "object" | "array" | "string" | "integer" | "number" | "boolean"
    ) {
        errors.not_supported(
            &at_type,
            kind,
            &["array", "boolean", "integer", "number", "object", "string"],
        );
    }
    for key in UNSUPPORTED {
        if has(schema, key) {
            errors.forbidden(child(path, key), format!("{key} is not supported"));
        }
    }
    if kind == "null" {
        errors.forbidden(
            at_type,
            "type cannot be set to null, use nullable as an alternative",
        );
    }
    if at(schema, "items").is_array() {
        errors.forbidden(
            child(path, "items"),
            "items must be a schema object and not an array",
        );
    }
    if in_metadata && flag(schema, "x-kubernetes-embedded-resource") {
        errors.forbidden(
            child(path, "x-kubernetes-embedded-resource"),
            "must not be used inside of resource meta",
        );
    }
    if flag(schema, "uniqueItems") {
        errors.forbidden(
            child(path, "uniqueItems"),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        );
    }
}

/// Checks that the type is `wanted` where the keyword needs it. Returns whether it is.
fn needs_type(errors: &mut Errors, schema: &Value, path: &str, wanted: &str, key: &str) -> bool {
    let kind = text(schema, "type");
    let detail = format!("must be {wanted} if {key} is specified");
    if kind.is_empty() {
        errors.required(child(path, "type"), detail);
    } else if kind != wanted {
        errors.invalid(child(path, "type"), kind, detail);
    }
    kind == wanted
}

fn map_type(errors: &mut Errors, schema: &Value, path: &str) {
    let key = "x-kubernetes-map-type";
    let Some(kind) = at(schema, key).as_str() else {
        return;
    };
    needs_type(errors, schema, path, "object", key);
    if !matches!(kind, "atomic" | "granular") {
        errors.not_supported(child(path, key), kind, &["atomic", "granular"]);
    }
}

fn list_type(errors: &mut Errors, schema: &Value, path: &str) {
    let key = "x-kubernetes-list-type";
    let kind = at(schema, key).as_str();
    let items = at(schema, "items");
    let keys = at(schema, "x-kubernetes-list-map-keys");
    if let Some(kind) = kind {
        let fits = needs_type(errors, schema, path, "array", key);
        if fits && kind == "set" {
            set_items(errors, items, &child(path, "items"));
        }
        if !matches!(kind, "atomic" | "set" | "map") {
            errors.not_supported(child(path, key), kind, &["atomic", "map", "set"]);
        }
        if matches!(kind, "set" | "map") && flag(items, "nullable") {
            errors.forbidden(
                format!("{path}.items.nullable"),
                format!("cannot be nullable when {key} is {kind}"),
            );
        }
    }
    if keys.as_array().is_some_and(|keys| !keys.is_empty()) && kind != Some("map") {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        match kind {
            None => errors.required(child(path, key), detail),
            Some(kind) => errors.invalid(child(path, key), kind, detail),
        }
    }
    if kind == Some("map") {
        list_map(errors, items, keys, path);
    }
}

fn set_items(errors: &mut Errors, items: &Value, path: &str) {
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let (key, default) = match text(items, "type") {
        "array" => ("x-kubernetes-list-type", "atomic"),
        "object" => ("x-kubernetes-map-type", "granular"),
        _ => return,
    };
    if at(items, key).as_str().unwrap_or(default) != "atomic" {
        errors.invalid(
            child(path, key),
            at(items, "x-kubernetes-list-type").clone(),
            detail,
        );
    }
}

fn list_map(errors: &mut Errors, items: &Value, keys: &Value, path: &str) {
    let at_keys = child(path, "x-kubernetes-list-map-keys");
    let at_items = child(path, "items");
    let names: Vec<&str> = keys
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if names.is_empty() {
        errors.required(
            &at_keys,
            "must not be empty if x-kubernetes-list-type is map",
        );
    }
    match items {
        Value::Null => errors.required(
            &at_items,
            "must have a schema if x-kubernetes-list-type is map",
        ),
        Value::Object(_) => {}
        other => errors.invalid(
            &at_items,
            other.clone(),
            "must only have a single schema if x-kubernetes-list-type is map",
        ),
    }
    if !items.is_object() {
        return;
    }
    let kind = text(items, "type");
    let is_object = kind == "object";
    if !is_object {
        errors.invalid(
            child(&at_items, "type"),
            kind,
            "must be object if parent array's x-kubernetes-list-type is map",
        );
    }
    for (i, name) in names.iter().enumerate() {
        let declared = at(items, "properties").get(*name);
        if is_object {
            if names[..i].contains(name) {
                errors.invalid(&at_keys, keys.clone(), "must not contain duplicate entries");
            }
            if declared.is_none() {
                errors.invalid(
                    &at_keys,
                    keys.clone(),
                    "entries must all be names of item properties",
                );
            }
        }
        let Some(declared) = declared else { continue };
        let place = property(&at_items, name);
        if is_object && matches!(text(declared, "type"), "array" | "object") {
            errors.invalid(
                child(&place, "type"),
                kind,
                "must be a scalar type if parent array's x-kubernetes-list-type is map",
            );
        }
        let required = list(items, "required").iter().any(|r| r == name);
        if !required && !has(declared, "default") {
            errors.required(
                child(&place, "default"),
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            );
        }
        if flag(declared, "nullable") {
            errors.forbidden(
                child(&place, "nullable"),
                "this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
            );
        }
    }
}

/// The formats of strings that are validated, without dashes.
const FORMATS: [&str; 26] = [
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
];

/// Adds the formats of a schema that nothing validates to `found`.
pub(super) fn unknown_formats(schema: &Value, found: &mut std::collections::BTreeSet<String>) {
    let format = text(schema, "format");
    let known = match text(schema, "type") {
        "" | "string" => FORMATS.contains(&format.replace('-', "").as_str()),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    };
    if !format.is_empty() && !known {
        found.insert(format.to_owned());
    }
    for (_, inner) in properties(schema) {
        unknown_formats(inner, found);
    }
    for key in ["additionalProperties", "items", "not"] {
        let inner = at(schema, key);
        if inner.is_object() {
            unknown_formats(inner, found);
        }
    }
    for key in COMBINATIONS {
        for inner in list(schema, key) {
            unknown_formats(inner, found);
        }
    }
}

#[cfg(test)]
mod tests {
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
}
