//! The handlers of requests for objects. They take what a request asks for, and return an
//! [`Outcome`]; they know nothing of its bytes, nor of those of the response.
//!
//! [`handle`] serves all kinds, one function per verb. The handlers of kinds and subresources with
//! behaviour of their own are beside it.

mod apply;
pub mod binding;
pub mod component_status;
pub mod delete;
pub mod error;
pub mod eviction;
pub mod metadata;
pub mod ownership;
mod patch;
mod posted;
pub mod read;
pub mod review;
pub mod scale;
mod scale_owners;
pub mod token;
pub mod watch;
pub mod write;

use std::sync::Arc;

use http::StatusCode;
use rkube_api::status::Status;
use rkube_api::{GroupResource, Object, meta};
use rkube_auth::authz::{Attributes, Decision};

use crate::call::Call;
use crate::input::Input;
use crate::input::options::WriteOptions;
use crate::input::patch::Change;
use crate::metrics::Metrics;
use crate::outcome::Outcome;
use crate::resources::Resource;
use crate::storage::RestStorage;
use error::HandlerError;
use ownership::{ObjectPart, Ownership};
use write::{Writer, Written};

/// Does what a request asks for, with the part of the objects that its subresource represents.
pub async fn handle(
    storage: &RestStorage,
    metrics: &Metrics,
    call: &Call,
    resource: &Arc<Resource>,
    part: ObjectPart,
    input: Input,
) -> Result<Outcome, HandlerError> {
    let backend = &storage.backend;
    match input {
        Input::Get(revision) => read::get(backend, call, resource, revision).await,
        Input::List(options) => read::list(backend, resource, &options).await,
        Input::Watch(options) => watch::watch(backend, metrics, resource, *options).await,
        Input::Create(options, object) => {
            let writer = writer(storage, call, resource, part, options);
            let written = writer.create(resource.stored(object)?).await?;
            Ok(Outcome::Stored(StatusCode::CREATED, written.json))
        }
        Input::Update(options, object) => {
            let writer = writer(storage, call, resource, part, options);
            update(&writer, object).await.map(Outcome::from)
        }
        Input::Patch(options, Change::Patch(patch)) => {
            let writer = writer(storage, call, resource, part, options);
            let namespace = resource.namespace_of(&call.info);
            let make = |old: Option<&Object>| patch.applied(call, resource, old);
            let written = writer.update(&namespace, &call.info.name, &make).await?;
            Ok(written.into())
        }
        Input::Patch(options, Change::Apply(configuration)) => {
            let written = apply::apply(storage, call, resource, part, options, configuration);
            Ok(written.await?.into())
        }
        Input::Delete(options) => delete::delete(storage, call, resource, &options).await,
        Input::DeleteCollection(options, filter) => {
            delete::delete_collection(storage, call, resource, &options, &filter).await
        }
    }
}

impl From<Written> for Outcome {
    fn from(written: Written) -> Self {
        let code = match written.created {
            true => StatusCode::CREATED,
            false => StatusCode::OK,
        };
        Self::Stored(code, written.json)
    }
}

fn writer<'a>(
    storage: &'a RestStorage,
    call: &'a Call,
    resource: &'a Resource,
    part: ObjectPart,
    options: WriteOptions,
) -> Writer<'a> {
    Writer {
        storage,
        call,
        resource,
        part,
        options,
        ownership: Ownership::Update,
        plan: None,
    }
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

/// Replaces an object. Some kinds are created by it if they do not exist.
async fn update(writer: &Writer<'_>, object: Object) -> Result<Written, HandlerError> {
    let (call, resource) = (writer.call, writer.resource);
    metadata::check_name(&object, &call.info.name)?;
    let object = resource.stored(object)?;
    let namespace = resource.namespace_of(&call.info);
    let may_create = writer.part == ObjectPart::Main
        && resource.strategy().allow_create_on_update()
        && meta::resource_version(&object).is_empty();
    let result = writer
        .update(&namespace, &call.info.name, &|_| Ok(object.clone()))
        .await;
    match result {
        Err(HandlerError::NotFound(..)) if may_create => {
            require_create(writer.storage, call)?;
            writer.create(object).await
        }
        result => result,
    }
}
