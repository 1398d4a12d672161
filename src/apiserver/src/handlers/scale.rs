//! The subresource `scale`: the replica count of a scalable object.

use http::StatusCode;
use rkube_api::fields;
use rkube_api::schema::{Schema, Type};
use rkube_api::status::Status;
use rkube_api::{GroupResource, Object, apply, meta, patch as patches};
use serde_json::Value;

use super::error::HandlerError;
use super::metadata::check_name;
use super::ownership::{ObjectPart, Ownership};
use super::scale_owners;
use super::write::Writer;
use crate::call::Call;
use crate::input::decode::{identified, namespace_of_request};
use crate::input::patch::{Change, Form};
use crate::input::scale::{SCALE, ScaleInput, check_kind};
use crate::outcome::Outcome;
use crate::resources::Resource;
use crate::storage::RestStorage;

/// Serves a request for the scale of an object.
pub async fn handle(
    storage: &RestStorage,
    call: &Call,
    resource: &Resource,
    input: ScaleInput,
) -> Result<Outcome, HandlerError> {
    let (options, change) = match input {
        ScaleInput::Get => return get(storage, call, resource).await,
        ScaleInput::Update(options, scale) => {
            check_name(&scale, &call.info.name)?;
            (options, ScaleChange::Whole(scale))
        }
        ScaleInput::Patch(options, change) => (options, ScaleChange::Part(change)),
    };
    let ty: Type<'_> = Schema::builtin()
        .definition("io.k8s.api.autoscaling.v1.Scale")
        .map(Type::Builtin)
        .ok_or_else(|| Status::internal("the kind Scale is unknown"))?;
    let manager = options.manager.clone();
    let path_of = scale_owners::path_of(resource);
    let make = |old: Option<&Object>| -> Result<Object, Status> {
        let old =
            old.ok_or_else(|| Status::not_found(&resource.group_resource(), &call.info.name))?;
        let mut object = resource.served(old.clone())?;
        let live = view(resource, &object)?;
        let applier = Applier {
            ty,
            manager: &manager,
            owners: scale_owners::of_scale(old, &path_of),
        };
        let mut scale = change.of(applier, &live)?;
        change.check(call, resource, ty, &mut scale)?;
        check_name(&scale, &call.info.name)?;
        let revision = meta::resource_version(&scale).to_owned();
        let uid = change.wanted_uid(resource, &scale, old)?;
        resource.strategy().set_scale(&mut object, &scale)?;
        // Preconditions on the scale apply to the object.
        if !revision.is_empty() {
            meta::set_resource_version(&mut object, &revision);
        }
        if !uid.is_empty() {
            meta::set_uid(&mut object, &uid);
        }
        if change.is_apply() {
            let owners = scale_owners::of_object(old, &scale, &resource.api_version(), &path_of);
            meta::metadata_mut(&mut object).insert("managedFields".into(), owners);
        }
        resource.stored(object)
    };
    let ownership = match change.is_apply() {
        true => Ownership::Applied,
        false => Ownership::Update,
    };
    let writer = Writer {
        storage,
        call,
        resource,
        part: ObjectPart::Main,
        options,
        ownership,
        plan: None,
    };
    let namespace = resource.namespace_of(&call.info);
    let written = writer.update(&namespace, &call.info.name, &make).await?;
    let object: Object = serde_json::from_slice(&written.json).map_err(Status::internal)?;
    let scale = view(resource, &resource.served(object)?)?;
    Ok(Outcome::Value(StatusCode::OK, scale))
}

async fn get(
    storage: &RestStorage,
    call: &Call,
    resource: &Resource,
) -> Result<Outcome, HandlerError> {
    let name = &call.info.name;
    storage.backend.cache.consistent().await;
    let object = resource
        .cache
        .get(&resource.namespace_of(&call.info), name)
        .ok_or_else(|| HandlerError::NotFound(resource.group_resource(), name.clone()))?;
    let object = storage.backend.load(resource, object.parse()).await?;
    let object = resource.served(object)?;
    let custom = resource.crd_version();
    if let Some(path) = custom.and_then(|version| version.missing_replicas(&object)) {
        let path = rkube_api::text::quote(path);
        let why = format!("the spec replicas field {path} does not exist");
        return Err(Status::internal(why).into());
    }
    Ok(Outcome::Value(StatusCode::OK, view(resource, &object)?))
}

