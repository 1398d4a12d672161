//! What the handlers of posted objects share: admission, and updates on the server's own behalf.

use rkube_admission::Operation;
use rkube_api::status::Status;
use rkube_api::{Object, meta};

use crate::admission::attributes::{Admission, SubresourceKind};
use crate::call::Call;
use crate::codec;
use crate::input::options::WriteOptions;
use crate::resources::Resource;
use crate::storage::RestStorage;
use crate::store_error::store_error;

/// Runs admission for an object that is posted to a subresource.
pub async fn admit(
    storage: &RestStorage,
    call: &Call,
    resource: &Resource,
    part: SubresourceKind<'_>,
    options: &WriteOptions,
    object: &mut Object,
) -> Result<(), Status> {
    let namespace = meta::namespace(object);
    if !namespace.is_empty() && namespace != call.info.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let namespace = call.info.namespace.clone();
    meta::set_namespace(object, &namespace);
    let admission = Admission {
        backend: &storage.backend,
        authorizer: &storage.admission.authorizer,
        call,
        requested: None,
        resource,
        operation: Operation::Create,
        dry_run: options.dry_run,
        options: &options.object,
        // `bindings` is a resource, but its objects are not stored.
        part: Some(part),
    };
    storage.admission.mutate(&admission, object, None).await?;
    storage.admission.validate(&admission, object, None).await
}

/// Updates an object on the server's own behalf, without strategies and admission.
pub async fn update_raw(
    storage: &RestStorage,
    resource: &Resource,
    namespace: &str,
    name: &str,
    dry_run: bool,
    make: &(dyn Fn(Option<&Object>) -> Result<Object, Status> + Send + Sync),
) -> Result<Object, Status> {
    storage.backend.cache.consistent().await;
    let mut current = resource
        .cache
        .get(namespace, name)
        .map(|object| (object.parse(), object.revision));
    let key = resource.key(namespace, name);
    for _ in 0..16 {
        let Some((old, revision)) = &current else {
            return Err(Status::not_found(&resource.group_resource(), name));
        };
        let mut new = make(Some(old))?;
        let bytes = codec::encode(&mut new)?;
        if dry_run {
            return Ok(new);
        }
        match storage
            .backend
            .store
            .put(&key, bytes, rkube_store::Expect::Revision(*revision))
            .await
        {
            Ok(kv) => return codec::decode(&kv),
            Err(rkube_store::StoreError::Conflict { found }) => {
                current = match found {
                    Some(kv) => Some((codec::decode(&kv)?, kv.mod_revision)),
                    None => None,
                };
            }
            Err(error) => return Err(store_error(resource, name, error)),
        }
    }
    Err(Status::modified(&resource.group_resource(), name))
}
