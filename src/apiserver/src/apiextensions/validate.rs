//! Validation of values against an OpenAPI v3 schema, with upstream's messages.

use rkube_api::Object;
use rkube_api::schema::{ListType, Structural};
use rkube_api::status::{FieldError, FieldErrorKind};
use rkube_go_regexp::Pattern;
use serde_json::Value;

/// Returns the list type of a schema and the keys of a list map.
pub fn list_rule(schema: &Structural) -> (ListType, &[String]) {
    (schema.list_type, &schema.list_map_keys)
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Validates the keywords of an object's root schema that concern the whole object: `required`, and
/// combinations of schemas such as `allOf`.
pub fn validate_root(schema: &Value, object: &Object, errors: &mut Vec<FieldError>) {
    required(schema, object, "", errors);
    combinations(schema, object, "", errors);
}

fn required(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(map) = value.as_object() else { return };
    for name in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !map.contains_key(name) {
            errors.push(FieldError::required(join(path, name), ""));
        }
    }
}

/// Validates a value against a schema. A value that equals its old one is accepted.
pub fn validate(
    schema: &Value,
    value: &Value,
    old: Option<&Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    if old == Some(value) {
        return;
    }
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    let found = type_of(value);
    if schema["x-kubernetes-int-or-string"] == true {
        if !matches!(found, "integer" | "string") {
            let detail = format!("{path} in body must be of type integer,string: {found:?}");
            errors.push(FieldError::type_invalid(path, value.clone(), detail));
            return;
        }
    } else if let Some(wanted) = schema["type"].as_str() {
        let integral = value.as_f64().is_some_and(|n| n.fract() == 0.0);
        let fits = wanted == found
            || wanted == "number" && found == "integer"
            || wanted == "integer" && integral;
        if !fits {
            let detail = format!("{path} in body must be of type {wanted}: {found:?}");
            errors.push(FieldError::type_invalid(path, found, detail));
            return;
        }
    }
    if let Some(values) = schema["enum"].as_array()
        && !values.contains(value)
    {
        let supported: Vec<String> = values
            .iter()
            .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
            .collect();
        errors.push(FieldError::not_supported(path, value.clone(), &supported));
    }
    match value {
        Value::String(text) => string(schema, text, path, errors),
        Value::Number(number) => numeric(
            schema,
            number.as_f64().unwrap_or_default(),
            value,
            path,
            errors,
        ),
        Value::Array(items) => array(schema, items, old, path, errors),
        Value::Object(map) => {
            required(schema, value, path, errors);
            if let Some(max) = schema["maxProperties"]
                .as_u64()
                .filter(|m| map.len() as u64 > *m)
            {
                errors.push(FieldError::too_many(path, map.len(), max as usize));
            }
            if let Some(min) = schema["minProperties"]
                .as_u64()
                .filter(|m| (map.len() as u64) < *m)
            {
                let detail = format!("{path} in body should have at least {min} properties");
                errors.push(FieldError::invalid(path, value.clone(), detail));
            }
            for (name, value) in map {
                let old = old.and_then(|old| old.get(name));
                if let Some(property) = schema["properties"].get(name) {
                    validate(property, value, old, &join(path, name), errors);
                } else if schema["additionalProperties"].is_object() {
                    validate(
                        &schema["additionalProperties"],
                        value,
                        old,
                        &join(path, name),
                        errors,
                    );
                }
            }
        }
        _ => {}
    }
    combinations(schema, value, path, errors);
}

fn combinations(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let fits = |part: &Value| {
        let mut inner = Vec::new();
        validate(part, value, None, path, &mut inner);
        inner.is_empty()
    };
    for part in schema["allOf"].as_array().into_iter().flatten() {
        validate(part, value, None, path, errors);
    }
    let place = if path.is_empty() {
        "\"\"".to_owned()
    } else {
        format!("{path:?}")
    };
    if let Some(parts) = schema["anyOf"].as_array()
        && !parts.iter().any(fits)
    {
        let detail = format!("{place} must validate at least one schema (anyOf)");
        errors.push(FieldError::invalid(path, value.clone(), detail));
    }
    if let Some(parts) = schema["oneOf"].as_array() {
        match parts.iter().filter(|p| fits(p)).count() {
            1 => {}
            n => {
                let found = if n == 0 {
                    "Found none valid".to_owned()
                } else {
                    format!("Found {n} valid alternatives")
                };
                let detail =
                    format!("{place} must validate one and only one schema (oneOf). {found}");
                errors.push(FieldError::invalid(path, value.clone(), detail));
            }
        }
    }
    if schema["not"].is_object() && fits(&schema["not"]) {
        errors.push(FieldError::invalid(
            path,
            value.clone(),
            format!("{place} must not validate the schema (not)"),
        ));
    }
}

fn string(schema: &Value, text: &str, path: &str, errors: &mut Vec<FieldError>) {
    let length = text.chars().count() as u64;
    if let Some(max) = schema["maxLength"].as_u64().filter(|m| length > *m) {
        errors.push(FieldError {
            kind: FieldErrorKind::TooLong,
            ..FieldError::too_long(path, max as usize)
        });
    }
    if let Some(min) = schema["minLength"].as_u64().filter(|m| length < *m) {
        let detail = format!("{path} in body should be at least {min} chars long");
        errors.push(FieldError::invalid(path, text, detail));
    }
    if let Some(pattern) = schema["pattern"].as_str().filter(|p| !p.is_empty()) {
        let wanted = match Pattern::new(pattern) {
            Ok(compiled) if compiled.is_match(text) => None,
            Ok(_) => Some(pattern.to_owned()),
            Err(error) => Some(format!("{pattern}, but pattern is invalid: {error}")),
        };
        if let Some(wanted) = wanted {
            let detail = format!("{path} in body should match '{wanted}'");
            errors.push(FieldError::invalid(path, text, detail));
        }
    }
    if let Some(format) = schema["format"].as_str()
        && !fits_format(format, text)
    {
        errors.push(FieldError::invalid(
            path,
            text,
            format!("{path} in body must be of type {format}: {text:?}"),
        ));
    }
}

