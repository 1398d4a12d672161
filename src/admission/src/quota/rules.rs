//! Rules: which requests are charged, which quotas apply to an object, and which requests and
//! limits a pod must specify.

use std::collections::{BTreeMap, BTreeSet};

use rkube_api::Object;
use rkube_component_helpers::quota::{Charged, ClaimView, Evaluator, compute_usage};
use rkube_component_helpers::resource::{ResourceList, Side, object_amounts};

use crate::types::{Operation, Request};
use rkube_auth::tree;

/// Resources that every container must specify if a quota limits them.
const REQUIRED: [&str; 6] = [
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
];

/// Returns whether the request can change the usage.
pub(super) fn handles(evaluator: &Evaluator<'_>, request: &Request<'_>) -> bool {
    let (operation, subresource) = (request.operation, request.subresource);
    if evaluator.is_pod() {
        match (operation, subresource) {
            (Operation::Create, "") | (Operation::Update, "resize") => true,
            (Operation::Update, "") => {
                has_deadline(request.new_object()) != has_deadline(request.old_object())
            }
            _ => false,
        }
    } else if evaluator.is_service() {
        matches!(
            (operation, subresource),
            (Operation::Create | Operation::Update, "")
        )
    } else if evaluator.is_claim() {
        match (operation, subresource) {
            (Operation::Create | Operation::Update, "") => true,
            (Operation::Update, "status") => {
                claim_status_changes(request.new_object(), request.old_object())
            }
            _ => false,
        }
    } else {
        matches!((operation, subresource), (Operation::Create, ""))
    }
}

fn has_deadline(pod: &Object) -> bool {
    tree::int(pod, &["spec", "activeDeadlineSeconds"]).is_some_and(|seconds| seconds >= 0)
}

/// Returns whether two states of a claim differ in a status field that affects usage.
fn claim_status_changes(new: &Object, old: &Object) -> bool {
    let allocated = |claim| tree::text(claim, &["status", "allocatedResources", "storage"]);
    allocated(new) != allocated(old)
        || ClaimView::from_object(new).attribute_classes
            != ClaimView::from_object(old).attribute_classes
}

/// Returns whether an object is charged to a quota: the quota limits one of its resources, and
/// every scope selects it.
pub(super) fn matches(evaluator: &Evaluator<'_>, quota: &Object, object: &Charged<'_>) -> bool {
    let limits = ResourceList::from_object(tree::at(quota, &["status", "hard"]));
    if !limits.0.keys().any(|resource| evaluator.counts(resource)) {
        return false;
    }
    let scopes = tree::strings(quota, &["spec", "scopes"]);
    let selectors = tree::items(quota, &["spec", "scopeSelector", "matchExpressions"]);
    scopes
        .into_iter()
        .all(|scope| object.in_scope(scope, "Exists", &[]))
        && selectors.iter().all(|selector| {
            let text = |field| tree::text(selector, &[field]);
            let values = tree::strings(selector, &["values"]);
            object.in_scope(text("scopeName"), text("operator"), &values)
        })
}

/// Fails if a container of a pod does not specify a limited resource of [`REQUIRED`].
pub(super) fn constraints(
    evaluator: &Evaluator<'_>,
    restricted: &[String],
    object: &Object,
) -> Result<(), String> {
    if !evaluator.is_pod() {
        return Ok(());
    }
    let spec = object.get("spec").unwrap_or(&Object::Null);
    let pod_level = [Side::Requests, Side::Limits].map(|side| object_amounts(spec, side));
    if pod_level.iter().any(|amounts| !amounts.is_empty()) {
        return Ok(());
    }
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in ["containers", "initContainers"]
        .iter()
        .flat_map(|field| tree::items(spec, &[field]))
    {
        let stated = compute_usage(
            &object_amounts(container, Side::Requests),
            &object_amounts(container, Side::Limits),
        );
        for resource in restricted
            .iter()
            .filter(|resource| REQUIRED.contains(&resource.as_str()))
        {
            if stated.get(resource).is_none() {
                let containers = missing.entry(resource).or_default();
                containers.insert(tree::name_field(container));
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let missing: Vec<String> = missing
        .into_iter()
        .map(|(resource, names)| {
            let names: Vec<&str> = names.into_iter().collect();
            format!("{resource} for: {}", names.join(","))
        })
        .collect();
    Err(format!("must specify {}", missing.join("; ")))
}
