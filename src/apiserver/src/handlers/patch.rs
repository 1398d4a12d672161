//! JSON patch, merge patch and strategic merge patch.

use http::{Response, StatusCode};
use rkube_api::fields::{self, Validation};
use rkube_api::status::{Details, Status};
use rkube_api::{FieldError, GroupKind, Object, meta, patch as patches};

use super::apply::apply;
use super::decode::{identified, json_kind, parse_body};
use super::options::WriteOptions;
use super::ownership::{ObjectPart, Ownership};
use super::write::{Writer, Written};
use crate::body::{self, Body};
use crate::call::{Call, Incoming};
use crate::negotiate::{self, Encoding};
use crate::resources::Resource;
use crate::storage::RestStorage;

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

impl Form {
    /// Returns the type of a request's patch. Custom resources have no strategic merge patch.
    fn of_request(call: &Call, resource: &Resource) -> Result<Self, Status> {
        let is_custom = resource.crd_version().is_some();
        match negotiate::media_type(&call.headers) {
            JSON => Ok(Self::Json),
            MERGE => Ok(Self::Merge),
            STRATEGIC if !is_custom => Ok(Self::Strategic),
            APPLY => Ok(Self::Apply),
            _ if is_custom => Err(Status::unsupported_media_type(&[JSON, MERGE, APPLY])),
            // The router of built-in kinds answers.
            _ => {
                let message = "415: Unsupported Media Type";
                let status = Status::new(415, "UnsupportedMediaType", message);
                Err(status.with_details(Details::default()))
            }
        }
    }
}

