//! `patch` in its four forms.

use http::{Response, StatusCode};
use rkube_api::fields;
use rkube_api::status::Status;
use rkube_api::{Object, meta, patch as patches};

use super::decode::{namespace_of_request, parse_body, report_fields};
use super::options::WriteOptions;
use super::ownership::{Ownership, Part, Plan, Tracking, applied, reset_fields};
use super::write::Writer;
use crate::body::{self, Body};
use crate::call::{Call, Incoming};
use crate::negotiate::{self, Encoding};
use crate::resources::Resource;
use crate::storage::RestStorage;
use crate::versions::{Shape, Views};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Merge,
    Strategic,
    Apply,
}

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// Serves a patch of an object or a part of it.
pub async fn patch(
    storage: &RestStorage,
    call: &Call,
    resource: &Resource,
    request: Incoming,
    part: Part,
) -> Result<Response<Body>, Status> {
    let accepted = negotiate::accept(&call.headers, resource.offer())?;
    let form = match negotiate::media_type(&call.headers) {
        JSON => Form::Json,
        MERGE => Form::Merge,
        STRATEGIC if resource.as_custom().is_none() => Form::Strategic,
        APPLY => Form::Apply,
        _ if resource.as_custom().is_some() => {
            return Err(Status::unsupported_media_type(&[JSON, MERGE, APPLY]));
        }
        _ => {
            return Err(Status::unsupported_media_type(&[
                JSON, MERGE, STRATEGIC, APPLY,
            ]));
        }
    };
    let mut options = WriteOptions::read(call, "PatchOptions")?;
    let force = call.info.query.is_true("force");
    if form == Form::Apply {
        if call.info.query.non_empty("fieldManager").is_none() {
            let error =
                rkube_api::FieldError::required("fieldManager", "is required for apply patch");
            return Err(Status::invalid(
                &rkube_api::GroupKind::new("meta.k8s.io", "PatchOptions"),
                "",
                vec![error],
            ));
        }
        options.object["force"] = force.into();
    } else if call.info.query.get("force").is_some() {
        let error =
            rkube_api::FieldError::forbidden("force", "may not be specified for non-apply patch");
        return Err(Status::invalid(
            &rkube_api::GroupKind::new("meta.k8s.io", "PatchOptions"),
            "",
            vec![error],
        ));
    }
    let bytes = body::read(request.body).await?;
    let encoding = if form == Form::Apply {
        Encoding::Yaml
    } else {
        Encoding::Json
    };
    let (mut patch, duplicates) = parse_body(&bytes, encoding)?;
    let repeated = match form {
        Form::Apply if !duplicates.is_empty() => fields::yaml_duplicate(&bytes),
        _ => None,
    };
    let ownership = if form == Form::Apply {
        Ownership::Applied
    } else {
        Ownership::Update
    };
    if form == Form::Apply {
        resource.check_kind(&mut patch)?;
        let given = meta::name(&patch);
        if !given.is_empty() && given != call.info.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({})",
                call.info.name
            )));
        }
        meta::set_name(&mut patch, &call.info.name);
        namespace_of_request(call, resource, &mut patch)?;
        // Fields that the schema does not declare are an error of applying
        // itself, whatever the validation asked for.
        let mut checked = patch.clone();
        if fields::check(resource.schema(), &mut checked)?.is_empty() {
            patch = checked;
        }
        meta::set_type(&mut patch, &resource.api_version(), &resource.kind);
        if !meta::managed_fields(&patch).is_empty() {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
    } else {
        report_fields(call, options.validation, duplicates, Vec::new())?;
    }

    let validation = options.validation;
    let manager = options.manager.clone();
    let sub = Some(call.info.subresource.clone()).filter(|s| !s.is_empty());
    let views = Views::of(&storage.backend, resource);
    let tracking = |now: String| -> Result<Tracking, Status> {
        Ok(Tracking {
            shape: Shape::of(resource)?,
            views: Views::of(&storage.backend, resource),
            api_version: resource.api_version(),
            manager: manager.clone(),
            subresource: sub.clone(),
            now,
            reset_fields: reset_fields(resource, part),
        })
    };
    let make = |old: Option<&Object>| -> Result<Object, Status> {
        let live = match old {
            Some(old) => Some(resource.served(old.clone())?),
            None => None,
        };
        let new = match (form, &live) {
            (Form::Apply, live) => {
                let tracking = tracking(meta::now_rfc3339())?;
                let new =
                    tracking.request(|request| applied(request, live.as_ref(), &patch, force))?;
                report_repeated(call, validation, repeated.as_deref())?;
                return resource.stored(new);
            }
            (_, None) => {
                return Err(Status::not_found(
                    &resource.group_resource(),
                    &call.info.name,
                ));
            }
            (Form::Json, Some(live)) => {
                // Paths may lead into structs that are there in every object,
                // if only empty.
                let mut live = live.clone();
                fields::check(resource.schema(), &mut live)?;
                patches::json_patch(&live, &patch)?
            }
            (Form::Merge, Some(live)) => patches::merge_patch(live, &patch)?,
            (Form::Strategic, Some(live)) => {
                patches::strategic_merge(resource.schema(), live, &patch)?
            }
        };
        let mut new = new;
        resource.check_kind(&mut new)?;
        let unknown = fields::check(resource.schema(), &mut new)?;
        report_fields(call, validation, Vec::new(), unknown)?;
        resource.stored(new)
    };
    let plan = (form == Form::Apply && views.as_ref().is_some_and(|v| v.must_be_planned()))
        .then(|| -> Result<Plan, Status> {
            report_repeated(call, validation, repeated.as_deref())?;
            Ok(Plan {
                tracking: tracking(meta::now_rfc3339())?,
                patch: patch.clone(),
                force,
            })
        })
        .transpose()?;
    let namespace = resource.namespace_of(&call.info);
    let writer = Writer {
        storage,
        call,
        resource,
        part,
        options,
        ownership,
        plan,
    };
    let mut created_meanwhile = false;
    let written = loop {
        match writer.update(&namespace, &call.info.name, &make).await {
            Err(status) if form == Form::Apply && part == Part::Main && status.is_not_found() => {
                match writer.create(make(None)?).await {
                    // Someone else made it just now: apply to that.
                    Err(status) if status.reason == "AlreadyExists" && !created_meanwhile => {
                        created_meanwhile = true;
                    }
                    result => break result?,
                }
            }
            result => break result?,
        }
    };
    let code = if written.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    storage
        .backend
        .object_response(call, resource, code, accepted, written.json)
        .await
}

/// What becomes of a key that an applied document repeats.
fn report_repeated(
    call: &Call,
    validation: fields::Validation,
    repeated: Option<&str>,
) -> Result<(), Status> {
    match (repeated, validation) {
        (None, _) | (_, fields::Validation::Ignore) => Ok(()),
        (Some(repeated), fields::Validation::Warn) => {
            call.warn([repeated.to_owned()]);
            Ok(())
        }
        (Some(repeated), fields::Validation::Strict) => Err(Status::bad_request(format!(
            "error strict decoding YAML: {repeated}"
        ))),
    }
}
