//! Removal of fields from a tree.

use serde_json::{Map, Value};

use crate::apply::field_type::field_type;
use crate::apply::path::PathElement;
use crate::apply::set::FieldSet;
use crate::schema::Type;

use super::atom::{Atom, atom, item_element};

/// Returns the tree without the fields at `places`; `None` if nothing is left.
pub(in crate::apply) fn remove(
    ty: Option<Type<'_>>,
    value: &Value,
    places: &FieldSet,
) -> Option<Value> {
    match (atom(ty, value), value) {
        (Atom::Scalar, _) => Some(value.clone()),
        (Atom::List { associative: true }, Value::Array(items)) => {
            let ty = ty?;
            let left: Vec<Value> = items
                .iter()
                .filter_map(|item| {
                    let Ok(step) = item_element(ty, item) else {
                        return Some(item.clone());
                    };
                    if places.has(&step) {
                        return None;
                    }
                    Some(match places.below(&step) {
                        Some(below) => remove(ty.element(), item, below).unwrap_or(Value::Null),
                        None => item.clone(),
                    })
                })
                .collect();
            (!left.is_empty()).then_some(Value::Array(left))
        }
        (Atom::Map { atomic: false }, Value::Object(map)) => {
            let mut left = Map::new();
            for (key, value) in map {
                let step = PathElement::field(key);
                if places.has(&step) {
                    continue;
                }
                let value = match places.below(&step) {
                    Some(below) => {
                        remove(field_type(ty, key).0, value, below).unwrap_or(Value::Null)
                    }
                    None => value.clone(),
                };
                left.insert(key.clone(), value);
            }
            (!left.is_empty()).then_some(Value::Object(left))
        }
        // Atomic: something inside is to go, so all of it goes.
        _ => None,
    }
}
