//! Server-side apply.

use rkube_api::fields::{self, Validation};
use rkube_api::status::Status;
use rkube_api::{Object, meta};

use super::error::HandlerError;
use super::metadata::check_name;
use super::ownership::{ObjectPart, Ownership, Plan, Tracking, applied, reset_fields};
use super::write::{Writer, Written};
use crate::call::Call;
use crate::input::decode::namespace_of_request;
use crate::input::options::WriteOptions;
use crate::input::patch::Configuration;
use crate::resources::Resource;
use crate::storage::RestStorage;
use crate::versions::{SchemaRef, VersionConverters};

/// The application of one configuration.
struct Apply<'a> {
    call: &'a Call,
    resource: &'a Resource,
    part: ObjectPart,
    configuration: Configuration,
    manager: String,
    converters: Option<VersionConverters>,
}

/// Applies a configuration: updates the object, or creates it if it does not exist.
pub(super) async fn apply(
    storage: &RestStorage,
    call: &Call,
    resource: &Resource,
    part: ObjectPart,
    options: WriteOptions,
    configuration: Configuration,
) -> Result<Written, HandlerError> {
    let apply = Apply {
        call,
        resource,
        part,
        configuration,
        manager: options.manager.clone(),
        converters: VersionConverters::of(&storage.backend, resource),
    };
    let plan = apply.plan()?;
    let update = |old: Option<&Object>| apply.run(old);
    let namespace = resource.namespace_of(&call.info);
    let writer = Writer {
        storage,
        call,
        resource,
        part,
        options,
        ownership: Ownership::Applied,
        plan,
    };
    let mut created_meanwhile = false;
    loop {
        match writer.update(&namespace, &call.info.name, &update).await {
            Err(HandlerError::NotFound(..)) if part == ObjectPart::Main => {}
            result => return result,
        }
        super::require_create(storage, call)?;
        let new = apply.run(None)?;
        match writer.create(new).await {
            // Another client has created the object meanwhile: apply to it.
            Err(HandlerError::AlreadyExists(..)) if !created_meanwhile => {
                created_meanwhile = true;
            }
            result => return result,
        }
    }
}

impl Apply<'_> {
    fn tracking(&self) -> Result<Tracking, Status> {
        let subresource = &self.call.info.subresource;
        Ok(Tracking {
            schema: SchemaRef::of(self.resource)?,
            converters: self.converters.clone(),
            api_version: self.resource.api_version(),
            manager: self.manager.clone(),
            subresource: Some(subresource.clone()).filter(|s| !s.is_empty()),
            now: meta::now_rfc3339(),
            reset_fields: reset_fields(self.resource, self.part),
        })
    }

    /// Applies the configuration to an object in the hub version.
    fn run(&self, old: Option<&Object>) -> Result<Object, Status> {
        let live = match old {
            Some(old) => Some(self.resource.served(old.clone())?),
            None => None,
        };
        let mut new = self.tracking()?.request(|request| {
            applied(
                request,
                live.as_ref(),
                &self.configuration.object,
                self.configuration.force,
            )
        })?;
        self.configuration.report_duplicate(self.call)?;
        namespace_of_request(self.call, self.resource, &mut new)?;
        if old.is_none() && !meta::uid(&new).is_empty() {
            let why = format!(
                "uid mismatch: the provided object specified uid {}, and no existing object was found",
                meta::uid(&new)
            );
            let resource = self.resource.group_resource();
            return Err(Status::conflict(&resource, &self.call.info.name, why));
        }
        check_name(&new, &self.call.info.name)?;
        if self.resource.crd_version().is_none() {
            fields::check(self.resource.schema(), &mut new)?;
        }
        self.resource.stored(new)
    }

    /// Returns a [`Plan`] if the apply may have to call a conversion webhook.
    fn plan(&self) -> Result<Option<Plan>, Status> {
        if !self
            .converters
            .as_ref()
            .is_some_and(VersionConverters::must_be_planned)
        {
            return Ok(None);
        }
        self.configuration.report_duplicate(self.call)?;
        Ok(Some(Plan {
            tracking: self.tracking()?,
            patch: self.configuration.object.clone(),
            force: self.configuration.force,
        }))
    }
}

impl Configuration {
    /// Reports a duplicate key according to `fieldValidation`.
    pub(super) fn report_duplicate(&self, call: &Call) -> Result<(), Status> {
        let Some(duplicate) = &self.duplicate else {
            return Ok(());
        };
        match self.validation {
            Validation::Ignore => Ok(()),
            Validation::Warn => {
                call.warn([duplicate.clone()]);
                Ok(())
            }
            Validation::Strict => Err(Status::bad_request(format!(
                "error strict decoding YAML: {duplicate}"
            ))),
        }
    }
}
