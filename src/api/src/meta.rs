//! Readers and writers of an object's metadata.
//!
//! Readers never fail: a missing or ill-typed field reads as empty, as it does in a
//! decoded Go struct.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::Object;

fn text<'a>(object: &'a Object, field: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|m| m.get(field))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Returns `apiVersion`, empty when missing.
pub fn api_version(object: &Object) -> &str {
    object
        .get("apiVersion")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Returns `kind`, empty when missing.
pub fn kind(object: &Object) -> &str {
    object
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Returns `metadata.name`.
pub fn name(object: &Object) -> &str {
    text(object, "name")
}

/// Returns `metadata.generateName`.
pub fn generate_name(object: &Object) -> &str {
    text(object, "generateName")
}

/// Returns `metadata.namespace`, empty for cluster-scoped objects.
pub fn namespace(object: &Object) -> &str {
    text(object, "namespace")
}

/// Returns `metadata.uid`.
pub fn uid(object: &Object) -> &str {
    text(object, "uid")
}

/// Returns `metadata.resourceVersion`, opaque to clients.
pub fn resource_version(object: &Object) -> &str {
    text(object, "resourceVersion")
}

/// Returns `metadata.creationTimestamp`, RFC 3339.
pub fn creation_timestamp(object: &Object) -> &str {
    text(object, "creationTimestamp")
}

/// Returns `metadata.deletionTimestamp`, RFC 3339; `None` if the object is not being
/// deleted.
pub fn deletion_timestamp(object: &Object) -> Option<&str> {
    Some(text(object, "deletionTimestamp")).filter(|t| !t.is_empty())
}

/// Returns `metadata.deletionGracePeriodSeconds`.
pub fn deletion_grace_period_seconds(object: &Object) -> Option<i64> {
    object
        .get("metadata")?
        .get("deletionGracePeriodSeconds")?
        .as_i64()
}

/// Returns `metadata.generation`, 0 when missing.
pub fn generation(object: &Object) -> i64 {
    object
        .get("metadata")
        .and_then(|m| m.get("generation"))
        .and_then(Value::as_i64)
        .unwrap_or(0)
}

/// Returns `metadata.labels`.
pub fn labels(object: &Object) -> Option<&Map<String, Value>> {
    object.get("metadata")?.get("labels")?.as_object()
}

/// Returns `metadata.annotations`.
pub fn annotations(object: &Object) -> Option<&Map<String, Value>> {
    object.get("metadata")?.get("annotations")?.as_object()
}

/// Returns the value of a label.
pub fn label<'a>(object: &'a Object, key: &str) -> Option<&'a str> {
    labels(object)?.get(key)?.as_str()
}

/// Returns the value of an annotation.
pub fn annotation<'a>(object: &'a Object, key: &str) -> Option<&'a str> {
    annotations(object)?.get(key)?.as_str()
}

/// Returns `metadata.ownerReferences`.
pub fn owner_references(object: &Object) -> &[Value] {
    array(object, "ownerReferences")
}

/// Returns the owner reference with `controller: true`.
pub fn controller_of(object: &Object) -> Option<&Value> {
    owner_references(object)
        .iter()
        .find(|r| r.get("controller").and_then(Value::as_bool) == Some(true))
}

/// Returns `metadata.finalizers`.
pub fn finalizers(object: &Object) -> impl Iterator<Item = &str> {
    array(object, "finalizers").iter().filter_map(Value::as_str)
}

/// Returns `metadata.managedFields`.
pub fn managed_fields(object: &Object) -> &[Value] {
    array(object, "managedFields")
}

fn array<'a>(object: &'a Object, field: &str) -> &'a [Value] {
    object
        .get("metadata")
        .and_then(|m| m.get(field))
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// Returns `metadata` for writing. It is created when missing or not a map, and an
/// `object` that is not a map becomes one.
pub fn metadata_mut(object: &mut Object) -> &mut Map<String, Value> {
    child_map(map_mut(object), "metadata")
}

/// Returns the tree as a map for writing. A value of another type is replaced by an
/// empty map.
pub fn map_mut(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        // The branch above has made it a map.
        _ => unreachable!("a value that was just made a map"),
    }
}

/// Returns a child map for writing. It is created when missing or not a map.
pub fn child_map<'a>(map: &'a mut Map<String, Value>, field: &str) -> &'a mut Map<String, Value> {
    map_mut(map.entry(field).or_insert(Value::Null))
}

