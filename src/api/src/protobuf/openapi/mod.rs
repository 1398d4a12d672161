//! Encodes the OpenAPI v2 document as protobuf.
//!
//! kubectl before v1.27 reads the document in no other form. Later versions request it
//! for kinds that they do not find in OpenAPI v3.

mod messages;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use super::wire::{put_bytes, put_fixed64, put_varint};
use messages::{
    API_KEY, BASIC, BODY_PARAMETER, DOCUMENT, Message, OAUTH_CODE, OAUTH_IMPLICIT, OAUTH_TOKEN,
    PATH_ITEM, PATH_PARAMETER, QUERY_PARAMETER, REFERENCE, RESPONSE, SCHEMA, Shape,
};

/// The media types that clients request; older clients write `@` for the last dot.
const REQUESTED_MEDIA_TYPES: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    MEDIA_TYPE,
];

/// The media type of the response.
pub const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Returns whether an `Accept` header names this form.
pub fn accepted(accept: &str) -> bool {
    accept
        .split(',')
        .filter_map(|range| range.split(';').next())
        .any(|range| REQUESTED_MEDIA_TYPES.contains(&range.trim()))
}

/// Encodes the document, given as JSON.
pub fn encode(document: &Value) -> Vec<u8> {
    message(&DOCUMENT, document)
}

/// Encodes an object of the document as a message.
fn message(kind: &Message, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in entries(value) {
        if let Some((_, number, shape)) = kind.fields.iter().find(|(name, ..)| name == key) {
            put_field(&mut out, *number, *shape, value);
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

/// Encodes a message of a name and a value.
fn pair(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + value.len() + 12);
    put_bytes(&mut out, 1, name.as_bytes());
    put_bytes(&mut out, 2, value);
    out
}

/// Encodes a message with one field.
fn wrap(number: u32, inner: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(inner.len() + 6);
    put_bytes(&mut out, number, inner);
    out
}

/// Encodes any value as a message with its YAML; JSON is valid YAML.
fn any(value: &Value) -> Vec<u8> {
    wrap(2, format!("{value}\n").as_bytes())
}

/// Encodes a message with the entries of an object, each as field `number`.
fn pairs(value: &Value, number: u32, encode: impl Fn(&Value) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in entries(value) {
        put_bytes(&mut out, number, &pair(name, &encode(value)));
    }
    out
}

/// Encodes [`pairs`] of an object that also has extensions.
fn pairs_and_extensions(
    value: &Value,
    number: u32,
    extensions: u32,
    encode: impl Fn(&Value) -> Vec<u8>,
) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in entries(value) {
        if name.starts_with("x-") {
            put_bytes(&mut out, extensions, &pair(name, &any(value)));
        } else {
            put_bytes(&mut out, number, &pair(name, &encode(value)));
        }
    }
    out
}

/// Encodes a parameter, whose message depends on its location.
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

/// Encodes a security definition, whose message depends on its type and flow.
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

/// Appends a field.
fn put_field(out: &mut Vec<u8>, number: u32, shape: Shape, value: &Value) {
    match shape {
        Shape::Text => put_bytes(out, number, text(value).as_bytes()),
        Shape::Texts => items(value)
            .filter_map(Value::as_str)
            .for_each(|text| put_bytes(out, number, text.as_bytes())),
        Shape::Flag => put_varint(out, number, u64::from(value == true)),
        // An int64 of protobuf: negative numbers take ten bytes.
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
                    put_field(&mut out, 1, Shape::Texts, scopes);
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

/// Encodes a response or a reference to one.
fn response(value: &Value) -> Vec<u8> {
    match value.get("$ref") {
        Some(_) => wrap(2, &message(&REFERENCE, value)),
        None => wrap(1, &message(&RESPONSE, value)),
    }
}