fn fits_format(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "uuid" => uuid::Uuid::try_parse(text).is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "byte" => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD
                .decode(text)
                .is_ok()
        }
        "duration" => rkube_api::duration::parse(text.trim_start_matches('-')).is_some(),
        _ => true,
    }
}

fn numeric(schema: &Value, number: f64, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let limit = |key: &str| schema[key].as_f64();
    if let Some(min) = limit("minimum") {
        let exclusive = schema["exclusiveMinimum"] == true;
        if number < min || exclusive && number == min {
            let or_equal = if exclusive { "" } else { " or equal to" };
            let detail = format!("{path} in body should be greater than{or_equal} {min}");
            errors.push(FieldError::invalid(path, value.clone(), detail));
        }
    }
    if let Some(max) = limit("maximum") {
        let exclusive = schema["exclusiveMaximum"] == true;
        if number > max || exclusive && number == max {
            let or_equal = if exclusive { "" } else { " or equal to" };
            let detail = format!("{path} in body should be less than{or_equal} {max}");
            errors.push(FieldError::invalid(path, value.clone(), detail));
        }
    }
    if let Some(factor) = limit("multipleOf").filter(|f| *f != 0.0)
        && (number / factor).fract() != 0.0
    {
        let detail = format!("{path} in body should be a multiple of {factor}");
        errors.push(FieldError::invalid(path, value.clone(), detail));
    }
    let range = match schema["format"].as_str() {
        Some("int32") => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
        _ => None,
    };
    if range.is_some_and(|(min, max)| number < min || number > max) {
        let detail = format!("{path} in body must be of type int32: {value}");
        errors.push(FieldError::invalid(path, value.clone(), detail));
    }
}

fn array(
    schema: &Value,
    items: &[Value],
    old: Option<&Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    if let Some(max) = schema["maxItems"]
        .as_u64()
        .filter(|m| items.len() as u64 > *m)
    {
        errors.push(FieldError::too_many(path, items.len(), max as usize));
    }
    if let Some(min) = schema["minItems"]
        .as_u64()
        .filter(|m| (items.len() as u64) < *m)
    {
        let detail = format!("{path} in body should have at least {min} items");
        errors.push(FieldError::invalid(
            path,
            Value::Array(items.to_vec()),
            detail,
        ));
    }
    if schema["uniqueItems"] == true {
        for (i, item) in items.iter().enumerate() {
            if items[..i].contains(item) {
                errors.push(FieldError::duplicate(format!("{path}[{i}]"), item.clone()));
            }
        }
    }
    if schema["items"].is_object() {
        let keys = (schema["x-kubernetes-list-type"] == "map")
            .then(|| schema["x-kubernetes-list-map-keys"].as_array())
            .flatten();
        for (i, item) in items.iter().enumerate() {
            // Items can only be matched with their old values by keys.
            let was = keys
                .zip(old.and_then(Value::as_array))
                .and_then(|(keys, old)| {
                    let same = |key: &Value, was: &Value| {
                        key.as_str()
                            .is_some_and(|key| was.get(key) == item.get(key))
                    };
                    old.iter().find(|was| keys.iter().all(|key| same(key, was)))
                });
            validate(&schema["items"], item, was, &format!("{path}[{i}]"), errors);
        }
    }
}

/// Rejects duplicate items in sets and list maps.
pub fn validate_lists(
    schema: &Structural,
    value: &Value,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    match value {
        Value::Array(items) => {
            let (list_type, keys) = list_rule(schema);
            let key_of = |item: &Value| -> Option<Vec<Value>> {
                match list_type {
                    ListType::Atomic => None,
                    ListType::Set => Some(vec![item.clone()]),
                    ListType::Map => Some(
                        keys.iter()
                            .map(|k| item.get(k).cloned().unwrap_or_default())
                            .collect(),
                    ),
                }
            };
            let found: Vec<Option<Vec<Value>>> = items.iter().map(key_of).collect();
            for (i, key) in found.iter().enumerate() {
                if key.is_some() && found[..i].contains(key) {
                    let shown = match list_type {
                        ListType::Map => keys
                            .iter()
                            .map(|k| (k.clone(), items[i].get(k).cloned().unwrap_or_default()))
                            .collect(),
                        _ => items[i].clone(),
                    };
                    errors.push(FieldError::duplicate(format!("{path}[{i}]"), shown));
                }
            }
            if let Some(schema) = &schema.items {
                for (i, item) in items.iter().enumerate() {
                    validate_lists(schema, item, &format!("{path}[{i}]"), errors);
                }
            }
        }
        Value::Object(map) => {
            for (name, value) in map {
                let inner = schema.properties.get(name).or(schema.additional.as_deref());
                if let Some(inner) = inner {
                    validate_lists(inner, value, &join(path, name), errors);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
}
