//! Decoding of request bodies.

use rkube_api::fields::{self, Validation};
use rkube_api::status::Status;
use rkube_api::{Object, meta};

use crate::call::Call;
use crate::negotiate::Encoding;
use crate::resources::Resource;

/// Sets the object's namespace from the request's path if the object names none. An object of a
/// cluster-scoped resource loses the namespace that it names.
///
/// # Errors
///
/// 400 if the object names another namespace.
pub fn namespace_of_request(
    call: &Call,
    resource: &Resource,
    object: &mut Object,
) -> Result<(), Status> {
    let namespace = resource.namespace_of(&call.info);
    if !resource.namespaced || meta::namespace(object).is_empty() {
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
    let (mut object, duplicates) = parse_body(bytes, encoding)
        .and_then(|(object, duplicates)| {
            let object = identified(object)?;
            resource.check_identified(&object)?;
            Ok((object, duplicates))
        })
        .map_err(|error| unrecognized(&resource.kind, bytes, &error.message))?;
    resource.check_versioned(&object)?;
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
///
/// # Errors
///
/// 400 with the message of upstream's decoder alone.
pub fn parse_body(bytes: &[u8], encoding: Encoding) -> Result<(Object, Vec<String>), Status> {
    match encoding {
        Encoding::Json => fields::parse_json(bytes),
        Encoding::Yaml => fields::parse_yaml(bytes),
        Encoding::Protobuf if !bytes.starts_with(b"k8s\0") => Err(Status::bad_request(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]",
        )),
        Encoding::Protobuf => Ok((rkube_api::protobuf::decode(bytes)?, Vec::new())),
    }
}

/// Go's notation of the type into which `apiVersion` and `kind` are decoded.
const TYPE_META: &str = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;

/// Returns a tree whose `apiVersion` and `kind` can be read: an object, for which null stands too.
///
/// # Errors
///
/// 400 with the message of upstream's decoder alone.
pub fn identified(object: Object) -> Result<Object, Status> {
    let wrong = |value: &Object, place: String| {
        let found = json_kind(value);
        let error = fields::JSON_ERROR;
        Status::bad_request(format!(
            "{error}json: cannot unmarshal {found} into Go {place}"
        ))
    };
    match object {
        Object::Null => Ok(Object::Object(serde_json::Map::new())),
        Object::Object(ref fields) => {
            for field in ["kind", "apiVersion"] {
                match fields.get(field) {
                    None | Some(Object::Null | Object::String(_)) => {}
                    Some(value) => {
                        return Err(wrong(
                            value,
                            format!("struct field .{field} of type string"),
                        ));
                    }
                }
            }
            let version = meta::api_version(&object);
            if version.matches('/').count() > 1 {
                return Err(Status::bad_request(format!(
                    "unexpected GroupVersion string: {version}"
                )));
            }
            Ok(object)
        }
        other => Err(wrong(&other, format!("value of type {TYPE_META}"))),
    }
}

/// Returns 400 for a body without a kind that can be read; `why` is the decoder's message.
fn unrecognized(kind: &str, bytes: &[u8], why: &str) -> Status {
    const MAX_SHOWN_BYTES: usize = 30;
    let (shown, more) = match bytes.get(..MAX_SHOWN_BYTES) {
        Some(start) if bytes.len() > MAX_SHOWN_BYTES => (start, " ..."),
        _ => (bytes, ""),
    };
    let summary = match shown.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(shown).into_owned(),
        Some(_) => shown.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {kind}): {why} ({summary}{more})"
    ))
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

/// Returns how Go's decoder names the type of a JSON value.
pub fn json_kind(value: &Object) -> &'static str {
    match value {
        Object::Array(_) => "array",
        Object::String(_) => "string",
        Object::Number(_) => "number",
        Object::Bool(_) => "bool",
        Object::Null => "null",
        Object::Object(_) => "object",
    }
}
