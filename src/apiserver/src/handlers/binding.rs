//! `pods/binding` and `bindings`: the assignment of a pod to a node.

use http::StatusCode;
use jiff::Timestamp;
use rkube_api::status::Status;
use rkube_api::{GroupResource, Object, meta};
use rkube_strategy::Context;

use super::posted::{admit, update_raw};
use crate::admission::attributes::SubresourceKind;
use crate::call::Call;
use crate::input::options::WriteOptions;
use crate::outcome::Outcome;
use crate::resources::Resource;
use crate::storage::RestStorage;

/// The kind of the posted object.
pub const BINDING: SubresourceKind<'static> = SubresourceKind {
    group: "",
    version: "v1",
    kind: "Binding",
    definition: "io.k8s.api.core.v1.Binding",
};

/// Assigns a pod to a node.
pub async fn bind(
    storage: &RestStorage,
    call: &Call,
    resource: &Resource,
    options: &WriteOptions,
    mut binding: Object,
) -> Result<Outcome, Status> {
    let name = if call.info.subresource.is_empty() {
        meta::name(&binding)
    } else {
        &call.info.name
    };
    let name = name.to_owned();
    if !call.info.subresource.is_empty()
        && !meta::name(&binding).is_empty()
        && meta::name(&binding) != name
    {
        return Err(Status::bad_request(
            "name in URL does not match name in Binding object",
        ));
    }
    let pods = storage
        .backend
        .resources
        .find("", "v1", "pods")
        .ok_or_else(Status::page_not_found)?;
    admit(storage, call, resource, BINDING, options, &mut binding).await?;
    let user = &call.user;
    let revision = meta::resource_version(&binding).to_owned();
    let make = |old: Option<&Object>| -> Result<Object, Status> {
        let mut pod = old
            .cloned()
            .ok_or_else(|| Status::not_found(&pods.group_resource(), &name))?;
        if !revision.is_empty() && revision != meta::resource_version(&pod) {
            return Err(Status::conflict(
                &GroupResource::new("", "pods/binding"),
                &name,
                format!(
                    "Precondition failed: ResourceVersion in precondition: {revision}, ResourceVersion in object meta: {}",
                    meta::resource_version(&pod)
                ),
            ));
        }
        let ctx = Context {
            now: Timestamp::now(),
            user: &user.name,
            uid: &user.uid,
            groups: &user.groups,
            extra: &user.extra,
        };
        pods.strategy().bind(&ctx, &mut pod, &binding)?;
        Ok(pod)
    };
    update_raw(
        storage,
        &pods,
        &call.info.namespace,
        &name,
        options.dry_run,
        &make,
    )
    .await?;
    Ok(Outcome::success(StatusCode::CREATED))
}
