//! Decoding of request bodies.

use rkube_api::fields::{self, Validation};
use rkube_api::status::Status;
use rkube_api::{Object, meta};

use crate::call::Call;
use crate::negotiate::Encoding;
use crate::resources::Resource;

/// Sets the object's namespace from the request's path if the object names none.
///
/// # Errors
///
/// 400 if the object names another namespace, or names one and the resource is cluster-scoped.
pub fn namespace_of_request(
    call: &Call,
    resource: &Resource,
    object: &mut Object,
) -> Result<(), Status> {
    let namespace = resource.namespace_of(&call.info);
    if meta::namespace(object).is_empty() {
        meta::set_namespace(object, &namespace);
    } else if meta::namespace(object) != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Decodes a request's body as an object of the resource's version, and checks it against its
/// schema.
pub fn decode(
    call: &Call,
    resource: &Resource,
    bytes: &[u8],
    encoding: Encoding,
    validation: Validation,
) -> Result<Object, Status> {
    let (mut object, duplicates) = parse_body(bytes, encoding)?;
    if !object.is_object() {
        return Err(Status::bad_request(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type struct",
            json_kind(&object)
        )));
    }
    resource.check_kind(&mut object)?;
    let mut messages = fields::check(resource.schema(), &mut object)?;
    messages.extend(duplicates);
    if encoding == Encoding::Json {
        fields::in_document_order(bytes, &mut messages);
    }
    call.warn(validation.judge(&object, messages)?);
    meta::set_type(&mut object, &resource.api_version(), &resource.kind);
    Ok(object)
}

/// Decodes a body. Returns the tree, and a message for each duplicate field.
pub fn parse_body(bytes: &[u8], encoding: Encoding) -> Result<(Object, Vec<String>), Status> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Status::bad_request(
            "the object provided is unrecognized (must be of type Object): couldn't get version/kind; the body is empty",
        ));
    }
    match encoding {
        Encoding::Json => fields::parse_json(bytes),
        Encoding::Yaml => fields::parse_yaml(bytes),
        Encoding::Protobuf => Ok((rkube_api::protobuf::decode(bytes)?, Vec::new())),
    }
}

/// Reports unknown and duplicate fields according to `fieldValidation`: as an error, as warnings,
/// or not at all.
pub fn report_fields(
    call: &Call,
    validation: Validation,
    duplicates: Vec<String>,
    unknown: Vec<String>,
) -> Result<(), Status> {
    let mut messages = unknown;
    messages.extend(duplicates);
    if messages.is_empty() {
        return Ok(());
    }
    match validation {
        Validation::Ignore => {}
        Validation::Warn => call.warn(messages),
        Validation::Strict => {
            return Err(Status::bad_request(format!(
                "strict decoding error: {}",
                messages.join(", ")
            )));
        }
    }
    Ok(())
}

fn json_kind(value: &Object) -> &'static str {
    match value {
        Object::Array(_) => "array",
        Object::String(_) => "string",
        Object::Number(_) => "number",
        Object::Bool(_) => "bool",
        Object::Null => "null",
        Object::Object(_) => "object",
    }
}
