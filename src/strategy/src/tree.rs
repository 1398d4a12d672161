//! Reading and writing untyped trees with Go's notion of "unset": absent,
//! `null` and, for strings, empty are the same.

use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// The value at a dotted path, `Null` when any step is missing.
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

/// The same, to be changed; `None` when a step is missing or null.
pub fn at_mut<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    let mut here = value;
    for step in path.split('.') {
        here = here.get_mut(step)?;
    }
    (!here.is_null()).then_some(here)
}

/// The string at a path, empty when unset.
pub fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).as_str().unwrap_or_default()
}

/// The integer at a path.
pub fn int(value: &Value, path: &str) -> Option<i64> {
    at(value, path).as_i64()
}

/// The boolean at a path, false when unset.
pub fn flag(value: &Value, path: &str) -> bool {
    at(value, path).as_bool().unwrap_or_default()
}

/// The list at a path, empty when unset.
pub fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    at(value, path).as_array().map_or(&[], Vec::as_slice)
}

/// The list at a path to be changed, empty when unset.
pub fn list_mut<'a>(value: &'a mut Value, path: &str) -> &'a mut [Value] {
    at_mut(value, path)
        .and_then(Value::as_array_mut)
        .map_or(&mut [], Vec::as_mut_slice)
}

/// The map at a path, `None` when unset.
pub fn map<'a>(value: &'a Value, path: &str) -> Option<&'a Map<String, Value>> {
    at(value, path).as_object()
}

/// The entries of the map at a path.
pub fn entries<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    map(value, path).into_iter().flatten()
}

/// Is there something at the path?
pub fn has(value: &Value, path: &str) -> bool {
    !at(value, path).is_null()
}

/// The map at a path, made when missing.
pub fn ensure<'a>(value: &'a mut Value, path: &str) -> &'a mut Map<String, Value> {
    let mut here = value;
    for step in path.split('.') {
        here = as_map(here).entry(step).or_insert(Value::Null);
    }
    as_map(here)
}

/// `value` as a map, turned into an empty one if it is none.
pub fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made a map above"),
    }
}

/// Sets a field of a map value; other values stay as they are.
pub fn set(value: &mut Value, key: &str, to: impl Into<Value>) {
    if let Value::Object(map) = value {
        map.insert(key.to_owned(), to.into());
    }
}

/// Sets the field at a dotted path, making what is missing above it.
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

/// Makes the field at `path` of `new` what it is in `old`.
pub fn keep(new: &mut Value, old: &Value, path: &str) {
    match at(old, path) {
        Value::Null => {
            remove(new, path);
        }
        kept => put(new, path, kept.clone()),
    }
}

/// Sets a string field that is unset or empty.
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

/// Sets a field that is unset (a pointer in Go).
pub fn default_value(value: &mut Value, key: &str, to: impl Into<Value>) {
    if let Value::Object(map) = value
        && map.get(key).is_none_or(Value::is_null)
    {
        map.insert(key.to_owned(), to.into());
    }
}

/// Sets a number that is unset or zero (a plain integer in Go).
pub fn default_number(value: &mut Value, key: &str, to: i64) {
    if let Value::Object(map) = value
        && map.get(key).and_then(Value::as_i64).is_none_or(|n| n == 0)
    {
        map.insert(key.to_owned(), to.into());
    }
}

/// Is the value Go's zero: null, empty string, empty list or map?
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(m) => m.is_empty(),
        _ => false,
    }
}

/// Equality as `equality.Semantic.DeepEqual` sees it: unset and empty are the
/// same, whichever way they are written.
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

/// Are the fields at a path the same in both?
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
