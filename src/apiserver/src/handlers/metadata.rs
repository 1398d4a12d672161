//! Validation and preparation of the metadata of written objects.

use rkube_api::status::{FieldError, Status};
use rkube_api::{Object, meta};
use serde_json::{Map, Value};

use crate::resources::Resource;

/// Returns an `Invalid` error with `errors`, if there are any.
pub fn check_errors(
    resource: &Resource,
    name: &str,
    errors: Vec<FieldError>,
) -> Result<(), Status> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&resource.group_kind(), name, errors))
}

/// Checks that an object has the name of its path.
pub fn check_name(object: &Object, name: &str) -> Result<(), Status> {
    match meta::name(object) {
        given if given == name => Ok(()),
        "" => Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))),
        given => Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        ))),
    }
}

/// Checks that name, namespace, uid and resourceVersion are those of the stored object, and sets
/// them where they are missing. The uid of an update is a precondition, that of a patch a field
/// that cannot be changed.
pub fn check_identity(
    resource: &Resource,
    new: &mut Object,
    old: &Object,
    revision: u64,
    namespace: &str,
    name: &str,
    is_patch: bool,
) -> Result<(), Status> {
    check_name(new, name)?;
    if !resource.namespaced {
        meta::set_namespace(new, "");
    } else if meta::namespace(new).is_empty() {
        meta::set_namespace(new, namespace);
    } else if meta::namespace(new) != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let uid = meta::uid(new);
    if !uid.is_empty() && uid != meta::uid(old) {
        if is_patch {
            let error = FieldError::invalid("metadata.uid", uid, "field is immutable");
            return check_errors(resource, name, vec![error]);
        }
        return Err(Status::conflict(
            &resource.group_resource(),
            name,
            format!(
                "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                upstream_key(resource, namespace, name),
                meta::uid(old)
            ),
        ));
    }
    match meta::resource_version(new) {
        "" | "0" if resource.strategy().allow_unconditional_update() => {}
        "" | "0" => {
            let field = "metadata.resourceVersion";
            let why = "must be specified for an update";
            let error = FieldError::invalid(field, Value::from(0), why);
            // Upstream names the resource where the kind belongs.
            let resource = rkube_api::GroupKind::new(&*resource.group, &*resource.plural);
            return Err(Status::invalid(&resource, name, vec![error]));
        }
        version => match version.parse::<u64>() {
            Ok(version) if version == revision => {}
            Ok(_) => return Err(Status::modified(&resource.group_resource(), name)),
            // Upstream does not expect it, and answers with an internal error.
            Err(_) => {
                let why = match version.bytes().all(|b| b.is_ascii_digit()) {
                    true => "value out of range",
                    false => "invalid syntax",
                };
                let version = rkube_api::text::quote(version);
                let message = format!("strconv.ParseUint: parsing {version}: {why}");
                return Err(Status::new(500, "", message));
            }
        },
    }
    meta::set_resource_version(new, &revision.to_string());
    Ok(())
}

/// Returns the key of an object in upstream's store, as messages show it.
fn upstream_key(resource: &Resource, namespace: &str, name: &str) -> String {
    let plain = match (&*resource.group, &*resource.plural) {
        ("", "nodes") => "minions",
        ("", "services") => "services/specs",
        ("", "endpoints") => "services/endpoints",
        ("", "replicationcontrollers") => "controllers",
        ("networking.k8s.io", "ingresses") => "ingress",
        (_, plural) => plural,
    };
    let own_group = resource.crd_version().is_some()
        || matches!(
            &*resource.group,
            "apiextensions.k8s.io" | "apiregistration.k8s.io"
        );
    let mut key = String::from("/registry/");
    if own_group {
        key.push_str(&resource.group);
        key.push('/');
    }
    key.push_str(plain);
    for part in [namespace, name].iter().filter(|part| !part.is_empty()) {
        key.push('/');
        key.push_str(part);
    }
    key
}

/// Validates the metadata of an object. Unqualified finalizers are only accepted for Kubernetes'
/// own names, but as upstream, that rule does not apply to custom resources and some groups.
pub fn metadata_errors(resource: &Resource, object: &Object) -> Vec<FieldError> {
    let rule = resource.strategy().name_rule();
    let mut errors = rkube_strategy::validate_metadata(object, resource.namespaced, rule);
    if resource.crd_version().is_some()
        || matches!(
            &*resource.group,
            "apiextensions.k8s.io"
                | "apiregistration.k8s.io"
                | "admissionregistration.k8s.io"
                | "coordination.k8s.io"
                | "node.k8s.io"
                | "policy"
        )
    {
        errors.retain(|e| {
            !(e.field.starts_with("metadata.finalizers[")
                && e.detail.starts_with("name is neither a standard finalizer"))
        });
    }
    errors
}

