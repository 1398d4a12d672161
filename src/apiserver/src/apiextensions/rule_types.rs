//! CEL type declarations for the schemas of custom resources.

use std::collections::BTreeMap;
use std::sync::Arc;

use rkube_cel::{DeclField, DeclType, MAX_REQUEST_SIZE, Read, Type, escape};
use serde_json::{Value, json};

/// Returns the declared type of a schema; `None` if rules cannot access its values. Missing size
/// limits are derived from the maximum size of a request.
pub fn decl_type(schema: &Value, resource: bool) -> Option<DeclType> {
    let max = |key: &str| schema[key].as_i64().map(|n| n.max(0) as u64);
    if schema["x-kubernetes-int-or-string"] == true {
        let length = max("maxLength").map_or(MAX_REQUEST_SIZE - 2, |n| n.saturating_mul(4));
        return Some(DeclType::simple(Type::Dyn, length, 1));
    }
    match schema["type"].as_str()? {
        "array" => {
            let items = &schema["items"];
            let element = decl_type(items, items["x-kubernetes-embedded-resource"] == true)?;
            let count = max("maxItems").unwrap_or((MAX_REQUEST_SIZE - 2) / (element.min_size + 1));
            let mut list = DeclType::list(Arc::new(element), count);
            list.read = match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => Read::Set,
                Some("map") => Read::ListMap(
                    schema["x-kubernetes-list-map-keys"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(|k| k.as_str().map(str::to_owned))
                        .collect(),
                ),
                _ => Read::Plain,
            };
            Some(list)
        }
        "object" => object(schema, resource),
        "string" => Some(text(schema)),
        "boolean" => Some(DeclType::simple(Type::Bool, 0, 4)),
        "number" => Some(DeclType::simple(Type::Double, 0, 1)),
        "integer" => Some(DeclType::simple(Type::Int, 0, 1)),
        _ => None,
    }
}

fn object(schema: &Value, resource: bool) -> Option<DeclType> {
    let additional = &schema["additionalProperties"];
    if additional.is_object() && !resource {
        let element = decl_type(
            additional,
            additional["x-kubernetes-embedded-resource"] == true,
        )?;
        let count = schema["maxProperties"]
            .as_i64()
            .map_or((MAX_REQUEST_SIZE - 2) / (element.min_size + 6), |n| {
                n.max(0) as u64
            });
        return Some(DeclType::map(Arc::new(element), count));
    }
    let required: Vec<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let mut fields = BTreeMap::new();
    let mut add = |name: &str, property: &Value| {
        let embedded = property["x-kubernetes-embedded-resource"] == true;
        let (Some(ty), Some(escaped)) = (decl_type(property, embedded), escape(name)) else {
            return;
        };
        fields.insert(
            escaped,
            DeclField {
                name: name.to_owned(),
                ty: Arc::new(ty),
                required: required.contains(&name),
                default: property.get("default").filter(|d| !d.is_null()).cloned(),
            },
        );
    };
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        add(name, property);
    }
    if resource {
        let text = json!({"type": "string"});
        add("kind", &text);
        add("apiVersion", &text);
        add(
            "metadata",
            &json!({"type": "object", "properties": {"name": text, "generateName": text}}),
        );
    }
    Some(DeclType::object("object", fields))
}

fn text(schema: &Value) -> DeclType {
    let max = schema["maxLength"].as_i64().map(|n| n.max(0) as u64);
    let simple = |ty, max, min, read| {
        let mut decl = DeclType::simple(ty, max, min);
        decl.read = read;
        decl
    };
    let unbounded = MAX_REQUEST_SIZE - 2;
    match schema["format"].as_str() {
        Some("byte") => simple(Type::Bytes, max.unwrap_or(unbounded), 2, Read::Bytes),
        Some("duration") => simple(Type::Duration, 32, 3, Read::Duration),
        Some("date") => simple(Type::Timestamp, 12, 12, Read::Date),
        Some("date-time") => simple(Type::Timestamp, 32, 21, Read::DateTime),
        _ => {
            let longest = || {
                let values = schema["enum"].as_array().filter(|v| !v.is_empty())?;
                values.iter().filter_map(Value::as_str).map(str::len).max()
            };
            let max = match max {
                // A character may take up to four bytes.
                Some(max) => max.saturating_mul(4),
                None => longest().map_or(unbounded, |n| n as u64),
            };
            DeclType::simple(Type::String, max, 2)
        }
    }
}
