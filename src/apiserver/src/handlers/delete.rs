//! `delete` and `deletecollection`: preconditions, grace periods, finalizers and propagation.

use std::sync::Arc;

use futures::future::BoxFuture;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use rkube_admission::Operation;
use rkube_api::status::Status;
use rkube_api::{GroupResource, Object, meta};
use rkube_store::{Expect, KeyValue, StoreError};
use rkube_strategy::GarbageCollection;
use serde_json::json;

use super::error::HandlerError;
use crate::admission::attributes::Admission;
use crate::backend::Backend;
use crate::cache::Filter;
use crate::call::Call;
use crate::codec::{decode, revised};
use crate::input::delete::DeleteOptions;
use crate::outcome::{ListMeta, Outcome};
use crate::resources::Resource;
use crate::services;
use crate::storage::RestStorage;
use crate::store_error::store_error;

/// The longest grace period, in seconds: 68 years. The deletion timestamp could not represent longer
/// ones, and validation has no upper bound.
const MAX_GRACE_SECONDS: i64 = i32::MAX as i64;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Maximum number of attempts to delete an object that is changed concurrently.
const MAX_ATTEMPTS: usize = 16;

/// Resources whose deletion returns the object instead of a `Status`.
const RETURN_OBJECT: [(&str, &str); 17] = [
    ("", "pods"),
    ("", "services"),
    ("", "serviceaccounts"),
    ("", "persistentvolumes"),
    ("", "persistentvolumeclaims"),
    ("", "podtemplates"),
    ("", "resourcequotas"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "volumeattributesclasses"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "resourceclaims"),
    ("resource.k8s.io", "resourceclaimtemplates"),
    ("resource.k8s.io", "resourceslices"),
    ("", "namespaces"),
];

/// The result of a deletion.
pub struct Deleted {
    /// The object's last or current state, in the hub version.
    pub object: Object,
    /// Whether the object has been removed. Otherwise it is only marked as being deleted.
    pub gone: bool,
}

