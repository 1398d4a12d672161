//! Adoption and release of objects by controllers, based on label selectors.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::api::Patch;
use serde_json::json;

use crate::common::owners;
use crate::context::{Context, Error, Result};
use crate::events::Severity;
use crate::informers::{Object, Store};
use rkube_component_helpers::label_selector;

/// Returns whether a selector is empty, which controllers refuse; records an event about `object`
/// then. `kind` is its kind in the message.
pub fn selects_all<K: kube::Resource<DynamicType = ()>>(
    ctx: &Context,
    component: &'static str,
    object: &K,
    kind: &str,
    selector: &LabelSelector,
) -> bool {
    let all = label_selector::is_empty(selector);
    if all {
        let text = format!("This {kind} is selecting all pods. A non-empty selector is required.");
        ctx.recorder
            .event(component, object, Severity::Warning, "SelectingAll", text);
    }
    all
}

/// The action for an object that a controller might own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The controller already owns it.
    Keep,
    /// It matches and has no controller: set this one as its controller.
    Adopt,
    /// The controller owns it, but it no longer matches: remove the owner reference.
    Release,
    /// It is unrelated to this controller, or must not be changed.
    Ignore,
}

/// Decides what the controller with this UID does with `object`. `deleting` applies to the
/// controller's object, `matches` to the selector.
pub fn decide(object: &ObjectMeta, uid: &str, deleting: bool, matches: bool) -> Claim {
    match owners::controller_of(object) {
        Some(owner) if owner.uid != uid => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if deleting => Claim::Ignore,
        Some(_) => Claim::Release,
        None if deleting || !matches || object.deletion_timestamp.is_some() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// Returns the patch that makes `owner` the controller of the object with this UID.
fn adoption<O: Object>(owner: &O, uid: Option<&str>, finalizer: Option<&str>) -> serde_json::Value {
    let mut metadata = json!({"uid": uid, "ownerReferences": [owners::control_by(owner)]});
    if let Some(finalizer) = finalizer {
        metadata["finalizers"] = json!([finalizer]);
    }
    json!({ "metadata": metadata })
}

/// Returns the patch that removes the owner with UID `owner_uid`.
fn release(owner_uid: &str, uid: Option<&str>, finalizer: Option<&str>) -> serde_json::Value {
    let mut metadata =
        json!({"uid": uid, "ownerReferences": [{"$patch": "delete", "uid": owner_uid}]});
    if let Some(finalizer) = finalizer {
        metadata["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
    }
    json!({ "metadata": metadata })
}

/// Returns the objects among the `candidates` that `owner` controls.
///
/// Adopts those that match and have no controller, and releases those that no longer match. An
/// object matches if its labels match `wanted` and `member` returns true.
///
/// Before the first adoption, the owner is read from the API server: an owner that is being
/// deleted, or was replaced by another object of that name, must not adopt.
///
/// # Errors
///
/// Fails if the owner must not adopt or if a request fails. Objects that are already gone are
/// skipped.
pub async fn claim<O: Object, K: Object>(
    ctx: &Context,
    owner: &O,
    wanted: &LabelSelector,
    store: &Store<K>,
    finalizer: Option<&str>,
    candidates: impl Fn(&K) -> bool,
    member: impl Fn(&K) -> bool,
) -> Result<Vec<Arc<K>>> {
    let meta = owner.metadata();
    let uid = meta.uid.as_deref().unwrap_or_default();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let name = meta.name.as_deref().unwrap_or_default();
    let deleting = meta.deletion_timestamp.is_some();
    let mut may_adopt = false;
    let mut claimed = Vec::new();
    for object in store.claimable_by(namespace, uid) {
        if !candidates(&object) {
            continue;
        }
        let labels = label_selector::labels_or_empty(object.metadata().labels.as_ref());
        let matched = label_selector::matches(wanted, labels) && member(&object);
        match decide(object.metadata(), uid, deleting, matched) {
            Claim::Keep => claimed.push(object),
            Claim::Ignore => {}
            Claim::Adopt => {
                if !may_adopt {
                    let fresh: O = ctx.get(namespace, name).await?;
                    let fresh = fresh.metadata();
                    if fresh.uid.as_deref() != Some(uid) || fresh.deletion_timestamp.is_some() {
                        return Err(Error::other(format!(
                            "{name} is gone or being deleted: it must not adopt"
                        )));
                    }
                    may_adopt = true;
                }
                let patch = adoption(owner, object.metadata().uid.as_deref(), finalizer);
                match ctx
                    .patch(store, object.metadata(), None, &Patch::Strategic(patch))
                    .await
                {
                    Ok(adopted) => claimed.push(adopted),
                    Err(error) if error.is_not_found() || error.is_invalid() => {}
                    Err(error) => return Err(error),
                }
            }
            Claim::Release => {
                let patch = release(uid, object.metadata().uid.as_deref(), finalizer);
                match ctx
                    .patch(store, object.metadata(), None, &Patch::Strategic(patch))
                    .await
                {
                    Ok(_) => {}
                    // Gone, or replaced by another object of that name: nothing to release.
                    Err(error) if error.is_not_found() || error.is_invalid() => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(claimed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    fn owned(by: Option<&str>) -> ObjectMeta {
        ObjectMeta {
            owner_references: by.map(|uid| {
                vec![OwnerReference {
                    uid: uid.into(),
                    controller: Some(true),
                    ..Default::default()
                }]
            }),
            ..Default::default()
        }
    }

    #[test]
    fn claims() {
        assert_eq!(decide(&owned(Some("a")), "a", false, true), Claim::Keep);
        assert_eq!(decide(&owned(Some("a")), "a", false, false), Claim::Release);
        assert_eq!(decide(&owned(Some("a")), "a", true, false), Claim::Ignore);
        assert_eq!(decide(&owned(Some("b")), "a", false, true), Claim::Ignore);
        assert_eq!(decide(&owned(None), "a", false, true), Claim::Adopt);
        assert_eq!(decide(&owned(None), "a", true, true), Claim::Ignore);
        assert_eq!(decide(&owned(None), "a", false, false), Claim::Ignore);
    }
}
