//! The owners of the replica count, as a scale and as its object show them.
//!
//! A scale has one field that its object has too. Its managers are those of the object's field, and
//! what an apply to the scale makes of them becomes the object's.

use rkube_api::Object;
use serde_json::{Value, json};

use crate::resources::Resource;

fn entries(object: &Object) -> &[Value] {
    let entries = object["metadata"]["managedFields"].as_array();
    entries.map(Vec::as_slice).unwrap_or_default()
}

/// The fields that lead to the replica count.
type Fields = Vec<String>;

/// Returns the fields that lead to the replica count in a version of a kind; `None` if the kind has
/// no scale in that version.
pub type PathOf<'a> = &'a dyn Fn(&str) -> Option<Fields>;

/// Returns the fields that lead to the replica count of a resource's objects, by `apiVersion`.
pub fn path_of(resource: &Resource) -> impl Fn(&str) -> Option<Fields> {
    |api_version| match resource.crd_versions() {
        None => Some(in_scale()),
        Some(family) => {
            let path = family.version(api_version)?.replicas_path()?;
            let path = path.trim_start_matches('.').split('.');
            Some(path.map(str::to_owned).collect())
        }
    }
}

/// Returns the fields that lead to the replica count in a scale, and in all built-in kinds.
fn in_scale() -> Fields {
    ["spec", "replicas"].map(str::to_owned).into()
}

fn owns(entry: &Value, path: &[String]) -> bool {
    let key = |name: &String| format!("f:{name}");
    let found = path
        .iter()
        .try_fold(&entry["fieldsV1"], |fields, name| fields.get(key(name)));
    found.is_some()
}

/// Returns whether an entry of an object owns its replica count.
fn owns_replicas(entry: &Value, path_of: PathOf<'_>) -> bool {
    let version = entry["apiVersion"].as_str().unwrap_or_default();
    path_of(version).is_some_and(|path| owns(entry, &path))
}

/// Returns the entry for the replica count alone, in the given version.
fn of_replicas(entry: &Value, api_version: &str, path: &[String]) -> Value {
    let mut entry = entry.clone();
    entry["apiVersion"] = api_version.into();
    entry["fieldsV1"] = path
        .iter()
        .rfold(json!({}), |below, name| json!({format!("f:{name}"): below}));
    entry
}

/// Removes the field at `path`, and what owns nothing without it.
fn disown(fields: &mut Value, path: &[String]) {
    let (Some(fields), [name, rest @ ..]) = (fields.as_object_mut(), path) else {
        return;
    };
    let key = format!("f:{name}");
    let Some(below) = fields.get_mut(&key) else {
        return;
    };
    disown(below, rest);
    if rest.is_empty() || *below == json!({}) {
        fields.remove(&key);
    }
}

/// Returns whether two entries are of the same manager.
fn same_manager(one: &Value, other: &Value) -> bool {
    let keys = ["manager", "operation", "subresource"];
    keys.iter().all(|key| one.get(key) == other.get(key))
}

/// Returns `managedFields` of the scale of an object.
pub fn of_scale(object: &Object, path_of: PathOf<'_>) -> Value {
    let owners = entries(object).iter();
    owners
        .filter(|entry| owns_replicas(entry, path_of))
        .map(|entry| of_replicas(entry, "autoscaling/v1", &in_scale()))
        .collect()
}

