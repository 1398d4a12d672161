//! Nodes.

use std::collections::BTreeSet;

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::Value;

use super::shown::{Field, Form, show};
use crate::errors::{Errors, child, index, ratcheted};
use crate::generic;
use crate::tree::{at, has, int, keep, list, map, put, remove, text};
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
        remove(new, "spec.configSource");
    }

    fn prepare_status_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_status_update(new, old);
        keep(new, old, "spec");
        remove(new, "status.config");
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        taints(&mut errors, obj);
        resources(&mut errors, obj);
        if let Some(capacity) = int(obj, "status.nodeInfo.swap.capacity")
            && capacity <= 0
        {
            // The field is upstream's.
            let field = "metadata.nodeSwapStatus.capacity";
            errors.invalid(field, capacity, "must be greater than zero");
        }
        declared_features(&mut errors, obj);
        pod_cidrs(&mut errors, obj);
        errors.0
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        errors.extend(ratcheted(self.validate_create(new), || {
            self.validate_create(old)
        }));
        node_update(&mut errors, new, old);
        errors.0
    }

    fn validate_status_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        node_update(&mut errors, new, old);
        errors.0
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut warnings = Vec::new();
        if has(new, "spec.configSource") {
            warnings.push("spec.configSource: the feature is removed".to_owned());
        }
        if !text(new, "spec.externalID").is_empty() {
            warnings.push(
                "spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned(),
            );
        }
        for (i, range) in list(new, "spec.podCIDRs").iter().enumerate() {
            let range = range.as_str().unwrap_or_default();
            warnings.extend(names::cidr_warnings(range, &index("spec.podCIDRs", i)));
        }
        warnings
    }

    fn field_value(&self, obj: &Object, field: &str) -> Option<String> {
        match field {
            "spec.unschedulable" => Some(crate::tree::flag(obj, field).to_string()),
            _ => generic::field_value(obj, field),
        }
    }
}

/// Copies `podCIDR` and `podCIDRs[0]` to each other; the former is the older one.
fn mirror_pod_cidrs(obj: &mut Object) {
    let single = text(obj, "spec.podCIDR").to_owned();
    let first = list(obj, "spec.podCIDRs")
        .first()
        .and_then(Value::as_str)
        .map(str::to_owned);
    if !single.is_empty() && first.as_ref() != Some(&single) {
        put(obj, "spec.podCIDRs", vec![single]);
    } else if let Some(first) = first.filter(|_| single.is_empty()) {
        put(obj, "spec.podCIDR", first);
    }
}

/// Validates the change of a node or of its status.
fn node_update(errors: &mut Errors, new: &Object, old: &Object) {
    const CIDRS: &str = "node updates may not change podCIDR except from \"\" to valid";
    resources(errors, new);
    declared_features(errors, new);
    let all = list(new, "status.addresses");
    let mut seen = BTreeSet::new();
    for (i, address) in all.iter().enumerate() {
        if !seen.insert((text(address, "type"), text(address, "address"))) {
            let shown = show(address, ADDRESS);
            errors.duplicate_shown(index("status.addresses", i), &shown);
        }
    }
    let (now, before) = (list(new, "spec.podCIDRs"), list(old, "spec.podCIDRs"));
    if !before.is_empty() && now.len() != before.len() {
        errors.forbidden("spec.podCIDRs", CIDRS);
    } else {
        for _ in now.iter().zip(before).filter(|(now, before)| now != before) {
            errors.forbidden("spec.podCIDRs", CIDRS);
        }
    }
    let provider = text(old, "spec.providerID");
    if !provider.is_empty() && provider != text(new, "spec.providerID") {
        errors.forbidden(
            "spec.providerID",
            "node updates may not change providerID except from \"\" to valid",
        );
    }
    taints(errors, new);
    if text(new, "spec.externalID") != text(old, "spec.externalID") {
        errors.forbidden("spec.externalID", "may not be updated");
    }
}

const ADDRESS: &[Field] = &[
    Field("type", "Type", Form::Text),
    Field("address", "Address", Form::Text),
];

const TAINT: &[Field] = &[
    Field("key", "Key", Form::Text),
    Field("value", "Value", Form::Text),
    Field("effect", "Effect", Form::Text),
    Field("timeAdded", "TimeAdded", Form::Optional),
];

fn resources(errors: &mut Errors, obj: &Object) {
    for path in ["status.capacity", "status.allocatable"] {
        for (name, value) in map(obj, path).into_iter().flatten() {
            quantities::validate_quantity(errors, name, value, &child(path, name));
        }
    }
}

/// Validates the names of features that a node declares, and their order.
fn declared_features(errors: &mut Errors, obj: &Object) {
    const PATH: &str = "status.declaredFeatures";
    let features: Vec<&str> = list(obj, PATH)
        .iter()
        .map(|feature| feature.as_str().unwrap_or_default())
        .collect();
    for (i, feature) in features.iter().enumerate() {
        let step = |step: &str| {
            step.starts_with(|c: char| c.is_ascii_alphabetic())
                && step.chars().all(|c| c.is_ascii_alphanumeric())
        };
        let fine = feature.starts_with(|c: char| c.is_ascii_uppercase());
        if feature.len() > 253 {
            errors.invalid(
                index(PATH, i),
                *feature,
                format!("invalid feature name {feature:?}: must be no more than 253 characters"),
            );
        } else if !fine || !feature.split('/').all(step) {
            errors.invalid(
                index(PATH, i),
                *feature,
                format!("invalid feature name {feature:?}: must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes"),
            );
        }
        let Some(next) = features.get(i + 1) else {
            continue;
        };
        if feature == next {
            errors.duplicate(index(PATH, i + 1), *next);
        } else if feature > next {
            let why = "list must be sorted alphabetically";
            errors.invalid(index(PATH, i + 1), *next, why);
        }
    }
}

/// Validates taints. Their field in errors is upstream's.
fn taints(errors: &mut Errors, obj: &Object) {
    let mut seen = BTreeSet::new();
    for (i, taint) in list(obj, "spec.taints").iter().enumerate() {
        let field = index("metadata.taints", i);
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
            let shown = show(taint, TAINT);
            let detail = format!("{shown}: taints must be unique by key and effect pair");
            errors.duplicate_shown(field, &detail);
        }
    }
}

fn pod_cidrs(errors: &mut Errors, obj: &Object) {
    let ranges = list(obj, "spec.podCIDRs");
    for (i, range) in ranges.iter().enumerate() {
        let range = range.as_str().unwrap_or_default();
        errors.invalid_each(&index("spec.podCIDRs", i), range, names::cidr(range));
    }
    let families: BTreeSet<Option<bool>> = ranges
        .iter()
        .map(|range| names::parse_cidr(range.as_str().unwrap_or_default()))
        .map(|range| range.map(|range| range.addr().is_ipv4()))
        .collect();
    if ranges.len() > 1 && (ranges.len() > 2 || families.len() != 2 || families.contains(&None)) {
        errors.invalid(
            "spec.podCIDRs",
            at(obj, "spec.podCIDRs").clone(),
            "may specify no more than one CIDR for each IP family",
        );
    }
}
