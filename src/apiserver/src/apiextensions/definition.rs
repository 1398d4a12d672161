//! CustomResourceDefinitions: names, conditions and the resources that they define.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rkube_api::gvk::GroupVersionKind;
use rkube_api::registry::{ALL_VERBS, PART_VERBS, Resource as ResourceInfo, Subresource};
use rkube_api::status::Status;
use rkube_api::{GroupKind, Object, meta};
use serde_json::{Value, json};

use super::version::CrdVersion;
use super::versions::CrdVersions;
use crate::conditions::{find_condition, set_condition};
use crate::resources::Resource;

/// The API group of CustomResourceDefinition.
pub const GROUP: &str = "apiextensions.k8s.io";
/// The plural resource name of CustomResourceDefinition.
pub const PLURAL: &str = "customresourcedefinitions";

/// The finalizer that keeps a definition until its objects are deleted.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Returns whether the definition's resources are served.
pub fn is_established(definition: &Object) -> bool {
    find_condition(definition, "Established").is_some_and(|c| c["status"] == "True")
}

fn texts(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// Returns all names that a definition requests in its group, each with its kind: resource name or
/// object kind.
fn requested_names(names: &Value) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for field in ["plural", "singular"] {
        if let Some(name) = names[field].as_str().filter(|n| !n.is_empty()) {
            all.push(("resource".to_owned(), name.to_owned()));
        }
    }
    all.extend(
        texts(&names["shortNames"])
            .into_iter()
            .map(|n| ("resource".to_owned(), n.to_owned())),
    );
    for field in ["kind", "listKind"] {
        if let Some(name) = names[field].as_str().filter(|n| !n.is_empty()) {
            all.push(("kind".to_owned(), name.to_owned()));
        }
    }
    all
}

/// Adds the names that a definition was already granted to `names`, a map from group and name to
/// the definition that holds it.
pub fn claim_names(definition: &Object, names: &mut HashMap<(String, String), String>) {
    let group = definition["spec"]["group"].as_str().unwrap_or_default();
    for (sort, name) in requested_names(&definition["status"]["acceptedNames"]) {
        names.insert(
            (group.to_owned(), format!("{sort}:{name}")),
            meta::name(definition).to_owned(),
        );
    }
}

/// Returns the status that a definition should have, given the holders of all names.
pub fn status(definition: &Object, names: &HashMap<(String, String), String>) -> Value {
    let spec = &definition["spec"];
    let group = spec["group"].as_str().unwrap_or_default();
    let me = meta::name(definition);
    let conflict = requested_names(&spec["names"])
        .into_iter()
        .find_map(|(sort, name)| {
            let owner = names.get(&(group.to_owned(), format!("{sort}:{name}")))?;
            (owner != me).then_some(name)
        });
    let mut status = definition["status"].clone();
    if !status.is_object() {
        status = json!({});
    }
    let (accepted, reason, message) = match &conflict {
        None => ("True", "NoConflicts", "no conflicts found".to_owned()),
        Some(name) => ("False", "Conflict", format!("{name:?} is already in use")),
    };
    set_condition(&mut status, "NamesAccepted", accepted, reason, &message);
    if conflict.is_none() {
        status["acceptedNames"] = spec["names"].clone();
    } else if !status["acceptedNames"].is_object() {
        status["acceptedNames"] = json!({"plural": "", "kind": ""});
    }
    let established = is_established(definition);
    if conflict.is_none() || established {
        set_condition(
            &mut status,
            "Established",
            "True",
            "InitialNamesAccepted",
            "the initial names have been accepted",
        );
    } else {
        set_condition(
            &mut status,
            "Established",
            "False",
            "NotAccepted",
            "not all names are accepted",
        );
    }
    if meta::deletion_timestamp(definition).is_some() {
        set_condition(
            &mut status,
            "Terminating",
            "True",
            "InstanceDeletionInProgress",
            "CustomResource deletion is in progress",
        );
    }
    let versions = spec["versions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let storage = versions
        .iter()
        .find(|v| v["storage"] == true)
        .and_then(|v| v["name"].as_str())
        .unwrap_or_default();
    let mut stored: Vec<String> = texts(&status["storedVersions"])
        .into_iter()
        .map(str::to_owned)
        .collect();
    if !stored.iter().any(|v| v == storage) {
        stored.push(storage.to_owned());
    }
    status["storedVersions"] = json!(stored);
    status
}

/// Returns the paths of a version's selectable fields.
fn selectable_fields(version: &Value) -> impl Iterator<Item = Cow<'static, str>> + '_ {
    let fields = version["selectableFields"].as_array();
    fields.into_iter().flatten().filter_map(|field| {
        let path = field["jsonPath"].as_str()?.trim_start_matches('.');
        Some(path.to_owned().into())
    })
}

/// Returns the subresources of a version.
fn subresources(version: &Value, group: &str, name: &str, kind: &str) -> Vec<Subresource> {
    let mut subresources = Vec::new();
    if version["subresources"]["status"].is_object() {
        subresources.push(Subresource {
            name: "status".into(),
            kind: GroupVersionKind::new(group, name, kind),
            verbs: PART_VERBS,
        });
    }
    if version["subresources"]["scale"].is_object() {
        subresources.push(Subresource {
            name: "scale".into(),
            kind: GroupVersionKind::new("autoscaling", "v1", "Scale"),
            verbs: PART_VERBS,
        });
    }
    subresources
}

/// Returns the served versions of a definition as resource entries, and all of its versions.
pub fn rows(definition: &Object) -> (Vec<(ResourceInfo, Arc<CrdVersion>)>, Arc<CrdVersions>) {
    let spec = &definition["spec"];
    let names = &definition["status"]["acceptedNames"];
    let text = |value: &Value| -> Cow<'static, str> {
        value.as_str().unwrap_or_default().to_owned().into()
    };
    let list = |value: &Value| -> Vec<Cow<'static, str>> {
        texts(value)
            .into_iter()
            .map(|t| Cow::Owned(t.to_owned()))
            .collect()
    };
    let versions = spec["versions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let storage = versions
        .iter()
        .find(|v| v["storage"] == true)
        .map(|v| text(&v["name"]))
        .unwrap_or_default();
    let group = text(&spec["group"]);
    let all: BTreeMap<String, Arc<CrdVersion>> = versions
        .iter()
        .map(|v| (text(&v["name"]).into_owned(), Arc::new(CrdVersion::new(v))))
        .collect();
    // The versions share one index.
    let mut selectable: Vec<Cow<'static, str>> =
        versions.iter().flat_map(selectable_fields).collect();
    selectable.sort();
    selectable.dedup();
    let rows = versions
        .iter()
        .filter(|v| v["served"] == true)
        .map(|version| {
            let name = text(&version["name"]);
            let kind = text(&names["kind"]);
            let row = ResourceInfo {
                group: group.clone(),
                version: name.clone(),
                plural: text(&names["plural"]),
                singular: match text(&names["singular"]) {
                    singular if singular.is_empty() => kind.to_lowercase().into(),
                    singular => singular,
                },
                list_kind: match text(&names["listKind"]) {
                    list if list.is_empty() => format!("{kind}List").into(),
                    list => list,
                },
                subresources: subresources(version, &group, &name, &kind),
                kind,
                namespaced: spec["scope"] == "Namespaced",
                short_names: list(&names["shortNames"]),
                categories: list(&names["categories"]),
                verbs: ALL_VERBS,
                definition: Cow::Borrowed(""),
                storage_group: group.clone(),
                storage_version: storage.clone(),
                selectable_fields: selectable_fields(version).collect(),
            };
            let custom = all[&*name].clone();
            (row, custom)
        })
        .collect();
    (rows, Arc::new(CrdVersions::new(spec, all, selectable)))
}