/// Restores the metadata that clients cannot change. What begins the deletion of an object that is
/// not being deleted stays, and is refused by the validation.
pub fn keep_system_metadata(new: &mut Object, old: &Object) {
    let set = |object: &Object, field: &str| {
        let value = object["metadata"].get(field);
        value.filter(|v| !v.is_null()).cloned()
    };
    for field in ["uid", "creationTimestamp", "deletionTimestamp"] {
        if let Some(value) = set(old, field) {
            meta::metadata_mut(new).insert(field.to_owned(), value);
        }
    }
    let grace = "deletionGracePeriodSeconds";
    if let (Some(value), None) = (set(old, grace), set(new, grace)) {
        meta::metadata_mut(new).insert(grace.to_owned(), value);
    }
    meta::remove(new, "selfLink");
}

/// Removes owner references that are repeated as a whole. Returns the warning about them;
/// `mutated` tells whether admission has changed the object.
pub fn merge_owners(object: &mut Object, mutated: bool) -> Option<String> {
    let owners = meta::owner_references(object);
    let repeated = |i: &usize| owners[..*i].contains(&owners[*i]);
    let repeated: Vec<usize> = (1..owners.len()).filter(repeated).collect();
    if repeated.is_empty() {
        return None;
    }
    let uids: Vec<&str> = repeated
        .iter()
        .map(|i| owners[*i]["uid"].as_str().unwrap_or_default())
        .collect();
    let when = match mutated {
        true => " after mutating admission happens",
        false => "",
    };
    let warning = format!(
        ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
        uids.join(", ")
    );
    let kept: Vec<Value> = owners
        .iter()
        .enumerate()
        .filter(|(i, _)| !repeated.contains(i))
        .map(|(_, owner)| owner.clone())
        .collect();
    meta::metadata_mut(object).insert("ownerReferences".into(), kept.into());
    Some(warning)
}

/// Returns whether a write changes nothing except times in `managedFields`.
pub fn is_unchanged(new: &Object, old: &Object) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else {
        return new == old;
    };
    same_but(new, old, "metadata", |new, old| {
        let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else {
            return new == old;
        };
        same_but(new, old, "managedFields", |new, old| {
            let (Some(new), Some(old)) = (new.as_array(), old.as_array()) else {
                return new == old;
            };
            new.len() == old.len()
                && new
                    .iter()
                    .zip(old)
                    .all(|(new, old)| match (new.as_object(), old.as_object()) {
                        (Some(new), Some(old)) => {
                            let timeless = |entry: &'_ Map<String, Value>| {
                                entry.len() - usize::from(entry.contains_key("time"))
                            };
                            timeless(new) == timeless(old)
                                && new.iter().all(|(key, value)| {
                                    key == "time" || old.get(key) == Some(value)
                                })
                        }
                        _ => new == old,
                    })
        })
    })
}

/// Returns whether two maps are equal, where the values of `key` are compared by `same`.
fn same_but(
    new: &Map<String, Value>,
    old: &Map<String, Value>,
    key: &str,
    same: impl Fn(&Value, &Value) -> bool,
) -> bool {
    new.len() == old.len()
        && new.iter().all(|(name, value)| match old.get(name) {
            Some(other) if name == key => same(value, other),
            Some(other) => value == other,
            None => false,
        })
}

/// Returns whether an update removes the last finalizer of an object that is being deleted, so that
/// the object must be removed.
pub fn loses_last_finalizer(resource: &Resource, new: &Object, old: &Object) -> bool {
    meta::deletion_timestamp(old).is_some()
        && meta::finalizers(new).next().is_none()
        && meta::deletion_grace_period_seconds(old).unwrap_or(0) == 0
        && (!resource.is("", "namespaces")
            || new["spec"]["finalizers"]
                .as_array()
                .is_none_or(Vec::is_empty))
}

/// Returns `base` with five random characters, of an alphabet without vowels so that no words
/// result.
pub fn generated_name(base: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    const MAX_BASE: usize = 58;
    let mut end = base.len().min(MAX_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    for _ in 0..5 {
        name.push(ALPHABET[rand::random_range(0..ALPHABET.len())] as char);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn generated_names_keep_their_base() {
        let name = generated_name("web-");
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert_eq!(generated_name(&"x".repeat(80)).len(), 63);
    }

    #[test]
    fn repeated_owners_are_merged() {
        let owner = |uid: &str, controller: bool| json!({"uid": uid, "controller": controller});
        let mut object = json!({"metadata": {"ownerReferences": [
            owner("a", true), owner("b", false), owner("a", true), owner("a", false)]}});
        let warning = merge_owners(&mut object, false).unwrap();
        assert!(
            warning.ends_with("duplicate UID(s) observed: a"),
            "{warning}"
        );
        assert_eq!(
            object["metadata"]["ownerReferences"],
            json!([owner("a", true), owner("b", false), owner("a", false)])
        );
        assert_eq!(merge_owners(&mut object, true), None);
    }

    #[test]
    fn times_of_ownership_alone_are_no_change() {
        let entry = |time: &str| json!([{"manager": "m", "time": time}]);
        let old = json!({"metadata": {"name": "a", "managedFields": entry("1")}, "data": 1});
        let new = json!({"metadata": {"name": "a", "managedFields": entry("2")}, "data": 1});
        assert!(is_unchanged(&new, &old));
        let new = json!({"metadata": {"name": "a", "managedFields": entry("2")}, "data": 2});
        assert!(!is_unchanged(&new, &old));
        assert_eq!(new["metadata"]["managedFields"], entry("2"));
    }
}
