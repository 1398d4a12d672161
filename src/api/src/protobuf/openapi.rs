//! The OpenAPI v2 document in protobuf form, which kubectl before v1.27 reads
//! in no other, and later ones when they meet a kind that they do not find in
//! OpenAPI v3.
//!
//! The messages are those of gnostic's `OpenAPIv2.proto`: what an object of
//! the document's JSON is made of stands in a table a message below.

use serde_json::{Map, Value};

use super::wire::{put_bytes, put_fixed64, put_varint};

/// The media type as clients ask for it; older ones write `@` for the last dot.
const ASKED: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    MEDIA_TYPE,
];

/// The media type of the answer.
pub const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Whether an `Accept` header names this form.
pub fn accepted(accept: &str) -> bool {
    accept
        .split(',')
        .filter_map(|range| range.split(';').next())
        .any(|range| ASKED.contains(&range.trim()))
}

/// What a field holds.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Texts,
    Flag,
    Integer,
    Number,
    /// Any value, as YAML (of which JSON is a part).
    Any,
    Anys,
    /// One type or several.
    Type,
    /// A schema, in a message that could hold several.
    Items,
    /// A schema or a flag.
    SchemaOrFlag,
    /// A schema, or that of a file.
    SchemaItem,
    Message(&'static Message),
    Messages(&'static Message),
    /// Values by name.
    Named(&'static Message),
    /// Texts by name.
    NamedTexts,
    /// Lists of texts by name, as often as the list has items.
    Requirements,
    Parameters,
    Parameter,
    Security,
    Paths,
    Responses,
}

/// The fields of a message, and the number of its list of fields that begin
/// with `x-` (0: it has none).
struct Message {
    fields: &'static [(&'static str, u32, Shape)],
    extensions: u32,
}