/// Serves a patch of an object or a part of it.
pub async fn patch(
    storage: &RestStorage,
    call: &Call,
    resource: &Resource,
    request: Incoming,
    part: ObjectPart,
) -> Result<Response<Body>, Status> {
    let accepted = negotiate::accept(&call.headers, resource.media_types())?;
    let form = Form::of_request(call, resource)?;
    let options = WriteOptions::read(call, "PatchOptions")?;
    let written = match form {
        Form::Apply => apply(storage, call, resource, request, part, options).await?,
        form => change(storage, call, resource, request, part, options, form).await?,
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

/// Returns the error for invalid `PatchOptions`.
pub(super) fn invalid_options(error: FieldError) -> Status {
    Status::invalid(
        &GroupKind::new("meta.k8s.io", "PatchOptions"),
        "",
        vec![error],
    )
}

/// Applies a patch other than server-side apply.
async fn change(
    storage: &RestStorage,
    call: &Call,
    resource: &Resource,
    request: Incoming,
    part: ObjectPart,
    options: WriteOptions,
    form: Form,
) -> Result<Written, Status> {
    if call.info.query.get("force").is_some() {
        return Err(invalid_options(FieldError::forbidden(
            "force",
            "may not be specified for non-apply patch",
        )));
    }
    let bytes = body::read(request.body).await?;
    let (value, mut duplicates) = parse_patch(&bytes, form, options.validation)?;
    if form == Form::Json {
        duplicates.splice(0..0, unknown_operands(&value));
        for duplicate in &mut duplicates {
            duplicate.insert_str(0, "json patch ");
        }
    }
    let patch = Patch {
        form,
        value,
        duplicates,
        validation: options.validation,
    };
    let update = |old: Option<&Object>| patch.applied(call, resource, old);
    let namespace = resource.namespace_of(&call.info);
    let writer = Writer {
        storage,
        call,
        resource,
        part,
        options,
        ownership: Ownership::Update,
        plan: None,
    };
    writer.update(&namespace, &call.info.name, &update).await
}

/// Checks the form of a JSON patch, with the message of Go's decoder.
fn check_operations(patch: &Object) -> Result<(), String> {
    let wrong = |value: &Object, place: &str| {
        let found = json_kind(value);
        Err(format!("json: cannot unmarshal {found} into Go {place}"))
    };
    let operations = match patch {
        Object::Null => return Ok(()),
        Object::Array(operations) => operations,
        other => return wrong(other, "value of type []handlers.jsonPatchOp"),
    };
    for operation in operations.iter().filter(|o| !o.is_null()) {
        if !operation.is_object() {
            return wrong(operation, "value of type handlers.jsonPatchOp");
        }
        for field in ["op", "path", "from"] {
            match &operation[field] {
                Object::Null | Object::String(_) => {}
                other => {
                    let place = format!("struct field jsonPatchOp.{field} of type string");
                    return wrong(other, &place);
                }
            }
        }
    }
    Ok(())
}

/// Returns messages about the fields of operations that JSON patches do not have.
fn unknown_operands(patch: &Object) -> Vec<String> {
    let operations = patch.as_array().into_iter().flatten().enumerate();
    let unknown = operations.flat_map(|(index, operation)| {
        let fields = operation.as_object().into_iter().flatten();
        let fields = fields.map(|(name, _)| name);
        fields
            .filter(|name| !matches!(name.as_str(), "op" | "path" | "from" | "value"))
            .map(move |name| format!("unknown field \"[{index}].{name}\""))
    });
    unknown.collect()
}

/// Decodes a patch. Upstream's decoder reports what the patch itself cannot be, and says what it
/// does unless fields are not validated.
fn parse_patch(
    bytes: &[u8],
    form: Form,
    validation: Validation,
) -> Result<(Object, Vec<String>), Status> {
    let what = match form {
        Form::Strategic => "",
        _ if validation == Validation::Ignore => "",
        _ => "error decoding patch: ",
    };
    let refused = |why: &str| Status::bad_request(format!("{what}{why}"));
    let parsed = parse_body(bytes, Encoding::Json)
        .map_err(|error| refused(error.message.trim_start_matches(fields::JSON_ERROR)))?;
    if let (Form::Json, true) = (form, validation != Validation::Ignore) {
        check_operations(&parsed.0).map_err(|why| refused(&why))?;
    }
    match (form, &parsed.0) {
        (Form::Strategic, Object::Null) => {
            let nothing = Object::Object(serde_json::Map::new());
            return Ok((nothing, parsed.1));
        }
        (Form::Merge | Form::Strategic, Object::Object(_) | Object::Null) | (Form::Json, _) => {}
        // Without validation, the merge itself refuses it.
        (Form::Merge, _) if validation == Validation::Ignore => {}
        (_, other) => {
            let found = json_kind(other);
            return Err(refused(&format!(
                "json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"
            )));
        }
    }
    Ok(parsed)
}

/// A patch other than server-side apply.
struct Patch {
    form: Form,
    value: Object,
    /// Messages about its duplicate fields.
    duplicates: Vec<String>,
    validation: Validation,
}

impl Patch {
    /// Returns the patched object, in the hub version.
    fn applied(
        &self,
        call: &Call,
        resource: &Resource,
        old: Option<&Object>,
    ) -> Result<Object, Status> {
        let Some(old) = old else {
            return Err(Status::not_found(
                &resource.group_resource(),
                &call.info.name,
            ));
        };
        let mut live = resource.served(old.clone())?;
        let mut new = match self.form {
            Form::Strategic => patches::strategic_merge(resource.schema(), &live, &self.value)?,
            Form::Json => {
                // JSON patch paths may point into structs that exist in every Go object, if only
                // with zero values.
                fields::check(resource.schema(), &mut live)?;
                patches::json_patch(&live, &self.value)?
            }
            Form::Merge | Form::Apply => patches::merge_patch(&live, &self.value)?,
        };
        let merged = new.clone();
        match self.form {
            // A strategic merge patch is applied to Go's object, whatever kind it names.
            Form::Strategic => {
                meta::set_type(&mut new, &resource.api_version(), &resource.kind);
            }
            _ => {
                new = identified(new).map_err(|error| self.invalid(&merged, &error.message))?;
                if let Err(error) = resource.check_kind(&mut new) {
                    let handled = format!(" cannot be handled as a {}: ", resource.kind);
                    let why = error.message.split_once(&handled).map(|(_, why)| why);
                    return Err(self.invalid(&merged, why.unwrap_or(&error.message)));
                }
            }
        }
        let unknown = match fields::check(resource.schema(), &mut new) {
            Ok(unknown) => unknown,
            Err(error) => {
                // Of a patch, the message is that of the decoder alone.
                let kind = format!(" cannot be handled as a {}: ", resource.kind);
                let why = error.message.split_once(&kind).map(|(_, why)| why);
                return Err(self.invalid(&merged, why.unwrap_or(&error.message)));
            }
        };
        self.report(call, &merged, unknown)?;
        resource.stored(new)
    }

    /// Reports duplicate and unknown fields according to `fieldValidation`.
    fn report(&self, call: &Call, merged: &Object, unknown: Vec<String>) -> Result<(), Status> {
        let mut messages = self.duplicates.clone();
        messages.extend(unknown);
        match self.validation {
            _ if messages.is_empty() => {}
            Validation::Ignore => {}
            Validation::Warn => call.warn(messages),
            Validation::Strict => {
                let why = format!("strict decoding error: {}", messages.join(", "));
                return Err(self.invalid(merged, &why));
            }
        }
        Ok(())
    }

    /// Returns 422: the patch is at fault, not the request's form.
    fn invalid(&self, merged: &Object, why: &str) -> Status {
        let shown = match self.form {
            Form::Strategic => rkube_api::text::go_value(&self.value),
            _ => merged.to_string(),
        };
        let error = FieldError::invalid("patch", shown, why);
        Status::invalid(&GroupKind::new("", ""), "", vec![error])
    }
}
