//! Priority: resolves a pod's PriorityClass to its priority and preemption policy.

use rkube_api::Object;
use rkube_api::status::Status;
use std::sync::Arc;

use crate::types::{Operation, Request};
use rkube_auth::{ObjectReader, tree};

const GROUP: &str = "scheduling.k8s.io";

/// Returns the default class; of several, the one with the lowest value.
fn default_class(reader: &dyn ObjectReader) -> Option<Arc<Object>> {
    let classes = reader.list(GROUP, "priorityclasses", None);
    let defaults = classes
        .into_iter()
        .filter(|class| tree::flag(class, &["globalDefault"]) == Some(true));
    defaults.min_by_key(|class| tree::int(class, &["value"]))
}

pub(super) fn mutate(reader: &dyn ObjectReader, request: &mut Request<'_>) -> Result<(), Status> {
    if !request.is_whole("", "pods") || request.object.is_none() {
        return Ok(());
    }
    match request.operation {
        Operation::Create => {}
        Operation::Update => {
            keep(request, "priority");
            keep(request, "preemptionPolicy");
            return Ok(());
        }
        _ => return Ok(()),
    }
    let name = tree::text(request.new_object(), &["spec", "priorityClassName"]);
    let class = if name.is_empty() {
        default_class(reader)
    } else {
        let found = reader.get(GROUP, "priorityclasses", "", name);
        let missing = || request.forbidden(format!("no PriorityClass with name {name} was found"));
        Some(found.ok_or_else(missing)?)
    };
    let (name, value, policy) = match &class {
        Some(class) => (
            tree::name(class).to_owned(),
            tree::int(class, &["value"]).unwrap_or(0),
            tree::text(class, &["preemptionPolicy"]),
        ),
        None => (String::new(), 0, "PreemptLowerPriority"),
    };
    if let Some(given) = tree::int(request.new_object(), &["spec", "priority"])
        && given != value
    {
        return Err(request.forbidden(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        )));
    }
    let given = tree::text(request.new_object(), &["spec", "preemptionPolicy"]);
    if !policy.is_empty() && !given.is_empty() && given != policy {
        return Err(request.forbidden(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        )));
    }
    if let Some(pod) = request.object.as_deref_mut() {
        let spec = tree::make_map(pod, &["spec"]);
        if !name.is_empty() {
            spec.insert("priorityClassName".into(), name.into());
        }
        spec.insert("priority".into(), value.into());
        if !policy.is_empty() {
            spec.insert("preemptionPolicy".into(), policy.into());
        }
    }
    Ok(())
}

/// Restores a field that an update omits. Clients that do not know the field drop it.
fn keep(request: &mut Request<'_>, field: &str) {
    let old = tree::at(request.old_object(), &["spec", field])
        .filter(|v| !v.is_null())
        .cloned();
    if let (Some(value), Some(pod)) = (old, request.object.as_deref_mut())
        && tree::at(pod, &["spec", field]).is_none_or(Object::is_null)
    {
        tree::make_map(pod, &["spec"]).insert(field.into(), value);
    }
}

pub(super) fn validate(reader: &dyn ObjectReader, request: &Request<'_>) -> Result<(), Status> {
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    if !writes || !request.is_whole(GROUP, "priorityclasses") {
        return Ok(());
    }
    if tree::flag(request.new_object(), &["globalDefault"]) != Some(true) {
        return Ok(());
    }
    match default_class(reader) {
        Some(class)
            if request.operation == Operation::Create
                || tree::name(&class) != tree::name(request.new_object()) =>
        {
            Err(request.forbidden(format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                tree::name(&class)
            )))
        }
        _ => Ok(()),
    }
}
