//! Comparison of trees.

use serde_json::{Map, Value};

use crate::apply::field_type::field_type;
use crate::apply::path::PathElement;
use crate::apply::set::FieldSet;
use crate::schema::Type;

use super::atom::{Atom, atom, index_items, items_of};

/// The difference between two trees.
#[derive(Clone, Debug, Default)]
pub(in crate::apply) struct Comparison {
    /// Fields only in the first tree.
    pub removed: FieldSet,
    /// Fields with different values.
    pub modified: FieldSet,
    /// Fields only in the second tree.
    pub added: FieldSet,
}

/// Compares two trees.
pub(in crate::apply) fn compare(ty: Option<Type<'_>>, old: &Value, new: &Value) -> Comparison {
    let mut comparison = Comparison::default();
    compare_at(ty, Some(old), Some(new), &mut Vec::new(), &mut comparison);
    comparison
}

fn compare_at(
    ty: Option<Type<'_>>,
    old: Option<&Value>,
    new: Option<&Value>,
    path: &mut Vec<PathElement>,
    out: &mut Comparison,
) {
    // Most subtrees are equal.
    if old == new {
        return;
    }
    // Without a type the sides may be treated differently; then each is walked alone.
    if let (Some(o), Some(n)) = (old, new)
        && std::mem::discriminant(&atom(ty, o)) != std::mem::discriminant(&atom(ty, n))
    {
        compare_side(ty, old, new, o, path, &mut Comparison::default(), out);
        compare_side(ty, old, new, n, path, &mut Comparison::default(), out);
        return;
    }
    let Some(shape) = new.or(old) else { return };
    compare_shape(ty, old, new, shape, path, out);
}

/// Compares values as one of them is treated, and adds the result to `out`.
fn compare_side(
    ty: Option<Type<'_>>,
    old: Option<&Value>,
    new: Option<&Value>,
    shape: &Value,
    path: &mut Vec<PathElement>,
    scratch: &mut Comparison,
    out: &mut Comparison,
) {
    compare_shape(ty, old, new, shape, path, scratch);
    for (from, to) in [
        (&scratch.removed, &mut out.removed),
        (&scratch.modified, &mut out.modified),
        (&scratch.added, &mut out.added),
    ] {
        *to = std::mem::take(to).union(from);
    }
}

fn compare_shape(
    ty: Option<Type<'_>>,
    old: Option<&Value>,
    new: Option<&Value>,
    shape: &Value,
    path: &mut Vec<PathElement>,
    out: &mut Comparison,
) {
    let leaf = |path: &[PathElement], out: &mut Comparison| match (old, new) {
        (None, _) => out.added.insert(path),
        (_, None) => out.removed.insert(path),
        _ => out.modified.insert(path),
    };
    let is_empty = |v: Option<&Value>| match v {
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        _ => true,
    };
    match atom(ty, shape) {
        Atom::Scalar => return leaf(path, out),
        Atom::Map { atomic } => {
            if atomic || is_empty(old) && is_empty(new) {
                return leaf(path, out);
            }
            let (old, new) = (
                old.and_then(Value::as_object),
                new.and_then(Value::as_object),
            );
            let mut visit = |key: &String, out: &mut Comparison| {
                let (below, _) = field_type(ty, key);
                path.push(PathElement::field(key));
                compare_at(
                    below,
                    old.and_then(|o| o.get(key)),
                    new.and_then(|n| n.get(key)),
                    path,
                    out,
                );
                path.pop();
            };
            for key in old.into_iter().flat_map(Map::keys) {
                visit(key, out);
            }
            for key in new.into_iter().flat_map(Map::keys) {
                if !old.is_some_and(|o| o.contains_key(key)) {
                    visit(key, out);
                }
            }
        }
        Atom::List { associative } => {
            if !associative || is_empty(old) && is_empty(new) {
                return leaf(path, out);
            }
            let Some(ty) = ty else { return leaf(path, out) };
            compare_items(ty, items_of(old), items_of(new), path, out);
        }
    }
    if old.is_none() {
        out.added.insert(path);
    } else if new.is_none() {
        out.removed.insert(path);
    }
}

fn compare_items(
    ty: Type<'_>,
    old: &[Value],
    new: &[Value],
    path: &mut Vec<PathElement>,
    out: &mut Comparison,
) {
    let (_, old) = index_items(ty, old);
    let (_, new) = index_items(ty, new);
    let mut steps: Vec<&PathElement> = old.keys().chain(new.keys()).collect();
    steps.sort_unstable();
    steps.dedup();
    for step in steps {
        let before = old.get(step).map(Vec::as_slice).unwrap_or_default();
        let after = new.get(step).map(Vec::as_slice).unwrap_or_default();
        path.push(step.clone());
        match (before, after) {
            ([] | [_], [] | [_]) => {
                compare_at(
                    ty.element(),
                    before.first().copied(),
                    after.first().copied(),
                    path,
                    out,
                );
            }
            // Duplicate items are compared as one.
            ([_, _, ..], [_, _, ..]) => {
                if before != after {
                    out.modified.insert(path);
                }
            }
            ([_, _, ..], _) => {
                if let Some(item) = after.first() {
                    compare_at(ty.element(), None, Some(item), path, out);
                }
                out.removed.insert(path);
            }
            (_, _) => {
                if let Some(item) = before.first() {
                    compare_at(ty.element(), Some(item), None, path, out);
                }
                out.added.insert(path);
            }
        }
        path.pop();
    }
}
