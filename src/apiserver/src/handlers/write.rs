//! Storing new and changed objects: the common path of create, update, patch and apply.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use rkube_admission::Operation;
use rkube_api::status::Status;
use rkube_api::{Object, apply, fields, meta};
use rkube_store::{Expect, KeyValue, StoreError};
use rkube_strategy::Context;

use super::error::HandlerError;
use super::metadata::{
    check_errors, check_identity, generated_name, is_unchanged, keep_system_metadata,
    loses_last_finalizer, merge_owners, metadata_errors,
};
use super::ownership::{ObjectPart, Ownership, Plan, Tracking, reset_fields};
use crate::admission::attributes::Admission;
use crate::apiextensions::definition;
use crate::cache::with_revision;
use crate::call::Call;
use crate::codec::{decode, revised};
use crate::input::options::WriteOptions;
use crate::policies;
use crate::resources::Resource;
use crate::services;
use crate::storage::RestStorage;
use crate::store_error::store_error;
use crate::versions::{SchemaRef, VersionConverters};

/// Maximum number of retries of a write after a conflict with another writer.
const MAX_ATTEMPTS: usize = 8;

/// A write in progress.
pub struct Writer<'a> {
    /// The storage to write to.
    pub storage: &'a RestStorage,
    /// The request.
    pub call: &'a Call,
    /// The resource.
    pub resource: &'a Resource,
    /// The part of the object that the write may change.
    pub part: ObjectPart,
    /// The options of the write.
    pub options: WriteOptions,
    /// The way in which field ownership is recorded.
    pub ownership: Ownership,
    /// A server-side apply that may have to call a conversion webhook. If set, it replaces the
    /// function passed to [`update`](Self::update).
    pub plan: Option<Plan>,
}

/// Returns the new state of an object from its current one, both in the hub version. May be called
/// more than once.
pub type UpdateFn<'a> = &'a (dyn Fn(Option<&Object>) -> Result<Object, Status> + Send + Sync);

/// The result of a write.
pub struct Written {
    /// The object with its revision, as JSON in the hub version.
    pub json: Bytes,
    /// Whether the write created the object.
    pub created: bool,
}

