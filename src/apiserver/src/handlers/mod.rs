//! The generic request handlers: one per verb, without kinds by name.

mod apply;
pub mod decode;
pub mod delete;
pub mod metadata;
pub mod options;
pub mod read;
pub mod watch;
pub mod write;

pub mod ownership;
mod patch;

use std::sync::Arc;

use http::{Response, StatusCode};
use rkube_api::status::Status;
use rkube_api::{GroupResource, Object, meta};
use rkube_auth::authz::{Attributes, Decision};
use rkube_strategy::Subresource;

use crate::ApiServer;
use crate::body::{self, Body};
use crate::call::{Call, Incoming};
use crate::negotiate::{self, Accepted};
use crate::resources::Resource;
use crate::storage::RestStorage;
use decode::{decode, namespace_of_request};
use options::WriteOptions;
use ownership::{ObjectPart, Ownership};
use write::Writer;

/// Serves a request for a resource, whose scope and verb have been checked.
pub async fn handle(
    server: &ApiServer,
    call: &Call,
    resource: &Arc<Resource>,
    request: Incoming,
) -> Result<Response<Body>, Status> {
    call.warn(resource.deprecation());
    if call.info.subresource.is_empty() {
        handle_main(server, call, resource, request).await
    } else {
        handle_subresource(server, call, resource, request).await
    }
}

/// Serves a request for a main resource.
async fn handle_main(
    server: &ApiServer,
    call: &Call,
    resource: &Arc<Resource>,
    request: Incoming,
) -> Result<Response<Body>, Status> {
    let (storage, backend) = (&*server.storage, server.backend());
    match call.info.verb {
        "get" => read::get(backend, call, resource).await,
        "list" => read::list(backend, call, resource).await,
        "watch" => watch::watch(backend, &server.metrics, call, resource, request).await,
        "create" => create(storage, call, resource, request).await,
        "update" => update(storage, call, resource, request, ObjectPart::Main).await,
        "patch" => patch::patch(storage, call, resource, request, ObjectPart::Main).await,
        "delete" => delete::delete(storage, call, resource, request).await,
        "deletecollection" => delete::delete_collection(storage, call, resource, request).await,
        other => Err(Status::method_not_supported(
            &resource.group_resource(),
            other,
        )),
    }
}

/// Serves a request for a subresource.
async fn handle_subresource(
    server: &ApiServer,
    call: &Call,
    resource: &Arc<Resource>,
    request: Incoming,
) -> Result<Response<Body>, Status> {
    let (storage, backend) = (&*server.storage, server.backend());
    let info = &call.info;
    let part = match info.subresource.as_str() {
        "status" => ObjectPart::Status,
        "ephemeralcontainers" => ObjectPart::Sub(Subresource::EphemeralContainers),
        "resize" => ObjectPart::Sub(Subresource::Resize),
        "approval" => ObjectPart::Sub(Subresource::Approval),
        "finalize" => ObjectPart::Sub(Subresource::Finalize),
        _ => return Err(Status::page_not_found()),
    };
    match info.verb {
        "get" => read::get(backend, call, resource).await,
        "update" => update(storage, call, resource, request, part).await,
        "patch" => patch::patch(storage, call, resource, request, part).await,
        other => Err(Status::method_not_supported(
            &resource.group_resource(),
            other,
        )),
    }
}

/// The parts of a request that creates or updates an object.
struct WriteRequest {
    accepted: Accepted,
    options: WriteOptions,
    object: Object,
}

impl WriteRequest {
    /// Reads and decodes a request, and gives the object the request's namespace.
    async fn read(
        call: &Call,
        resource: &Resource,
        request: Incoming,
        options_kind: &'static str,
    ) -> Result<Self, Status> {
        let accepted = negotiate::accept(&call.headers, resource.media_types())?;
        let options = WriteOptions::read(call, options_kind)?;
        let encoding = negotiate::content_encoding(&call.headers)?;
        let bytes = body::read(request.body).await?;
        let mut object = decode(call, resource, &bytes, encoding, options.validation)?;
        namespace_of_request(call, resource, &mut object)?;
        Ok(Self {
            accepted,
            options,
            object,
        })
    }
}

async fn create(
    storage: &RestStorage,
    call: &Call,
    resource: &Resource,
    request: Incoming,
) -> Result<Response<Body>, Status> {
    let WriteRequest {
        accepted,
        options,
        object,
    } = WriteRequest::read(call, resource, request, "CreateOptions").await?;
    let writer = Writer {
        storage,
        call,
        resource,
        part: ObjectPart::Main,
        options,
        ownership: Ownership::Update,
        plan: None,
    };
    let written = writer.create(resource.stored(object)?).await?;
    storage
        .backend
        .object_response(call, resource, StatusCode::CREATED, accepted, written.json)
        .await
}

/// Checks that the user may also create the object that an update or apply is about to create.
///
/// # Errors
///
/// 403. As upstream's, the message has the authorizer's reason only.
fn require_create(storage: &RestStorage, call: &Call) -> Result<(), Status> {
    let info = &call.info;
    let attributes = Attributes {
        api_version: &info.version,
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
        path: &info.path,
        ..Attributes::resource(&call.user, "create", &info.group, &info.resource)
    };
    match storage.admission.authorizer.authorize(&attributes) {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => {
            let resource = GroupResource::new(info.group.as_str(), info.resource.as_str());
            Err(Status::forbidden(&resource, &info.name, reason))
        }
    }
}

async fn update(
    storage: &RestStorage,
    call: &Call,
    resource: &Resource,
    request: Incoming,
    part: ObjectPart,
) -> Result<Response<Body>, Status> {
    let WriteRequest {
        accepted,
        options,
        object,
    } = WriteRequest::read(call, resource, request, "UpdateOptions").await?;
    metadata::check_name(&object, &call.info.name)?;
    let object = resource.stored(object)?;
    let namespace = resource.namespace_of(&call.info);
    let may_create = part == ObjectPart::Main && resource.strategy().allow_create_on_update();
    let writer = Writer {
        storage,
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
            require_create(storage, call)?;
            writer.create(object).await?
        }
        result => result?,
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
