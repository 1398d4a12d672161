//! The generic engine: one handler a verb, for every resource.

pub mod delete;
pub mod options;
pub mod read;
pub mod watch;
pub mod write;

mod patch;

use std::sync::Arc;

use http::{Method, Response, StatusCode};
use rkube_api::fields::{self, Validation};
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use rkube_store::StoreError;
use rkube_strategy::Subresource;

use crate::ApiServer;
use crate::body::{self, Body};
use crate::negotiate::{self, Encoding};
use crate::resources::Resource;
use crate::reviews;
use crate::service::{Call, Incoming};
use crate::subresources;
use options::WriteOptions;
use write::{Ownership, Part, Writer};

/// Serves a request for a resource.
pub async fn handle(
    server: &Arc<ApiServer>,
    call: &Call,
    request: Incoming,
) -> Result<Response<Body>, Status> {
    let info = &call.info;
    let Some(resource) = server
        .resources
        .find(&info.group, &info.version, &info.resource)
    else {
        return Err(Status::page_not_found());
    };
    if info.subresource.is_empty() {
        // A namespaced object is only ever named within its namespace.
        let nameless = matches!(info.verb, "list" | "watch");
        if resource.namespaced && info.namespace.is_empty() && !nameless {
            let selects_all = info.verb == "create" || info.verb == "deletecollection";
            if !selects_all || !reviews::is_review(&resource) {
                return Err(if selects_all {
                    Status::method_not_supported(&resource.group_resource(), info.verb)
                } else {
                    Status::page_not_found()
                });
            }
        }
        if !resource.namespaced && !info.namespace.is_empty() && !resource.is("", "namespaces") {
            return Err(Status::page_not_found());
        }
        if !resource.has_verb(info.verb) {
            return Err(Status::method_not_supported(
                &resource.group_resource(),
                info.verb,
            ));
        }
        if reviews::is_review(&resource) {
            return reviews::handle(server, call, &resource, request).await;
        }
        if resource.is("", "componentstatuses") {
            return subresources::component_statuses(server, call, &resource).await;
        }
        if resource.is("", "bindings") {
            return Box::pin(subresources::bind(server, call, &resource, request)).await;
        }
        return match info.verb {
            "get" => read::get(server, call, &resource).await,
            "list" => read::list(server, call, &resource).await,
            "watch" => watch::watch(server, call, &resource, request).await,
            "create" => create(server, call, &resource, request).await,
            "update" => update(server, call, &resource, request, Part::Main).await,
            "patch" => patch::patch(server, call, &resource, request, Part::Main).await,
            "delete" => delete::delete(server, call, &resource, request).await,
            "deletecollection" => delete::delete_collection(server, call, &resource, request).await,
            other => Err(Status::method_not_supported(
                &resource.group_resource(),
                other,
            )),
        };
    }
    let Some(subresource) = resource.subresource(&info.subresource) else {
        return Err(Status::page_not_found());
    };
    if !subresource.verbs.contains(&info.verb) {
        return Err(Status::method_not_supported(
            &resource.group_resource(),
            info.verb,
        ));
    }
    if resource.namespaced && info.namespace.is_empty() {
        return Err(Status::page_not_found());
    }
    let part = match info.subresource.as_str() {
        "status" => Part::Status,
        "ephemeralcontainers" => Part::Sub(Subresource::EphemeralContainers),
        "resize" => Part::Sub(Subresource::Resize),
        "approval" => Part::Sub(Subresource::Approval),
        "finalize" => Part::Sub(Subresource::Finalize),
        "scale" => return Box::pin(subresources::scale(server, call, &resource, request)).await,
        "binding" => return Box::pin(subresources::bind(server, call, &resource, request)).await,
        "eviction" => {
            return Box::pin(crate::eviction::evict(server, call, &resource, request)).await;
        }
        "token" => return Box::pin(subresources::token(server, call, &resource, request)).await,
        _ => return Err(Status::page_not_found()),
    };
    match info.verb {
        "get" => read::get(server, call, &resource).await,
        "update" => update(server, call, &resource, request, part).await,
        "patch" => patch::patch(server, call, &resource, request, part).await,
        other => Err(Status::method_not_supported(
            &resource.group_resource(),
            other,
        )),
    }
}