/// Deletes the object of a request.
pub async fn delete(
    storage: &RestStorage,
    call: &Call,
    resource: &Resource,
    options: &DeleteOptions,
) -> Result<Outcome, HandlerError> {
    warn_of_default(call, resource, options);
    let namespace = resource.namespace_of(&call.info);
    let deleted = delete_object(
        storage,
        call,
        resource,
        &namespace,
        &call.info.name,
        options,
    )
    .await?;
    let code = if !deleted.gone && options.orphan_dependents == Some(false) {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    let returned = RETURN_OBJECT.iter().any(|(g, r)| resource.is(g, r));
    if !deleted.gone || returned {
        let object = resource.served(deleted.object)?;
        return Ok(Outcome::Object(code, object));
    }
    let mut details = json!({"name": meta::name(&deleted.object), "kind": &*resource.plural, "uid": meta::uid(&deleted.object)});
    if !resource.group.is_empty() {
        details["group"] = resource.group.as_ref().into();
    }
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
    Ok(Outcome::Value(code, status))
}

/// Deletes the objects that `filter` selects.
pub async fn delete_collection(
    storage: &RestStorage,
    call: &Call,
    resource: &Resource,
    options: &DeleteOptions,
    filter: &Filter,
) -> Result<Outcome, HandlerError> {
    warn_of_default(call, resource, options);
    storage.backend.cache.consistent().await;
    let (items, revision) = storage
        .backend
        .current(resource, &resource.stored_filter(filter));
    let items = storage.backend.select(resource, items, filter).await?;
    // Concurrent deletions share the store's commits.
    let mut results = Vec::with_capacity(items.len());
    for chunk in items.chunks(32) {
        let deletions: Vec<BoxFuture<'_, Result<Deleted, HandlerError>>> = chunk
            .iter()
            .map(|item| {
                let deletion = delete_object(
                    storage,
                    call,
                    resource,
                    &item.namespace,
                    &item.name,
                    options,
                );
                Box::pin(deletion) as BoxFuture<'_, _>
            })
            .collect();
        results.extend(futures::future::join_all(deletions).await);
    }
    for result in results {
        match result {
            Ok(_) | Err(HandlerError::NotFound(..)) => {}
            Err(error) => return Err(error),
        }
    }
    let meta = ListMeta {
        revision,
        ..ListMeta::default()
    };
    Ok(Outcome::List(items, meta))
}

/// Warns that the pods of a job are kept if the request does not say what becomes of them.
fn warn_of_default(call: &Call, resource: &Resource, options: &DeleteOptions) {
    let silent = options.propagation.is_none() && options.orphan_dependents.is_none();
    if silent && resource.is("batch", "jobs") {
        call.warn([
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning".to_owned(),
        ]);
    }
}

/// The action that a deletion takes on an object.
enum Step {
    /// Remove the object now; holds its last state.
    Remove(Object),
    /// Store this state: the object remains for its finalizers or its grace period.
    Mark(Object),
    /// Nothing: the object is being deleted already.
    Pending,
}

/// Deletes one object, or marks it as being deleted.
pub async fn delete_object(
    storage: &RestStorage,
    call: &Call,
    resource: &Resource,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted, HandlerError> {
    let backend = &*storage.backend;
    backend.cache.consistent().await;
    let mut current = match resource.cache.get(namespace, name) {
        Some(object) => Some((
            backend.load(resource, object.parse()).await?,
            object.revision,
        )),
        None => None,
    };
    let deletion = Deletion {
        backend,
        resource,
        key: resource.key(namespace, name),
        dry_run: options.dry_run,
    };
    for _ in 0..MAX_ATTEMPTS {
        let Some((object, revision)) = current.take() else {
            return Err(HandlerError::NotFound(
                resource.group_resource(),
                name.to_owned(),
            ));
        };
        check_preconditions(resource, &object, options)?;
        let admission = Admission {
            backend,
            authorizer: &storage.admission.authorizer,
            call,
            requested: None,
            resource,
            operation: Operation::Delete,
            dry_run: options.dry_run,
            options: &options.object,
            part: None,
        };
        storage
            .admission
            .admit_deletion(&admission, &object)
            .await?;
        let outcome = match step(resource, &object, options, Timestamp::now()) {
            Step::Pending => Attempt::Done(Deleted {
                object,
                gone: false,
            }),
            Step::Mark(marked) => deletion.mark(marked, revision).await?,
            Step::Remove(last) => deletion.remove(last, revision).await?,
        };
        current = match outcome {
            Attempt::Done(deleted) => return Ok(deleted),
            Attempt::Conflict(Some(kv)) => {
                Some((backend.load(resource, decode(&kv)?).await?, kv.mod_revision))
            }
            Attempt::Conflict(None) => None,
        };
    }
    Err(Status::modified(&resource.group_resource(), name).into())
}

/// The deletion of one object in the store.
struct Deletion<'a> {
    backend: &'a Backend,
    resource: &'a Resource,
    key: String,
    dry_run: bool,
}

/// The result of one attempt.
enum Attempt {
    Done(Deleted),
    /// Another writer was faster; holds the object's current state.
    Conflict(Option<Arc<KeyValue>>),
}

impl Deletion<'_> {
    /// Stores an object that is marked as being deleted.
    async fn mark(&self, mut marked: Object, revision: u64) -> Result<Attempt, Status> {
        let (bytes, shown) = self.backend.to_store(self.resource, &mut marked).await?;
        if self.dry_run {
            return Ok(Attempt::Done(Deleted {
                object: marked,
                gone: false,
            }));
        }
        let expect = Expect::Revision(revision);
        let store = &self.backend.store;
        match store.put_deleting(&self.key, bytes, expect).await {
            Ok(kv) => {
                let object = revised(&kv, shown)?;
                let object = serde_json::from_slice(&object).map_err(Status::internal)?;
                Ok(Attempt::Done(Deleted {
                    object,
                    gone: false,
                }))
            }
            Err(error) => self.conflict(&marked, error),
        }
    }

    /// Removes an object from the store.
    async fn remove(&self, mut object: Object, revision: u64) -> Result<Attempt, Status> {
        if self.dry_run {
            return Ok(Attempt::Done(Deleted { object, gone: true }));
        }
        let expect = Expect::Revision(revision);
        match self.backend.store.delete(&self.key, expect).await {
            Ok((_, at)) => {
                services::release(self.backend, self.resource, &object, None).await;
                meta::set_resource_version(&mut object, &at.to_string());
                Ok(Attempt::Done(Deleted { object, gone: true }))
            }
            Err(error) => self.conflict(&object, error),
        }
    }

    fn conflict(&self, object: &Object, error: StoreError) -> Result<Attempt, Status> {
        match error {
            StoreError::Conflict { found } => Ok(Attempt::Conflict(found)),
            error => Err(store_error(self.resource, meta::name(object), error)),
        }
    }
}

