//! The forms in which objects are shown: whole, as metadata only, as rows of a table.

use rkube_api::Object;
use rkube_api::status::Status;
use serde_json::{Value, json};

use crate::cache::CachedObject;
use crate::call::Call;
use crate::outcome::ListMeta;
use crate::resources::Resource;

/// Returns the metadata of a whole list. Upstream's lists of custom resources have the continue
/// token also where it is empty.
pub fn list_meta(resource: &Resource, meta: &ListMeta) -> Value {
    let mut value = meta.to_value();
    if resource.crd_version().is_some() {
        value["continue"] = meta.next.as_str().into();
    }
    value
}

/// Removes `apiVersion` and `kind` of a list's items, which upstream's typed lists do not have.
/// Items of custom resources have them.
pub fn as_items(resource: &Resource, mut objects: Vec<Object>) -> Vec<Object> {
    if resource.crd_version().is_none() {
        for object in objects.iter_mut().filter_map(Value::as_object_mut) {
            object.remove("apiVersion");
            object.remove("kind");
        }
    }
    objects
}

/// Logs that an object is left out of a list or a watch, because it has no protobuf form.
pub fn left_out(resource: &Resource, object: &CachedObject, error: &Status) {
    tracing::warn!(
        resource = %resource.group_resource(),
        namespace = &*object.namespace,
        name = &*object.name,
        %error,
        "an object is left out of an answer in protobuf"
    );
}

/// Returns the `PartialObjectMetadata` of an object, in the given version of `meta.k8s.io`.
pub fn partial(object: &Object, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// Returns a `Table`. Watches omit the column definitions after the first event.
pub fn table(
    resource: &Resource,
    version: &str,
    meta: Value,
    rows: Vec<Value>,
    columns: bool,
) -> Value {
    let definitions = if columns {
        Value::Array(resource.columns())
    } else {
        Value::Null
    };
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": meta,
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

/// Returns an object's table row, with the part of the object that `includeObject` selects.
pub fn row(call: &Call, resource: &Resource, object: &Object, version: &str) -> Value {
    let mut row = json!({"cells": resource.cells(object)});
    let conditions = resource.row_conditions(object);
    if !conditions.is_empty() {
        row["conditions"] = Value::Array(conditions);
    }
    match call.info.query.get("includeObject") {
        Some("None") => row["object"] = Value::Null,
        Some("Object") => row["object"] = object.clone(),
        _ => row["object"] = partial(object, version),
    }
    row
}

/// Returns the table of a list of objects.
pub fn table_of(
    call: &Call,
    resource: &Resource,
    objects: &[Object],
    version: &str,
    meta: Value,
) -> Value {
    let rows = objects.iter().map(|o| row(call, resource, o, version));
    table(resource, version, meta, rows.collect(), true)
}

/// Returns the metadata of a list of objects.
pub fn partial_list(objects: &[Object], version: &str, meta: Value) -> Value {
    json!({
        "kind": "PartialObjectMetadataList",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": meta,
        "items": objects.iter().map(|o| partial(o, version)).collect::<Vec<_>>(),
    })
}