/// Sets a field of `metadata`; `None` or an empty string removes it.
pub fn set_text(object: &mut Object, field: &str, value: Option<&str>) {
    let metadata = metadata_mut(object);
    match value {
        Some(value) if !value.is_empty() => {
            metadata.insert(field.to_owned(), Value::from(value));
        }
        _ => {
            metadata.remove(field);
        }
    }
}

/// Removes a field of `metadata` and returns its value.
pub fn remove(object: &mut Object, field: &str) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove(field)
}

/// Sets `metadata.name`.
pub fn set_name(object: &mut Object, name: &str) {
    set_text(object, "name", Some(name));
}

/// Sets `metadata.namespace`; empty removes it.
pub fn set_namespace(object: &mut Object, namespace: &str) {
    set_text(object, "namespace", Some(namespace));
}

/// Sets `metadata.uid`; empty removes it.
pub fn set_uid(object: &mut Object, uid: &str) {
    set_text(object, "uid", Some(uid));
}

/// Sets `metadata.resourceVersion`; empty removes it.
pub fn set_resource_version(object: &mut Object, version: &str) {
    set_text(object, "resourceVersion", Some(version));
}

/// Sets `metadata.creationTimestamp` (RFC 3339, seconds).
pub fn set_creation_timestamp(object: &mut Object, time: &str) {
    set_text(object, "creationTimestamp", Some(time));
}

/// Sets `metadata.deletionTimestamp` (RFC 3339, seconds) and the grace period.
pub fn set_deletion(object: &mut Object, time: Option<&str>, grace_seconds: Option<i64>) {
    set_text(object, "deletionTimestamp", time);
    let metadata = metadata_mut(object);
    match grace_seconds {
        Some(seconds) => {
            metadata.insert("deletionGracePeriodSeconds".into(), seconds.into());
        }
        None => {
            metadata.remove("deletionGracePeriodSeconds");
        }
    }
}

/// Sets `metadata.generation`; 0 removes it, as Go's `omitempty` would.
pub fn set_generation(object: &mut Object, generation: i64) {
    let metadata = metadata_mut(object);
    if generation == 0 {
        metadata.remove("generation");
    } else {
        metadata.insert("generation".into(), generation.into());
    }
}

/// Sets a label.
pub fn set_label(object: &mut Object, key: &str, value: &str) {
    child_map(metadata_mut(object), "labels").insert(key.to_owned(), value.into());
}

/// Sets an annotation.
pub fn set_annotation(object: &mut Object, key: &str, value: &str) {
    child_map(metadata_mut(object), "annotations").insert(key.to_owned(), value.into());
}

/// Sets `metadata.finalizers`; none removes the field.
pub fn set_finalizers(object: &mut Object, finalizers: &[&str]) {
    let metadata = metadata_mut(object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), Value::from(finalizers.to_vec()));
    }
}

/// Sets `apiVersion` and `kind`.
pub fn set_type(object: &mut Object, api_version: &str, kind: &str) {
    let map = map_mut(object);
    map.insert("apiVersion".into(), api_version.into());
    map.insert("kind".into(), kind.into());
}

/// Formats a time as `metav1.Time`: UTC, whole seconds, `Z`.
pub fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Formats a time as `metav1.MicroTime`: UTC, six decimals, `Z`.
pub fn rfc3339_micro(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Returns the current time as [`rfc3339`].
pub fn now_rfc3339() -> String {
    rfc3339(Timestamp::now())
}

/// Returns the current time as [`rfc3339_micro`].
pub fn now_micro() -> String {
    rfc3339_micro(Timestamp::now())
}

/// Parses an RFC 3339 time; `None` if it is not one.
pub fn parse_time(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_missing_as_empty() {
        let object = json!({"metadata": {"name": 3}});
        assert_eq!(name(&object), "");
        assert_eq!(generation(&json!(null)), 0);
        assert_eq!(deletion_timestamp(&object), None);
    }

    #[test]
    fn times_are_encoded_as_upstream() {
        let time: Timestamp = "2024-02-03T04:05:06.123456789Z".parse().unwrap();
        assert_eq!(rfc3339(time), "2024-02-03T04:05:06Z");
        assert_eq!(rfc3339_micro(time), "2024-02-03T04:05:06.123456Z");
    }

    #[test]
    fn setters_make_what_is_missing() {
        let mut object = json!("not a map");
        set_label(&mut object, "a", "b");
        set_generation(&mut object, 2);
        assert_eq!(
            object,
            json!({"metadata": {"labels": {"a": "b"}, "generation": 2}})
        );
    }
}