/// Checks the preconditions of a deletion.
///
/// # Errors
///
/// 409 if the uid or the revision does not match.
pub fn check_preconditions(
    resource: &Resource,
    object: &Object,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let name = meta::name(object);
    // As upstream, two kinds have words of their own, and others have their kind in the place of
    // the resource.
    let has_own_words = resource.is("", "namespaces")
        || resource.is("apiextensions.k8s.io", "customresourcedefinitions");
    let conflict = |what: &str, asked: &str, found: &str, fate: &str| {
        if has_own_words {
            let why = format!(
                "Precondition failed: {what} in precondition: {asked}, {what} in object meta: {found}"
            );
            return Status::conflict(&resource.group_resource(), name, why);
        }
        let kind = resource.group_kind();
        let kind = GroupResource::new(kind.group, kind.kind);
        let why = format!(
            "the {what} in the precondition ({asked}) does not match the {what} in record ({found}). The object might have been {fate}"
        );
        Status::conflict(&kind, name, why)
    };
    if let Some(uid) = &options.uid
        && uid != meta::uid(object)
    {
        let fate = "deleted and then recreated";
        return Err(conflict("UID", uid, meta::uid(object), fate));
    }
    if let Some(revision) = &options.revision
        && revision != meta::resource_version(object)
    {
        return Err(conflict(
            "ResourceVersion",
            revision,
            meta::resource_version(object),
            "modified",
        ));
    }
    Ok(())
}

/// Decides which action a deletion takes on an object at time `now`.
fn step(resource: &Resource, object: &Object, options: &DeleteOptions, now: Timestamp) -> Step {
    if resource.is("", "namespaces") {
        return namespace_step(object, now);
    }
    let deleting = meta::deletion_timestamp(object).is_some();
    let held = meta::deletion_grace_period_seconds(object).map(|held| held.min(MAX_GRACE_SECONDS));
    let grace = resource.strategy().grace_period(object, options.grace);
    let grace = grace.map(|grace| grace.min(MAX_GRACE_SECONDS));
    // The deletion timestamp, the grace period in seconds, and whether they are new.
    let mut deletion: Option<(Timestamp, i64, bool)> = None;
    match (deleting, grace) {
        (true, _) if held.is_some_and(|h| h > 0) => {
            // A later request may only shorten the grace period.
            // As upstream, a negative period is one second.
            let asked = options.grace.map(|grace| if grace < 0 { 1 } else { grace });
            let (Some(asked), Some(held)) = (asked, held) else {
                return Step::Pending;
            };
            if asked >= held {
                return Step::Pending;
            }
            let at = meta::deletion_timestamp(object)
                .and_then(meta::parse_time)
                .unwrap_or(now);
            let at = at - SignedDuration::from_secs(held) + SignedDuration::from_secs(asked);
            deletion = Some((at, asked, false));
        }
        (true, _) => {}
        (false, Some(grace)) => {
            let grace = grace.max(0);
            deletion = Some((now + SignedDuration::from_secs(grace), grace, true));
        }
        (false, None) => {}
    }
    let graceful = deletion.is_some_and(|(_, grace, _)| grace > 0);
    if deleting && graceful {
        let mut new = object.clone();
        set_deletion(&mut new, deletion);
        return Step::Mark(new);
    }
    let finalizers = finalizers_after(resource, object, options);
    if finalizers.is_empty() && !graceful {
        // What is deleted without delay still shows when, if its kind has a grace period.
        let mut last = object.clone();
        set_deletion(&mut last, deletion);
        return Step::Remove(last);
    }
    if !deleting && deletion.is_none() {
        deletion = Some((now, 0, true));
    }
    let mut new = object.clone();
    set_deletion(&mut new, deletion);
    if !finalizers.iter().copied().eq(meta::finalizers(object)) {
        meta::set_finalizers(&mut new, &finalizers);
    }
    if new == *object {
        Step::Pending
    } else {
        Step::Mark(new)
    }
}

