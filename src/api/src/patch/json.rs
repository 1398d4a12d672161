//! JSON patch, RFC 6902.

use serde_json::Value;

use crate::Object;
use crate::fields::MAX_DEPTH;
use crate::status::Status;

use super::rejected::rejected;

/// The largest number of operations in a patch.
pub const MAX_OPERATIONS: usize = 10_000;

/// Applies a JSON patch. As upstream, a negative index counts from the end of a list.
///
/// # Errors
/// 400 for a malformed patch, 413 for too many operations, 422 for a patch that does not
/// fit the object.
pub fn json_patch(object: &Object, patch: &Object) -> Result<Object, Status> {
    if patch.is_null() {
        return Ok(object.clone());
    }
    let Value::Array(operations) = patch else {
        return Err(Status::bad_request(format!(
            "json: cannot unmarshal {} into Go value of type jsonpatch.Patch",
            match patch {
                Value::Object(_) => "object",
                Value::String(_) => "string",
                Value::Number(_) => "number",
                Value::Bool(_) => "bool",
                _ => "null",
            }
        )));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(Status::request_too_large(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    if operations.iter().any(Value::is_null) {
        return Err(rejected());
    }
    if let Some(other) = operations.iter().find(|o| !o.is_object()) {
        return Err(Status::bad_request(format!(
            "json: cannot unmarshal {other} into Go value of type jsonpatch.Operation"
        )));
    }
    let mut document = object.clone();
    // Each copy may double the document; the budget bounds their sum.
    let mut budget = 3 * 1024 * 1024;
    for operation in operations {
        apply(&mut document, operation, &mut budget).ok_or_else(rejected)?;
    }
    Ok(document)
}

fn apply(document: &mut Value, operation: &Value, budget: &mut usize) -> Option<()> {
    let text = |field: &str| operation.get(field).and_then(Value::as_str);
    let path = pointer(text("path")?)?;
    match text("op")? {
        "add" => add(
            document,
            &path,
            operation.get("value").cloned().unwrap_or(Value::Null),
        ),
        "remove" => remove(document, &path).map(drop),
        "replace" => {
            let value = operation.get("value").cloned().unwrap_or(Value::Null);
            check_depth(&path, &value)?;
            replace(document, &path, value)
        }
        "move" => {
            let from = pointer(text("from")?)?;
            // A value cannot be moved into itself.
            if path.len() > from.len() && path.starts_with(&from) {
                return None;
            }
            let value = remove(document, &from)?;
            check_depth(&path, &value)?;
            add(document, &path, value)
        }
        "copy" => {
            let from = pointer(text("from")?)?;
            // As in the library that upstream uses, a field that is not there is copied as null.
            let value = match find_mut(document, &from).map(|found| found.clone()) {
                Some(found) => found,
                None => {
                    let (_, parent) = from.split_last()?;
                    find_mut(document, parent).filter(|parent| parent.is_object())?;
                    Value::Null
                }
            };
            *budget = budget.checked_sub(value_bytes(&value))?;
            check_depth(&path, &value)?;
            add(document, &path, value)
        }
        "test" => {
            let expected = operation.get("value").unwrap_or(&Value::Null);
            // A missing value compares as null, if its object is there.
            if let Some((_, parent)) = path.split_last() {
                find_mut(document, parent)?;
            }
            let found = find_mut(document, &path);
            let same = found.map_or(expected.is_null(), |found| json_equal(found, expected));
            same.then_some(())
        }
        _ => None,
    }
}

/// Checks the depth of an added value. Copies into themselves could nest a document
/// without bound; the limit is that of the parsers.
fn check_depth(path: &[String], value: &Value) -> Option<()> {
    fn depth(value: &Value) -> usize {
        match value {
            Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
            Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
            _ => 0,
        }
    }
    (path.len() + depth(value) <= MAX_DEPTH).then_some(())
}

/// Estimates the size of a value in bytes.
fn value_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(value_bytes).sum::<usize>(),
        Value::Object(map) => {
            2 + map
                .iter()
                .map(|(k, v)| k.len() + 4 + value_bytes(v))
                .sum::<usize>()
        }
        _ => 8,
    }
}

/// Returns whether two values are equal as JSON, with numbers compared by value.
fn json_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| json_equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, value)| b.get(key).is_some_and(|other| json_equal(value, other)))
        }
        _ => a == b,
    }
}

/// Splits a JSON pointer into its segments. As in the library that upstream uses, what is
/// before the first slash does not count.
fn pointer(text: &str) -> Option<Vec<String>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let steps = text.split_once('/')?.1.split('/');
    Some(
        steps
            .map(|step| step.replace("~1", "/").replace("~0", "~"))
            .collect(),
    )
}

/// Resolves an index into a list of `length`; `end` allows the position after the last
/// item.
fn resolve_index(step: &str, length: usize, end: bool) -> Option<usize> {
    let limit = if end { length + 1 } else { length };
    let index: i64 = step.parse().ok()?;
    let index = if index < 0 {
        index.checked_add(i64::try_from(limit).ok()?)?
    } else {
        index
    };
    usize::try_from(index).ok().filter(|i| *i < limit)
}

fn find_mut<'v>(document: &'v mut Value, path: &[String]) -> Option<&'v mut Value> {
    path.iter().try_fold(document, |value, step| match value {
        Value::Object(map) => map.get_mut(step),
        Value::Array(items) => {
            let at = resolve_index(step, items.len(), false)?;
            items.get_mut(at)
        }
        _ => None,
    })
}

/// Replaces a value. As in the library that upstream uses, and other than RFC 6902 says, a
/// field need not be there if its object is.
fn replace(document: &mut Value, path: &[String], value: Value) -> Option<()> {
    if let Some((last, parent)) = path.split_last()
        && let Some(Value::Object(map)) = find_mut(document, parent)
    {
        map.insert(last.clone(), value);
        return Some(());
    }
    *find_mut(document, path)? = value;
    Some(())
}

fn add(document: &mut Value, path: &[String], value: Value) -> Option<()> {
    // As in the library that upstream uses, the whole document cannot be added.
    let (last, parent) = path.split_last()?;
    match find_mut(document, parent)? {
        Value::Object(map) => {
            map.insert(last.clone(), value);
        }
        Value::Array(items) => {
            let at = if last == "-" {
                items.len()
            } else {
                resolve_index(last, items.len(), true)?
            };
            items.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(document: &mut Value, path: &[String]) -> Option<Value> {
    let (last, parent) = path.split_last()?;
    match find_mut(document, parent)? {
        Value::Object(map) => map.remove(last),
        Value::Array(items) => {
            let at = resolve_index(last, items.len(), false)?;
            Some(items.remove(at))
        }
        _ => None,
    }
}
