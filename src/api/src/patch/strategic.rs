//! Strategic merge patch: a merge patch that merges the items of some lists by a key and
//! has directives for operations that values cannot express.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use crate::Object;
use crate::schema::{Kind, PatchStrategy, Type};
use crate::status::Status;
use crate::text::{go_type, go_value};

use super::rejected::rejected;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Applies a strategic merge patch, with the merge keys and strategies of the type.
///
/// Directives are `$patch: replace|delete|merge`, `$retainKeys`,
/// `$deleteFromPrimitiveList/<list>`, `$setElementOrder/<list>`.
pub fn strategic_merge<'a>(
    ty: impl Into<Type<'a>>,
    object: &Object,
    patch: &Object,
) -> Result<Object, Status> {
    let (Value::Object(original), Value::Object(patch)) = (object, patch) else {
        return Err(Status::bad_request("invalid JSON document"));
    };
    merge_map(Some(ty.into()), original.clone(), patch.clone()).map(Value::Object)
}

fn bad_format(of: &str) -> Status {
    Status::bad_request(format!("invalid patch format of {of}"))
}

/// Returns 500 for a failure that upstream does not convert.
fn internal_failure(message: String) -> Status {
    Status::new(500, "", message)
}

fn no_merge_key(item: &Value, key: &str) -> Status {
    let item = go_value(item);
    internal_failure(format!(
        "map: {item} does not contain declared merge key: {key}"
    ))
}

/// Returns the error for a map with another directive than there is.
fn unknown_directive(map: &Map<String, Value>) -> Status {
    let directive = map.get(PATCH).unwrap_or(&Value::Null);
    let shown = match directive {
        Value::String(text) => text.clone(),
        // Upstream formats it as a string.
        other => format!("%!s({}={})", go_type(other), go_value(other)),
    };
    let map = go_value(&Value::Object(map.clone()));
    internal_failure(format!("unknown patch type: {shown} in map: {map}"))
}

/// The merge rules of a field.
struct FieldRules<'a> {
    ty: Option<Type<'a>>,
    strategy: PatchStrategy,
    merge_key: Option<&'a str>,
}

fn field_rules<'a>(ty: Option<Type<'a>>, field: &str) -> FieldRules<'a> {
    let field = ty.and_then(|ty| match ty.kind() {
        Kind::Map => ty.element(),
        _ => ty.field(field).map(|f| f.ty),
    });
    FieldRules {
        ty: field,
        strategy: field.map(Type::patch_strategy).unwrap_or_default(),
        merge_key: field.and_then(Type::merge_key),
    }
}

fn merge_map(
    ty: Option<Type<'_>>,
    mut original: Map<String, Value>,
    mut patch: Map<String, Value>,
) -> Result<Map<String, Value>, Status> {
    match patch.get(PATCH).map(|directive| directive.as_str()) {
        None | Some(Some("merge")) => {
            patch.remove(PATCH);
        }
        Some(Some("replace")) => {
            patch.remove(PATCH);
            return Ok(patch);
        }
        Some(Some("delete")) => return Ok(Map::new()),
        Some(_) => return Err(unknown_directive(&patch)),
    }
    retain_keys(&mut original, &mut patch)?;
    set_element_order(ty, &mut original, &mut patch)?;

    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_FROM) {
            // As upstream, what is no list is ignored.
            let Value::Array(gone) = value else {
                continue;
            };
            if let Some(Value::Array(items)) = original.get_mut(list) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                let rules = field_rules(ty, &key);
                Some(Value::Object(if rules.strategy.replace {
                    new
                } else {
                    merge_map(rules.ty, old, new)?
                }))
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                let rules = field_rules(ty, &key);
                Some(Value::Array(merge_list(&rules, old, new)?))
            }
            (Some(old), new) if std::mem::discriminant(&old) == std::mem::discriminant(&new) => {
                Some(new)
            }
            (_, new) => strip_directives(new),
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    Ok(original)
}