/// Validates the patterns, defaults and rules of a CustomResourceDefinition. Accepts objects of all
/// other resources.
pub fn check(resource: &Resource, object: &Object, old: Option<&Object>) -> Result<(), Status> {
    if resource.is(GROUP, PLURAL) {
        check_definition(object, old)
    } else {
        Ok(())
    }
}

/// Rejects a definition whose patterns are invalid, whose defaults do not match their schema, or
/// whose rules do not compile or cost too much.
fn check_definition(definition: &Object, old: Option<&Object>) -> Result<(), Status> {
    let mut errors = Vec::new();
    let fine = super::default_checks::check(definition, old, &mut errors);
    super::rule_checks::check(definition, &fine, &mut errors);
    if errors.is_empty() {
        return Ok(());
    }
    rkube_strategy::hoist_shared_of_versions(definition, &mut errors);
    Err(Status::invalid(
        &GroupKind::new("apiextensions.k8s.io", "CustomResourceDefinition"),
        meta::name(definition),
        errors,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str, plural: &str) -> Object {
        json!({
            "metadata": {"name": name},
            "spec": {
                "group": "example.com", "scope": "Namespaced",
                "names": {"plural": plural, "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
                "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}}}],
            },
        })
    }

    #[test]
    fn names_are_accepted_once() {
        let mut first = sample("things.example.com", "things");
        let mut names = HashMap::new();
        first["status"] = status(&first, &names);
        assert!(is_established(&first));
        assert_eq!(first["status"]["storedVersions"], json!(["v1"]));
        claim_names(&first, &mut names);
        let mut second = sample("others.example.com", "others");
        second["status"] = status(&second, &names);
        assert!(!is_established(&second));
        assert_eq!(
            find_condition(&second, "NamesAccepted").unwrap()["reason"],
            "Conflict"
        );
        assert_eq!(
            status(&first, &names),
            first["status"],
            "a second look changes nothing"
        );
    }

    #[test]
    fn rows_say_what_is_served() {
        let mut definition = sample("things.example.com", "things");
        definition["status"] = status(&definition, &HashMap::new());
        let (rows, _) = rows(&definition);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].0.subresources.len(), 1);
        assert_eq!(rows[0].0.kind, "Thing");
    }

    #[test]
    fn rules_that_do_not_compile_are_refused_by_their_place() {
        let mut definition = sample("things.example.com", "things");
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-validations": [{"rule": "self.x"}]}}});
        let error = check_definition(&definition, None).unwrap_err();
        assert_eq!(error.code, 422);
        assert!(
            error
                .message
                .contains("properties[spec].x-kubernetes-validations[0].rule"),
            "{}",
            error.message
        );
    }
}