fn set_deletion(object: &mut Object, deletion: Option<(Timestamp, i64, bool)>) {
    if let Some((at, grace, is_new)) = deletion {
        meta::set_deletion(object, Some(&meta::rfc3339(at)), Some(grace));
        if is_new {
            bump_generation(object);
        }
    }
}

fn bump_generation(object: &mut Object) {
    let generation = meta::generation(object);
    if generation > 0 {
        meta::set_generation(object, generation.saturating_add(1));
    }
}

/// Returns the object's finalizers after adding or removing the garbage collector's finalizers,
/// according to the propagation policy.
fn finalizers_after<'a>(
    resource: &Resource,
    object: &'a Object,
    options: &DeleteOptions,
) -> Vec<&'a str> {
    let before: Vec<&str> = meta::finalizers(object).collect();
    let has = |finalizer: &str| before.contains(&finalizer);
    let default = resource.strategy().default_garbage_collection();
    let (orphan, foreground) = match (options.orphan_dependents, options.propagation.as_deref()) {
        _ if default == GarbageCollection::Unsupported => (false, false),
        (Some(orphan), _) => (orphan, false),
        (None, Some("Orphan")) => (true, false),
        (None, Some("Foreground")) => (false, true),
        (None, Some(_)) => (false, false),
        (None, None) => {
            let orphan = has(ORPHAN) || (!has(FOREGROUND) && default == GarbageCollection::Orphan);
            (orphan, has(FOREGROUND) && !orphan)
        }
    };
    let wanted = [(ORPHAN, orphan), (FOREGROUND, foreground)];
    let mut after: Vec<&str> = before
        .iter()
        .copied()
        .filter(|f| wanted.iter().all(|(own, _)| own != f))
        .collect();
    after.extend(wanted.iter().filter(|(_, on)| *on).map(|(own, _)| *own));
    // If only the order would change, keep the existing order.
    if after.len() == before.len() && after.iter().all(|f| has(f)) {
        return before;
    }
    after
}

/// Marks a namespace as terminating. Its controller deletes its content and then removes the
/// namespace's finalizer.
fn namespace_step(object: &Object, now: Timestamp) -> Step {
    let mut new = object.clone();
    if meta::deletion_timestamp(object).is_none() {
        meta::set_deletion(&mut new, Some(&meta::rfc3339(now)), None);
        if !new["status"].is_object() {
            new["status"] = json!({});
        }
        new["status"]["phase"] = "Terminating".into();
        return Step::Mark(new);
    }
    let held = object["spec"]["finalizers"]
        .as_array()
        .is_some_and(|f| !f.is_empty());
    if held || meta::finalizers(object).next().is_some() {
        Step::Pending
    } else {
        Step::Remove(object.clone())
    }
}
