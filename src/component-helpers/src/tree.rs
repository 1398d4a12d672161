//! Accessors for fields of untyped objects.

use rkube_api::Object;

/// Returns the value at a path of field names.
pub fn at<'a>(object: &'a Object, path: &[&str]) -> Option<&'a Object> {
    path.iter()
        .try_fold(object, |current, field| current.get(field))
}

/// Returns the string at a path, or an empty one.
pub fn text<'a>(object: &'a Object, path: &[&str]) -> &'a str {
    at(object, path)
        .and_then(Object::as_str)
        .unwrap_or_default()
}

/// Returns the items of the array at a path, or none.
pub fn items<'a>(object: &'a Object, path: &[&str]) -> &'a [Object] {
    at(object, path)
        .and_then(Object::as_array)
        .map_or(&[], Vec::as_slice)
}
