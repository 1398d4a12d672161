//! Validation of the schemas in definitions of custom resources.
//!
//! Three passes, as upstream has them: keywords that are not supported or contradict each
//! other, structurality (a node's type is never only implied), and completeness (what a
//! combination validates is also declared). Defaults, patterns and rules are checked by the
//! API server, which has what they need.

mod lists;
#[cfg(test)]
mod tests;

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

/// The place where a schema has `anyOf` of integer and string, the only types in a combination that
/// are structural.
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
    lists::map_type(errors, schema, path);
    lists::list_type(errors, schema, path);
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
        errors.not_supported_text(
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
