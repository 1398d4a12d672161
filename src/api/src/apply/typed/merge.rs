//! Merge of a configuration into a live tree.

use serde_json::{Map, Value};

use crate::apply::field_type::field_type;
use crate::apply::path::PathElement;
use crate::schema::Type;

use super::atom::{Atom, atom, index_items, item_element, items_of};

/// Merges a configuration into a live tree. `None` is an absent value.
pub(in crate::apply) fn merge(
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
            let items = merge_items(ty, items_of(live), items_of(config));
            (!items.is_empty()).then_some(Value::Array(items))
        }
    }
}

/// Merges list items. Items of the configuration keep their order. Items only in the live
/// list keep their position relative to the items of both.
fn merge_items(ty: Type<'_>, live: &[Value], config: &[Value]) -> Vec<Value> {
    let (live_order, live_items) = index_items(ty, live);
    let (config_order, config_items) = index_items(ty, config);
    // Duplicate live items are not merged.
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
                // An item of both that comes later in the configuration.
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
