//! The OpenAPI v2 document in protobuf form, which kubectl asks for, and takes
//! in no other, when it meets a kind that it does not find in OpenAPI v3.
//!
//! The messages are those of gnostic's `OpenAPIv2.proto`. Paths are left out:
//! what clients look up in this form are definitions.

use serde_json::Value;

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

/// What a field of a schema holds.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Texts,
    Flag,
    Integer,
    Number,
    /// Any value, as YAML (of which JSON is a part).
    Any,
    /// Any values.
    Anys,
    /// One type or several.
    Type,
    /// A schema, in a message that could hold several.
    Items,
    /// A schema or a flag.
    SchemaOrFlag,
    Schemas,
    /// Schemas by name.
    Named,
}

/// The fields of the message `Schema`.
const FIELDS: [(&str, u32, Shape); 26] = [
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
    ("allOf", 24, Shape::Schemas),
    ("properties", 25, Shape::Named),
    ("example", 30, Shape::Any),
];

/// The number of `Schema`'s list of fields that begin with `x-`.
const EXTENSIONS: u32 = 31;

/// The document (as JSON has it) in protobuf form.
pub fn encode(document: &Value) -> Vec<u8> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut info = Vec::new();
    put_bytes(&mut info, 1, text(&document["info"]["title"]).as_bytes());
    put_bytes(&mut info, 2, text(&document["info"]["version"]).as_bytes());
    let mut out = Vec::new();
    put_bytes(&mut out, 1, text(&document["swagger"]).as_bytes());
    put_bytes(&mut out, 2, &info);
    put_bytes(&mut out, 9, &named(&document["definitions"]));
    out
}

fn schema(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        if let Some((_, number, shape)) = FIELDS.iter().find(|(name, ..)| name == key) {
            put(&mut out, *number, *shape, value);
        } else if key.starts_with("x-") {
            let mut extension = Vec::new();
            put_bytes(&mut extension, 1, key.as_bytes());
            put_bytes(&mut extension, 2, &any(value));
            put_bytes(&mut out, EXTENSIONS, &extension);
        }
    }
    out
}

fn put(out: &mut Vec<u8>, number: u32, shape: Shape, value: &Value) {
    let items = || value.as_array().into_iter().flatten();
    match shape {
        Shape::Text => put_bytes(out, number, value.as_str().unwrap_or_default().as_bytes()),
        Shape::Texts => items()
            .filter_map(Value::as_str)
            .for_each(|text| put_bytes(out, number, text.as_bytes())),
        Shape::Flag => put_varint(out, number, u64::from(value == true)),
        // Negative numbers are ten bytes long, as protobuf's int64 has them.
        Shape::Integer => put_varint(out, number, value.as_i64().unwrap_or(0) as u64),
        Shape::Number => {
            varint(out, u64::from(number) << 3 | 1);
            out.extend(value.as_f64().unwrap_or(0.0).to_le_bytes());
        }
        Shape::Any => put_bytes(out, number, &any(value)),
        Shape::Anys => items().for_each(|value| put_bytes(out, number, &any(value))),
        Shape::Type => {
            let mut types = Vec::new();
            for name in value
                .as_str()
                .into_iter()
                .chain(items().filter_map(Value::as_str))
            {
                put_bytes(&mut types, 1, name.as_bytes());
            }
            put_bytes(out, number, &types);
        }
        Shape::Items => {
            let mut item = Vec::new();
            put_bytes(&mut item, 1, &schema(value));
            put_bytes(out, number, &item);
        }
        Shape::SchemaOrFlag => {
            let mut item = Vec::new();
            match value.as_bool() {
                Some(flag) => put_varint(&mut item, 2, u64::from(flag)),
                None => put_bytes(&mut item, 1, &schema(value)),
            }
            put_bytes(out, number, &item);
        }
        Shape::Schemas => items().for_each(|value| put_bytes(out, number, &schema(value))),
        Shape::Named => put_bytes(out, number, &named(value)),
    }
}

/// Schemas by name.
fn named(schemas: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in schemas.as_object().into_iter().flatten() {
        let mut entry = Vec::new();
        put_bytes(&mut entry, 1, name.as_bytes());
        put_bytes(&mut entry, 2, &schema(value));
        put_bytes(&mut out, 1, &entry);
    }
    out
}

fn any(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 2, format!("{value}\n").as_bytes());
    out
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_varint(out: &mut Vec<u8>, number: u32, value: u64) {
    varint(out, u64::from(number) << 3);
    varint(out, value);
}

fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
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
}
