//! The set of fields of a tree.

use serde_json::{Map, Value};

use crate::apply::field_type::field_type;
use crate::apply::path::PathElement;
use crate::apply::set::FieldSet;
use crate::schema::Type;

use super::atom::{Atom, atom, index_items};

/// Returns the paths of all fields that a tree has.
pub(in crate::apply) fn field_set(ty: Option<Type<'_>>, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    collect(ty, value, &mut Vec::new(), &mut set);
    set
}

fn collect(ty: Option<Type<'_>>, value: &Value, path: &mut Vec<PathElement>, set: &mut FieldSet) {
    match (atom(ty, value), value) {
        (Atom::Scalar | Atom::Map { atomic: true } | Atom::List { associative: false }, _) => {
            set.insert(path)
        }
        (Atom::Map { .. }, Value::Object(map)) => {
            for (key, value) in map {
                let (below, declared) = field_type(ty, key);
                path.push(PathElement::field(key));
                collect(below, value, path, set);
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                if empty || !declared {
                    set.insert(path);
                }
                path.pop();
            }
        }
        (Atom::List { .. }, Value::Array(items)) => {
            let Some(ty) = ty else { return };
            for (step, items) in index_items(ty, items).1 {
                path.push(step);
                if let [item] = items[..] {
                    collect(ty.element(), item, path, set);
                }
                set.insert(path);
                path.pop();
            }
        }
        // A value of the wrong type has no fields.
        _ => {}
    }
}