/// Removes nulls and directives from a new value; `None` if a directive deletes it.
fn strip_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            // Whatever the directive says, there is nothing to merge with.
            if map.contains_key(PATCH) {
                return None;
            }
            let map = map
                .into_iter()
                .filter(|(key, value)| !value.is_null() && !is_directive(key))
                .filter_map(|(key, value)| strip_directives(value).map(|value| (key, value)));
            Some(Value::Object(map.collect()))
        }
        Value::Array(items) => Some(Value::Array(
            items.into_iter().filter_map(strip_directives).collect(),
        )),
        scalar => Some(scalar),
    }
}

fn is_directive(key: &str) -> bool {
    key == PATCH || key == RETAIN_KEYS || key.starts_with(DELETE_FROM) || key.starts_with(SET_ORDER)
}

fn retain_keys(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
) -> Result<(), Status> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::Array(keys) = keys else {
        return Err(bad_format("retainKeys"));
    };
    let named = |key: &str| keys.iter().any(|k| k.as_str() == Some(key));
    let unnamed = patch.iter().any(|(key, value)| {
        !value.is_null()
            && !key.starts_with(DELETE_FROM)
            && !key.starts_with(SET_ORDER)
            && !named(key)
    });
    if unnamed {
        return Err(bad_format("retainKeys"));
    }
    original.retain(|key, _| named(key));
    Ok(())
}

/// Merges the lists whose order the patch defines, and removes them from the patch.
fn set_element_order(
    ty: Option<Type<'_>>,
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
) -> Result<(), Status> {
    let directives: Vec<String> = patch
        .keys()
        .filter(|k| k.starts_with(SET_ORDER))
        .cloned()
        .collect();
    for directive in directives {
        let key = &directive[SET_ORDER.len()..];
        let order = match patch.remove(&directive) {
            Some(Value::Array(order)) => order,
            other => {
                let found = go_type(&other.unwrap_or_default());
                return Err(internal_failure(format!(
                    "expected a []interface {{}}, but received a {found}"
                )));
            }
        };
        let list = |map: &Map<String, Value>| match map.get(key) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items.clone())),
            Some(_) => Err(bad_format("setElementOrder list")),
        };
        let before = list(original)?;
        let change = list(patch)?;
        let rules = field_rules(ty, key);
        check_order(
            change.as_deref().unwrap_or_default(),
            &order,
            rules.merge_key,
        )?;
        let merged = match (&before, change) {
            (Some(before), None) => before.clone(),
            (None, Some(change)) => match strip_directives(Value::Array(change)) {
                Some(Value::Array(items)) => items,
                _ => continue,
            },
            (Some(before), Some(change)) => merge_list(&rules, before.clone(), change)?,
            (None, None) => continue,
        };
        let sorted = sort_items(
            merged,
            &order,
            before.as_deref().unwrap_or_default(),
            rules.merge_key,
        )?;
        original.insert(key.to_owned(), Value::Array(sorted));
        patch.remove(key);
    }
    Ok(())
}

/// Checks that the items of a patch's list are in the order that the patch defines.
fn check_order(change: &[Value], order: &[Value], key: Option<&str>) -> Result<(), Status> {
    let mut rest = order.iter();
    for item in change {
        if item
            .get(PATCH)
            .is_some_and(|p| p.as_str() == Some("delete"))
        {
            continue;
        }
        if item.is_object()
            && item.get(PATCH).is_some()
            && key.is_some_and(|k| item.get(k).is_none())
        {
            // A `$patch: replace` marker.
            continue;
        }
        if !rest.any(|o| same_item(o, item, key)) {
            return Err(internal_failure(format!(
                "The order in patch list:\n{}\n doesn't match {} list:\n{}\n",
                go_value(&Value::from(change.to_vec())),
                SET_ORDER.trim_end_matches('/'),
                go_value(&Value::from(order.to_vec()))
            )));
        }
    }
    Ok(())
}

/// Returns whether two items are the same one: by key for maps, by value for others.
fn same_item(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) if a.is_object() && b.is_object() => match (a.get(key), b.get(key)) {
            (Some(a), Some(b)) => a == b,
            _ => false,
        },
        _ => a == b,
    }
}