impl Writer<'_> {
    fn context(&self, now: Timestamp) -> Context<'_> {
        Context {
            now,
            user: &self.call.user.name,
            uid: &self.call.user.uid,
            groups: &self.call.user.groups,
            extra: &self.call.user.extra,
        }
    }

    fn subresource(&self) -> &str {
        &self.call.info.subresource
    }

    /// Records the owner of each changed field in `managedFields`, in the request's version.
    async fn record_managed_fields(
        &self,
        live: Option<&Object>,
        object: Object,
        now: Timestamp,
    ) -> Result<Object, Status> {
        if self.ownership == Ownership::Applied {
            return Ok(object);
        }
        let tracking = Tracking {
            schema: SchemaRef::of(self.resource)?,
            converters: VersionConverters::of(&self.storage.backend, self.resource),
            api_version: self.resource.api_version(),
            manager: self.options.manager.clone(),
            subresource: Some(self.subresource().to_owned()).filter(|s| !s.is_empty()),
            now: meta::rfc3339(now),
            reset_fields: reset_fields(self.resource, self.part),
        };
        if self.resource.working_api_version() == self.resource.api_version() {
            return tracking
                .run(live, move |request, live| {
                    apply::update(request, live, object)
                })
                .await;
        }
        let there = self.resource.served(object.clone())?;
        let live = match live {
            Some(live) => Some(self.resource.served(live.clone())?),
            None => None,
        };
        let owned = tracking
            .run(live.as_ref(), move |request, live| {
                apply::update(request, live, there)
            })
            .await?;
        let mut object = object;
        match owned["metadata"].get("managedFields") {
            Some(fields) => {
                meta::metadata_mut(&mut object).insert("managedFields".into(), fields.clone());
            }
            None => {
                meta::remove(&mut object, "managedFields");
            }
        }
        Ok(object)
    }

    /// Stores a new object, given in the hub version.
    pub async fn create(&self, mut object: Object) -> Result<Written, HandlerError> {
        let now = Timestamp::now();
        let resource = self.resource;
        let strategy = resource.strategy();
        let ctx = self.context(now);
        for field in [
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
        ] {
            meta::remove(&mut object, field);
        }
        self.call.warn(merge_owners(&mut object, false));
        strategy.default(&mut object);
        // Fields set below are not recorded in managedFields: no manager owns them.
        object = self.record_managed_fields(None, object, now).await?;
        meta::set_uid(&mut object, &crate::uid::new_uid());
        meta::set_creation_timestamp(&mut object, &meta::rfc3339(now));

        let generate = meta::generate_name(&object).to_owned();
        let generated = meta::name(&object).is_empty() && !generate.is_empty();
        let admission = Admission {
            backend: &self.storage.backend,
            authorizer: &self.storage.admission.authorizer,
            call: self.call,
            requested: None,
            resource,
            operation: Operation::Create,
            dry_run: self.options.dry_run,
            options: &self.options.object,
            part: None,
        };
        let mut attempts = 0;
        let mut template = object;
        loop {
            // A generated name may be in use; in that case another one is tried.
            let mut object = match generated {
                true => template.clone(),
                false => template.take(),
            };
            if generated {
                meta::set_name(&mut object, &generated_name(&generate));
            }
            strategy.prepare_create(&ctx, &mut object);
            fields::complete(resource.working_schema(), &mut object);
            self.storage
                .admission
                .mutate(&admission, &mut object, None)
                .await?;
            self.call.warn(merge_owners(&mut object, true));
            strategy.default(&mut object);
            let mut reservation = services::allocate(
                &self.storage.backend,
                resource,
                &mut object,
                None,
                self.options.dry_run,
            )
            .await?;
            let made = self.insert(&admission, object, &mut reservation).await;
            reservation.rollback().await;
            match made? {
                Insertion::Done(written) => return Ok(written),
                Insertion::NameTaken(_) if generated && attempts < MAX_ATTEMPTS => attempts += 1,
                Insertion::NameTaken(name) if generated => {
                    let resource = resource.group_resource();
                    return Err(Status::generate_name_conflict(&resource, &name).into());
                }
                Insertion::NameTaken(name) => {
                    let resource = resource.group_resource();
                    return Err(HandlerError::AlreadyExists(resource, name));
                }
            }
        }
    }

    /// Validates and stores a completed new object.
    async fn insert(
        &self,
        admission: &Admission<'_>,
        mut object: Object,
        reservation: &mut services::Reservation,
    ) -> Result<Insertion, Status> {
        let resource = self.resource;
        let strategy = resource.strategy();
        let name = meta::name(&object).to_owned();
        let mut errors = metadata_errors(resource, &object);
        let own = strategy.validate_create(&object);
        // As upstream, which validates the metadata of these kinds only if all else is right.
        if !strategy.validates_metadata() && !own.is_empty() {
            errors.clear();
        }
        errors.extend(own);
        errors.extend(policies::problems(resource, &object));
        check_errors(resource, &name, errors)?;
        definition::check(resource, &object, None)?;
        self.call.warn(strategy.warnings(&object, None));
        self.storage
            .admission
            .validate(admission, &mut object, None)
            .await?;
        self.storage
            .admission
            .check_escalation(self.call, resource, &object, None)?;
        self.storage
            .admission
            .charge_quota(admission, &mut object, None)
            .await?;

        // As upstream, only the store refuses it: policies and webhooks answer first.
        let version = meta::resource_version(&object).parse::<u64>();
        if version.is_ok_and(|version| version != 0) && !self.options.dry_run {
            return Err(Status::new(
                500,
                "",
                "resourceVersion should not be set on objects to be created",
            ));
        }
        let key = resource.key(meta::namespace(&object), &name);
        let (bytes, shown) = self.storage.backend.to_store(resource, &mut object).await?;
        if self.options.dry_run {
            let (found, _) = self
                .storage
                .backend
                .store
                .get(&key)
                .await
                .map_err(|e| store_error(resource, &name, e))?;
            return Ok(match found {
                Some(_) => Insertion::NameTaken(name),
                None => Insertion::Done(Written {
                    json: shown.unwrap_or(bytes),
                    created: true,
                }),
            });
        }
        let write = self.storage.backend.store.put(&key, bytes, Expect::Absent);
        match reservation.commit_with(write).await {
            Ok(kv) => Ok(Insertion::Done(Written {
                json: revised(&kv, shown)?,
                created: true,
            })),
            Err(StoreError::Conflict { .. }) => Ok(Insertion::NameTaken(name)),
            Err(error) => Err(store_error(resource, &name, error)),
        }
    }

    /// Updates an object: `make` returns the new state from the current one, and is called again
    /// after a conflict with another writer.
    ///
    /// # Errors
    ///
    /// 404 if the object does not exist; 409 if too many attempts conflict.
    pub async fn update(
        &self,
        namespace: &str,
        name: &str,
        make: UpdateFn<'_>,
    ) -> Result<Written, HandlerError> {
        let resource = self.resource;
        self.storage.backend.cache.consistent().await;
        let mut current = match resource.cache.get(namespace, name) {
            Some(object) => Some(self.load_current(object.parse(), object.revision).await?),
            None => None,
        };
        for _ in 0..MAX_ATTEMPTS {
            let Some(found) = &current else {
                let resource = resource.group_resource();
                return Err(HandlerError::NotFound(resource, name.to_owned()));
            };
            match self.attempt(namespace, name, found, make).await? {
                Attempt::Done(written) => return Ok(written),
                Attempt::Conflict(found) => {
                    current = match found {
                        Some(kv) => Some(self.load_current(decode(&kv)?, kv.mod_revision).await?),
                        None => None,
                    };
                }
            }
        }
        Err(Status::modified(&resource.group_resource(), name).into())
    }

    async fn load_current(&self, object: Object, revision: u64) -> Result<Current, Status> {
        let outdated = self
            .resource
            .crd_versions()
            .is_some_and(|family| meta::api_version(&object) != family.storage());
        let mut object = self.storage.backend.load(self.resource, object).await?;
        self.resource.normalise(&mut object);
        Ok(Current {
            object,
            revision,
            outdated,
        })
    }

    async fn attempt(
        &self,
        namespace: &str,
        name: &str,
        found: &Current,
        make: UpdateFn<'_>,
    ) -> Result<Attempt, Status> {
        let resource = self.resource;
        let (old, revision) = (&found.object, found.revision);
        let strategy = resource.strategy();
        let now = Timestamp::now();
        let ctx = self.context(now);
        let mut new = match &self.plan {
            Some(plan) => plan.run(old).await?,
            None => make(Some(old))?,
        };
        let is_patch = self.call.info.verb == "patch";
        check_identity(resource, &mut new, old, revision, namespace, name, is_patch)?;
        // Of a patch they are merged only once admission has seen it.
        if self.call.info.verb == "update" {
            self.call.warn(merge_owners(&mut new, false));
        }
        strategy.default(&mut new);
        match self.part {
            ObjectPart::Main => strategy.prepare_update(&ctx, &mut new, old),
            ObjectPart::Status => strategy.prepare_status_update(&ctx, &mut new, old),
            ObjectPart::Sub(sub) => strategy.prepare_subresource_update(&ctx, sub, &mut new, old),
        }
        keep_system_metadata(&mut new, old);
        fields::complete(resource.working_schema(), &mut new);
        new = self.record_managed_fields(Some(old), new, now).await?;
        let admission = Admission {
            backend: &self.storage.backend,
            authorizer: &self.storage.admission.authorizer,
            call: self.call,
            requested: None,
            resource,
            operation: Operation::Update,
            dry_run: self.options.dry_run,
            options: &self.options.object,
            part: None,
        };
        self.storage
            .admission
            .mutate(&admission, &mut new, Some(old))
            .await?;
        self.call.warn(merge_owners(&mut new, true));
        strategy.default(&mut new);
        let mut reservation = match self.part {
            ObjectPart::Main => {
                let dry_run = self.options.dry_run;
                services::allocate(
                    &self.storage.backend,
                    resource,
                    &mut new,
                    Some(old),
                    dry_run,
                )
                .await?
            }
            _ => services::Reservation::default(),
        };
        let result = self
            .replace(&admission, namespace, name, found, new, &mut reservation)
            .await;
        reservation.rollback().await;
        result
    }

    /// Validates and stores a completed new state of an object.
    async fn replace(
        &self,
        admission: &Admission<'_>,
        namespace: &str,
        name: &str,
        found: &Current,
        mut new: Object,
        reservation: &mut services::Reservation,
    ) -> Result<Attempt, Status> {
        let resource = self.resource;
        let strategy = resource.strategy();
        let (old, revision) = (&found.object, found.revision);
        let mut errors = metadata_errors(resource, &new);
        errors.extend(rkube_strategy::validate_metadata_update(&new, old));
        errors.extend(match self.part {
            ObjectPart::Main => strategy.validate_update(&new, old),
            ObjectPart::Status => strategy.validate_status_update(&new, old),
            ObjectPart::Sub(sub) => strategy.validate_subresource_update(sub, &new, old),
        });
        if self.part == ObjectPart::Main {
            errors.extend(policies::problems(resource, &new));
        }
        check_errors(resource, name, errors)?;
        if self.part == ObjectPart::Main {
            definition::check(resource, &new, Some(old))?;
        }
        self.call.warn(strategy.warnings(&new, Some(old)));
        self.storage
            .admission
            .validate(admission, &mut new, Some(old))
            .await?;
        self.storage
            .admission
            .check_escalation(self.call, resource, &new, Some(old))?;
        self.storage
            .admission
            .charge_quota(admission, &mut new, Some(old))
            .await?;

        let key = resource.key(namespace, name);
        if !found.outdated && is_unchanged(&new, old) {
            // There is nothing to store, but the write must not succeed on a stale read.
            let json = serde_json::to_vec(old).map_err(Status::internal)?;
            let (found, _) = self
                .storage
                .backend
                .store
                .get(&key)
                .await
                .map_err(|e| store_error(resource, name, e))?;
            return match found {
                Some(kv) if kv.mod_revision == revision => Ok(Attempt::Done(Written {
                    json: json.into(),
                    created: false,
                })),
                found => Ok(Attempt::Conflict(found)),
            };
        }
        let gone = loses_last_finalizer(resource, &new, old);
        let (bytes, shown) = self.storage.backend.to_store(resource, &mut new).await?;
        if self.options.dry_run {
            let json = with_revision(shown.as_ref().unwrap_or(&bytes), revision)
                .ok_or_else(|| Status::internal("an object has no metadata"))?;
            return Ok(Attempt::Done(Written {
                json,
                created: false,
            }));
        }
        if gone {
            return self.remove(&key, found, name, shown.unwrap_or(bytes)).await;
        }
        let (store, expect) = (&self.storage.backend.store, Expect::Revision(revision));
        // Until an object that is being deleted can go, its status and finalizers are written.
        let write = match meta::deletion_timestamp(old) {
            Some(_) => store.put_deleting(&key, bytes, expect),
            None => store.put(&key, bytes, expect),
        };
        match reservation.commit_with(write).await {
            Ok(kv) => {
                services::release(&self.storage.backend, resource, old, Some(&new)).await;
                Ok(Attempt::Done(Written {
                    json: revised(&kv, shown)?,
                    created: false,
                }))
            }
            Err(StoreError::Conflict { found }) => Ok(Attempt::Conflict(found)),
            Err(error) => Err(store_error(resource, name, error)),
        }
    }

    /// Removes an object that has lost its last finalizer. Returns `json`, its last state.
    async fn remove(
        &self,
        key: &str,
        found: &Current,
        name: &str,
        json: Bytes,
    ) -> Result<Attempt, Status> {
        let backend = &self.storage.backend;
        let expect = Expect::Revision(found.revision);
        match backend.store.delete(key, expect).await {
            Ok((_, at)) => {
                services::release(backend, self.resource, &found.object, None).await;
                let json = with_revision(&json, at)
                    .ok_or_else(|| Status::internal("an object has no metadata"))?;
                Ok(Attempt::Done(Written {
                    json,
                    created: false,
                }))
            }
            Err(StoreError::Conflict { found }) => Ok(Attempt::Conflict(found)),
            Err(error) => Err(store_error(self.resource, name, error)),
        }
    }
}

/// The current state of an object, in the hub version.
struct Current {
    object: Object,
    revision: u64,
    /// Whether the object is stored in another version than the current storage version.
    outdated: bool,
}

/// The result of storing a new object.
enum Insertion {
    Done(Written),
    /// An object of this name exists.
    NameTaken(String),
}

/// The result of storing a changed object.
enum Attempt {
    Done(Written),
    /// Another writer was faster; holds the current state.
    Conflict(Option<Arc<KeyValue>>),
}
