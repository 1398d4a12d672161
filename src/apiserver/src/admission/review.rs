//! `AdmissionReview`, and a write in other versions of its resource.

use rkube_api::Object;
use rkube_api::status::Status;
use rkube_auth::admission::Operation;
use serde_json::{Value, json};

use super::attributes::Admission;
use crate::resources::Resource;
use crate::uid::new_uid;

/// The `AdmissionReview` for a write, and its uid.
pub fn review(
    admission: &Admission<'_>,
    object: Option<&Object>,
    old: Option<&Object>,
) -> Result<(String, Value), Status> {
    let resource = admission.resource;
    let requested = admission.requested();
    let uid = new_uid();
    let served = |object: Option<&Object>| -> Result<Value, Status> {
        object.map_or(Ok(Value::Null), |o| admission.served(o.clone()))
    };
    let named = object.or(old);
    let namespace = admission.namespace(named);
    let (group, version, kind) = admission.kind();
    let asked = admission.requested_kind();
    let mut request = json!({
        "uid": uid,
        "kind": {"group": group, "version": version, "kind": kind},
        "resource": {"group": &*resource.group, "version": &*resource.version, "resource": &*resource.plural},
        "requestKind": {"group": asked.0, "version": asked.1, "kind": asked.2},
        "requestResource": {"group": &*requested.group, "version": &*requested.version, "resource": &*requested.plural},
        "operation": admission.operation.as_str(),
        "userInfo": admission.call.user.to_value(),
        "object": served(object)?,
        "oldObject": served(old)?,
        "dryRun": admission.dry_run,
        "options": admission.options,
    });
    let name = admission.name(named);
    if !name.is_empty() {
        request["name"] = name.into();
    }
    if !namespace.is_empty() {
        request["namespace"] = namespace.into();
    }
    let subresource = admission.call.info.subresource.as_str();
    if !subresource.is_empty() && admission.operation != Operation::Delete {
        request["subResource"] = subresource.into();
        request["requestSubResource"] = subresource.into();
    }
    Ok((
        uid,
        json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}),
    ))
}

/// An object in a version of its resource.
pub async fn seen_in(
    admission: &Admission<'_>,
    version: &Resource,
    object: &Object,
) -> Result<Object, Status> {
    match (version.crd_versions(), admission.part) {
        (Some(family), None) => {
            let objects = vec![object.clone()];
            let mut seen = family
                .convert(
                    &admission.backend.webhook_client,
                    objects,
                    &version.api_version(),
                )
                .await?;
            seen.pop()
                .ok_or_else(|| Status::internal("a conversion gave nothing"))
        }
        // Built-in kinds are worked on in one version, and shown in any.
        _ => Ok(object.clone()),
    }
}

/// The states of a write, of which it may lack one, in a version of its resource.
pub async fn both_seen_in(
    admission: &Admission<'_>,
    version: &Resource,
    object: Option<&Object>,
    old: Option<&Object>,
) -> Result<(Option<Object>, Option<Object>), Status> {
    Ok((
        maybe_seen_in(admission, version, object).await?,
        maybe_seen_in(admission, version, old).await?,
    ))
}

/// An object, where there is one, in a version of its resource.
pub async fn maybe_seen_in(
    admission: &Admission<'_>,
    version: &Resource,
    object: Option<&Object>,
) -> Result<Option<Object>, Status> {
    match object {
        Some(object) => seen_in(admission, version, object).await.map(Some),
        None => Ok(None),
    }
}