fn merge_list(
    rules: &FieldRules<'_>,
    original: Vec<Value>,
    patch: Vec<Value>,
) -> Result<Vec<Value>, Status> {
    if !rules.strategy.merge {
        return Ok(patch);
    }
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    let mut all = original.iter().chain(&patch);
    let maps = all.next().is_some_and(Value::is_object);
    if original
        .iter()
        .chain(&patch)
        .any(|item| item.is_object() != maps)
    {
        return Err(internal_failure(
            "lists of mixed types can't be merged".into(),
        ));
    }
    if original.iter().chain(&patch).any(Value::is_array) {
        // Lists of lists.
        return Err(rejected());
    }
    if !maps {
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for item in original.iter().chain(&patch) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return sort_items(merged, &patch, &original, None);
    }
    let Some(key) = rules.merge_key else {
        return Err(internal_failure(
            "cannot merge lists without merge key".into(),
        ));
    };
    let element = rules.ty.and_then(Type::element);
    let (mut merged, patch) = special_items(original.clone(), patch, key)?;
    for item in &patch {
        let Value::Object(new) = item else { continue };
        let Some(value) = new.get(key) else {
            return Err(no_merge_key(item, key));
        };
        match merged.iter_mut().find(|m| m.get(key) == Some(value)) {
            Some(Value::Object(old)) => {
                let old = std::mem::take(old);
                let result = merge_map(element, old, new.clone())?;
                if let Some(slot) = merged
                    .iter_mut()
                    .find(|m| m.as_object().is_some_and(Map::is_empty))
                {
                    *slot = Value::Object(result);
                }
            }
            _ => merged.extend(strip_directives(item.clone())),
        }
    }
    sort_items(merged, &patch, &original, Some(key))
}

/// Executes the items that are directives. `$patch: delete` removes the items with its
/// key, `$patch: replace` replaces the list with the patch's other items.
fn special_items(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), Status> {
    let mut rest = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        match item.get(PATCH) {
            None => rest.push(item),
            Some(Value::String(directive)) => match directive.as_str() {
                "delete" => {
                    let Some(value) = item.get(key) else {
                        return Err(no_merge_key(&item, key));
                    };
                    original.retain(|o| o.get(key) != Some(value));
                }
                "replace" => replace = true,
                "merge" => {
                    return Err(internal_failure(
                        "merging lists cannot yet be specified in the patch".into(),
                    ));
                }
                _ => return Err(item.as_object().map_or_else(rejected, unknown_directive)),
            },
            Some(_) => return Err(item.as_object().map_or_else(rejected, unknown_directive)),
        }
    }
    if replace {
        Ok((rest, Vec::new()))
    } else {
        Ok((original, rest))
    }
}

/// Sorts merged items: those of the patch by `order`, those only on the server by their
/// previous order. Both are interleaved by the server's order.
fn sort_items(
    merged: Vec<Value>,
    order: &[Value],
    server_order: &[Value],
    key: Option<&str>,
) -> Result<Vec<Value>, Status> {
    if let Some(key) = key
        && let Some(item) = merged
            .iter()
            .chain(order)
            .chain(server_order)
            .find(|i| i.get(key).is_none())
    {
        return Err(no_merge_key(item, key));
    }
    let position = |list: &[Value], item: &Value| list.iter().position(|i| same_item(i, item, key));
    let by = |list: &[Value], a: &Value, b: &Value| match (position(list, a), position(list, b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => Ordering::Equal,
    };
    let (mut patched, mut server): (Vec<Value>, Vec<Value>) = merged
        .into_iter()
        .partition(|item| position(order, item).is_some());
    patched.sort_by(|a, b| by(order, a, b));
    // All of these are in the server's list, so that this is a total order too.
    server.sort_by_key(|item| position(server_order, item));

    let mut out = Vec::with_capacity(patched.len() + server.len());
    let mut patched = patched.into_iter().peekable();
    let mut server = server.into_iter().peekable();
    loop {
        match (server.peek(), patched.peek()) {
            (Some(left), Some(right)) => {
                let before = matches!(
                    (position(server_order, left), position(server_order, right)),
                    (Some(l), Some(r)) if l < r
                );
                out.extend(if before {
                    server.next()
                } else {
                    patched.next()
                });
            }
            (Some(_), None) => out.extend(server.next()),
            (None, Some(_)) => out.extend(patched.next()),
            (None, None) => return Ok(out),
        }
    }
}
