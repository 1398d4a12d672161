//! `delete` and `deletecollection`: preconditions, grace periods, finalizers and propagation.

use std::sync::Arc;

use futures::future::BoxFuture;
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use rkube_admission::Operation;
use rkube_api::schema::Schema;
use rkube_api::status::{FieldError, Status};
use rkube_api::{GroupKind, GroupResource, Object, fields, meta};
use rkube_store::{Expect, KeyValue, StoreError};
use rkube_strategy::GarbageCollection;
use serde_json::{Value, json};

use super::decode::{identified, parse_body};
use super::options::dry_run_values;
use super::read;
use crate::admission::attributes::Admission;
use crate::backend::Backend;
use crate::body::{self, Body};
use crate::call::{Call, Incoming};
use crate::codec::{decode, revised};
use crate::negotiate;
use crate::resources::Resource;
use crate::respond;
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
const RETURN_OBJECT: [(&str, &str); 12] = [
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
];

const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// Parsed `DeleteOptions`.
#[derive(Clone, Default)]
pub struct DeleteOptions {
    /// The grace period in seconds; `None` uses the kind's default.
    pub grace: Option<i64>,
    /// Precondition: the object's uid.
    pub uid: Option<String>,
    /// Precondition: the object's `resourceVersion`.
    pub revision: Option<String>,
    /// The propagation policy: `Orphan`, `Background` or `Foreground`.
    pub propagation: Option<String>,
    /// The deprecated form of the propagation policy.
    pub orphan_dependents: Option<bool>,
    /// Whether the request is a dry run.
    pub dry_run: bool,
    /// The options object, for admission.
    pub object: Object,
}

impl DeleteOptions {
    /// Reads the options from the request's body, or from its query if the body is empty. As
    /// upstream, the query does not count beside a body.
    async fn read(call: &Call, request: Incoming) -> Result<Self, Status> {
        let bytes = body::read(request.body).await?;
        let query = &call.info.query;
        let mut object = if bytes.is_empty() {
            let mut object = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
            if let Some(grace) = read::number(call, "gracePeriodSeconds")? {
                object["gracePeriodSeconds"] = grace.into();
            }
            let dry_run: Vec<&str> = query.all("dryRun").collect();
            if !dry_run.is_empty() {
                object["dryRun"] = json!(dry_run);
            }
            if let Some(policy) = query.non_empty("propagationPolicy") {
                object["propagationPolicy"] = policy.into();
            }
            if query.get("orphanDependents").is_some() {
                object["orphanDependents"] = query.is_true("orphanDependents").into();
            }
            object
        } else {
            let encoding = negotiate::content_encoding(&call.headers)?;
            identified(parse_body(&bytes, encoding)?.0)?
        };
        let kind = meta::kind(&object);
        if !matches!(kind, "" | "DeleteOptions") {
            let kind = rkube_api::text::quote(kind);
            let version = rkube_api::text::quote(meta::api_version(&object));
            return Err(Status::bad_request(format!(
                "no kind {kind} is registered for version {version} in scheme \"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27\""
            )));
        }
        if let Some(ty) = Schema::builtin().definition(DELETE_OPTIONS) {
            // Unknown fields are dropped, as upstream.
            fields::check(ty, &mut object)?;
        }
        Self::from_object(object)
    }

