//! Validation of values against an OpenAPI v3 schema, with upstream's messages.

use rkube_api::Object;
use rkube_api::schema::{ListType, Structural};
use rkube_api::status::{FieldError, FieldErrorKind};
use rkube_go_regexp::Pattern;
use serde_json::{Map, Value};

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
                } else if schema["additionalProperties"].is_object() && !value.is_null() {
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
        "duration" => {
            rkube_api::duration::parse(text.trim_start_matches('-')).is_some()
                || names_a_duration(text)
        }
        "uri" => is_request_uri(text),
        "hostname" => is_host_name(text),
        "k8s-short-name" => rkube_api::names::dns1123_label(text).is_empty(),
        "k8s-long-name" => rkube_api::names::dns1123_subdomain(text).is_empty(),
        _ => true,
    }
}

/// Returns whether a text contains a number with a unit of time in words, which counts as a
/// duration (`3 days`, `P3D`).
fn names_a_duration(text: &str) -> bool {
    const UNITS: [&[&str]; 8] = [
        &["ns", "nano"],
        &["us", "\u{b5}s", "micro"],
        &["ms", "milli"],
        &["s", "sec"],
        &["m", "min"],
        &["h", "hr", "hour"],
        &["d", "day"],
        &["w", "wk", "week"],
    ];
    let is_unit = |word: &str| {
        let word = word.to_lowercase();
        UNITS.iter().any(|names| {
            names.contains(&word.as_str())
                || names.last().is_some_and(|last| word.starts_with(last))
        })
    };
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        rest = rest[at..].trim_start_matches(|c: char| c.is_ascii_digit());
        let unit: String = rest
            .trim_start()
            .chars()
            .take_while(|c| c.is_ascii_alphabetic() || *c == '\u{b5}')
            .collect();
        if !unit.is_empty() && is_unit(&unit) {
            return true;
        }
    }
    false
}

/// Returns whether a text is an absolute URI or an absolute path, as Go's
/// `url.ParseRequestURI` takes it.
fn is_request_uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return false;
    }
    let has_escapes = text.split('%').skip(1).all(|rest| {
        let digits = rest.as_bytes();
        digits.len() >= 2 && digits[..2].iter().all(u8::is_ascii_hexdigit)
    });
    if text.starts_with('/') {
        return has_escapes;
    }
    let Some((scheme, rest)) = text.split_once(':') else {
        return false;
    };
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    let host = rest.strip_prefix("//").map_or("", |rest| {
        rest.split(['/', '?', '#']).next().unwrap_or_default()
    });
    is_scheme && !host.contains([' ', '<', '>', '"']) && (has_escapes || !rest.starts_with('/'))
}

/// Returns whether a text is the name of an Internet host, in any script.
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_edge = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        label.len() <= 63
            && is_edge(label.chars().next())
            && is_edge(label.chars().last())
            && label.chars().all(|c| c.is_alphanumeric() || c == '-')
    };
    text.len() <= 255 && text.split('.').all(is_label)
}

/// Returns whether a number is a multiple of another, but for the error of the division.
fn is_multiple(number: f64, factor: f64) -> bool {
    const EPSILON: f64 = 1e-9;
    // Small factors are not exact, so that upstream multiplies with their inverse.
    let times = if factor < 1.0 {
        1.0 / factor * number
    } else {
        number / factor
    };
    let whole = times.round();
    times == whole || (times - whole).abs() < EPSILON * (times.abs() + whole.abs())
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
        && !is_multiple(number, factor)
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

/// Validates the embedded objects of a custom resource: type and metadata.
pub fn validate_embedded(
    schema: &Structural,
    value: &Value,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    match value {
        Value::Array(items) => {
            if let Some(schema) = &schema.items {
                for (i, item) in items.iter().enumerate() {
                    validate_embedded(schema, item, &format!("{path}[{i}]"), errors);
                }
            }
        }
        Value::Object(map) => {
            // The root is validated as every object is.
            if schema.resource && !path.is_empty() {
                embedded_type(map, path, errors);
                embedded_metadata(map, path, errors);
            }
            for (name, value) in map {
                if let Some(property) = schema.properties.get(name) {
                    validate_embedded(property, value, &join(path, name), errors);
                } else if let Some(additional) = &schema.additional {
                    validate_embedded(additional, value, &format!("{path}[{name}]"), errors);
                }
            }
        }
        _ => {}
    }
}

fn embedded_type(map: &Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
    for key in ["apiVersion", "kind"] {
        let field = join(path, key);
        let text = match map.get(key) {
            None => {
                errors.push(FieldError::required(field, ""));
                continue;
            }
            Some(Value::String(text)) => text,
            Some(other) => {
                errors.push(FieldError::invalid(
                    field,
                    other.clone(),
                    "must be a string",
                ));
                continue;
            }
        };
        if text.is_empty() {
            errors.push(FieldError::invalid(field, "", "must not be empty"));
        } else if key == "apiVersion" && text.matches('/').count() > 1 {
            let detail = format!("unexpected GroupVersion string: {text}");
            errors.push(FieldError::invalid(field, text.as_str(), detail));
        } else if key == "kind" {
            let wrong = rkube_api::names::dns1035_label(&text.to_lowercase());
            if !wrong.is_empty() {
                let detail = format!(
                    "may have mixed case, but should otherwise match: {}",
                    wrong.join(",")
                );
                errors.push(FieldError::invalid(field, text.as_str(), detail));
            }
        }
    }
}

fn embedded_metadata(map: &Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
    let Some(metadata) = map.get("metadata") else {
        return;
    };
    let mut object = Value::Object(Map::new());
    object["metadata"] = metadata.clone();
    if rkube_api::meta::name(&object).is_empty() {
        // An embedded object needs no name.
        rkube_api::meta::set_name(&mut object, "x");
    }
    let namespaced = !rkube_api::meta::namespace(&object).is_empty();
    let found = rkube_strategy::validate_metadata(
        &object,
        namespaced,
        rkube_strategy::NameRule::PathSegment,
    );
    errors.extend(found.into_iter().map(|mut error| {
        error.field = join(path, &error.field);
        error
    }));
}

#[cfg(test)]
mod tests;
