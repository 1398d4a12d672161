//! Server-side apply.

use rkube_api::fields::{self, Validation};
use rkube_api::status::Status;
use rkube_api::{FieldError, Object, meta};

use super::decode::{json_kind, namespace_of_request, parse_body};
use super::metadata::check_name;
use super::options::WriteOptions;
use super::ownership::{ObjectPart, Ownership, Plan, Tracking, applied, reset_fields};
use super::patch::invalid_options;
use super::write::{Writer, Written};
use crate::body;
use crate::call::{Call, Incoming};
use crate::negotiate::Encoding;
use crate::resources::Resource;
use crate::storage::RestStorage;
use crate::versions::{SchemaRef, VersionConverters};

/// The application of one configuration.
struct Apply<'a> {
    call: &'a Call,
    resource: &'a Resource,
    part: ObjectPart,
    configuration: Object,
    force: bool,
    manager: String,
    converters: Option<VersionConverters>,
    validation: Validation,
    /// The error message if the configuration has a duplicate key.
    duplicate: Option<String>,
}

/// Serves an apply: updates the object, or creates it if it does not exist.
pub(super) async fn apply(
    storage: &RestStorage,
    call: &Call,
    resource: &Resource,
    request: Incoming,
    part: ObjectPart,
    mut options: WriteOptions,
) -> Result<Written, Status> {
    if call.info.query.non_empty("fieldManager").is_none() {
        return Err(invalid_options(FieldError::required(
            "fieldManager",
            "is required for apply patch",
        )));
    }
    let force = call.info.query.is_true("force");
    options.object["force"] = force.into();
    let bytes = body::read(request.body).await?;
    let (mut configuration, duplicates) = parse_body(&bytes, Encoding::Yaml).map_err(|error| {
        let why = error.message;
        let what = "error decoding YAML: error converting YAML to JSON";
        Status::bad_request(format!("{what}: {why}"))
    })?;
    let duplicate = match duplicates.is_empty() {
        true => None,
        false => fields::yaml_duplicate(&bytes),
    };
    if configuration.is_null() {
        configuration = Object::Object(serde_json::Map::new());
    }
    if !configuration.is_object() {
        let found = json_kind(&configuration);
        return Err(Status::bad_request(format!(
            "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"
        )));
    }
    check_configuration(call, resource, &mut configuration)?;
    let apply = Apply {
        call,
        resource,
        part,
        configuration,
        force,
        manager: options.manager.clone(),
        converters: VersionConverters::of(&storage.backend, resource),
        validation: options.validation,
        duplicate,
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
            Err(status) if part == ObjectPart::Main && status.is_not_found() => {}
            result => return result,
        }
        super::require_create(storage, call)?;
        let new = apply.run(None)?;
        match writer.create(new).await {
            // Another client has created the object meanwhile: apply to it.
            Err(status) if status.reason == "AlreadyExists" && !created_meanwhile => {
                created_meanwhile = true;
            }
            result => return result,
        }
    }
}

/// Validates a configuration.
fn check_configuration(
    call: &Call,
    resource: &Resource,
    configuration: &mut Object,
) -> Result<(), Status> {
    let (version, kind) = (meta::api_version(configuration), meta::kind(configuration));
    if version != resource.api_version() || kind != resource.kind {
        let separator = if version.contains('/') { "" } else { "/" };
        return Err(Status::bad_request(format!(
            "invalid object type: {separator}{version}, Kind={kind}"
        )));
    }
    let given = meta::name(configuration);
    if !given.is_empty() && given != call.info.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({})",
            call.info.name
        )));
    }
    // The name of what is created must be in the configuration; see `Apply::run`.
    let namespace = resource.namespace_of(&call.info);
    let given = meta::namespace(configuration);
    if resource.namespaced && !given.is_empty() && given != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    // Applied fields are owned as they are, also where the object does not keep them (zero values).
    if resource.crd_version().is_some() {
        // Undeclared fields are an error of the apply itself, regardless of `fieldValidation`.
        let mut checked = configuration.clone();
        if fields::check(resource.schema(), &mut checked)?.is_empty() {
            *configuration = checked;
        }
    }
    meta::set_type(configuration, &resource.api_version(), &resource.kind);
    if !meta::managed_fields(configuration).is_empty() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    Ok(())
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
        let mut new = self
            .tracking()?
            .request(|request| applied(request, live.as_ref(), &self.configuration, self.force))?;
        self.report_duplicate()?;
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
        self.report_duplicate()?;
        Ok(Some(Plan {
            tracking: self.tracking()?,
            patch: self.configuration.clone(),
            force: self.force,
        }))
    }

    /// Reports a duplicate key according to `fieldValidation`.
    fn report_duplicate(&self) -> Result<(), Status> {
        let Some(duplicate) = &self.duplicate else {
            return Ok(());
        };
        match self.validation {
            Validation::Ignore => Ok(()),
            Validation::Warn => {
                self.call.warn([duplicate.clone()]);
                Ok(())
            }
            Validation::Strict => Err(Status::bad_request(format!(
                "error strict decoding YAML: {duplicate}"
            ))),
        }
    }
}
