//! Walks over a tree by its type: which places it has, how two differ, what
//! they merge to, what is left when places go.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::schema::{Kind, ListType, Type};

use super::path::{PathElement, path_text};
use super::set::FieldSet;

/// How a value at some place is treated. Without a type it is deduced from the
/// value: maps field by field, lists as a whole.
enum Atom {
    Scalar,
    Map { atomic: bool },
    List { associative: bool },
}

/// The type of a map's or struct's field, and whether it is declared by name.
pub(super) fn field_type<'a>(ty: Option<Type<'a>>, name: &str) -> (Option<Type<'a>>, bool) {
    let Some(ty) = ty else { return (None, false) };
    match ty.kind() {
        Kind::Object => match ty.field(name) {
            Some(field) => (Some(field.ty), true),
            None => (ty.element(), false),
        },
        Kind::Map => (ty.element(), false),
        _ => (None, false),
    }
}

fn deduced(value: &Value) -> Atom {
    match value {
        Value::Object(_) => Atom::Map { atomic: false },
        Value::Array(_) => Atom::List { associative: false },
        _ => Atom::Scalar,
    }
}

fn atom(ty: Option<Type<'_>>, value: &Value) -> Atom {
    let Some(ty) = ty else { return deduced(value) };
    match ty.kind() {
        Kind::Object | Kind::Map => Atom::Map {
            atomic: ty.is_atomic_map(),
        },
        Kind::Array => Atom::List {
            associative: ty.list_type() != ListType::Atomic,
        },
        Kind::Any | Kind::SchemaOr => deduced(value),
        _ => Atom::Scalar,
    }
}

fn list_of(value: Option<&Value>) -> &[Value] {
    value
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// The step to an item of an associative list.
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

/// Fails where a value does not fit its type, worded as upstream's.
pub(super) fn validate(
    ty: Option<Type<'_>>,
    value: &Value,
    allow_duplicates: bool,
    path: &mut Vec<PathElement>,
) -> Result<(), String> {
    let fail = |path: &[PathElement], what: String| {
        let at = path_text(path);
        Err(if at.is_empty() {
            what
        } else {
            format!("{at}: {what}")
        })
    };
    if value.is_null() {
        return Ok(());
    }
    let Some(known) = ty else { return Ok(()) };
    match atom(ty, value) {
        Atom::Scalar => {
            if value.is_object() || value.is_array() {
                let expected = match known.kind() {
                    Kind::Integer | Kind::Number => "numeric (int or float)",
                    Kind::Boolean => "boolean",
                    Kind::IntOrString | Kind::Quantity => "scalar",
                    _ => "string",
                };
                return fail(path, format!("expected {expected}, got {value}"));
            }
            let wrong = match known.kind() {
                Kind::String | Kind::Bytes | Kind::Time | Kind::MicroTime if !value.is_string() => {
                    "string"
                }
                Kind::Integer | Kind::Number if !value.is_number() => "numeric (int or float)",
                Kind::Boolean if !value.is_boolean() => "boolean",
                _ => return Ok(()),
            };
            fail(path, format!("expected {wrong}, got {}", go_value(value)))
        }
        Atom::Map { .. } => {
            let Value::Object(map) = value else {
                return fail(path, format!("expected map, got {}", go_value(value)));
            };
            for (key, value) in map {
                let (below, declared) = field_type(ty, key);
                path.push(PathElement::field(key));
                if known.kind() == Kind::Object
                    && !declared
                    && below.is_none()
                    && !known.preserves_unknown()
                {
                    return fail(path, "field not declared in schema".into());
                }
                validate(below, value, allow_duplicates, path)?;
                path.pop();
            }
            Ok(())
        }
        Atom::List { associative } => {
            let Value::Array(items) = value else {
                return fail(path, format!("expected list, got {}", go_value(value)));
            };
            let mut seen: Vec<PathElement> = Vec::new();
            for (i, item) in items.iter().enumerate() {
                let step = if associative {
                    match item_element(known, item) {
                        Ok(step) => step,
                        Err(e) => return fail(path, format!("element {i}: {e}")),
                    }
                } else {
                    PathElement::Index(i64::try_from(i).unwrap_or(i64::MAX))
                };
                if associative && !allow_duplicates {
                    if seen.contains(&step) {
                        return fail(path, format!("duplicate entries for key {step}"));
                    }
                    seen.push(step.clone());
                }
                path.push(step);
                validate(known.element(), item, allow_duplicates, path)?;
                path.pop();
            }
            Ok(())
        }
    }
}

fn go_value(value: &Value) -> String {
    match value {
        Value::String(text) => format!(
            "&value.valueUnstructured{{Value:{}}}",
            crate::text::quote(text)
        ),
        other => format!("&value.valueUnstructured{{Value:{other}}}"),
    }
}

/// All places that a tree has.
pub(super) fn field_set(ty: Option<Type<'_>>, value: &Value) -> FieldSet {
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
            for (step, items) in index(ty, items).1 {
                path.push(step);
                if let [item] = items[..] {
                    collect(ty.element(), item, path, set);
                }
                set.insert(path);
                path.pop();
            }
        }
        // Of the wrong type: nothing to own.
        _ => {}
    }
}

/// The steps to a list's items in order, and the items by step. Items that have
/// no step are left out.
fn index<'v>(
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

/// How one tree differs from another.
#[derive(Clone, Debug, Default)]
pub(super) struct Comparison {
    pub removed: FieldSet,
    pub modified: FieldSet,
    pub added: FieldSet,
}

