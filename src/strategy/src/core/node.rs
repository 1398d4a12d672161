//! Nodes.

use std::collections::BTreeSet;

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::Value;

use crate::errors::{Errors, child, index, keyed, ratcheted};
use crate::generic;
use crate::tree::{at, at_mut, has, keep, list, map, put, remove, same_at, text};
use crate::{Context, Strategy, names, quantities};

/// The strategy of kind `Node`.
pub(crate) struct Node;

impl Strategy for Node {
    fn default(&self, obj: &mut Object) {
        if !has(obj, "status.allocatable") && has(obj, "status.capacity") {
            let capacity = at(obj, "status.capacity").clone();
            put(obj, "status.allocatable", capacity);
        }
        quantities::normalize(obj, "status.capacity");
        quantities::normalize(obj, "status.allocatable");
    }

    fn prepare_create(&self, _ctx: &Context<'_>, obj: &mut Object) {
        // As upstream, the status is kept: kubelets register nodes with it.
        generic::prepare_create_plain(obj);
        mirror_pod_cidrs(obj);
        // Dynamic configuration of kubelets is gone.
        remove(obj, "spec.configSource");
        remove(obj, "status.config");
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_update_plain(new, old);
        keep(new, old, "status");
        mirror_pod_cidrs(new);
        if at(old, "spec.configSource").is_null() {
            remove(new, "spec.configSource");
        }
    }

    fn prepare_status_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_status_update(new, old);
        keep(new, old, "spec");
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        taints(&mut errors, obj);
        pod_cidrs(&mut errors, obj);
        for path in ["status.capacity", "status.allocatable"] {
            for (name, value) in map(obj, path).into_iter().flatten() {
                let field = keyed(path, name);
                quantities::validate_quantity(&mut errors, name, value, &field);
            }
        }
        errors.0
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        addresses(&mut errors, new);
        taints(&mut errors, new);
        let ranges = |obj| {
            let mut errors = Errors::new();
            pod_cidrs(&mut errors, obj);
            errors.0
        };
        errors.extend(ratcheted(ranges(new), || ranges(old)));
        if !list(old, "spec.podCIDRs").is_empty() && !same_at(new, old, "spec.podCIDRs") {
            errors.forbidden(
                "spec.podCIDRs",
                "node updates may not change podCIDR except from \"\" to valid",
            );
        }
        if !text(old, "spec.providerID").is_empty() && !same_at(new, old, "spec.providerID") {
            errors.forbidden(
                "spec.providerID",
                "node updates may not change providerID except from \"\" to valid",
            );
        }
        errors.0
    }

    fn validate_status_update(&self, new: &Object, _old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        addresses(&mut errors, new);
        for path in ["status.capacity", "status.allocatable"] {
            for (name, value) in map(new, path).into_iter().flatten() {
                let field = keyed(path, name);
                quantities::validate_quantity(&mut errors, name, value, &field);
            }
        }
        errors.0
    }

    fn field_value(&self, obj: &Object, field: &str) -> Option<String> {
        match field {
            "spec.unschedulable" => Some(crate::tree::flag(obj, field).to_string()),
            _ => generic::field_value(obj, field),
        }
    }
}

/// Copies `podCIDR` and `podCIDRs[0]` to each other.
fn mirror_pod_cidrs(obj: &mut Object) {
    let single = text(obj, "spec.podCIDR").to_owned();
    let first = list(obj, "spec.podCIDRs")
        .first()
        .and_then(Value::as_str)
        .map(str::to_owned);
    match (single.is_empty(), first) {
        (false, None) => put(obj, "spec.podCIDRs", vec![single]),
        (true, Some(first)) if at_mut(obj, "spec").is_some() => put(obj, "spec.podCIDR", first),
        _ => {}
    }
}

fn addresses(errors: &mut Errors, obj: &Object) {
    let all = list(obj, "status.addresses");
    for (i, address) in all.iter().enumerate() {
        if all[..i].contains(address) {
            errors.duplicate(index("status.addresses", i), address.clone());
        }
    }
}

fn taints(errors: &mut Errors, obj: &Object) {
    let mut seen = BTreeSet::new();
    for (i, taint) in list(obj, "spec.taints").iter().enumerate() {
        let field = index("spec.taints", i);
        let (key, value, effect) = (
            text(taint, "key"),
            text(taint, "value"),
            text(taint, "effect"),
        );
        errors.invalid_each(&child(&field, "key"), key, names::qualified_name(key));
        let problems = names::label_value(value);
        if !problems.is_empty() {
            errors.invalid(child(&field, "value"), value, problems.join(";"));
        }
        super::pod_validation::taint_effect(errors, effect, false, &child(&field, "effect"));
        if !seen.insert((key, effect)) {
            errors.duplicate(field, taint.clone());
        }
    }
}

fn pod_cidrs(errors: &mut Errors, obj: &Object) {
    let ranges = list(obj, "spec.podCIDRs");
    for (i, range) in ranges.iter().enumerate() {
        let range = range.as_str().unwrap_or_default();
        errors.invalid_each(&index("spec.podCIDRs", i), range, names::cidr(range));
    }
    if ranges.len() > 2 {
        errors.invalid(
            "spec.podCIDRs",
            at(obj, "spec.podCIDRs").clone(),
            "may specify no more than one CIDR for each IP family",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pod_cidr_is_set_once() {
        let ctx = Context::new(jiff::Timestamp::UNIX_EPOCH, "test");
        let old = json!({"spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]}});
        let mut new = json!({"spec": {"podCIDR": "10.2.0.0/24", "podCIDRs": ["10.2.0.0/24"], "unschedulable": true}});
        Node.prepare_update(&ctx, &mut new, &old);
        assert_eq!(Node.validate_update(&new, &old)[0].field, "spec.podCIDRs");
        assert_eq!(
            Node.field_value(&new, "spec.unschedulable").as_deref(),
            Some("true")
        );
    }

    #[test]
    fn taints_need_an_effect() {
        let node = json!({"spec": {"taints": [{"key": "a"}]}});
        assert_eq!(
            Node.validate_create(&node)[0].field,
            "spec.taints[0].effect"
        );
    }
}
