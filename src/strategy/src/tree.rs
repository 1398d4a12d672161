//! Access to untyped objects with Go's notion of "unset": absent and `null` are equal, and so
//! is the empty string where noted.

use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// Returns the value at a dotted path, `Null` if any step is missing.
pub fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    let mut here = value;
    for step in path.split('.') {
        here = match here.get(step) {
            Some(next) => next,
            None => return &NULL,
        };
    }
    here
}

/// Returns the value at a dotted path for modification, `None` if it is missing or null.
pub fn at_mut<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    let mut here = value;
    for step in path.split('.') {
        here = here.get_mut(step)?;
    }
    (!here.is_null()).then_some(here)
}

/// Returns the string at a path; empty if it is missing or not a string.
pub fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).as_str().unwrap_or_default()
}

/// Returns the integer at a path, `None` if it is missing or not an integer.
pub fn int(value: &Value, path: &str) -> Option<i64> {
    at(value, path).as_i64()
}

/// Returns the boolean at a path; false if it is missing or not a boolean.
pub fn flag(value: &Value, path: &str) -> bool {
    at(value, path).as_bool().unwrap_or_default()
}

/// Returns the list at a path; empty if it is missing or not a list.
pub fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    at(value, path).as_array().map_or(&[], Vec::as_slice)
}

/// Returns the list at a path for modification; empty if it is missing or not a list.
pub fn list_mut<'a>(value: &'a mut Value, path: &str) -> &'a mut [Value] {
    at_mut(value, path)
        .and_then(Value::as_array_mut)
        .map_or(&mut [], Vec::as_mut_slice)
}

/// Returns the map at a path, `None` if it is missing or not a map.
pub fn map<'a>(value: &'a Value, path: &str) -> Option<&'a Map<String, Value>> {
    at(value, path).as_object()
}

/// Returns the entries of the map at a path; none if it is missing or not a map.
pub fn entries<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    map(value, path).into_iter().flatten()
}

/// Returns whether the value at a path exists and is not null.
pub fn has(value: &Value, path: &str) -> bool {
    !at(value, path).is_null()
}

/// Returns the map at a path. Creates missing maps and replaces values that are not maps.
pub fn ensure<'a>(value: &'a mut Value, path: &str) -> &'a mut Map<String, Value> {
    let mut here = value;
    for step in path.split('.') {
        here = as_map(here).entry(step).or_insert(Value::Null);
    }
    as_map(here)
}

/// Returns a value as a map; replaces it with an empty map if it is not one.
pub fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made a map above"),
    }
}

/// Sets a field of a map; does nothing if the value is not a map.
pub fn set(value: &mut Value, key: &str, to: impl Into<Value>) {
    if let Value::Object(map) = value {
        map.insert(key.to_owned(), to.into());
    }
}

/// Sets the field at a dotted path. Creates missing maps and replaces values that are not maps.
pub fn put(value: &mut Value, path: &str, to: impl Into<Value>) {
    match path.rsplit_once('.') {
        Some((parent, key)) => {
            ensure(value, parent).insert(key.to_owned(), to.into());
        }
        None => {
            as_map(value).insert(path.to_owned(), to.into());
        }
    }
}

/// Removes the field at a dotted path and returns it.
pub fn remove(value: &mut Value, path: &str) -> Option<Value> {
    let (parent, key) = match path.rsplit_once('.') {
        Some((parent, key)) => (at_mut(value, parent)?, key),
        None => (value, path),
    };
    parent.as_object_mut()?.remove(key)
}

/// Sets the field at a path of `new` to its value in `old`; removes it if unset there.
pub fn keep(new: &mut Value, old: &Value, path: &str) {
    match at(old, path) {
        Value::Null => {
            remove(new, path);
        }
        kept => put(new, path, kept.clone()),
    }
}

/// Sets a string field if it is unset or empty.
pub fn default_text(value: &mut Value, key: &str, to: &str) {
    if let Value::Object(map) = value
        && map
            .get(key)
            .and_then(Value::as_str)
            .is_none_or(str::is_empty)
    {
        map.insert(key.to_owned(), to.into());
    }
}

/// Sets a field if it is unset (a pointer in Go).
pub fn default_value(value: &mut Value, key: &str, to: impl Into<Value>) {
    if let Value::Object(map) = value
        && map.get(key).is_none_or(Value::is_null)
    {
        map.insert(key.to_owned(), to.into());
    }
}

/// Sets a number field if it is unset or zero (a plain integer in Go).
pub fn default_number(value: &mut Value, key: &str, to: i64) {
    if let Value::Object(map) = value
        && map.get(key).and_then(Value::as_i64).is_none_or(|n| n == 0)
    {
        map.insert(key.to_owned(), to.into());
    }
}

/// Returns whether a value is null, an empty string, an empty list or an empty map.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(m) => m.is_empty(),
        _ => false,
    }
}

/// Returns whether two values are equal in the sense of `equality.Semantic.DeepEqual`: unset and
/// empty values are equal.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.iter()
                .all(|(key, value)| same(value, b.get(key).unwrap_or(&NULL)))
                && b.iter()
                    .all(|(key, value)| a.contains_key(key) || is_empty(value))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        _ => a == b || (is_empty(a) && is_empty(b)),
    }
}

/// Returns whether the values at a path are equal; see [`same`].
pub fn same_at(a: &Value, b: &Value, path: &str) -> bool {
    same(at(a, path), at(b, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unset_and_empty_are_the_same() {
        assert!(same(&json!({"a": {}, "b": null}), &json!({"c": []})));
        assert!(!same(&json!({"a": 0}), &json!({})));
        assert!(!same(&json!([1, 2]), &json!([2, 1])));
    }

    #[test]
    fn paths_read_and_write() {
        let mut v = json!({"a": null});
        put(&mut v, "a.b.c", 1);
        assert_eq!(int(&v, "a.b.c"), Some(1));
        assert_eq!(remove(&mut v, "a.b.c"), Some(json!(1)));
        assert!(!has(&v, "a.b.c"));
        assert!(has(&v, "a.b"));
    }
}