async fn create(
    server: &Arc<ApiServer>,
    call: &Call,
    resource: &Resource,
    request: Incoming,
) -> Result<Response<Body>, Status> {
    let accepted = negotiate::accept(&call.headers, resource.offer())?;
    let options = WriteOptions::read(call, "CreateOptions")?;
    let encoding = negotiate::content_encoding(&call.headers)?;
    let bytes = body::read(request.body).await?;
    let mut object = decode(call, resource, &bytes, encoding, options.validation)?;
    namespace_of_request(call, resource, &mut object)?;
    let writer = Writer {
        server,
        call,
        resource,
        part: Part::Main,
        options,
        ownership: Ownership::Update,
        plan: None,
    };
    let written = writer.create(resource.stored(object)?).await?;
    server
        .object_response(call, resource, StatusCode::CREATED, accepted, written.json)
        .await
}

async fn update(
    server: &Arc<ApiServer>,
    call: &Call,
    resource: &Resource,
    request: Incoming,
    part: Part,
) -> Result<Response<Body>, Status> {
    let accepted = negotiate::accept(&call.headers, resource.offer())?;
    let options = WriteOptions::read(call, "UpdateOptions")?;
    let encoding = negotiate::content_encoding(&call.headers)?;
    let bytes = body::read(request.body).await?;
    let mut object = decode(call, resource, &bytes, encoding, options.validation)?;
    namespace_of_request(call, resource, &mut object)?;
    let given = meta::name(&object);
    if given.is_empty() {
        return Err(Status::bad_request("name must be provided"));
    }
    if given != call.info.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({})",
            call.info.name
        )));
    }
    let object = resource.stored(object)?;
    let namespace = call.info.namespace_of(resource);
    let may_create = part == Part::Main && resource.strategy().allow_create_on_update();
    let writer = Writer {
        server,
        call,
        resource,
        part,
        options,
        ownership: Ownership::Update,
        plan: None,
    };
    let result = writer
        .update(&namespace, &call.info.name, &|_| Ok(object.clone()))
        .await;
    let written = match result {
        Err(status)
            if may_create
                && status.is_not_found()
                && meta::resource_version(&object).is_empty() =>
        {
            writer.create(object).await?
        }
        result => result?,
    };
    let code = if written.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    server
        .object_response(call, resource, code, accepted, written.json)
        .await
}

/// The object's namespace is the path's, or it is none.
pub fn namespace_of_request(
    call: &Call,
    resource: &Resource,
    object: &mut Object,
) -> Result<(), Status> {
    let namespace = call.info.namespace_of(resource);
    if meta::namespace(object).is_empty() {
        meta::set_namespace(object, &namespace);
    } else if meta::namespace(object) != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// A request's body as an object of the resource's version, checked against
/// its schema.
pub fn decode(
    call: &Call,
    resource: &Resource,
    bytes: &[u8],
    encoding: Encoding,
    validation: Validation,
) -> Result<Object, Status> {
    let (mut object, duplicates) = parse(bytes, encoding)?;
    if !object.is_object() {
        return Err(Status::bad_request(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type struct",
            json_kind(&object)
        )));
    }
    resource.check_kind(&mut object)?;
    let unknown = fields::check(resource.schema(), &mut object)?;
    report(call, validation, duplicates, unknown)?;
    meta::set_type(&mut object, &resource.api_version(), &resource.kind);
    Ok(object)
}

/// Any body as a tree.
pub fn parse(bytes: &[u8], encoding: Encoding) -> Result<(Object, Vec<String>), Status> {
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

/// What becomes of unknown and duplicate fields.
pub fn report(
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

/// A store's failure as the client sees it.
pub fn store_error(resource: &Resource, name: &str, error: StoreError) -> Status {
    match error {
        StoreError::Conflict { found: None } => Status::not_found(&resource.group_resource(), name),
        StoreError::Conflict { found: Some(_) } => {
            Status::modified(&resource.group_resource(), name)
        }
        StoreError::Compacted { asked, oldest } => Status::gone(format!(
            "The resourceVersion for the provided list is too old. ({asked}, oldest {oldest})"
        )),
        StoreError::Future { asked, newest } => read::too_large(asked, newest),
        StoreError::Unavailable(why) => {
            Status::service_unavailable(format!("the store failed: {why}"))
        }
        StoreError::Closed => Status::service_unavailable("the server is shutting down"),
        error => Status::internal(error),
    }
}

/// Whether the request is a plain read.
pub fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}