/// Returns the scale of an object in the requested version.
fn view(resource: &Resource, object: &Object) -> Result<Object, Status> {
    resource
        .strategy()
        .scale(object)
        .ok_or_else(|| Status::internal(format!("{} has no scale", resource.group_resource())))
}

/// What becomes of a scale.
enum ScaleChange {
    /// It is replaced.
    Whole(Object),
    /// It is patched.
    Part(Change),
}

impl ScaleChange {
    fn is_apply(&self) -> bool {
        matches!(self, Self::Part(Change::Apply(_)))
    }

    /// Checks that the new scale is one, of the request's object. A patch is at fault itself.
    fn check(
        &self,
        call: &Call,
        resource: &Resource,
        ty: Type<'_>,
        scale: &mut Object,
    ) -> Result<(), Status> {
        match self {
            Self::Whole(_) => {
                fields::check(ty, scale)?;
            }
            Self::Part(Change::Patch(patch)) => {
                let merged = scale.clone();
                let refused = |error: Status| {
                    let why = error.message.split_once(" cannot be handled as a Scale: ");
                    patch.invalid(&merged, why.map_or(&*error.message, |(_, why)| why))
                };
                if patch.form != Form::Strategic {
                    *scale = identified(scale.take()).map_err(refused)?;
                    check_kind(resource, scale).map_err(refused)?;
                }
                // A strategic merge patch is applied to Go's object, whatever kind it names.
                meta::set_type(scale, "autoscaling/v1", SCALE.kind);
                let unknown = fields::check(ty, scale).map_err(refused)?;
                patch.report(call, &merged, unknown)?;
            }
            Self::Part(Change::Apply(configuration)) => {
                fields::check(ty, scale)?;
                configuration.report_duplicate(call)?;
            }
        }
        namespace_of_request(call, resource, scale)
    }

    /// Returns the uid that the object must have for the write; none if it is empty.
    ///
    /// # Errors
    ///
    /// 409 if a patch names another than the object's. Upstream ignores that of a custom resource's
    /// scale.
    fn wanted_uid(
        &self,
        resource: &Resource,
        scale: &Object,
        object: &Object,
    ) -> Result<String, Status> {
        let (wanted, found) = (meta::uid(scale), meta::uid(object));
        if matches!(self, Self::Whole(_)) || wanted == found {
            return Ok(wanted.to_owned());
        }
        if !wanted.is_empty() && resource.crd_version().is_none() {
            let why = format!(
                "Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"
            );
            let scales = format!("{}/scale", resource.plural);
            let scales = GroupResource::new(&*resource.group, &*scales);
            return Err(Status::conflict(&scales, meta::name(object), why));
        }
        Ok(String::new())
    }

    /// Returns the new scale of an object.
    fn of(&self, applier: Applier<'_>, live: &Object) -> Result<Object, Status> {
        let ty = applier.ty;
        match self {
            Self::Whole(scale) => Ok(scale.clone()),
            Self::Part(Change::Patch(patch)) => match patch.form {
                Form::Json => patches::json_patch(live, &patch.value),
                Form::Strategic => patches::strategic_merge(ty, live, &patch.value),
                Form::Merge | Form::Apply => patches::merge_patch(live, &patch.value),
            },
            Self::Part(Change::Apply(configuration)) => {
                let now = meta::now_rfc3339();
                let request = apply::Request {
                    ty,
                    api_version: "autoscaling/v1",
                    manager: applier.manager,
                    subresource: Some("scale"),
                    now: &now,
                    versions: None,
                    reset_fields: &[],
                };
                let (object, force) = (&configuration.object, configuration.force);
                let mut live = live.clone();
                meta::metadata_mut(&mut live).insert("managedFields".into(), applier.owners);
                apply::apply(&request, Some(&live), object, force)
            }
        }
    }
}

/// What an apply to a scale needs to know.
struct Applier<'a> {
    /// The type of scales.
    ty: Type<'a>,
    /// The field manager.
    manager: &'a str,
    /// `managedFields` of the current scale.
    owners: Value,
}
