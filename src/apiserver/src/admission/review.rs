//! `AdmissionReview` requests, and conversion of objects for admission.

use rkube_admission::Operation;
use rkube_api::Object;
use rkube_api::status::Status;
use serde_json::{Value, json};

use super::attributes::Admission;
use crate::resources::Resource;
use crate::uid::new_uid;

/// Returns the `AdmissionReview` of a write, and its uid.
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

/// Converts a custom object to the version of another resource entry. Other objects are returned
/// unchanged.
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
        // Built-in kinds stay in the storage version; `Admission::served` converts them.
        _ => Ok(object.clone()),
    }
}

/// Converts the new and the old object of a write, either of which may be missing.
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

/// Converts an object, if there is one.
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
