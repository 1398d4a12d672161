use serde_json::json;

use super::super::wire::{Field, Reader};
use super::*;

/// Returns the message at a path of field numbers.
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
    assert!(accepted(REQUESTED_MEDIA_TYPES[0]) && !accepted("application/json, */*"));
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
