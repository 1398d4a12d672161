//! Accessors for untyped objects.

use rkube_api::Object;

/// Returns the value at a path of field names.
pub fn at<'a>(object: &'a Object, path: &[&str]) -> Option<&'a Object> {
    let mut here = object;
    for field in path {
        here = here.get(field)?;
    }
    Some(here)
}

/// Returns the string at a path; empty if absent.
pub fn text<'a>(object: &'a Object, path: &[&str]) -> &'a str {
    at(object, path).and_then(Object::as_str).unwrap_or("")
}

/// Returns the boolean at a path, if present.
pub fn flag(object: &Object, path: &[&str]) -> Option<bool> {
    at(object, path).and_then(Object::as_bool)
}

/// Returns the integer at a path, if present.
pub fn int(object: &Object, path: &[&str]) -> Option<i64> {
    at(object, path).and_then(Object::as_i64)
}

/// Returns the items of the array at a path; empty if absent.
pub fn items<'a>(object: &'a Object, path: &[&str]) -> &'a [Object] {
    at(object, path)
        .and_then(Object::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Returns the strings of the array at a path.
pub fn strings<'a>(object: &'a Object, path: &[&str]) -> Vec<&'a str> {
    items(object, path)
        .iter()
        .filter_map(Object::as_str)
        .collect()
}

/// Returns the fields of the map at a path.
pub fn entries<'a>(
    object: &'a Object,
    path: &[&str],
) -> impl Iterator<Item = (&'a str, &'a Object)> {
    at(object, path)
        .and_then(Object::as_object)
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.as_str(), v))
}

/// Returns a string of a map, such as a label or annotation.
pub fn map_text<'a>(object: &'a Object, path: &[&str], key: &str) -> Option<&'a str> {
    at(object, path)?.get(key)?.as_str()
}

/// Returns `metadata.name`; empty if absent.
pub fn name(object: &Object) -> &str {
    text(object, &["metadata", "name"])
}

/// Returns `metadata.namespace`; empty if absent.
pub fn namespace(object: &Object) -> &str {
    text(object, &["metadata", "namespace"])
}

/// Returns `metadata.uid`; empty if absent.
pub fn uid(object: &Object) -> &str {
    text(object, &["metadata", "uid"])
}

/// Returns whether the object has a deletion timestamp.
pub fn is_terminating(object: &Object) -> bool {
    !text(object, &["metadata", "deletionTimestamp"]).is_empty()
}

/// Returns the map at `path`. Creates missing maps and replaces values of other types.
pub fn make_map<'a>(
    object: &'a mut Object,
    path: &[&str],
) -> &'a mut serde_json::Map<String, Object> {
    let mut here = object;
    for field in path {
        if !here.is_object() {
            *here = Object::Object(serde_json::Map::new());
        }
        let map = here.as_object_mut().expect("made a map just above");
        here = map
            .entry((*field).to_owned())
            .or_insert_with(|| Object::Object(serde_json::Map::new()));
    }
    if !here.is_object() {
        *here = Object::Object(serde_json::Map::new());
    }
    here.as_object_mut().expect("made a map just above")
}

/// Returns the array at `path`. Creates it if it is missing.
///
/// # Panics
///
/// Panics if `path` is empty.
pub fn make_array<'a>(object: &'a mut Object, path: &[&str]) -> &'a mut Vec<Object> {
    let (last, parents) = path.split_last().expect("a path has a last field");
    let slot = make_map(object, parents)
        .entry((*last).to_owned())
        .or_insert(Object::Null);
    if !slot.is_array() {
        *slot = Object::Array(Vec::new());
    }
    slot.as_array_mut().expect("made an array just above")
}

/// Returns the field `name` of a part of an object, such as a container.
pub fn name_field(part: &Object) -> &str {
    text(part, &["name"])
}
