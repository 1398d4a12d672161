//! Patches: their type, options and content.

use bytes::Bytes;
use rkube_api::fields::{self, Validation};
use rkube_api::status::{Details, Status};
use rkube_api::{FieldError, GroupKind, Object, meta};

use super::decode::{json_kind, parse_body};
use super::options::WriteOptions;
use crate::call::Call;
use crate::negotiate::{self, Encoding};
use crate::resources::Resource;

/// The type of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JSON patch.
    Json,
    /// JSON merge patch.
    Merge,
    /// Strategic merge patch.
    Strategic,
    /// Server-side apply.
    Apply,
}

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

impl Form {
    /// Returns the type of a request's patch. Custom resources have no strategic merge patch.
    pub fn of_request(call: &Call, resource: &Resource) -> Result<Self, Status> {
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

/// A patch other than server-side apply.
pub struct Patch {
    /// Its type.
    pub form: Form,
    /// Its content.
    pub value: Object,
    /// Messages about its duplicate fields.
    pub duplicates: Vec<String>,
    /// The report of unknown and duplicate fields.
    pub validation: Validation,
}

/// A configuration to apply.
pub struct Configuration {
    /// The fields that the manager wants, with `apiVersion` and `kind`.
    pub object: Object,
    /// Whether to take over conflicting fields.
    pub force: bool,
    /// The report of duplicate fields.
    pub validation: Validation,
    /// The error message if the configuration has a duplicate key.
    pub duplicate: Option<String>,
}

/// The content of a request with the verb `patch`.
pub enum Change {
    /// A patch of the object.
    Patch(Patch),
    /// A configuration to apply.
    Apply(Configuration),
}

impl Patch {
    /// Decodes a patch.
    ///
    /// # Errors
    ///
    /// 400 for a body that is no patch.
    pub fn read(form: Form, options: &WriteOptions, bytes: &[u8]) -> Result<Self, Status> {
        let (value, mut duplicates) = parse_patch(bytes, form, options.validation)?;
        if form == Form::Json {
            duplicates.splice(0..0, unknown_operands(&value));
            for duplicate in &mut duplicates {
                duplicate.insert_str(0, "json patch ");
            }
        }
        Ok(Self {
            form,
            value,
            duplicates,
            validation: options.validation,
        })
    }
}

impl Configuration {
    /// Decodes a configuration, and marks `options` with what its manager asks for.
    ///
    /// # Errors
    ///
    /// 400 if the body is no object.
    pub fn read(call: &Call, options: &mut WriteOptions, bytes: &Bytes) -> Result<Self, Status> {
        let force = call.info.query.is_true("force");
        options.object["force"] = force.into();
        let (mut object, duplicates) = parse_body(bytes, Encoding::Yaml).map_err(|error| {
            let why = error.message;
            let what = "error decoding YAML: error converting YAML to JSON";
            Status::bad_request(format!("{what}: {why}"))
        })?;
        let duplicate = match duplicates.is_empty() {
            true => None,
            false => fields::yaml_duplicate(bytes),
        };
        if object.is_null() {
            object = Object::Object(serde_json::Map::new());
        }
        if !object.is_object() {
            let found = json_kind(&object);
            return Err(Status::bad_request(format!(
                "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"
            )));
        }
        Ok(Self {
            object,
            force,
            validation: options.validation,
            duplicate,
        })
    }
}

/// Checks the options that go with one type of patch only.
///
/// # Errors
///
/// 422 if an apply names no field manager, or another patch is to be forced.
pub fn check_options(call: &Call, form: Form) -> Result<(), Status> {
    let query = &call.info.query;
    if form == Form::Apply {
        if query.non_empty("fieldManager").is_none() {
            return Err(invalid_options(FieldError::required(
                "fieldManager",
                "is required for apply patch",
            )));
        }
    } else if query.get("force").is_some() {
        return Err(invalid_options(FieldError::forbidden(
            "force",
            "may not be specified for non-apply patch",
        )));
    }
    Ok(())
}

/// Returns the error for invalid `PatchOptions`.
fn invalid_options(error: FieldError) -> Status {
    Status::invalid(
        &GroupKind::new("meta.k8s.io", "PatchOptions"),
        "",
        vec![error],
    )
}

/// Validates the configuration of an object of `resource`.
///
/// # Errors
///
/// 400 if it is of another object, or names managers.
pub fn check_configuration(
    call: &Call,
    resource: &Resource,
    configuration: &mut Object,
) -> Result<(), Status> {
    let own = resource.api_version();
    check_target(call, resource, (&own, &resource.kind), configuration)?;
    // Applied fields are owned as they are, also where the object does not keep them (zero values).
    if resource.crd_version().is_some() {
        // Undeclared fields are an error of the apply itself, regardless of `fieldValidation`.
        let mut checked = configuration.clone();
        if fields::check(resource.schema(), &mut checked)?.is_empty() {
            *configuration = checked;
        }
    }
    meta::set_type(configuration, &resource.api_version(), &resource.kind);
    check_managers(configuration)
}

/// Checks that a configuration is of the request's object, in the version and kind `own`.
///
/// # Errors
///
/// 400 if it is of another.
pub fn check_target(
    call: &Call,
    resource: &Resource,
    own: (&str, &str),
    configuration: &Object,
) -> Result<(), Status> {
    let (version, kind) = (meta::api_version(configuration), meta::kind(configuration));
    if (version, kind) != own {
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
    // The name of what is created must be in the configuration; the apply itself checks it.
    let namespace = resource.namespace_of(&call.info);
    let given = meta::namespace(configuration);
    if resource.namespaced && !given.is_empty() && given != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Checks that a configuration names no managers.
///
/// # Errors
///
/// 400 if it does.
pub fn check_managers(configuration: &Object) -> Result<(), Status> {
    if !meta::managed_fields(configuration).is_empty() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    Ok(())
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
