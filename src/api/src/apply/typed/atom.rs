//! The treatment of values by their types.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::apply::path::PathElement;
use crate::schema::{Kind, ListType, Type};

/// The treatment of a value. Without a type it is deduced from the value: maps are merged
/// field by field, lists are atomic.
pub(super) enum Atom {
    /// A value without parts.
    Scalar,
    /// A struct or map.
    Map { atomic: bool },
    /// A list; the items of an associative one are identified by keys or values.
    List { associative: bool },
}

/// Returns how a value without a type is treated.
fn deduced(value: &Value) -> Atom {
    match value {
        Value::Object(_) => Atom::Map { atomic: false },
        Value::Array(_) => Atom::List { associative: false },
        _ => Atom::Scalar,
    }
}

/// Returns whether a type holds any object, which is replaced as a whole.
fn is_raw(ty: Type<'_>) -> bool {
    let Type::Builtin(ty) = ty else { return false };
    ty.definition_name()
        .is_some_and(|name| name.ends_with(".RawExtension"))
}

/// Returns how a value of a type is treated.
pub(super) fn atom(ty: Option<Type<'_>>, value: &Value) -> Atom {
    let Some(ty) = ty else { return deduced(value) };
    match ty.kind() {
        Kind::Object | Kind::Map => Atom::Map {
            atomic: ty.is_atomic_map(),
        },
        Kind::Array => Atom::List {
            associative: ty.list_type() != ListType::Atomic,
        },
        Kind::Any if is_raw(ty) && value.is_object() => Atom::Map { atomic: true },
        Kind::Any | Kind::SchemaOr => deduced(value),
        _ => Atom::Scalar,
    }
}

/// Returns the items of a list; none for any other value.
pub(super) fn items_of(value: Option<&Value>) -> &[Value] {
    value
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// Returns the path element of an item of an associative list.
///
/// # Errors
/// Upstream's message when the item has none.
pub(super) fn item_element(ty: Type<'_>, item: &Value) -> Result<PathElement, String> {
    let keys = ty.list_map_keys();
    if keys.is_empty() {
        return match item {
            Value::Object(_) => {
                Err("associative list without keys has an element that's a map type".into())
            }
            Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
            Value::Null => {
                Err("associative list without keys has an element that's an explicit null".into())
            }
            scalar => Ok(PathElement::Value(scalar.clone())),
        };
    }
    let Value::Object(map) = item else {
        return Err(match item {
            Value::Null => "associative list with keys may not have a null element".into(),
            _ => "associative list with keys may not have non-map elements".into(),
        });
    };
    let element = ty.element();
    let mut found: Vec<(String, Value)> = Vec::with_capacity(keys.len());
    for key in &keys {
        let value = match map.get(*key) {
            Some(value) => Some(value.clone()),
            None => element.and_then(|e| e.field_default(key)),
        };
        if let Some(value) = value {
            found.push(((*key).to_owned(), value));
        }
    }
    if found.is_empty() {
        let quoted: Vec<String> = keys.iter().map(|k| crate::text::quote(k)).collect();
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
            quoted.join(" ")
        ));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(PathElement::Key(found))
}

/// Returns the path elements of a list's items in order, and the items by element. Items
/// without an element are omitted.
pub(super) fn index_items<'v>(
    ty: Type<'_>,
    items: &'v [Value],
) -> (Vec<PathElement>, BTreeMap<PathElement, Vec<&'v Value>>) {
    let mut order = Vec::with_capacity(items.len());
    let mut by_step: BTreeMap<PathElement, Vec<&Value>> = BTreeMap::new();
    for item in items {
        if let Ok(step) = item_element(ty, item) {
            by_step.entry(step.clone()).or_default().push(item);
            order.push(step);
        }
    }
    (order, by_step)
}