macro_rules! message {
    ($(#[$doc:meta])* $name:ident, $extensions:literal, [$(($field:literal, $number:literal, $shape:expr)),* $(,)?]) => {
        $(#[$doc])*
        static $name: Message = Message {
            fields: &[$(($field, $number, $shape)),*],
            extensions: $extensions,
        };
    };
}

message!(
    DOCUMENT,
    16,
    [
        ("swagger", 1, Shape::Text),
        ("info", 2, Shape::Message(&INFO)),
        ("host", 3, Shape::Text),
        ("basePath", 4, Shape::Text),
        ("schemes", 5, Shape::Texts),
        ("consumes", 6, Shape::Texts),
        ("produces", 7, Shape::Texts),
        ("paths", 8, Shape::Paths),
        ("definitions", 9, Shape::Named(&SCHEMA)),
        ("parameters", 10, Shape::Parameters),
        ("responses", 11, Shape::Named(&RESPONSE)),
        ("security", 12, Shape::Requirements),
        ("securityDefinitions", 13, Shape::Security),
        ("tags", 14, Shape::Messages(&TAG)),
        ("externalDocs", 15, Shape::Message(&EXTERNAL_DOCS)),
    ]
);

message!(
    INFO,
    7,
    [
        ("title", 1, Shape::Text),
        ("version", 2, Shape::Text),
        ("description", 3, Shape::Text),
        ("termsOfService", 4, Shape::Text),
        ("contact", 5, Shape::Message(&CONTACT)),
        ("license", 6, Shape::Message(&LICENSE)),
    ]
);

message!(
    CONTACT,
    4,
    [
        ("name", 1, Shape::Text),
        ("url", 2, Shape::Text),
        ("email", 3, Shape::Text),
    ]
);

message!(
    LICENSE,
    3,
    [("name", 1, Shape::Text), ("url", 2, Shape::Text)]
);

message!(
    TAG,
    4,
    [
        ("name", 1, Shape::Text),
        ("description", 2, Shape::Text),
        ("externalDocs", 3, Shape::Message(&EXTERNAL_DOCS)),
    ]
);

message!(
    EXTERNAL_DOCS,
    3,
    [("description", 1, Shape::Text), ("url", 2, Shape::Text),]
);

message!(
    PATH_ITEM,
    10,
    [
        ("$ref", 1, Shape::Text),
        ("get", 2, Shape::Message(&OPERATION)),
        ("put", 3, Shape::Message(&OPERATION)),
        ("post", 4, Shape::Message(&OPERATION)),
        ("delete", 5, Shape::Message(&OPERATION)),
        ("options", 6, Shape::Message(&OPERATION)),
        ("head", 7, Shape::Message(&OPERATION)),
        ("patch", 8, Shape::Message(&OPERATION)),
        ("parameters", 9, Shape::Parameter),
    ]
);

message!(
    OPERATION,
    13,
    [
        ("tags", 1, Shape::Texts),
        ("summary", 2, Shape::Text),
        ("description", 3, Shape::Text),
        ("externalDocs", 4, Shape::Message(&EXTERNAL_DOCS)),
        ("operationId", 5, Shape::Text),
        ("produces", 6, Shape::Texts),
        ("consumes", 7, Shape::Texts),
        ("parameters", 8, Shape::Parameter),
        ("responses", 9, Shape::Responses),
        ("schemes", 10, Shape::Texts),
        ("deprecated", 11, Shape::Flag),
        ("security", 12, Shape::Requirements),
    ]
);

message!(
    BODY_PARAMETER,
    6,
    [
        ("description", 1, Shape::Text),
        ("name", 2, Shape::Text),
        ("in", 3, Shape::Text),
        ("required", 4, Shape::Flag),
        ("schema", 5, Shape::Message(&SCHEMA)),
    ]
);

message!(
    /// Parameters in queries and forms.
    QUERY_PARAMETER, 23, [
    ("required", 1, Shape::Flag),
    ("in", 2, Shape::Text),
    ("description", 3, Shape::Text),
    ("name", 4, Shape::Text),
    ("allowEmptyValue", 5, Shape::Flag),
    ("type", 6, Shape::Text),
    ("format", 7, Shape::Text),
    ("items", 8, Shape::Message(&PRIMITIVES)),
    ("collectionFormat", 9, Shape::Text),
    ("default", 10, Shape::Any),
    ("maximum", 11, Shape::Number),
    ("exclusiveMaximum", 12, Shape::Flag),
    ("minimum", 13, Shape::Number),
    ("exclusiveMinimum", 14, Shape::Flag),
    ("maxLength", 15, Shape::Integer),
    ("minLength", 16, Shape::Integer),
    ("pattern", 17, Shape::Text),
    ("maxItems", 18, Shape::Integer),
    ("minItems", 19, Shape::Integer),
    ("uniqueItems", 20, Shape::Flag),
    ("enum", 21, Shape::Anys),
    ("multipleOf", 22, Shape::Number),
]);

message!(
    /// Parameters in headers and paths.
    PATH_PARAMETER, 22, [
    ("required", 1, Shape::Flag),
    ("in", 2, Shape::Text),
    ("description", 3, Shape::Text),
    ("name", 4, Shape::Text),
    ("type", 5, Shape::Text),
    ("format", 6, Shape::Text),
    ("items", 7, Shape::Message(&PRIMITIVES)),
    ("collectionFormat", 8, Shape::Text),
    ("default", 9, Shape::Any),
    ("maximum", 10, Shape::Number),
    ("exclusiveMaximum", 11, Shape::Flag),
    ("minimum", 12, Shape::Number),
    ("exclusiveMinimum", 13, Shape::Flag),
    ("maxLength", 14, Shape::Integer),
    ("minLength", 15, Shape::Integer),
    ("pattern", 16, Shape::Text),
    ("maxItems", 17, Shape::Integer),
    ("minItems", 18, Shape::Integer),
    ("uniqueItems", 19, Shape::Flag),
    ("enum", 20, Shape::Anys),
    ("multipleOf", 21, Shape::Number),
]);

message!(
    PRIMITIVES,
    18,
    [
        ("type", 1, Shape::Text),
        ("format", 2, Shape::Text),
        ("items", 3, Shape::Message(&PRIMITIVES)),
        ("collectionFormat", 4, Shape::Text),
        ("default", 5, Shape::Any),
        ("maximum", 6, Shape::Number),
        ("exclusiveMaximum", 7, Shape::Flag),
        ("minimum", 8, Shape::Number),
        ("exclusiveMinimum", 9, Shape::Flag),
        ("maxLength", 10, Shape::Integer),
        ("minLength", 11, Shape::Integer),
        ("pattern", 12, Shape::Text),
        ("maxItems", 13, Shape::Integer),
        ("minItems", 14, Shape::Integer),
        ("uniqueItems", 15, Shape::Flag),
        ("enum", 16, Shape::Anys),
        ("multipleOf", 17, Shape::Number),
    ]
);

message!(
    HEADER,
    19,
    [
        ("type", 1, Shape::Text),
        ("format", 2, Shape::Text),
        ("items", 3, Shape::Message(&PRIMITIVES)),
        ("collectionFormat", 4, Shape::Text),
        ("default", 5, Shape::Any),
        ("description", 18, Shape::Text),
    ]
);

message!(
    RESPONSE,
    5,
    [
        ("description", 1, Shape::Text),
        ("schema", 2, Shape::SchemaItem),
        ("headers", 3, Shape::Named(&HEADER)),
    ]
);

message!(
    REFERENCE,
    0,
    [("$ref", 1, Shape::Text), ("description", 2, Shape::Text),]
);

message!(
    SCHEMA,
    31,
    [
        ("$ref", 1, Shape::Text),
        ("format", 2, Shape::Text),
        ("title", 3, Shape::Text),
        ("description", 4, Shape::Text),
        ("default", 5, Shape::Any),
        ("multipleOf", 6, Shape::Number),
        ("maximum", 7, Shape::Number),
        ("exclusiveMaximum", 8, Shape::Flag),
        ("minimum", 9, Shape::Number),
        ("exclusiveMinimum", 10, Shape::Flag),
        ("maxLength", 11, Shape::Integer),
        ("minLength", 12, Shape::Integer),
        ("pattern", 13, Shape::Text),
        ("maxItems", 14, Shape::Integer),
        ("minItems", 15, Shape::Integer),
        ("uniqueItems", 16, Shape::Flag),
        ("maxProperties", 17, Shape::Integer),
        ("minProperties", 18, Shape::Integer),
        ("required", 19, Shape::Texts),
        ("enum", 20, Shape::Anys),
        ("additionalProperties", 21, Shape::SchemaOrFlag),
        ("type", 22, Shape::Type),
        ("items", 23, Shape::Items),
        ("allOf", 24, Shape::Messages(&SCHEMA)),
        ("properties", 25, Shape::Named(&SCHEMA)),
        ("discriminator", 26, Shape::Text),
        ("readOnly", 27, Shape::Flag),
        ("externalDocs", 29, Shape::Message(&EXTERNAL_DOCS)),
        ("example", 30, Shape::Any),
    ]
);

message!(
    BASIC,
    3,
    [("type", 1, Shape::Text), ("description", 2, Shape::Text)]
);

message!(
    API_KEY,
    5,
    [
        ("type", 1, Shape::Text),
        ("name", 2, Shape::Text),
        ("in", 3, Shape::Text),
        ("description", 4, Shape::Text),
    ]
);

message!(
    OAUTH_IMPLICIT,
    6,
    [
        ("type", 1, Shape::Text),
        ("flow", 2, Shape::Text),
        ("scopes", 3, Shape::NamedTexts),
        ("authorizationUrl", 4, Shape::Text),
        ("description", 5, Shape::Text),
    ]
);

message!(
    /// The flows `password` and `application`.
    OAUTH_TOKEN, 6, [
    ("type", 1, Shape::Text),
    ("flow", 2, Shape::Text),
    ("scopes", 3, Shape::NamedTexts),
    ("tokenUrl", 4, Shape::Text),
    ("description", 5, Shape::Text),
]);

message!(
    OAUTH_CODE,
    7,
    [
        ("type", 1, Shape::Text),
        ("flow", 2, Shape::Text),
        ("scopes", 3, Shape::NamedTexts),
        ("authorizationUrl", 4, Shape::Text),
        ("tokenUrl", 5, Shape::Text),
        ("description", 6, Shape::Text),
    ]
);

/// The document (as JSON has it) in protobuf form.
pub fn encode(document: &Value) -> Vec<u8> {
    message(&DOCUMENT, document)
}

fn message(kind: &Message, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in entries(value) {
        if let Some((_, number, shape)) = kind.fields.iter().find(|(name, ..)| name == key) {
            put(&mut out, *number, *shape, value);
        } else if kind.extensions != 0 && key.starts_with("x-") {
            put_bytes(&mut out, kind.extensions, &pair(key, &any(value)));
        }
    }
    out
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A message of a name and a value.
fn pair(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + value.len() + 12);
    put_bytes(&mut out, 1, name.as_bytes());
    put_bytes(&mut out, 2, value);
    out
}

/// A message with one field.
fn wrap(number: u32, inner: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(inner.len() + 6);
    put_bytes(&mut out, number, inner);
    out
}

fn any(value: &Value) -> Vec<u8> {
    wrap(2, format!("{value}\n").as_bytes())
}

/// Pairs, each as field `number`, in a message of their own.
fn pairs(value: &Value, number: u32, one: impl Fn(&Value) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in entries(value) {
        put_bytes(&mut out, number, &pair(name, &one(value)));
    }
    out
}

/// [`pairs`] of what may have extensions between them.
fn pairs_and_extensions(
    value: &Value,
    number: u32,
    extensions: u32,
    one: impl Fn(&Value) -> Vec<u8>,
) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in entries(value) {
        if name.starts_with("x-") {
            put_bytes(&mut out, extensions, &pair(name, &any(value)));
        } else {
            put_bytes(&mut out, number, &pair(name, &one(value)));
        }
    }
    out
}

/// A parameter by where it stands.
fn parameter(value: &Value) -> Vec<u8> {
    match text(&value["in"]) {
        "body" => wrap(1, &message(&BODY_PARAMETER, value)),
        place => {
            let (number, kind) = match place {
                "header" => (1, &PATH_PARAMETER),
                "formData" => (2, &QUERY_PARAMETER),
                "path" => (4, &PATH_PARAMETER),
                _ => (3, &QUERY_PARAMETER),
            };
            wrap(2, &wrap(number, &message(kind, value)))
        }
    }
}

fn security(value: &Value) -> Vec<u8> {
    let (number, kind) = match (text(&value["type"]), text(&value["flow"])) {
        ("basic", _) => (1, &BASIC),
        ("oauth2", "implicit") => (3, &OAUTH_IMPLICIT),
        ("oauth2", "password") => (4, &OAUTH_TOKEN),
        ("oauth2", "application") => (5, &OAUTH_TOKEN),
        ("oauth2", _) => (6, &OAUTH_CODE),
        _ => (2, &API_KEY),
    };
    wrap(number, &message(kind, value))
}

fn put(out: &mut Vec<u8>, number: u32, shape: Shape, value: &Value) {
    match shape {
        Shape::Text => put_bytes(out, number, text(value).as_bytes()),
        Shape::Texts => items(value)
            .filter_map(Value::as_str)
            .for_each(|text| put_bytes(out, number, text.as_bytes())),
        Shape::Flag => put_varint(out, number, u64::from(value == true)),
        // Negative numbers are ten bytes long, as protobuf's int64 has them.
        Shape::Integer => put_varint(out, number, value.as_i64().unwrap_or(0) as u64),
        Shape::Number => put_fixed64(out, number, value.as_f64().unwrap_or(0.0).to_bits()),
        Shape::Any => put_bytes(out, number, &any(value)),
        Shape::Anys => items(value).for_each(|value| put_bytes(out, number, &any(value))),
        Shape::Type => {
            let mut types = Vec::new();
            for name in value
                .as_str()
                .into_iter()
                .chain(items(value).filter_map(Value::as_str))
            {
                put_bytes(&mut types, 1, name.as_bytes());
            }
            put_bytes(out, number, &types);
        }
        Shape::Items => put_bytes(out, number, &wrap(1, &message(&SCHEMA, value))),
        Shape::SchemaOrFlag => {
            let mut item = Vec::new();
            match value.as_bool() {
                Some(flag) => put_varint(&mut item, 2, u64::from(flag)),
                None => put_bytes(&mut item, 1, &message(&SCHEMA, value)),
            }
            put_bytes(out, number, &item);
        }
        Shape::SchemaItem => put_bytes(out, number, &wrap(1, &message(&SCHEMA, value))),
        Shape::Message(kind) => put_bytes(out, number, &message(kind, value)),
        Shape::Messages(kind) => {
            items(value).for_each(|value| put_bytes(out, number, &message(kind, value)));
        }
        Shape::Named(kind) => {
            put_bytes(out, number, &pairs(value, 1, |value| message(kind, value)));
        }
        Shape::NamedTexts => {
            put_bytes(out, number, &pairs(value, 1, |value| text(value).into()));
        }
        Shape::Requirements => {
            for requirement in items(value) {
                let names = pairs(requirement, 1, |scopes| {
                    let mut out = Vec::new();
                    put(&mut out, 1, Shape::Texts, scopes);
                    out
                });
                put_bytes(out, number, &names);
            }
        }
        Shape::Parameters => put_bytes(out, number, &pairs(value, 1, parameter)),
        Shape::Parameter => {
            for item in items(value) {
                let item = match item.get("$ref") {
                    Some(_) => wrap(2, &message(&REFERENCE, item)),
                    None => wrap(1, &parameter(item)),
                };
                put_bytes(out, number, &item);
            }
        }
        Shape::Security => put_bytes(out, number, &pairs(value, 1, security)),
        Shape::Paths => {
            let paths = pairs_and_extensions(value, 2, 1, |value| message(&PATH_ITEM, value));
            put_bytes(out, number, &paths);
        }
        Shape::Responses => {
            put_bytes(out, number, &pairs_and_extensions(value, 1, 2, response));
        }
    }
}

fn response(value: &Value) -> Vec<u8> {
    match value.get("$ref") {
        Some(_) => wrap(2, &message(&REFERENCE, value)),
        None => wrap(1, &message(&RESPONSE, value)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::wire::{Field, Reader};
    use super::*;

    /// Follows numbers into nested messages.
    fn at<'a>(mut bytes: &'a [u8], path: &[u32]) -> &'a [u8] {
        for wanted in path {
            let mut reader = Reader::new(bytes);
            bytes = loop {
                match reader.next().unwrap() {
                    Some((number, Field::Bytes(inner))) if number == *wanted => break inner,
                    Some(_) => {}
                    None => panic!("no field {wanted}"),
                }
            };
        }
        bytes
    }

    #[test]
    fn definitions_are_written() {
        let bytes = encode(&json!({
            "swagger": "2.0", "info": {"title": "t", "version": "v"},
            "definitions": {"A": {
                "type": "object", "required": ["b"],
                "properties": {"b": {"type": "array", "items": {"$ref": "#/definitions/B"}}},
                "additionalProperties": {"type": "string"},
                "x-kubernetes-group-version-kind": [{"group": "", "kind": "A", "version": "v1"}],
            }},
        }));
        assert_eq!(at(&bytes, &[1]), b"2.0");
        assert_eq!(at(&bytes, &[9, 1, 1]), b"A");
        let a = at(&bytes, &[9, 1, 2]);
        assert_eq!(at(a, &[22, 1]), b"object");
        assert_eq!(at(a, &[19]), b"b");
        assert_eq!(at(a, &[25, 1, 2, 23, 1, 1]), b"#/definitions/B");
        assert_eq!(at(a, &[21, 1, 22, 1]), b"string");
        assert_eq!(at(a, &[31, 1]), b"x-kubernetes-group-version-kind");
        assert!(at(a, &[31, 2, 2]).starts_with(b"[{\"group\""));
        assert!(accepted(ASKED[0]) && !accepted("application/json, */*"));
    }

    #[test]
    fn paths_are_written() {
        let bytes = encode(&json!({
            "paths": {"/p/{name}": {
                "get": {
                    "operationId": "readP", "produces": ["application/json"],
                    "parameters": [
                        {"name": "body", "in": "body", "required": true, "schema": {"$ref": "#/definitions/B"}},
                        {"$ref": "#/parameters/x"},
                    ],
                    "responses": {"200": {"description": "OK", "schema": {"type": "string"}}, "401": {"description": "no"}},
                    "x-kubernetes-action": "get",
                },
                "parameters": [{"name": "name", "in": "path", "type": "string", "uniqueItems": true, "required": true}],
            }},
            "parameters": {"x": {"name": "limit", "in": "query", "type": "integer"}},
            "security": [{"BearerToken": []}],
            "securityDefinitions": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header"}},
        }));
        assert_eq!(at(&bytes, &[8, 2, 1]), b"/p/{name}");
        let path = at(&bytes, &[8, 2, 2]);
        let get = at(path, &[2]);
        assert_eq!(at(get, &[5]), b"readP");
        assert_eq!(at(get, &[8, 1, 1, 2]), b"body");
        assert_eq!(at(get, &[8, 1, 1, 5, 1]), b"#/definitions/B");
        assert_eq!(at(get, &[9, 1, 1]), b"200");
        assert_eq!(at(get, &[9, 1, 2, 1, 2, 1, 22, 1]), b"string");
        assert_eq!(at(get, &[13, 1]), b"x-kubernetes-action");
        assert_eq!(at(path, &[9, 1, 2, 4, 4]), b"name");
        assert_eq!(at(&bytes, &[10, 1, 2, 2, 3, 4]), b"limit");
        assert_eq!(at(&bytes, &[12, 1, 1]), b"BearerToken");
        assert_eq!(at(&bytes, &[13, 1, 2, 2, 2]), b"authorization");
    }
}