/// Returns `managedFields` of an object whose scale has been applied in `api_version`.
pub fn of_object(object: &Object, scale: &Object, api_version: &str, path_of: PathOf<'_>) -> Value {
    let in_scale = in_scale();
    let mut new: Vec<&Value> = entries(scale)
        .iter()
        .filter(|e| owns(e, &in_scale))
        .collect();
    let mut owners = Vec::new();
    for entry in entries(object) {
        if !owns_replicas(entry, path_of) {
            owners.push(entry.clone());
            continue;
        }
        if let Some(at) = new.iter().position(|other| same_manager(other, entry)) {
            new.remove(at);
            owners.push(entry.clone());
            continue;
        }
        // The field has another owner now; the manager keeps its others.
        let mut entry = entry.clone();
        let version = entry["apiVersion"].as_str().unwrap_or_default();
        let path = path_of(version).unwrap_or_default();
        disown(&mut entry["fieldsV1"], &path);
        if entry["fieldsV1"] != json!({}) {
            owners.push(entry);
        }
    }
    let path = path_of(api_version).unwrap_or_default();
    let new = new
        .into_iter()
        .map(|entry| of_replicas(entry, api_version, &path));
    // Appliers come first.
    let at = owners
        .iter()
        .position(|entry| entry["operation"] != "Apply");
    let at = at.unwrap_or(owners.len());
    owners.splice(at..at, new);
    owners.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, operation: &str, version: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": version,
            "fieldsType": "FieldsV1", "fieldsV1": fields})
    }

    #[test]
    fn an_apply_to_a_scale_takes_the_count_from_others() {
        let replicas = json!({"f:spec": {"f:replicas": {}}});
        let both = json!({"f:spec": {"f:replicas": {}, "f:selector": {}}});
        let rest = json!({"f:spec": {"f:selector": {}}});
        let object = json!({"metadata": {"managedFields": [
            entry("one", "Update", "apps/v1", both),
            entry("two", "Update", "apps/v1", replicas.clone()),
        ]}});
        let path = |_: &str| Some(in_scale());
        let shown = of_scale(&object, &path);
        assert_eq!(
            shown[0],
            entry("one", "Update", "autoscaling/v1", replicas.clone())
        );
        let mut applied = entry("three", "Apply", "autoscaling/v1", replicas.clone());
        applied["subresource"] = "scale".into();
        let scale = json!({"metadata": {"managedFields": [applied.clone(), shown[1].clone()]}});
        let owners = of_object(&object, &scale, "apps/v1", &path);
        applied["apiVersion"] = "apps/v1".into();
        let two = entry("two", "Update", "apps/v1", replicas);
        assert_eq!(
            owners,
            json!([applied, entry("one", "Update", "apps/v1", rest), two])
        );
    }

    #[test]
    fn the_count_of_a_custom_resource_is_where_its_version_has_it() {
        let path = |version: &str| {
            let path: &[&str] = match version {
                "g.io/v1" => &["spec", "size"],
                "g.io/v2" => &["spec", "all", "count"],
                _ => return None,
            };
            Some(path.iter().map(|name| (*name).to_owned()).collect())
        };
        let size = json!({"f:spec": {".": {}, "f:size": {}, "f:replicas": {}}});
        let count = json!({"f:spec": {"f:all": {"f:count": {}}}});
        let other = json!({"f:spec": {"f:replicas": {}}});
        let object = json!({"metadata": {"managedFields": [
            entry("one", "Update", "g.io/v1", size),
            entry("two", "Update", "g.io/v2", count),
            entry("four", "Update", "g.io/v3", other.clone()),
        ]}});
        let shown = of_scale(&object, &path);
        let names: Vec<_> = shown
            .as_array()
            .unwrap()
            .iter()
            .map(|e| &e["manager"])
            .collect();
        assert_eq!(names, ["one", "two"]);
        let applied = entry("three", "Apply", "autoscaling/v1", other.clone());
        let scale = json!({"metadata": {"managedFields": [applied]}});
        assert_eq!(
            of_object(&object, &scale, "g.io/v1", &path),
            json!([
                entry(
                    "three",
                    "Apply",
                    "g.io/v1",
                    json!({"f:spec": {"f:size": {}}})
                ),
                entry(
                    "one",
                    "Update",
                    "g.io/v1",
                    json!({"f:spec": {".": {}, "f:replicas": {}}})
                ),
                entry("four", "Update", "g.io/v3", other),
            ])
        );
    }
}
