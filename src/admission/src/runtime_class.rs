//! RuntimeClass: adds the overhead, node selector and tolerations of a pod's class.

use std::sync::Arc;

use rkube_api::Object;
use rkube_api::status::Status;

use crate::types::{Operation, Request};
use rkube_auth::{ObjectReader, tree};
use rkube_component_helpers::resource::ResourceList;

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

/// Returns the class of the pod, `None` if it has none. Rejects a class that does not exist.
fn class_of(
    reader: &dyn ObjectReader,
    request: &Request<'_>,
) -> Result<Option<Arc<Object>>, Status> {
    let Some(name) =
        tree::at(request.new_object(), &["spec", "runtimeClassName"]).and_then(Object::as_str)
    else {
        return Ok(None);
    };
    let missing = || request.forbidden(format!("pod rejected: RuntimeClass {name:?} not found"));
    reader
        .get("node.k8s.io", "runtimeclasses", "", name)
        .ok_or_else(missing)
        .map(Some)
}

fn concerns(request: &Request<'_>) -> bool {
    request.operation == Operation::Create
        && request.is_whole("", "pods")
        && request.object.is_some()
}

fn overhead(object: &Object, path: &[&str]) -> ResourceList {
    ResourceList::from_object(tree::at(object, path))
}

pub(super) fn mutate(reader: &dyn ObjectReader, request: &mut Request<'_>) -> Result<(), Status> {
    if !concerns(request) {
        return Ok(());
    }
    let Some(class) = class_of(reader, request)? else {
        return Ok(());
    };
    if let Some(fixed) = tree::at(&class, &["overhead", "podFixed"]).filter(|f| f.is_object()) {
        let given = overhead(request.new_object(), &["spec", "overhead"]);
        if !given.is_empty() && given != overhead(&class, &["overhead", "podFixed"]) {
            return Err(request.forbidden(MISMATCH));
        }
        if let Some(pod) = request.object.as_deref_mut() {
            tree::make_map(pod, &["spec"]).insert("overhead".into(), fixed.clone());
        }
    }
    if !class.get("scheduling").is_some_and(Object::is_object) {
        return Ok(());
    }
    for (key, value) in tree::entries(&class, &["scheduling", "nodeSelector"]) {
        let value = value.as_str().unwrap_or_default();
        if let Some(own) = tree::map_text(request.new_object(), &["spec", "nodeSelector"], key)
            && own != value
        {
            return Err(request.forbidden(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {own}"
            )));
        }
    }
    let Some(pod) = request.object.as_deref_mut() else {
        return Ok(());
    };
    for (key, value) in tree::entries(&class, &["scheduling", "nodeSelector"]) {
        tree::make_map(pod, &["spec", "nodeSelector"]).insert(key.to_owned(), value.clone());
    }
    let own = tree::items(pod, &["spec", "tolerations"]).to_vec();
    let merged = merge_tolerations(own, tree::items(&class, &["scheduling", "tolerations"]));
    if !merged.is_empty() {
        tree::make_map(pod, &["spec"]).insert("tolerations".into(), merged.into());
    }
    Ok(())
}

pub(super) fn validate(reader: &dyn ObjectReader, request: &Request<'_>) -> Result<(), Status> {
    if !concerns(request) {
        return Ok(());
    }
    let class = class_of(reader, request)?;
    let given = overhead(request.new_object(), &["spec", "overhead"]);
    match class.filter(|class| class.get("overhead").is_some_and(Object::is_object)) {
        Some(class) if given != overhead(&class, &["overhead", "podFixed"]) => Err(request.forbidden(MISMATCH)),
        None if tree::at(request.new_object(), &["spec", "overhead"]).is_some_and(Object::is_object) => Err(request
            .forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")),
        _ => Ok(()),
    }
}

/// Concatenates both lists, without tolerations that another one covers.
fn merge_tolerations(first: Vec<Object>, second: &[Object]) -> Vec<Object> {
    let all: Vec<Object> = first.into_iter().chain(second.iter().cloned()).collect();
    let mut merged: Vec<Object> = Vec::new();
    for (i, toleration) in all.iter().enumerate() {
        let redundant = merged.iter().any(|kept| covers(kept, toleration))
            || all[i + 1..]
                .iter()
                .any(|later| later != toleration && covers(later, toleration));
        if !redundant {
            merged.push(toleration.clone());
        }
    }
    merged
}

/// Returns whether `own` tolerates everything that `other` tolerates.
fn covers(own: &Object, other: &Object) -> bool {
    if own == other {
        return true;
    }
    let text = |toleration, field| tree::text(toleration, &[field]);
    let (own_key, own_operator) = (text(own, "key"), text(own, "operator"));
    if text(other, "key") != own_key && !(own_key.is_empty() && own_operator == "Exists") {
        return false;
    }
    let own_effect = text(own, "effect");
    if text(other, "effect") != own_effect && !own_effect.is_empty() {
        return false;
    }
    let seconds = |toleration| tree::int(toleration, &["tolerationSeconds"]);
    if own_effect == "NoExecute"
        && let Some(own) = seconds(own)
        && seconds(other).is_none_or(|other| other > own)
    {
        return false;
    }
    match own_operator {
        "Equal" | "" => {
            text(other, "operator") == "Equal" && text(other, "value") == text(own, "value")
        }
        "Exists" => true,
        _ => false,
    }
}