    /// Parses and validates a `DeleteOptions` object.
    pub fn from_object(object: Object) -> Result<Self, Status> {
        let mut errors = Vec::new();
        let values = object["dryRun"].as_array().into_iter().flatten();
        let values: Vec<&str> = values.filter_map(Value::as_str).collect();
        let dry_run = dry_run_values(&values, &mut errors);
        let propagation = object["propagationPolicy"].as_str().map(str::to_owned);
        let orphan_dependents = object["orphanDependents"].as_bool();
        if propagation.is_some() && orphan_dependents.is_some() {
            errors.push(FieldError::invalid(
                "propagationPolicy",
                object["propagationPolicy"].clone(),
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        if let Some(policy) = &propagation
            && !matches!(policy.as_str(), "Foreground" | "Background" | "Orphan")
        {
            errors.push(FieldError::not_supported(
                "propagationPolicy",
                policy.as_str(),
                &["Foreground", "Background", "Orphan", "nil"],
            ));
        }
        if !errors.is_empty() {
            return Err(Status::invalid(
                &GroupKind::new("meta.k8s.io", "DeleteOptions"),
                "",
                errors,
            ));
        }
        Ok(Self {
            grace: object["gracePeriodSeconds"].as_i64(),
            uid: object["preconditions"]["uid"].as_str().map(str::to_owned),
            revision: object["preconditions"]["resourceVersion"]
                .as_str()
                .map(str::to_owned),
            propagation,
            orphan_dependents,
            dry_run,
            object,
        })
    }
}

/// The result of a deletion.
pub struct Deleted {
    /// The object's last or current state, in the hub version.
    pub object: Object,
    /// Whether the object has been removed. Otherwise it is only marked as being deleted.
    pub gone: bool,
}

/// Serves the deletion of one object.
pub async fn delete(
    storage: &RestStorage,
    call: &Call,
    resource: &Resource,
    request: Incoming,
) -> Result<Response<Body>, Status> {
    let accepted = negotiate::accept(&call.headers, resource.media_types())?;
    let options = DeleteOptions::read(call, request).await?;
    let namespace = resource.namespace_of(&call.info);
    let deleted = delete_object(
        storage,
        call,
        resource,
        &namespace,
        &call.info.name,
        &options,
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
        return Ok(storage
            .backend
            .tree_response(call, resource, code, accepted, object)
            .await);
    }
    let mut details = json!({"name": meta::name(&deleted.object), "kind": &*resource.plural, "uid": meta::uid(&deleted.object)});
    if !resource.group.is_empty() {
        details["group"] = resource.group.as_ref().into();
    }
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
    Ok(respond::value(call, code, accepted.encoding, &status).await)
}

/// Serves `deletecollection`.
pub async fn delete_collection(
    storage: &RestStorage,
    call: &Call,
    resource: &Resource,
    request: Incoming,
) -> Result<Response<Body>, Status> {
    let accepted = negotiate::accept(&call.headers, resource.media_types())?;
    let options = DeleteOptions::read(call, request).await?;
    let filter = read::filter(&call.info, resource)?;
    read::check_list_options(call)?;
    storage.backend.cache.consistent().await;
    let (items, revision) = storage
        .backend
        .current(resource, &resource.stored_filter(&filter));
    let items = storage.backend.select(resource, items, &filter).await?;
    // Concurrent deletions share the store's commits.
    let mut results = Vec::with_capacity(items.len());
    for chunk in items.chunks(32) {
        let deletions: Vec<BoxFuture<'_, Result<Deleted, Status>>> = chunk
            .iter()
            .map(|item| {
                let deletion = delete_object(
                    storage,
                    call,
                    resource,
                    &item.namespace,
                    &item.name,
                    &options,
                );
                Box::pin(deletion) as BoxFuture<'_, _>
            })
            .collect();
        results.extend(futures::future::join_all(deletions).await);
    }
    for result in results {
        match result {
            Err(status) if !status.is_not_found() => return Err(status),
            _ => {}
        }
    }
    let meta = respond::ListMeta {
        revision,
        ..Default::default()
    };
    storage
        .backend
        .list_response(call, resource, accepted, &items, meta)
        .await
}

/// The action that a deletion takes on an object.
enum Step {
    /// Remove the object now.
    Remove,
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
) -> Result<Deleted, Status> {
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
            return Err(Status::not_found(&resource.group_resource(), name));
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
            Step::Pending => Outcome::Done(Deleted {
                object,
                gone: false,
            }),
            Step::Mark(marked) => deletion.mark(marked, revision).await?,
            Step::Remove => deletion.remove(object, revision).await?,
        };
        current = match outcome {
            Outcome::Done(deleted) => return Ok(deleted),
            Outcome::Conflict(Some(kv)) => {
                Some((backend.load(resource, decode(&kv)?).await?, kv.mod_revision))
            }
            Outcome::Conflict(None) => None,
        };
    }
    Err(Status::modified(&resource.group_resource(), name))
}

/// The deletion of one object in the store.
struct Deletion<'a> {
    backend: &'a Backend,
    resource: &'a Resource,
    key: String,
    dry_run: bool,
}

/// The result of one attempt.
enum Outcome {
    Done(Deleted),
    /// Another writer was faster; holds the object's current state.
    Conflict(Option<Arc<KeyValue>>),
}

impl Deletion<'_> {
    /// Stores an object that is marked as being deleted.
    async fn mark(&self, mut marked: Object, revision: u64) -> Result<Outcome, Status> {
        let (bytes, shown) = self.backend.to_store(self.resource, &mut marked).await?;
        if self.dry_run {
            return Ok(Outcome::Done(Deleted {
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
                Ok(Outcome::Done(Deleted {
                    object,
                    gone: false,
                }))
            }
            Err(error) => self.conflict(&marked, error),
        }
    }

    /// Removes an object from the store.
    async fn remove(&self, mut object: Object, revision: u64) -> Result<Outcome, Status> {
        if self.dry_run {
            return Ok(Outcome::Done(Deleted { object, gone: true }));
        }
        let expect = Expect::Revision(revision);
        match self.backend.store.delete(&self.key, expect).await {
            Ok((_, at)) => {
                services::release(self.backend, self.resource, &object, None).await;
                meta::set_resource_version(&mut object, &at.to_string());
                Ok(Outcome::Done(Deleted { object, gone: true }))
            }
            Err(error) => self.conflict(&object, error),
        }
    }

    fn conflict(&self, object: &Object, error: StoreError) -> Result<Outcome, Status> {
        match error {
            StoreError::Conflict { found } => Ok(Outcome::Conflict(found)),
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
        return Step::Remove;
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
    let (orphan, foreground) = match (options.orphan_dependents, options.propagation.as_deref()) {
        (Some(orphan), _) => (orphan, false),
        (None, Some("Orphan")) => (true, false),
        (None, Some("Foreground")) => (false, true),
        (None, Some(_)) => (false, false),
        (None, None) => {
            let orphan = has(ORPHAN)
                || (!has(FOREGROUND)
                    && resource.strategy().default_garbage_collection()
                        == GarbageCollection::Orphan);
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
        Step::Remove
    }
}