/// What became of `old` in `new`.
pub(super) fn compare(ty: Option<Type<'_>>, old: &Value, new: &Value) -> Comparison {
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
    // Equal subtrees have nothing to say, and most are equal.
    if old == new {
        return;
    }
    // Without a type the two sides may be of different sorts; each is then walked as its own.
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

/// One half of a comparison between values of different sorts.
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
            compare_items(ty, list_of(old), list_of(new), path, out);
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
    let (_, old) = index(ty, old);
    let (_, new) = index(ty, new);
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
            // Items that share a step are compared as one.
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

/// What a configuration makes of a live tree. `None` is nothing at all.
pub(super) fn merge(
    ty: Option<Type<'_>>,
    live: Option<&Value>,
    config: Option<&Value>,
) -> Option<Value> {
    let (shape, config) = match (live, config) {
        (live, None) => return live.cloned(),
        (None, Some(config)) => return Some(config.clone()),
        (Some(_), Some(config)) => (config, Some(config)),
    };
    let is_empty = |v: Option<&Value>| match v {
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        _ => true,
    };
    match atom(ty, shape) {
        Atom::Scalar => config.cloned(),
        Atom::Map { atomic } => {
            if atomic || is_empty(live) && is_empty(config) {
                return config.cloned();
            }
            let (live, config) = (
                live.and_then(Value::as_object),
                config.and_then(Value::as_object),
            );
            let mut out = Map::new();
            for (key, value) in live.into_iter().flatten() {
                let (below, _) = field_type(ty, key);
                if let Some(merged) = merge(below, Some(value), config.and_then(|c| c.get(key))) {
                    out.insert(key.clone(), merged);
                }
            }
            for (key, value) in config.into_iter().flatten() {
                if !live.is_some_and(|l| l.contains_key(key)) {
                    out.insert(key.clone(), value.clone());
                }
            }
            (!out.is_empty()).then_some(Value::Object(out))
        }
        Atom::List { associative } => {
            if !associative || is_empty(live) && is_empty(config) {
                return config.cloned();
            }
            let Some(ty) = ty else { return config.cloned() };
            let items = merge_items(ty, list_of(live), list_of(config));
            (!items.is_empty()).then_some(Value::Array(items))
        }
    }
}

/// Merges list items. Those of the configuration keep their order; those only
/// in the live list stay where they are relative to the items that both have.
fn merge_items(ty: Type<'_>, live: &[Value], config: &[Value]) -> Vec<Value> {
    let (live_order, live_items) = index(ty, live);
    let (config_order, config_items) = index(ty, config);
    // A live item whose step is there twice is not merged with.
    let live_item = |step: &PathElement| match live_items.get(step).map(Vec::as_slice) {
        Some([item]) => Some(*item),
        _ => None,
    };
    let merged = |step: &PathElement| {
        let config = config_items.get(step).and_then(|i| i.first().copied());
        merge(ty.element(), live_item(step), config)
    };
    let live_values: Vec<&Value> = live
        .iter()
        .filter(|item| item_element(ty, item).is_ok())
        .collect();
    let mut shared = config_order
        .iter()
        .filter(|step| live_items.contains_key(*step));
    let mut next_shared = shared.next();
    let mut done: Vec<&PathElement> = Vec::new();
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let (mut l, mut c) = (0, 0);
    while l < live_order.len() || c < config_order.len() {
        if l < live_order.len() && c < config_order.len() {
            let step = &live_order[l];
            if *step == config_order[c] {
                done.push(step);
                out.extend(merged(step));
                l += 1;
                c += 1;
                next_shared = shared.next();
                continue;
            }
            if config_items.contains_key(step) && next_shared.is_some_and(|next| next != step) {
                // Both have it, and it is not its turn.
                l += 1;
                continue;
            }
        }
        if l < live_order.len() {
            let step = &live_order[l];
            if !config_items.contains_key(step) {
                out.push(live_values[l].clone());
                l += 1;
                continue;
            } else if done.contains(&step) {
                l += 1;
            }
        }
        if c < config_order.len() {
            let step = &config_order[c];
            done.push(step);
            out.extend(merged(step));
            c += 1;
            if next_shared == Some(step) {
                next_shared = shared.next();
            }
        }
    }
    out
}

/// The tree without these places. What becomes empty that way goes too: `None`.
pub(super) fn remove(ty: Option<Type<'_>>, value: &Value, places: &FieldSet) -> Option<Value> {
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

/// A field set recorded under an older schema, made to fit this one: places
/// inside what has become atomic are replaced by the atomic place.
pub(super) fn reconcile(ty: Option<Type<'_>>, set: &FieldSet) -> FieldSet {
    let mut remove = FieldSet::default();
    reconcile_at(ty, set, &mut Vec::new(), &mut remove);
    if remove.is_empty() {
        return set.clone();
    }
    set.recursive_difference(&remove).union(&remove)
}

fn reconcile_at(
    ty: Option<Type<'_>>,
    set: &FieldSet,
    path: &mut Vec<PathElement>,
    out: &mut FieldSet,
) {
    let Some(known) = ty else { return };
    for (step, _, children) in set.top() {
        let below = match step {
            PathElement::Field(name) => field_type(ty, name).0,
            _ => known.element(),
        };
        let Some(below) = below else { continue };
        path.push(step.clone());
        if !children.is_empty() {
            let atomic = match below.kind() {
                Kind::Object | Kind::Map => below.is_atomic_map(),
                Kind::Array => below.list_type() == ListType::Atomic,
                _ => false,
            };
            if atomic {
                out.insert(path);
            } else {
                reconcile_at(Some(below), children, path, out);
            }
        }
        path.pop();
    }
}
